# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2016 # jq has its own variables
#
# epochs.sh: scripts/bench epochs: how many epochs a second are sustained, and what they cost
#
# The guest writes pages of text at 10 MiB/s, most of them in a sixteenth of its 16 MiB, and computes for the rest
# of its time: what that loses while the district is protected is its slowdown. Windows without and with
# protection alternate.

EPOCHS_RAM=256

# The guest reports 4 times a second: 10 rounds of 25 ms.
epochs_guest()
{
	echo "base=0x1000000 pages=4096 dirty=64 pattern=hot,text ring=3 init=1 report=10 period=$(($(tsc_khz) * 25))"
}

# One protected window: adds "EPOCHS-PER-S" to $DIR/rates, the lag to $DIR/lags, and CPU percentages to $DIR/cpu; prints
# the guest's speed.
epochs_window()
{
	local before after processes begun ended i speed
	processes=$(bench_processes)
	before=$(checkpointing | jq .committed_epoch)
	begun=$(date +%s%N)
	cpu_of_all <<<"$processes" >"$DIR/cpu.before"
	speed=$(window_rate spins "$WINDOW")
	cpu_of_all <<<"$processes" >"$DIR/cpu.after"
	ended=$(date +%s%N)
	after=$(checkpointing | jq .committed_epoch)
	awk -v n=$((after - before)) -v ns=$((ended - begun)) 'BEGIN {printf "%.2f\n", n / ns * 1e9}' >>"$DIR/rates"
	for ((i = 0; i < 5; i++)); do
		checkpointing | jq .lag_ns >>"$DIR/lags"
	done
	paste -d ' ' "$DIR/cpu.before" "$DIR/cpu.after" |
		awk -v ns=$((ended - begun)) '{used[$1] += $4 - $2} END {for (n in used) print n, used[n] * 1e8 / ns}' >>"$DIR/cpu"
	echo "$speed"
}

# Medians of the CPU percentages in $DIR/cpu, as an object.
epochs_cpu()
{
	local name
	cut -d ' ' -f 1 "$DIR/cpu" | sort -u | while read -r name; do
		echo "$name $(sed -n "s/^$name //p" "$DIR/cpu" | median)"
	done | jq -cRs 'split("\n") | map(select(. != "") | split(" ") | {(.[0]): (.[1] | tonumber)}) | add // {}'
}

epochs_at()
{
	local interval=$1 i a b figures floor
	rm -f "$DIR/rates" "$DIR/lags" "$DIR/cpu" "$DIR/pairs"
	pair_district "$EPOCHS_RAM" "$interval" "$(epochs_guest)"
	for ((i = 0; i < RUNS; i++)); do
		a=$(window_rate spins "$WINDOW")
		pair_protect
		b=$(epochs_window)
		echo "$a $b" >>"$DIR/pairs"
		[[ $i -lt $((RUNS - 1)) ]] && district unprotect bench >/dev/null
	done
	figures=$(checkpointing)
	pair_district_end
	floor=$(floor_slowdown spins "$EPOCHS_RAM" "$interval" "$(epochs_guest)")
	figure '{kind: "epochs", interval_ms: $i, epochs_per_s: $r, lag_ns: $l, cpu_percent: $c, slowdown_percent: $s,
		floor_slowdown_percent: $o} + ($f | {pause_ns, commit_ns, interval_ns, wire_bytes, dirty_pages})' --argjson o "$floor" \
		--argjson i "$interval" --argjson r "$(median <"$DIR/rates")" --argjson l "$(percentiles <"$DIR/lags")" \
		--argjson c "$(epochs_cpu)" --argjson s "$(slowdown <"$DIR/pairs")" --argjson f "$figures"
}

bench_epochs()
{
	local interval
	pair_start
	for interval in $INTERVALS; do
		progress "epochs: $interval ms"
		epochs_at "$interval"
	done
}
