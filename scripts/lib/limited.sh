# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Commands with a time limit which end when the script that runs them is ended.
#
# timeout(1) puts itself into a process group of its own, where a terminal's Ctrl-C does not reach it,
# and bash runs no trap before a command in the foreground is over. So it runs in the background, is
# waited for, and is told; and it is told by the kernel if this script is killed outright.

LIMITED_PID=

# limited SECONDS COMMAND...: with no input; status 124 if the time was up.
limited()
{
	local status=0
	setpriv --pdeathsig TERM timeout --kill-after=30 "$@" </dev/null &
	LIMITED_PID=$!
	wait "$LIMITED_PID" || status=$?
	LIMITED_PID=
	return "$status"
}

# limited_end STATUS: what a signal does: end the command that runs, wait for that, and exit.
# shellcheck disable=SC2317 # the traps call this
limited_end()
{
	trap '' TERM INT HUP
	if [[ -n $LIMITED_PID ]]; then
		kill -TERM "$LIMITED_PID" 2>/dev/null
		wait "$LIMITED_PID" 2>/dev/null
	fi
	exit "$1"
}
trap 'limited_end 130' INT
trap 'limited_end 143' TERM HUP
