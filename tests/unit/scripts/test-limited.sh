#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A script that is ended ends what it runs with a time limit.

set -uo pipefail

LIBRARY=$(cd "$(dirname "$(readlink -f "$0")")/../../.." && pwd)/scripts/lib/limited.sh
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
N=0

result()
{
	N=$((N + 1))
	if [[ $1 -eq 0 ]]; then echo "ok $N - $2"; else echo "not ok $N - $2"; fi
}

# soon COMMAND...: it succeeds within 20 s.
soon()
{
	local end=$((SECONDS + 20))
	until "$@" 2>/dev/null; do
		[[ $SECONDS -lt $end ]] || return 1
		sleep 0.05
	done
}

gone() { ! kill -0 "$1" 2>/dev/null; }

cat >"$WORK/script" <<-END
	#!/bin/bash
	. "$LIBRARY"
	limited 60 bash -c 'sleep 300 & echo \$! >"$WORK/pid.new"; mv "$WORK/pid.new" "$WORK/pid"; wait'
END
chmod +x "$WORK/script"

# ended SIGNAL STATUS: a script that gets it ends with this status, and what it ran is gone.
ended()
{
	local script sleeper status=0
	rm -f "$WORK/pid"
	# In a job of its own, with the signals of one that a terminal started.
	env --default-signal=INT,HUP,TERM "$WORK/script" &
	script=$!
	soon test -e "$WORK/pid" || return
	sleeper=$(<"$WORK/pid")
	kill "-$1" "$script"
	wait "$script" 2>/dev/null || status=$?
	soon gone "$sleeper" && [[ $status -eq $2 ]]
}

echo 1..6
ended TERM 143
result $? "by SIGTERM"
ended INT 130
result $? "by SIGINT"
ended HUP 143
result $? "by SIGHUP"
ended KILL 137
result $? "by SIGKILL"
# shellcheck source=scripts/lib/limited.sh
. "$LIBRARY"
limited 0.2 sleep 60
result $(($? != 124)) "a command whose time is up has status 124"
limited 10 bash -c 'exit 7'
result $(($? != 7)) "a command's status is its own"
