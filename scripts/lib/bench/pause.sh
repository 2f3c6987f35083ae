# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2016,SC2153 # jq has its own variables, and options are set in scripts/bench
#
# pause.sh: scripts/bench pause: how long a cut stops a guest, against how much it dirties in an epoch
#
# The guest writes so many pages in each epoch, evenly, and tells the longest time that it did not run in
# each; what District and the others say of themselves stands beside that. The guest's own command line,
# RAM and KVM are the same for all, and all take their turn at each size.

PAUSE_RAM=1024
# Not to be counted: what is new is faulted in, and the first copy is made.
PAUSE_WARM_UP=5

# The guest's options, for so many pages dirtied in an epoch.
pause_guest()
{
	local pages=$1
	echo "base=0x1000000 pages=$((pages > 0 ? pages : 1)) dirty=$pages pattern=seq ring=3 period=$(($(tsc_khz) * INTERVAL))"
}

# gaps FILE N: the longest gap of each of the last N rounds, ns, as percentiles.
pause_gaps()
{
	sed -n 's/^pace .* gap=\([0-9]*\) late=.*/\1/p' "$1" | tail -n "$2" |
		awk -v khz="$(tsc_khz)" '{printf "%.0f\n", $1 * 1e6 / khz}' | percentiles
}

# SYSTEM MIB FIGURES-JSON GAPS-JSON
pause_figure()
{
	figure '{kind: "pause", system: $s, dirty_mib: $mib, interval_ms: $i} + $f + {gap_ns: $g}' \
		--arg s "$1" --argjson mib "$2" --argjson i "$INTERVAL" --argjson f "$3" --argjson g "$4"
}

pause_floor()
{
	local harvest=$((INTERVAL / 5)) figures
	[[ $harvest -le 20 ]] || harvest=20
	figures=$(limited 900 "$BUILD/tests/bench/bench-floor" --guest "$GUEST" --append "$(pause_guest $(($1 * 256)))" \
		--ram "$PAUSE_RAM" --cuts "$CUTS" --warm-up "$PAUSE_WARM_UP" --interval "$INTERVAL" \
		--harvest "$harvest" --output "$DIR/out/floor") || fail "bench-floor failed"
	pause_figure floor "$1" "$figures" "$(pause_gaps "$DIR/out/floor" "$CUTS")"
}

pause_cuts_made() { [[ $(checkpointing | jq .interval_ns.count) -ge $1 ]]; }

pause_district()
{
	local figures
	pair_district "$PAUSE_RAM" "$INTERVAL" "$(pause_guest $(($1 * 256)))"
	pair_protect
	await 900 pause_cuts_made $((CUTS + PAUSE_WARM_UP)) || fail "no $CUTS cuts within 900 s"
	figures=$(checkpointing)
	pause_figure district "$1" "$figures" "$(pause_gaps "$DIR/out/guest" "$CUTS")"
	pair_district_end
}

# QEMU takes so long for each that a tenth of the cuts is enough.
pause_qemu()
{
	local figures cuts=$((CUTS / 10 > 5 ? CUTS / 10 : 5))
	[[ -z $QUICK ]] || cuts=2
	figures=$(limited 900 "$BUILD/tests/bench/bench-qemu" --mode "$1" --guest "$GUEST" \
		--append "$(pause_guest $(($2 * 256)))" --ram "$PAUSE_RAM" --cuts "$cuts" --interval "$INTERVAL" \
		--output "$DIR/out/qemu" --file "$DIR/out/migration") || fail "bench-qemu failed"
	pause_figure "qemu-$1" "$2" "$figures" "$(pause_gaps "$DIR/out/qemu" "$cuts")"
	rm -f "$DIR/out/migration"
}

bench_pause()
{
	local mib
	pair_start
	for mib in $DIRTY; do
		progress "pause: $mib MiB per epoch"
		pause_floor "$mib"
		pause_district "$mib"
		[[ -n $QEMU ]] || continue
		pause_qemu cut "$mib"
		pause_qemu migrate "$mib"
	done
	[[ -n $QEMU ]] || note "stock QEMU is left out: there is no qemu-system-x86_64"
	note "QEMU COLO is left out: 7.2 loses dirty pages and deadlocks under TCG, and 10.0.2 has broken it"
}
