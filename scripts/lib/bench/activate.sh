# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2016 # jq has its own variables
#
# activate.sh: scripts/bench activate: from the decision to running guests at the standby, by RAM size
#
# The guest has written all of its RAM once, and goes on writing a little. Its processes at home are killed and gone,
# then the standby is told to take over. Hosts change their parts after each.

# The guest reports each 5 ms, so that it is seen soon that it runs.
activate_guest()
{
	echo "base=0x1000000 pages=$((($1 - 32) * 256)) dirty=8 pattern=random,words ring=3 init=1 period=$(($(tsc_khz) * 5))"
}

# When FILE has grown beyond SIZE: ns since 1970; empty if it does not within 30 s.
grown_at()
{
	local limit=$((SECONDS + 30))
	while [[ $(stat -c %s "$1") -le $2 ]]; do
		[[ $SECONDS -lt $limit ]] || return 0
		sleep 0.001
	done
	date +%s%N
}

activate_gone()
{
	local pid
	for pid in $1; do
		[[ -d /proc/$pid ]] && return 1
	done
	return 0
}

is_superseded() { [[ $(on_host "$1" show bench | get state) = superseded ]]; }

# One failover from HOST to OTHER: adds to $DIR/client, $DIR/daemon, $DIR/seen, in ns.
activate_once()
{
	local home=$1 other=$2 pids size begun answer ended seen
	pids=$(on_host "$home" show bench | jq -r '.members[].pid, .processes.ckpt, .processes.net')
	# shellcheck disable=SC2086 # several
	kill -KILL $pids 2>/dev/null # districtd may have been quicker with the others
	await 60 activate_gone "$pids" || fail "killed processes are not gone after 60 s"
	size=$(stat -c %s "$DIR/out/guest")
	grown_at "$DIR/out/guest" "$size" >"$DIR/grown" &
	local watcher=$!
	begun=$(date +%s%N)
	answer=$(on_host "$other" failover bench) || fail "the failover failed"
	ended=$(date +%s%N)
	wait "$watcher"
	seen=$(<"$DIR/grown")
	echo $((ended - begun)) >>"$DIR/client"
	jq '.decided_to_running_ms * 1e6 | floor' <<<"$answer" >>"$DIR/daemon"
	[[ -z $seen ]] || echo $((seen - begun)) >>"$DIR/seen"
	await 60 is_superseded "$home" || fail "the old home does not notice"
	on_host "$other" protect bench --standby "$home" --wait >/dev/null || fail "no protection the other way"
}

activate_end()
{
	on_host "$1" unprotect bench >/dev/null
	on_host "$1" stop bench --force >/dev/null
	on_host "$1" destroy bench --force >/dev/null
	on_host "$2" destroy bench --force >/dev/null 2>&1 || true
}

activate_size()
{
	local size=$1 i home=bench other=standby swap
	rm -f "$DIR/client" "$DIR/daemon" "$DIR/seen"
	touch "$DIR/seen"
	pair_district "$size" 25 "$(activate_guest "$size")"
	pair_protect
	for ((i = 0; i < RUNS; i++)); do
		activate_once "$home" "$other"
		swap=$home home=$other other=$swap
	done
	figure '{kind: "activate", ram_mib: $m, client_ns: $c, daemon_ns: $d, guest_ns: $g}' --argjson m "$size" \
		--argjson c "$(percentiles <"$DIR/client")" --argjson d "$(percentiles <"$DIR/daemon")" \
		--argjson g "$(percentiles <"$DIR/seen")"
	activate_end "$home" "$other"
}

bench_activate()
{
	local size free sizes=${SIZES:-256 1024 4096 8192}
	pair_start
	for size in $sizes; do
		free=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
		if [[ $free -lt $((size * 2 + 1024)) ]]; then
			note "activation of $size MiB is left out: both hosts are on this machine, and it has $free MiB"
			continue
		fi
		progress "activate: $size MiB"
		activate_size "$size"
	done
}
