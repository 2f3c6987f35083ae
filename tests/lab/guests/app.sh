#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Service of the guest "app": increments a counter in db's redis over one long TCP connection and
# prints every acknowledged value. When the key "stop" is set it prints its last value and waits until
# the key is gone. Each connection it makes is announced, so an unbroken one shows as a single line.
DB=$(sed -n 's/.*\bdb=\([0-9.]*\).*/\1/p' /proc/cmdline)

# The local port of the connection, as the kernel has it.
port()
{
	netstat -tn 2>/dev/null | sed -n "s/.*:\([0-9]*\) *$DB:6379 *ESTABLISHED.*/\1/p" | head -n 1
}

# Ask redis; the answer's first line without its type and line end is in $answer.
ask()
{
	echo "$1" >&3
	read -r answer <&4 || return 1
	answer=${answer%?}
}

session()
{
	rm -f /tmp/to /tmp/from
	mkfifo /tmp/to /tmp/from
	nc "$DB" 6379 </tmp/to >/tmp/from &
	exec 3>/tmp/to 4</tmp/from
	ask PING || return
	echo "app: connected port $(port)"
	while ask "INCR counter"; do
		value=${answer#:}
		echo "app: acked $value"
		ask "EXISTS stop" || return
		if [ "$answer" = ":1" ]; then
			echo "app: final $value port $(port)"
			while [ "$answer" = ":1" ]; do
				sleep 1
				ask "EXISTS stop" || return
			done
			echo "app: goes on"
		fi
		usleep 20000
	done
}

while :; do
	session
	exec 3>&- 4<&-
	echo "app: connection lost"
	sleep 1
done
