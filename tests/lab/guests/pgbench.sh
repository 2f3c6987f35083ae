#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Service of the guest "pgbench": its TPC-B script against the PostgreSQL of the guest at db=ADDRESS, rate=N
# transactions a second at most, over one connection for ever. Each transaction gets a number, kept in pgbench's
# memory alone, in the column of the history that TPC-B leaves unused. "bench: connected" and "bench: lost"
# tell when a connection begins, and that it has ended.
DB=$(sed -n 's/.*\bdb=\([0-9.]*\).*/\1/p' /proc/cmdline)
RATE=$(sed -n 's/.*\brate=\([0-9.]*\).*/\1/p' /proc/cmdline)

cat >/tmp/tpcb.sql <<'SQL'
\set n :n + 1
\set aid random(1, 100000 * :scale)
\set bid random(1, 1 * :scale)
\set tid random(1, 10 * :scale)
\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler)
    VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP, :n);
END;
SQL
BIN=/usr/lib/postgresql/15/bin
until $BIN/pg_isready -q -U postgres -h "$DB"; do sleep 1; done
echo "bench: connected"
$BIN/pgbench -n -h "$DB" -U postgres -f /tmp/tpcb.sql -s 1 -D n=0 -c 1 -T 1000000 -P 5 \
	-M prepared -R "${RATE:-5}" postgres 2>&1 | sed 's/^/bench: /'
echo "bench: lost"
