#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A district with a disk persists: its host loses its power, and it goes on from its last durable
# checkpoint, memory and disk together; it is rolled back and forth; a clone runs an old checkpoint beside
# it; it goes to another host as one file; and a boot after a stop finds all that was written.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

STORE=/var/lib/district/districts/books/store

looked_at=h1 # the host whose console counts
# The newest and the first number that the guest has printed since its engine started.
newest() { console_of | sed -n 's/.*ledger: \([0-9]*\)$/\1/p' | tail -n 1; }
# The first number of the newest life: where the numbers do not go on by one.
first() { console_of | sed -n 's/.*ledger: \([0-9]*\)$/\1/p' | awk '$1 != last + 1 { first = $1 } { last = $1 } END { print first }'; }
console_of() { on "$looked_at" cat /var/log/district/books/ledger.console.log 2>/dev/null | tr -d '\r'; }
above() { local n; n=$(newest); [[ ${n:-0} -gt $1 ]]; }
sound() { ! console_of | has broken && above "$1"; }
forget_console() { on h1 sh -c ': >/var/log/district/books/ledger.console.log'; }
durable_id() { field h1 books checkpointing.durable_id; }
durable_above() { local n; n=$(durable_id); [[ ${n:-0} -gt $1 ]]; }

start_daemon h1
start_books h1 DurableEvery=2s Keep=4
within 120 above 5 || die "the guest does not count: $(console_of | tail -n 5)"
within 60 durable_above 2 || die "no durable checkpoints: $(dst h1 show books)"

for round in 1 2 3; do
	before=$(newest)
	id=$(durable_id)
	within 30 durable_above "$id" || true
	sleep "$((RANDOM % 3)).$((RANDOM % 10))"
	at_loss=$(newest)
	power-off h1
	power-on h1
	start_daemon h1
	RESTARTED=$(dst h1 restart books 2>&1) || die "restart failed: $RESTARTED"
	within 60 above 0 || true
	resumed=$(first)
	claim "after a loss of power the guest goes on from a durable checkpoint ($round)" \
		"$before some time before, $at_loss at the loss, $resumed first after it; $RESTARTED" \
		test "${resumed:-0}" -gt "$before" -a "${resumed:-0}" -le $((at_loss + 40))
	within 60 sound $((resumed + 10)) || true
	claim "it has not booted, and disk and memory agree ($round)" "$(console_of | tail -n 2)" \
		eval 'sound "$resumed" && ! console_of | has "ledger: boot"'
done

dst h1 checkpoint books --label one || die "checkpoint failed"
at_one=$(newest)
within 60 above $((at_one + 20)) || true
dst h1 checkpoint books --label two || die "checkpoint failed"
at_two=$(newest)
for to in one two one two one; do
	at="at_$to"
	life=$(first)
	dst h1 rollback books --to "$to" || die "rollback failed"
	within 60 eval '[[ $(first) != "$life" ]]' || true
	resumed=$(first)
	claim "a running district goes to checkpoint $to" "${!at} when it was taken, $resumed after" \
		test "${resumed:-0}" -ge "${!at}" -a "${resumed:-0}" -le $((${!at} + 15))
	within 60 sound $((${resumed:-0} + 3)) || true
	claim "memory and disk are those of checkpoint $to" "$(console_of | tail -n 1)" sound "${resumed:-0}"
done
claim "the futures that were left are still listed" "$(dst h1 log books)" eval 'dst h1 log books | has abandoned'
claim "store check finds every byte as it was written" "$(dst h1 store check books 2>&1)" \
	dst h1 store check books

# The same of the clone.
clone_of() { on h1 cat /var/log/district/peek/ledger.console.log 2>/dev/null | tr -d '\r'; }
clone_numbers() { clone_of | sed -n 's/.*ledger: \([0-9]*\)$/\1/p'; }
clone_above() { local n; n=$(clone_numbers | tail -n 1); [[ ${n:-0} -gt $1 ]]; }
clone_sound() { ! clone_of | has broken && ! clone_of | has "ledger: boot" && clone_above "$1"; }
home_sum() { on h1 sha256sum /var/lib/district/books.qcow2; }

within 60 above $((at_one + 40)) || true
CLONED=$(dst h1 clone books --at one --as peek 2>&1) || die "clone failed: $CLONED"
home=$(home_sum)
within 60 clone_above 0 || true
began=$(clone_numbers | head -n 1)
claim "a clone goes on from an old checkpoint" "$CLONED; $at_one when it was taken, the clone begins with $began" \
	test "${began:-0}" -ge "$at_one" -a "${began:-0}" -le $((at_one + 15))
before=$(newest)
within 120 clone_sound $((began + 30)) || true
claim "memory and disk of the clone are those of its checkpoint" "$(clone_of | tail -n 1)" clone_sound $((began + 30))
within 60 sound $((before + 5)) || true
claim "its original goes on, and finds nothing of the clone" "$(console_of | tail -n 1)" sound $((before + 5))
claim "nobody writes to the image that both have" "$home" test "$(home_sum)" = "$home"
power-off h1
power-on h1
start_daemon h1
claim "after a loss of power the clone is there, stopped" "$(dst h1 list | grep peek)" is h1 peek state stopped
dst h1 restart books || die "restart failed"
dst h1 start peek || die "the clone does not start again"
within 60 clone_sound $((at_one + 5)) || true
began=$(clone_numbers | head -n 1)
claim "it begins with the same checkpoint again" "$at_one when it was taken, now $began" \
	eval 'clone_sound $((at_one + 5)) && test "${began:-0}" -ge "$at_one" -a "${began:-0}" -le $((at_one + 15))'
claim "store check finds every byte as it was written" "$(dst h1 store check books 2>&1)" \
	dst h1 store check books
{ dst h1 stop peek && dst h1 destroy peek; } || die "the clone is not removed"
LISTED=$(dst h1 log books --json) || die "log failed"
claim "a clone that is destroyed leaves nothing pinned" "$LISTED" \
	eval 'has "\"pinned\":" <<<"$LISTED" && ! has "\"pinned\":true" <<<"$LISTED"'

start_daemon h2
MOVED=$(on --timeout 240 h1 "$BUILD/control/district" export books - --at two 2>"$LAB_DIR/export.err" |
	on --timeout 240 h2 "$BUILD/control/district" import - 2>&1) || true
claim "a checkpoint goes to another host through a pipe, out of a district that runs" \
	"$MOVED $(cat "$LAB_DIR/export.err")" has "books imported" <<<"$MOVED"
dst h2 start books || die "start of the import failed"
looked_at=h2
within 60 above 0 || true
resumed=$(first)
claim "it goes on there from where it was" "$at_two when it was taken, $resumed after" \
	test "${resumed:-0}" -ge $((at_two - 10)) -a "${resumed:-0}" -le $((at_two + 15))
within 60 sound $((${resumed:-0} + 3)) || true
claim "it has not booted, and disk and memory agree there" "$(console_of | tail -n 2)" \
	eval 'sound "$resumed" && ! console_of | has "ledger: boot"'
claim "and all of its store is as it was written" "$(dst h2 store check books 2>&1)" \
	dst h2 store check books
dst h2 stop books --force || die "stop failed"
looked_at=h1
running=$(newest)
within 60 above $((running + 3)) || true
claim "the original has run on meanwhile" "$(console_of | tail -n 1)" sound "$running"

within 30 above $(($(newest) + 5)) || true
dst h1 stop books --timeout 20s || die "stop failed"
last=$(newest)
forget_console
dst h1 start books || die "start failed"
within 120 eval 'console_of | has "ledger: boot at"' || true
booted=$(console_of | sed -n 's/.*ledger: boot at \([0-9]*\)$/\1/p')
claim "a boot after a stop finds all that was written" "$last at the stop, $booted at the boot" \
	test "${booted:-0}" -ge "$last"
within 60 sound "${booted:-0}" || true
claim "and goes on from there" "$(console_of | tail -n 1)" sound "${booted:-0}"

dst h1 stop books --timeout 20s || die "stop failed"
head=$(dst h1 log books | awk '/ head / { print $1 }')
file=$(on h1 sh -c "ls $STORE/checkpoint-$head-*.dcp")
on h1 sh -c "printf X | dd of=$file bs=1 seek=1000 conv=notrunc 2>/dev/null"
REFUSED=$(dst h1 restart books 2>&1 || true)
claim "a damaged checkpoint is refused by name" "$REFUSED" eval 'has "$(basename "$file")" <<<"$REFUSED"'
CHECKED=$(dst h1 store check books 2>&1 || true)
claim "and store check names its file" "$CHECKED" eval 'has "$(basename "$file")" <<<"$CHECKED"'
claims_end store
