#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The main job, end to end, on lab hosts h1 and h2 (run by scripts/demo).
#
#   1  shop = db (redis) + app (counts in redis over one TCP connection) runs on h1, protected by h2.
#      A client outside, on h2, counts in the same redis. h1 is powered off; h2 takes over.
#   2  The same with OutputCommit=yes, from h2 to h1, the client outside on h1.
#   3  shop is moved back to h2 by a planned migration.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

CLIENT=$BUILD/tests/lab/tools/counter-client
CLIENTS=()

# outside HOST NAME ARGS...: a counter-client on the host's own stack; its lines go to $LAB_LOG/NAME.
outside()
{
	local host=$1 name=$2
	shift 2
	on "$host" "$CLIENT" --address "$DB_ADDR" "$@" >"$LAB_LOG/$name.out" &
	CLIENTS+=($!)
}

end_clients()
{
	local pid
	for pid in "${CLIENTS[@]}"; do
		kill -TERM "$pid" 2>/dev/null || true
	done
	wait "${CLIENTS[@]}" 2>/dev/null || true
	CLIENTS=()
}
trap end_clients EXIT

# The figures of the protected district while it runs.
figures()
{
	local host=$1
	printf 'interval %s ms median (25 ms asked), pause %s ms median, %s ms p99, commit %s ms median\n' \
		"$(ms "$host" checkpointing.interval_ns.p50)" "$(ms "$host" checkpointing.pause_ns.p50)" \
		"$(ms "$host" checkpointing.pause_ns.p99)" "$(ms "$host" checkpointing.commit_ns.p50)"
}

ms()
{
	local ns
	ns=$(field "$1" shop "$2") || ns=0
	printf '%d.%d' $((ns / 1000000)) $((ns / 100000 % 10))
}

# The time, in milliseconds since 1970, of the first line of a kind after a time.
first_after()
{
	awk -v t="$3" -v kind="$2" '$2 == kind && $1 >= t { print $1; exit }' "$LAB_LOG/$1.out"
}

# Values acknowledged to a client, in order, one a line.
values() { sed -n 's/.* ack value=\([0-9]*\) .*/\1/p' "$LAB_LOG/$1.out"; }

# True if every value is the one before plus one.
no_gap() { values "$1" | awk 'NR > 1 && $1 != last + 1 { exit 1 } { last = $1 } END { if (NR < 10) exit 1 }'; }

# counter_above HOST VALUE: redis, asked from there, has counted further.
counter_above()
{
	local now
	now=$(redis "$1" "GET counter")
	[[ $now =~ ^[0-9]+$ && $now -gt $2 ]]
}

now_on() { on "$1" date +%s%3N; }

# Lose host $1 in full flight and take over on host $2; sets the variables the claims use.
lose_host()
{
	local from=$1 to=$2
	BEFORE_ACKED=$(last_acked "$from")
	EPOCH_SEEN=$(field "$from" shop checkpointing.committed_epoch)
	LOST_AT=$(now_on "$to")
	power-off "$from"
	FAILOVER=$(dst "$to" failover shop --json) || die "failover on $to failed: $FAILOVER"
	RUN_AT=$(now_on "$to")
	EPOCH=$("$BUILD/tests/lab/tools/json-get" epoch <<<"$FAILOVER")
	ACTIVATION=$("$BUILD/tests/lab/tools/json-get" decided_to_running_ms <<<"$FAILOVER")
	claim "the district runs on $to from its last committed epoch" \
		"epoch $EPOCH (seen committed on $from shortly before: $EPOCH_SEEN), running ${ACTIVATION%.*} ms after the decision" \
		test "$EPOCH" -ge "$EPOCH_SEEN"
	within 60 console_has "$to" app 'app: acked' || die "app prints nothing on $to: $(console "$to" app | tail -n 3)"
	sleep 3
}

# What must hold inside the district after a failover.
inside_claims()
{
	local from=$1 to=$2 first db final port
	first=$(console "$to" app | sed -n 's/.*app: acked \([0-9]*\)$/\1/p' | head -n 1)
	claim "app went on counting where the checkpoint was" \
		"$from printed up to $BEFORE_ACKED or a little more; the first value printed on $to is $first" \
		test "$first" -gt $((BEFORE_ACKED - 50)) -a "$first" -gt 1
	redis "$to" "SET stop 1" >/dev/null
	within 30 console_has "$to" app 'app: final' || die "app does not stop: $(console "$to" app | tail -n 3)"
	final=$(console "$to" app | sed -n 's/.*app: final \([0-9]*\) port.*/\1/p' | tail -n 1)
	port=$(console "$to" app | sed -n 's/.*app: final [0-9]* port \([0-9]*\)$/\1/p' | tail -n 1)
	db=$(redis "$to" "GET counter")
	claim "the connection between app and db carried on, with the same ports and no reconnect" \
		"local port $APP_PORT before, $port after; 'connection lost' printed on $to: $(console "$to" app | grep -c 'connection lost') times" \
		eval 'test -n "$port" -a "$APP_PORT" = "$port" && unbroken "$to"'
	claim "app and db agree on the counter to the last increment" "app: $final, db: $db" \
		test -n "$final" -a "$final" = "$db"
	redis "$to" "DEL stop" >/dev/null
}

# ---- Set-up ----

note "making the guest images (stock Debian: kernel $(basename "$LAB_KERNEL"), redis-server)"
make_guests
note "starting districtd on h1 and h2, and making them known to each other"
start_daemon h1
start_daemon h2
join_hosts h1 h2
write_shop h1 OutputCommit=no
note "starting district shop on h1: db and app"
start_shop h1
console h1 app | grep -oE 'guest app ready|app: connected.*' | sed 's/^/# console of app: /'
# The one connection app makes in all of this: its console on later hosts does not announce another.
APP_PORT=$(console h1 app | sed -n 's/.*app: connected port \([0-9]*\)$/\1/p' | tail -n 1)

# ---- 1: failover without output commit ----

note "1: failover, OutputCommit=no"
protect_shop h1 h2 --output-commit no
outside h2 busy --key outside
outside h2 idle --idle
within 90 grep -q 'ack value=' "$LAB_LOG/busy.out" || die "the client outside gets no answer from redis"
within 60 grep -q connected "$LAB_LOG/idle.out" || die "the idle client outside could not connect"
sleep 8
note "$(figures h1)"
lose_host h1 h2
reset=$(first_after busy lost "$LOST_AT")
idle_reset=$(first_after idle lost "$LOST_AT")
claim "the client outside was reset and had reconnected" \
	"$(grep -E ' (lost|connected)' "$LAB_LOG/busy.out" | tail -n 3)" \
	test -n "$reset" -a "$(grep -c ' connected' "$LAB_LOG/busy.out")" -ge 2
claim "an idle connection was reset as well, without any traffic, within a second of activation" \
	"reset seen ${idle_reset:+$((idle_reset - LOST_AT)) ms after the host was lost, $((RUN_AT - idle_reset)) ms before the failover command had returned:} $(grep ' lost' "$LAB_LOG/idle.out" | head -n 1)" \
	eval 'test -n "$idle_reset" && test "$idle_reset" -le $((RUN_AT + 1000)) && grep -q "lost errno=ECONNRESET" "$LAB_LOG/idle.out"'
inside_claims h1 h2
end_clients

# ---- 2: failover with output commit, the other way round ----

note "2: the same with OutputCommit=yes, from h2 to h1"
power-on h1
start_daemon h1
within 30 is h1 shop state superseded || true
claim "the old home host found out that it is superseded" "$(dst h1 list | grep shop)" is h1 shop state superseded
protect_shop h2 h1 --output-commit yes
outside h1 steady --key steady
within 90 grep -q 'ack value=' "$LAB_LOG/steady.out" || die "the client outside gets no answer from redis"
sleep 8
note "$(figures h2)"
lose_host h2 h1
count=$(values steady | wc -l)
within 60 eval '[[ $(values steady | wc -l) -gt $((count + 20)) ]]' || true
claim "the connection of the client outside went on through the failover" \
	"connections made: $(grep -c ' connected' "$LAB_LOG/steady.out"), resets: $(grep -c ' lost' "$LAB_LOG/steady.out" || true), longest wait $(sed -n 's/.*took_ms=//p' "$LAB_LOG/steady.out" | sort -n | tail -n 1) ms" \
	eval 'test "$(grep -c " connected" "$LAB_LOG/steady.out")" = 1 && ! grep -q " lost" "$LAB_LOG/steady.out" && test "$(values steady | wc -l)" -gt "$count"'
claim "no acknowledged increment is missing" \
	"$(values steady | wc -l) increments acknowledged, $(values steady | head -n 1) to $(values steady | tail -n 1)" \
	no_gap steady
inside_claims h2 h1

# ---- 3: planned migration back ----

note "3: planned migration from h1 to h2"
power-on h2
start_daemon h2
protect_shop h1 h2 --output-commit yes
before=$(redis h1 "GET counter")
MIGRATE=$(dst h1 migrate shop --to h2 --json) || die "migrate failed: $MIGRATE"
handed=$("$BUILD/tests/lab/tools/json-get" handed_over_ms <<<"$MIGRATE")
claim "the district moved to h2 while running" "from the command to running on h2: ${handed%.*} ms" \
	is h2 shop state running
within 30 console_has h2 app 'app: acked' || true
within 30 counter_above h1 "$before" || true
after=$(redis h1 "GET counter")
claim "nothing was lost by the move: the counter went on" "$before before, $after after" \
	test "${after:-0}" -gt "$before"
claim "the connection of the client outside went on through the move" \
	"connections made: $(grep -c ' connected' "$LAB_LOG/steady.out"), $(values steady | wc -l) increments without a gap" \
	eval 'test "$(grep -c " connected" "$LAB_LOG/steady.out")" = 1 && no_gap steady'
at=$(last_acked h2)
within 30 acked_above h2 "${at:-0}" || true
claim "the connection between app and db carried on" \
	"'connection lost' printed: $(console h2 app | grep -c 'connection lost') times; values printed: $at, later $(last_acked h2)" \
	eval 'unbroken h2 && acked_above h2 "${at:-0}"'
end_clients
claims_end demo
