#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Service of the guest "db": redis, reachable from everywhere, in memory only.
exec redis-server --bind 0.0.0.0 --protected-mode no --save "" --appendonly no --daemonize no \
	--loglevel warning --dir /tmp
