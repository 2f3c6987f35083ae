# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2153 # options are set in scripts/bench
#
# workload.sh: districts of one tiny guest on a pair of hosts, how fast the guest is, and what processes use
#
# The guest's clock is the TSC: its "pace" lines say how long it took for its rounds and how often it has looked at the
# clock, which is the time that its work left it. Speeds are of whole reports within a window.

TSC_KHZ=

tsc_khz()
{
	[[ -n $TSC_KHZ ]] || TSC_KHZ=$("$BUILD/tests/bench/bench-floor" --tsc)
	echo "$TSC_KHZ"
}

# Add to FIGURES: a jq program for an object, then --arg and --argjson options.
figure() { FIGURES+=("$(jq -cn "${@:2}" "$1")"); }

progress() { echo "# $*" >&2; }

# pair_district MIB INTERVAL-MS GUEST-OPTIONS: "bench" runs on host bench, unprotected.
pair_district()
{
	rm -f "$DIR/out/guest"
	cat >"$DIR/bench.district" <<-EOF
	[District]
	Name=bench
	Interval=$2ms
	[Member guest]
	Kernel=$GUEST
	Memory=$1M
	CommandLine=$3
	Debugcon=$DIR/out/guest
	EOF
	district create "$DIR/bench.district" >/dev/null
	district start bench >/dev/null
	await 1800 grep -q '^chain ' "$DIR/out/guest" || fail "the guest has not begun within half an hour"
}

pair_protect() { district protect bench --standby standby --wait >/dev/null || fail "no protection"; }

pair_district_end()
{
	district unprotect bench >/dev/null
	district stop bench --force >/dev/null
	district destroy bench >/dev/null
}

checkpointing() { district show bench | jq -c .checkpointing; }

# rate FIELD FILE FROM: per s, by the reports that the guest has made whole since its output had FROM bytes.
# FIELD is spins or rounds. Nothing if there is none.
rate()
{
	tail -c "+$(($3 + 1))" "$2" | awk -v field="$1" -v khz="$(tsc_khz)" -F '[ =]' '
		/^chain cpu=0 round=[0-9]+ value=/ {round = $5}
		/^pace cpu=0 ticks=[0-9]+ gap=[0-9]+ late=[0-9]+ spins=[0-9]+$/ && round {
			if (first) {done += (field == "spins" ? $11 : round - last); ticks += $5}
			first = 1
			last = round
		}
		END {if (ticks) printf "%.3f\n", done / ticks * khz * 1000}'
}

# The CPU time that a process has used, ms.
cpu_ms()
{
	awk -v hz="$(getconf CLK_TCK)" '{sub(/.*\) /, ""); print ($12 + $13) * 1000 / hz}' "/proc/$1/stat" 2>/dev/null || echo 0
}

# NAME PID of all that runs for "bench" on both hosts.
bench_processes()
{
	district show bench | jq -r '.processes | to_entries[] | "\(.key) \(.value)"'
	district show bench | jq -r '.members[] | select(.pid) | "vmm \(.pid)"'
	on_host standby show bench 2>/dev/null |
		jq -r '(.processes | to_entries[] | "standby-\(.key) \(.value)"), (.members[] | select(.pid) | "standby-vmm \(.pid)")'
	echo "districtd ${DAEMONS[bench]}"
	echo "standby-districtd ${DAEMONS[standby]}"
}

# "NAME MS" of each of the lines NAME PID on standard input.
cpu_of_all()
{
	local name pid
	while read -r name pid; do
		echo "$name $(cpu_ms "$pid")"
	done
}

guest_has_reported() { [[ -n $(rate spins "$DIR/out/guest" "$1") ]]; }

# FIELD SECONDS: the guest's speed over so long, or until it has reported.
window_rate()
{
	local from
	from=$(stat -c %s "$DIR/out/guest")
	sleep "$2"
	await 60 guest_has_reported "$from" || fail "the guest has not reported within 60 s"
	rate "$1" "$DIR/out/guest" "$from"
}

# Of lines "A B": an object with the distribution of 1 - B/A in percent, and the medians of A and B.
slowdown()
{
	local pairs a b
	pairs=$(cat)
	a=$(cut -d ' ' -f 1 <<<"$pairs" | median)
	b=$(cut -d ' ' -f 2 <<<"$pairs" | median)
	awk '$1 > 0 {printf "%.2f\n", (1 - $2 / $1) * 100}' <<<"$pairs" | sort -n |
		jq -cs --argjson a "$a" --argjson b "$b" \
			'{runs: length, p50: (if length == 0 then 0 else (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2 end), min: (.[0] // 0), max: (.[-1] // 0), without: $a, with: $b}'
}

# What the dirty log alone costs: the guest's speed on the bare KVM API, FIELD per s. Cuts each INTERVAL ms and harvests
# at the beat of District's; or none at all if that is 0.
floor_rate()
{
	local field=$1 ram=$2 interval=$3 guest=$4 ms=$((WINDOW * 1000)) beat
	beat=(--interval "$ms" --harvest "$ms" --cuts 1 --warm-up 0)
	[[ $interval = 0 ]] ||
		beat=(--interval "$interval" --harvest "$(awk -v i="$interval" 'BEGIN {h = i / 5; print (h < 2 ? 2 : h > 20 ? 20 : h)}')"
			--cuts $((ms / interval)) --warm-up 4)
	limited 120 "$BUILD/tests/bench/bench-floor" --guest "$GUEST" --append "$guest" --ram "$ram" "${beat[@]}" \
		--output "$DIR/out/floor" >/dev/null || fail "bench-floor failed"
	rate "$field" "$DIR/out/floor" 0
}

# FIELD MIB INTERVAL GUEST-OPTIONS: the slowdown on the bare KVM API, as that of a district.
floor_slowdown()
{
	local i a b
	for ((i = 0; i < RUNS; i++)); do
		a=$(floor_rate "$1" "$2" 0 "$4")
		b=$(floor_rate "$1" "$2" "$3" "$4")
		echo "${a:-0} ${b:-0}"
	done | slowdown
}
