#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A district with a disk loses its host, there and back: the standby has disk and memory of the same
# moment, the guest never boots, and each new home makes durable checkpoints of its own.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

console_of() { on "$1" cat /var/log/district/books/ledger.console.log 2>/dev/null | tr -d '\r'; }
newest() { console_of "$1" | sed -n 's/.*ledger: \([0-9]*\)$/\1/p' | tail -n 1; }
first() { console_of "$1" | sed -n 's/.*ledger: \([0-9]*\)$/\1/p' | head -n 1; }
above() { local n; n=$(newest "$1"); [[ ${n:-0} -gt $2 ]]; }
sound() { ! console_of "$1" | has broken && above "$1" "$2"; }
durable_above() { local n; n=$(field "$1" books checkpointing.durable_id); [[ ${n:-0} -gt $2 ]]; }

protect_books()
{
	dst "$1" protect books --standby "$2" || die "protect failed"
	within 180 is "$1" books protection protected || die "books was not protected within 180 s: $(dst "$1" show books)"
}

# lose_host FROM TO: in full flight; TO takes over.
lose_host()
{
	local from=$1 to=$2 before at_loss resumed failover
	before=$(newest "$from")
	within 60 above "$from" $((before + 10)) || die "the guest does not count on $from"
	sleep "$((RANDOM % 3)).$((RANDOM % 10))"
	at_loss=$(newest "$from")
	power-off "$from"
	failover=$(dst "$to" failover books 2>&1) || die "failover on $to failed: $failover"
	within 60 above "$to" 0 || true
	resumed=$(first "$to")
	claim "the guest goes on at $to where its last committed epoch was" \
		"$at_loss at the loss of $from, $resumed first on $to; $failover" \
		test "${resumed:-0}" -gt "$before" -a "${resumed:-0}" -le $((at_loss + 40))
	within 60 sound "$to" $((resumed + 10)) || true
	claim "it has not booted at $to, and disk and memory agree" "$(console_of "$to" | tail -n 1)" \
		eval 'sound "$to" $((resumed + 10)) && ! console_of "$to" | has "ledger: boot"'
}

start_daemon h1
start_daemon h2
join_hosts h1 h2
start_books h1 Interval=100ms DurableEvery=2s
within 120 above h1 5 || die "the guest does not count: $(console_of h1 | tail -n 5)"

protect_books h1 h2
lose_host h1 h2
within 60 durable_above h2 1 || true
claim "the new home makes durable checkpoints of its own" "$(dst h2 log books)" durable_above h2 1

power-on h1
start_daemon h1
within 30 is h1 books state superseded || die "h1 does not find out: $(dst h1 list)"
protect_books h2 h1
lose_host h2 h1
within 60 durable_above h1 2 || die "no durable checkpoints on h1: $(dst h1 show books)"

before=$(newest h1)
within 30 above h1 $((before + 30)) || true
power-off h1
power-on h1
start_daemon h1
RESTARTED=$(dst h1 restart books --force 2>&1) || die "restart failed: $RESTARTED"
within 60 above h1 0 || true
resumed=$(first h1)
within 60 sound h1 $((${resumed:-0} + 5)) || true
claim "after a loss of power it goes on there, from a durable checkpoint on the disk that came along" \
	"$before some time before, $resumed first after it, now $(newest h1); $RESTARTED" \
	eval 'test "${resumed:-0}" -gt "$before" && sound h1 $((resumed + 5)) && ! console_of h1 | has "ledger: boot"'
claim "store check finds every byte as it was written" "$(dst h1 store check books 2>&1)" \
	dst h1 store check books
claims_end disk-failover
