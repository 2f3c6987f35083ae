#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Service of the guest "postgres": PostgreSQL, programs and data on the ext4 file system of the first disk
# (tests/lab/make-postgres-disk). The server's log goes to the console, each line behind "log:". One session
# prints every few seconds, out of one snapshot, what TPC-B keeps equal, how many transactions there
# are, the highest number the client has given one, and who is who; on one line:
#
#   pg: n=TRANSACTIONS last=NUMBER accounts=SUM tellers=SUM branches=SUM history=SUM
#       postmaster=PID@START client=PID:PORT@START
#
# Before the file system is mounted it is checked: "pg: e2fsck clean" or "pg: e2fsck: ...".
DISK=/dev/vda
BIN=/usr/lib/postgresql/15/bin
export LC_ALL=C TZ=UTC0

# The check is of what a loss of power has left, and of nothing that the check has put right: only the
# journal is replayed, as a mount would.
check_disk()
{
	e2fsck -y -E journal_only $DISK >/tmp/journal 2>&1
	if e2fsck -fn $DISK >/tmp/e2fsck 2>&1; then
		echo "pg: e2fsck clean"
	else
		sed 's/^/pg: e2fsck: /' /tmp/journal /tmp/e2fsck
	fi
}

set_up()
{
	check_disk
	mkdir -p /disk
	mount -t ext4 $DISK /disk || return
	mount -t proc proc /disk/proc
	mount -o bind /dev /disk/dev
	mount -o bind /dev/shm /disk/dev/shm
	mount -t tmpfs -o mode=1777 run /disk/run
	# The power button: the server stops, the file system is unmounted.
	cat >/etc/acpi/PWRF/00000080 <<-'STOP'
	#!/bin/sh
	touch /run/stop
	kill -INT "$(head -n 1 /disk/data/postmaster.pid)"
	for i in $(seq 100); do
	    [ -e /disk/data/postmaster.pid ] || break
	    usleep 100000
	done
	umount /disk/run /disk/dev/shm /disk/dev /disk/proc /disk
	exec /bin/busybox poweroff
	STOP
}

report()
{
	until chroot /disk $BIN/pg_isready -q -U postgres -h /run; do sleep 1; done
	chroot /disk $BIN/psql -qAt -U postgres -h /run <<-'SQL' 2>&1 | grep '^pg:'
	PREPARE report AS SELECT format('pg: n=%s last=%s accounts=%s tellers=%s branches=%s history=%s postmaster=%s@%s client=%s',
	    h.n, h.last, a.sum, t.sum, b.sum, h.sum,
	    split_part(pg_read_file('postmaster.pid'), E'\n', 1), extract(epoch FROM pg_postmaster_start_time()),
	    coalesce((SELECT string_agg(format('%s:%s@%s', pid, client_port, extract(epoch FROM backend_start)), '+')
	        FROM pg_stat_activity WHERE application_name = 'pgbench'), 'none'))
	FROM (SELECT count(*) AS n, coalesce(max(filler::int), 0) AS last, coalesce(sum(delta), 0) AS sum
	        FROM pgbench_history) AS h,
	    (SELECT sum(abalance) FROM pgbench_accounts) AS a,
	    (SELECT sum(tbalance) FROM pgbench_tellers) AS t,
	    (SELECT sum(bbalance) FROM pgbench_branches) AS b;
	EXECUTE report
	\watch 3
	SQL
	echo "pg: the session that reports has ended"
}

[ ! -e /run/stop ] || exec sleep 60
[ -e /disk/data ] || set_up
report &
chroot /disk su -s /bin/sh postgres -c "exec $BIN/postgres -D /data" 2>&1 | sed 's/^/log: /'
