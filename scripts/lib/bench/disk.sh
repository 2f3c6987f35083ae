# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# disk.sh: scripts/bench disk: durable checkpoints, and restarts from them; disk-io.sh has the guest's I/O

# shellcheck source=scripts/lib/bench/disk-io.sh
. "$ROOT/scripts/lib/bench/disk-io.sh"

# What district-ckpt has said of the last restart, by a pattern with one group.
said() { sed -nE "s/.*$1.*/\\1/p" "$DIR/log/bench/ckpt.log" | tail -n 1; }

store() { echo "$DIR/state/districts/bench/store"; }

# ---- Restarts ----

# One restart of what does not run: "MS-TO-RUN MS-COMMAND S-ALL-READ".
restart_once()
{
	local started i lines
	lines=$(wc -l <"$DIR/log/bench/ckpt.log")
	started=$(district restart bench | get started_ms)
	for ((i = 0; i < 1200; i++)); do
		tail -n "+$((lines + 1))" "$DIR/log/bench/ckpt.log" | grep -q "memory has been read" && break
		sleep 0.1
	done
	echo "$(said 'running from epoch .* after ([0-9.]+) ms') $started $(said 'MiB in ([0-9.]+) s')"
	district stop bench --force >/dev/null
}

bench_restore()
{
	local size pages lazy whole stored start i sizes=${SIZES:-256 1024 4096}
	printf '\nRestart from a durable checkpoint: RAM that the guest has filled with text\n'
	printf '%8s %10s %12s %12s %12s %14s %14s\n' RAM stored "to running" "worst" "command" \
		"all read" "whole instead"
	for size in $sizes; do
		pages=$(((size - 32) * 256))
		district_new "$size" "pages=$pages pattern=seq,text init=1 ring=3 dirty=1 report=1 delay=100000"
		district checkpoint bench >/dev/null
		district stop bench --force >/dev/null
		stored=$(du -sm "$(store)" | cut -f 1)
		# Makes the indexes that are not there yet.
		restart_once >/dev/null
		: >"$DIR/lazy"
		: >"$DIR/whole"
		for ((i = 0; i < RUNS; i++)); do
			restart_once >>"$DIR/lazy"
			start=$(date +%s%N)
			limited 600 "$BUILD/ckpt/district-ckpt" --store "$(store)" --verify latest >/dev/null
			echo $((($(date +%s%N) - start) / 1000)) >>"$DIR/whole"
		done
		lazy=$(cut -d ' ' -f 1 "$DIR/lazy" | median)
		whole=$(median <"$DIR/whole")
		printf '%5d MiB %6d MiB %9.1f ms %9.1f ms %9.1f ms %12.2f s %12.2f s\n' "$size" "$stored" "$lazy" \
			"$(cut -d ' ' -f 1 "$DIR/lazy" | worst)" "$(cut -d ' ' -f 2 "$DIR/lazy" | median)" \
			"$(cut -d ' ' -f 3 "$DIR/lazy" | median)" "$(awk "BEGIN {print $whole / 1e6}")"
		FIGURES+=("{\"restart_ram_mib\":$size,\"to_running_ms\":$lazy,\"whole_us\":$whole,\"stored_mib\":$stored}")
		district_end
	done
	cat <<-EOF
	to running: from the request to district-ckpt until the guests run; command: of district restart, with
	the start of all processes; whole instead: verifying and reading all of the same checkpoint
	EOF
}

# ---- What a checkpoint takes ----

bench_stored()
{
	local pattern i changed bytes
	printf '\nBytes stored per durable checkpoint against bytes of the pages changed\n'
	printf '%16s %12s %12s %8s\n' workload changed stored ratio
	for pattern in zero words text incompressible; do
		district_new 256 "pages=16384 pattern=random,$pattern init=1 ring=3 dirty=64 report=50 delay=20000"
		district checkpoint bench >/dev/null
		for ((i = 0; i < RUNS; i++)); do
			sleep 0.5
			district checkpoint bench >/dev/null
		done
		district log bench >"$DIR/log.json"
		: >"$DIR/sizes"
		for ((i = 1; i <= RUNS; i++)); do
			echo "$(get "checkpoints.$i.ram_pages" <"$DIR/log.json") $(get "checkpoints.$i.bytes" <"$DIR/log.json")"
		done >>"$DIR/sizes"
		changed=$(awk '{print $1 * 4096}' "$DIR/sizes" | median)
		bytes=$(cut -d ' ' -f 2 "$DIR/sizes" | median)
		awk -v n="$pattern" -v c="$changed" -v b="$bytes" \
			'BEGIN {printf "%16s %8.2f MiB %8.2f MiB %7.3f\n", n, c / 1048576, b / 1048576, (c > 0 ? b / c : 0)}'
		FIGURES+=("{\"stored_workload\":\"$pattern\",\"changed_bytes\":$changed,\"stored_bytes\":$bytes}")
		district_end
	done
}

bench_disk()
{
	local part
	pair_start
	for part in $PARTS; do
		"bench_$part"
	done
}
