# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2016 # jq has its own variables
#
# guest.sh: scripts/bench guest: how much slower a guest is while it is protected, by workload
#
# Two guests for each workload, with a working set of 16 MiB: one writes 64 pages each 25 ms and computes for the
# rest, and one writes as fast as it can. Windows without and with protection alternate. What goes over the wire
# against the raw pages is of the paced one.

GUEST_RAM=256
WORKLOADS=("idle" "sequential seq,words" "random random,words" "hot-set hot,words"
	"zero-heavy random,zero" "text random,text" "incompressible random,incompressible")

# PATTERN SPEED
guest_options()
{
	local dirty=64 period=$(($(tsc_khz) * 25)) report=10
	[[ -n $1 ]] || dirty=0
	if [[ $2 = fast ]]; then
		period=1
		report=20
	fi
	echo "base=0x1000000 pages=4096 dirty=$dirty ${1:+pattern=$1} ring=3 init=1 report=$report period=$period"
}

# NAME PATTERN SPEED
guest_measure()
{
	local field=spins i a b before after ratio floor
	[[ $3 = paced ]] || field=rounds
	rm -f "$DIR/pairs"
	pair_district "$GUEST_RAM" "$INTERVAL" "$(guest_options "$2" "$3")"
	for ((i = 0; i < RUNS; i++)); do
		a=$(window_rate "$field" "$WINDOW")
		pair_protect
		before=$(checkpointing)
		b=$(window_rate "$field" "$WINDOW")
		after=$(checkpointing)
		echo "$a $b" >>"$DIR/pairs"
		[[ $i -lt $((RUNS - 1)) ]] && district unprotect bench >/dev/null
	done
	ratio=$(jq -n --argjson a "$before" --argjson b "$after" \
		'($b.dirty_pages - $a.dirty_pages) as $p | if $p > 0 then ($b.wire_bytes - $a.wire_bytes) / ($p * 4096) else null end')
	pair_district_end
	floor=$(floor_slowdown "$field" "$GUEST_RAM" "$INTERVAL" "$(guest_options "$2" "$3")")
	figure '{kind: "guest", workload: $w, speed: $s, interval_ms: $i, slowdown_percent: $d, floor_slowdown_percent: $l,
		wire_ratio: $r} + ($f | {pause_ns})' --argjson l "$floor" \
		--arg w "$1" --arg s "$3" --argjson i "$INTERVAL" --argjson d "$(slowdown <"$DIR/pairs")" \
		--argjson r "$ratio" --argjson f "$after"
}

bench_guest()
{
	local workload name pattern
	pair_start
	for workload in "${WORKLOADS[@]}"; do
		read -r name pattern <<<"$workload"
		[[ -z $QUICK || $name = text ]] || continue
		progress "guest: $name"
		guest_measure "$name" "$pattern" paced
		[[ -z $pattern ]] || guest_measure "$name" "$pattern" fast
	done
}
