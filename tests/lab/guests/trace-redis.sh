#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Service of the guest "redis" of record-traces: redis in memory, and its own benchmark against it over the loopback
# device. It gives one random value to all keys of a test.
redis-server --bind 127.0.0.1 --save "" --appendonly no --daemonize yes --loglevel warning --dir /tmp >/dev/null
until redis-cli ping >/dev/null 2>&1; do sleep 1; done
n=0
while :; do
	redis-benchmark -q -t set,get,incr,lpush,hset,zadd -n 2000 -r 20000 -d 100 -c 10 >/dev/null
	n=$((n + 1))
	echo "trace: $n times 12000 requests"
done
