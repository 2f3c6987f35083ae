#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Service of the guest "postgres" of record-traces: PostgreSQL on the first disk (tests/lab/make-postgres-disk), and
# pgbench's TPC-B against it over two connections.
BIN=/usr/lib/postgresql/15/bin
export LC_ALL=C TZ=UTC0
if [ ! -e /disk/data ]; then
	mkdir -p /disk
	mount -t ext4 /dev/vda /disk || exit
	mount -t proc proc /disk/proc
	mount -o bind /dev /disk/dev
	mount -o bind /dev/shm /disk/dev/shm
	mount -t tmpfs -o mode=1777 run /disk/run
	chroot /disk su -s /bin/sh postgres -c "exec $BIN/postgres -D /data -c shared_buffers=32MB" >/tmp/log 2>&1 &
fi
until chroot /disk $BIN/pg_isready -q -U postgres -h /run; do sleep 1; done
chroot /disk $BIN/pgbench -n -h /run -U postgres -c 2 -T 1000000 -P 5 -M prepared postgres 2>&1 | sed 's/^/trace: /'
