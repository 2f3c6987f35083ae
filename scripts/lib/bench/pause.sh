# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# pause.sh: scripts/bench pause: how long a cut stops a guest, against how much it dirties in an epoch
#
# The guest writes so many pages in each epoch, evenly, and tells the longest time that it did not run in
# each; what District and the others say of themselves stands beside that. The guest's own command line,
# RAM and KVM are the same for all.

PAUSE_RAM=1024
# Not to be counted: what is new is faulted in, and the first copy is made.
PAUSE_WARM_UP=5

# The guest's options, for so many pages dirtied in an epoch. Its period is the epoch's, in ticks.
pause_guest()
{
	local pages=$1 khz
	khz=$("$BUILD/tests/bench/bench-floor" --tsc)
	echo "op=pace base=0x1000000 pages=$((pages > 0 ? pages : 1)) dirty=$pages period=$((khz * INTERVAL)) report=1"
}

# Gaps in ns of the last CUTS rounds in FILE, what a guest printed: an object of percentiles.
pause_gaps()
{
	local khz
	khz=$("$BUILD/tests/bench/bench-floor" --tsc)
	sed -n 's/^pace .* gap=\([0-9]*\) late=[0-9]*$/\1/p' "$1" | tail -n "$CUTS" |
		awk -v khz="$khz" '{printf "%d\n", $1 * 1e6 / khz}' | percentiles
}

pause_floor()
{
	local harvest=$((INTERVAL / 5))
	limited 600 "$BUILD/tests/bench/bench-floor" --guest "$GUEST" --append "$(pause_guest "$1")" \
		--ram "$PAUSE_RAM" --cuts "$CUTS" --warm-up "$PAUSE_WARM_UP" --interval "$INTERVAL" \
		--harvest $((harvest > 20 ? 20 : harvest)) --output "$DIR/out/floor" ||
		fail "bench-floor failed"
}

pause_cuts_made() { [[ $(district show bench | jq '.checkpointing.interval_ns.count') -ge $1 ]]; }

pause_district()
{
	cat >"$DIR/bench.district" <<-EOF
	[District]
	Name=bench
	Interval=${INTERVAL}ms
	[Member guest]
	Kernel=$GUEST
	Memory=${PAUSE_RAM}M
	CommandLine=$(pause_guest "$1")
	Debugcon=$DIR/out/guest
	EOF
	rm -f "$DIR/out/guest"
	district create "$DIR/bench.district" >/dev/null
	district start bench >/dev/null
	district protect bench --standby standby --wait >/dev/null
	await 600 pause_cuts_made $((CUTS + PAUSE_WARM_UP)) || fail "no $CUTS cuts within 600 s"
	district show bench | jq -c .checkpointing
	pair_district_end
}

pair_district_end()
{
	district unprotect bench >/dev/null
	district stop bench --force >/dev/null
	district destroy bench >/dev/null
}

# One row: LABEL FIGURES-JSON GAPS-JSON
pause_row()
{
	jq -rn --arg what "$1" --argjson f "$2" --argjson gap "$3" \
		'[$what, $f.pause_ns.p50, $f.pause_ns.p99, $gap.p50, $gap.p99] | @tsv' |
		awk -F '\t' '{printf "%-28s %10.3f %10.3f %12.3f %12.3f\n", $1, $2 / 1e6, $3 / 1e6, $4 / 1e6, $5 / 1e6}'
}

bench_pause()
{
	local mib pages floor floor_gaps ours our_gaps
	pair_start
	printf '\nPause per cut, ms: %d MiB of RAM, epochs of %d ms, %d cuts\n' "$PAUSE_RAM" "$INTERVAL" "$CUTS"
	printf '%-28s %10s %10s %12s %12s\n' "" median p99 "guest median" "guest p99"
	for mib in $DIRTY; do
		pages=$((mib * 256))
		floor=$(pause_floor "$pages")
		floor_gaps=$(pause_gaps "$DIR/out/floor")
		ours=$(pause_district "$pages")
		our_gaps=$(pause_gaps "$DIR/out/guest")
		pause_row "$mib MiB: floor" "$floor" "$floor_gaps"
		pause_row "$mib MiB: District" "$ours" "$our_gaps"
		FIGURES+=("$(jq -cn --argjson mib "$mib" --argjson interval "$INTERVAL" --argjson floor "$floor" \
			--argjson fg "$floor_gaps" --argjson ours "$ours" --argjson og "$our_gaps" \
			'{pause_dirty_mib: $mib, interval_ms: $interval, floor: ($floor + {gap_ns: $fg}),
			  district: ($ours + {gap_ns: $og})}')")
	done
	cat <<-EOF
	floor: kick, KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG, memcpy of the residue on the bare KVM API;
	guest: the longest time that it did not run, of each epoch
	EOF
}
