# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2016 # jq has its own variables
#
# many.sh: scripts/bench many: many members in one district, and many districts
#
# Members do nothing at all (idle), or count the interrupts of a timer and halt in between (ticking), so that
# there is a reason for each cut: what is measured is what District itself costs, and how far apart the cuts of
# one district's members are. Memory is the proportional share (PSS) of all processes of the districts but
# that of guest RAM; wake-ups are voluntary context switches of all their threads.

MANY_RAM=16
declare -A MANY_GUESTS=([idle]="op=halt" [ticking]="op=tick base=0x800000 pages=16 report=1000")

# DISTRICT MEMBERS GUESTS
many_define()
{
	local i
	printf '[District]\nName=%s\nInterval=%dms\n' "$1" "$INTERVAL"
	for ((i = 1; i <= $2; i++)); do
		printf '[Member m%d]\nKernel=%s\nMemory=%dM\nCommandLine=%s\n' "$i" "$GUEST" "$MANY_RAM" "${MANY_GUESTS[$3]}"
	done
}

# PART PID of each process of DISTRICT; PART is home or standby.
many_processes()
{
	host_processes bench "$1" | sed 's/^/home /'
	host_processes standby "$1" | sed 's/^/standby /'
}

# The voluntary context switches of all threads of a process.
wakeups() { cat "/proc/$1/task/"*/status 2>/dev/null | awk '/^voluntary_ctxt/ {n += $2} END {print n + 0}'; }

# KiB of a process, but guest RAM: memfds of its size.
memory_kib()
{
	awk -v ram=$((MANY_RAM * 1024)) '
		/^[0-9a-f]+-[0-9a-f]+ / {memfd = ($6 ~ /^\/memfd:/)}
		/^Size:/ {size = $2}
		/^Pss:/ && !(memfd && size >= ram) {n += $2}
		END {print n + 0}' "/proc/$1/smaps" 2>/dev/null || echo 0
}

# PART MS WAKEUPS KIB, summed over the lines PART PID on standard input.
many_look()
{
	local part pid
	while read -r part pid; do
		echo "$part $(cpu_ms "$pid") $(wakeups "$pid") $(memory_kib "$pid")"
	done | awk '{ms[$1] += $2; w[$1] += $3; k[$1] += $4} END {for (p in ms) print p, ms[p], w[p], k[p]}' | sort
}

# SHAPE DISTRICTS MEMBERS GUESTS: measure what runs.
many_measure()
{
	local shape=$1 districts=$2 window=$WINDOW i processes total=$(($2 * $3)) begun ns costs figures
	processes=$(for ((i = 1; i <= districts; i++)); do many_processes "d$i"; done)
	# Who rests is cut each 10 s.
	[[ $4 != idle || -n $QUICK || $window -gt 20 ]] || window=20
	many_look <<<"$processes" >"$DIR/look.before"
	begun=$(date +%s%N)
	sleep "$window"
	many_look <<<"$processes" >"$DIR/look.after"
	ns=$(($(date +%s%N) - begun))
	costs=$(join "$DIR/look.before" "$DIR/look.after" |
		awk -v ns="$ns" -v n="$total" '{printf "{\"%s\":{\"cpu_percent\":%.3f,\"wakeups_per_s\":%.1f,\"memory_kib\":%.0f}}\n",
			$1, ($5 - $2) * 1e8 / ns / n, ($6 - $3) * 1e9 / ns / n, $7 / n}' | jq -cs add)
	for ((i = 1; i <= districts; i++)); do
		district show "d$i" | jq -c '.checkpointing | {pause: .pause_ns, skew: .skew_ns, interval: .interval_ns}'
	done >"$DIR/many"
	figures=$(jq -cs 'def mid(f): map(f) | sort | .[length / 2 | floor];
		{pause_ns: {p50: mid(.pause.p50), p99: mid(.pause.p99)}, skew_ns: {p50: mid(.skew.p50), p99: mid(.skew.p99)},
		 interval_ns: {p50: mid(.interval.p50), p99: mid(.interval.p99)}}' "$DIR/many")
	figure '{kind: "many", shape: $s, guests: $g, districts: $d, members: $m, interval_ms: $i, per_member: $c} + $f' \
		--arg s "$shape" --arg g "$4" --argjson d "$districts" --argjson m "$total" --argjson i "$INTERVAL" --argjson c "$costs" --argjson f "$figures"
}

# DISTRICTS MEMBERS GUESTS
many_run()
{
	local i
	for ((i = 1; i <= $1; i++)); do
		many_define "d$i" "$2" "$3" >"$DIR/d$i.district"
		district create "$DIR/d$i.district" >/dev/null
		district start "d$i" >/dev/null
		district protect "d$i" --standby standby --wait >/dev/null || fail "d$i: no protection"
	done
	sleep "$WINDOW"
	many_measure "$1 x $2" "$1" "$2" "$3"
	for ((i = 1; i <= $1; i++)); do
		district unprotect "d$i" >/dev/null
		district stop "d$i" --force >/dev/null
		district destroy "d$i" >/dev/null
	done
}

bench_many()
{
	local guests
	pair_start
	for guests in idle ticking; do
		progress "many: one district of $MEMBERS, $guests"
		many_run 1 "$MEMBERS" "$guests"
		progress "many: $MEMBERS districts of one, $guests"
		many_run "$MEMBERS" 1 "$guests"
	done
}
