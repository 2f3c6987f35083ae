#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# take-trace NAME EPOCHS SECONDS STORE OUT DISTRICT...: what a running district's guests write, as a trace
#
# DISTRICT... is the command `district` for its host, STORE its store there. Durable checkpoints are made,
# SECONDS apart; each has the pages that have changed since the one before. OUT, a new directory, gets the first one
# as an export, which has all pages, as checkpoint-00000, and the files of EPOCHS more as they are in the store. So
# Keep= must be above EPOCHS. Pages that were written and are what they were before are not in a checkpoint.

set -euo pipefail

CHECKPOINT_LIMIT=${CHECKPOINT_LIMIT:-120}
EXPORT_LIMIT=${EXPORT_LIMIT:-900}

fail() { echo "take-trace: $*" >&2; exit 1; }

[[ $# -ge 6 ]] || { echo "usage: take-trace NAME EPOCHS SECONDS STORE OUT DISTRICT..." >&2; exit 2; }
NAME=$1 EPOCHS=$2 PERIOD=$3 STORE=$4 OUT=$5
shift 5
[[ $EPOCHS =~ ^[1-9][0-9]{0,3}$ ]] || fail "\"$EPOCHS\" epochs: give 1 to 9999"
[[ $PERIOD =~ ^[0-9]{1,3}([.][0-9]+)?$ ]] || fail "\"$PERIOD\" s between checkpoints: give less than 1000"
[[ -d $STORE ]] || fail "$STORE: no store there: has $NAME ever run?"
mkdir "$OUT" || fail "$OUT cannot be made: give the name of a new directory"

# The number of a new checkpoint.
checkpoint()
{
	local said
	said=$(timeout --kill-after=5 "$CHECKPOINT_LIMIT" "$@" --json checkpoint "$NAME") ||
		fail "$NAME: no checkpoint within $CHECKPOINT_LIMIT s (CHECKPOINT_LIMIT=): $said"
	jq -e .id <<<"$said" || fail "$NAME: the answer has no number: $said"
}

first=$(checkpoint "$@")
begun=$EPOCHREALTIME
for ((i = 0; i < EPOCHS; i++)); do
	sleep "$PERIOD"
	last=$(checkpoint "$@")
done
ended=$EPOCHREALTIME

timeout --kill-after=5 "$EXPORT_LIMIT" "$@" export "$NAME" "$OUT/checkpoint-00000" --at "$first" >/dev/null ||
	fail "$NAME: checkpoint $first was not exported within $EXPORT_LIMIT s (EXPORT_LIMIT=)"
number=0
for ((id = first + 1; id <= last; id++)); do
	files=("$STORE/checkpoint-$id"-*.dcp)
	[[ ${#files[@]} -eq 1 && -f ${files[0]} ]] ||
		fail "$STORE has no file of checkpoint $id: Keep= of $NAME must be above $EPOCHS"
	number=$((number + 1))
	cp "${files[0]}" "$OUT/$(printf 'checkpoint-%05d' $number)"
done
awk -v n="$number" -v s="$(awk "BEGIN {print $ended - $begun}")" -v name="$NAME" \
	'BEGIN {printf "%s: %d epochs of %.2f s\n", name, n, s / n}'
