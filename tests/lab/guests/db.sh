#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Service of the guest "db": redis, reachable from everywhere, in memory only. With more than one CPU,
# each prints a tick every second, so that one which is lost shows.
if [ "$(nproc)" -gt 1 ]; then
	echo "db: $(nproc) CPUs"
	for cpu in $(seq 0 $(($(nproc) - 1))); do
		taskset -c "$cpu" sh -c "i=0; while :; do i=\$((i + 1)); echo \"db: cpu $cpu tick \$i\"; sleep 1; done" &
	done
fi
exec redis-server --bind 0.0.0.0 --protected-mode no --save "" --appendonly no --daemonize no \
	--loglevel warning --dir /tmp
