#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# PostgreSQL 15, its data on an ext4 disk, and a pgbench client over one connection, as district bank. Under
# load the host loses its power at random moments: ROUNDS times (1) it restarts from the last durable
# checkpoint, FAILOVERS times (1) the standby takes over. PostgreSQL never notices. At the end the plug
# of the guests themselves is pulled: what the disk then has is a sound file system, and PostgreSQL recovers on it.
#
# SEED= takes the random moments from an earlier run; RATE= is the transactions a second the client asks for;
# with COPY_EVERY=N only each N-th loss is followed by a look at the disk in a copy, which takes longest of all.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

ROUNDS=${ROUNDS:-1}
FAILOVERS=${FAILOVERS:-1}
RATE=${RATE:-10}
COPY_EVERY=${COPY_EVERY:-1}
GUESTS_LIMIT=${GUESTS_LIMIT:-480}
SEED=${SEED:-$RANDOM}
RANDOM=$SEED

# Whatever of this a console has after a restart, somebody has noticed something. (That autovacuum finds a worker
# late, as it may when time has gone on without it, is a WARNING.)
NOTICED='starting PostgreSQL|database system (was|is)|redo|recover|guest [a-z]+ ready|bench: (connected|lost)|'
NOTICED+='connection received|disconnection|verification failed|ERROR|FATAL|PANIC|e2fsck|EXT4-fs|I/O error|BUG|Oops|rcu|hung task'

console_of() { on "$1" cat "/var/log/district/bank/$2.console.log" 2>/dev/null | tr -d '\r'; }

# The whole lines of the session that reports: all of them since the engine was started on that host.
reports()
{
	console_of "$1" postgres |
		grep -E '^pg: n=[0-9]+ last=[0-9]+ accounts=[-0-9]+ tellers=[-0-9]+ branches=[-0-9]+ history=[-0-9]+ postmaster=[0-9]+@[0-9.]+ client=[-+:@.a-z0-9]+$'
}

newest() { reports "$1" | tail -n 1; }
# value KEY: of the report on the standard input.
value() { sed -n "s/.* $1=\([^ ]*\).*/\1/p"; }
transactions() { newest "$1" | value n; }
above() { local n; n=$(transactions "$1"); [[ ${n:-0} -gt $2 ]]; }
connected() { newest "$1" | has -E 'client=[0-9]+:[0-9]+@[0-9.]+$'; }
durable_above() { local n; n=$(field "$1" bank checkpointing.durable_id); [[ ${n:-0} -gt $2 ]]; }

# The four sums are one number, and the client's numbers are 1, 2, ... with none missing or twice, in each report.
agree()
{
	reports "$1" | awk '
		{ for (i = 2; i <= NF; i++) { split($i, part, "="); v[part[1]] = part[2] } }
		v["accounts"] != v["history"] || v["tellers"] != v["history"] || v["branches"] != v["history"] { bad = 1 }
		v["n"] != v["last"] || v["n"] < before { bad = 1 }
		{ before = v["n"] }
		END { exit bad || NR == 0 }'
}

# Server and client process, their starts and the port, are in each report what they were at first.
same_processes() { [[ $(reports "$1" | value postmaster | sort -u) == "$POSTMASTER" && $(reports "$1" | value client | sort -u) == "$CLIENT" ]]; }

noticed() { { console_of "$1" postgres; console_of "$1" pgbench; } | grep -E "$NOTICED"; }
progress() { console_of "$1" pgbench | grep 'bench: progress' | tail -n 1; }

write_bank()
{
	local host=$1
	on "$host" cp "$POSTGRES_DISK" /var/lib/district/bank.qcow2
	on "$host" sh -c 'cat >/etc/district/bank.district' <<-END
	[District]
	Name=bank
	Interval=${INTERVAL:-1s}

	[Member postgres]
	Kernel=$LAB_KERNEL
	Initrd=$POSTGRES_IMAGE
	Memory=128M
	CommandLine=console=ttyS0 quiet hostname=postgres ip=$DB_ADDR/24
	Disk=/var/lib/district/bank.qcow2

	[Member pgbench]
	Kernel=$LAB_KERNEL
	Initrd=$PGBENCH_IMAGE
	Memory=128M
	CommandLine=console=ttyS0 quiet hostname=pgbench ip=$APP_ADDR/24 db=$DB_ADDR rate=$RATE
	END
}

# What must hold on HOST, where the guests have come back; BEFORE: transactions of a state that was safe; WHAT for
# the sentences.
goes_on()
{
	local host=$1 before=$2 what=$3 resumed
	within 120 above "$host" 0 || die "PostgreSQL says nothing on $host: $(console_of "$host" postgres | tail -n 5)"
	resumed=$(reports "$host" | sed -n 1p | value n)
	within 120 above "$host" $((resumed + 5)) || true
	within 60 eval '[[ -n $(progress "$host") ]]' || true
	claim "$what: PostgreSQL and its client go on where they were" \
		"$before transactions some time before, $resumed in the first report after it, now $(transactions "$host"); $(progress "$host")" \
		eval 'test "$resumed" -ge "$before" && above "$host" $((resumed + 5)) && [[ -n $(progress "$host") ]]'
	claim "$what: neither has noticed: no recovery, the same processes, the same connection" \
		"$(newest "$host" | grep -oE 'postmaster=.*')$(noticed "$host" | sed 's/^/\nnoticed: /')" \
		eval 'same_processes "$host" && ! noticed "$host"'
	claim "$what: the sums of TPC-B agree, and no transaction is missing or there twice" \
		"$(newest "$host" | grep -oE 'n=.*history=[-0-9]+')" agree "$host"
	claim "$what: store check finds every byte as it was written" "$(dst "$host" store check bank 2>&1)" \
		dst "$host" store check bank
}

# The newest checkpoint of HOST goes into a file and out of it, beside the district that runs: what its disk then has is
# checked from outside, after the replay that a mount would do.
disk_of_copy()
{
	local host=$1 what=$2 moved report
	moved=$(on --timeout 300 "$host" sh -c "$BUILD/control/district export bank - | $BUILD/control/district import - --as look --isolated" 2>&1) ||
		die "no copy of bank on $host: $moved"
	report=$(on --timeout 120 "$host" sh -c '
		image=$(find /var/lib/district/districts/look -name postgres-0.raw) && e2fsck -y -E journal_only "$image" >/dev/null 2>&1
		e2fsck -fn "$image" && echo "e2fsck clean"' 2>&1) || true
	dst "$host" destroy look --force || die "the copy is not removed"
	claim "$what: the disk of the checkpoint is a sound file system" "$(tail -n 2 <<<"$report")" \
		has "^e2fsck clean" <<<"$report"
}

# Some moment of the next seconds.
random_moment() { sleep "$((RANDOM % 10)).$((RANDOM % 10))$((RANDOM % 10))"; }

# lose_power ROUND: the home goes, comes back, and restarts from what is durable.
lose_power()
{
	local round=$1 before id began restarted
	before=$(transactions "$HOME_HOST")
	id=$(field "$HOME_HOST" bank checkpointing.durable_id)
	within 60 durable_above "$HOME_HOST" "$id" || die "no durable checkpoints: $(dst "$HOME_HOST" show bank)"
	random_moment
	power-off "$HOME_HOST"
	power-on "$HOME_HOST"
	start_daemon "$HOME_HOST"
	began=$EPOCHREALTIME
	restarted=$(dst "$HOME_HOST" restart bank 2>&1) || die "restart failed: $restarted"
	note "$restarted: $(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $began }") s"
	goes_on "$HOME_HOST" "$before" "power off $round"
	((round % COPY_EVERY)) || disk_of_copy "$HOME_HOST" "power off $round"
}

# lose_home ROUND: the standby takes over.
lose_home()
{
	local round=$1 from=$HOME_HOST to=$OTHER_HOST before failover
	dst "$from" protect bank --standby "$to" || die "protect failed"
	within 600 is "$from" bank protection protected || die "bank was not protected within 600 s: $(dst "$from" show bank)"
	before=$(transactions "$from")
	within 120 above "$from" $((before + 5)) || die "no transactions on $from: $(newest "$from")"
	random_moment
	power-off "$from"
	failover=$(dst "$to" failover bank 2>&1) || die "failover on $to failed: $failover"
	note "$failover"
	HOME_HOST=$to OTHER_HOST=$from
	goes_on "$to" "$before" "failover $round"
	disk_of_copy "$to" "failover $round"
	power-on "$from"
	start_daemon "$from"
	within 60 is "$from" bank state superseded || die "$from does not find out: $(dst "$from" list)"
}

note "seed $SEED, $ROUNDS losses of power, $FAILOVERS failovers"
make_postgres_guests
note "h1: $(on h1 "$BUILD/tests/lab/tools/lost-flags" || true) (docs/lab.md: what the emulator gets wrong)"
start_daemon h1
start_daemon h2
join_hosts h1 h2
HOME_HOST=h1 OTHER_HOST=h2
write_bank h1
dst h1 create /etc/district/bank.district || die "create failed"
dst h1 start bank || die "start failed"
within "$GUESTS_LIMIT" eval 'above h1 20 && connected h1' || {
	{ console_of h1 postgres; console_of h1 pgbench; } | tail -n 30 | sed 's/^/# /'
	die "PostgreSQL and pgbench did not come up in $GUESTS_LIMIT s"
}
POSTMASTER=$(newest h1 | value postmaster)
CLIENT=$(newest h1 | value client)
note "$(newest h1)"

for ((round = 1; round <= ROUNDS; round++)); do lose_power "$round"; done
for ((round = 1; round <= FAILOVERS; round++)); do lose_home "$round"; done

within 60 durable_above "$HOME_HOST" 1 || die "no durable checkpoints: $(dst "$HOME_HOST" show bank)"
before=$(transactions "$HOME_HOST")
id=$(field "$HOME_HOST" bank checkpointing.durable_id)
within 60 durable_above "$HOME_HOST" "$id" || die "no durable checkpoints: $(dst "$HOME_HOST" show bank)"
dst "$HOME_HOST" stop bank --force || die "stop failed"
on "$HOME_HOST" sh -c ': >/var/log/district/bank/postgres.console.log'
dst "$HOME_HOST" start bank || die "start failed"
within "$GUESTS_LIMIT" above "$HOME_HOST" 0 || true
claim "a boot from what the disk has after that finds a clean file system" \
	"$(console_of "$HOME_HOST" postgres | grep e2fsck)" eval 'console_of "$HOME_HOST" postgres | has "e2fsck clean"'
# The client is a new one, whose numbers begin anew and are refused: only the sums can agree.
claim "PostgreSQL recovers on it all that it had acknowledged, and its sums agree" \
	"$before transactions before; $(reports "$HOME_HOST" | sed -n 1p | grep -oE 'n=.*history=[-0-9]+')" \
	eval '[[ $(reports "$HOME_HOST" | sed -n 1p | value n) -ge $before && $(reports "$HOME_HOST" | sed -n 1p | grep -oE "(accounts|tellers|branches|history)=[-0-9]+" | cut -d = -f 2 | sort -u | wc -l) -eq 1 ]]'
claims_end postgres
