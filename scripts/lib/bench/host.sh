# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# host.sh: hosts for benchmarks, all on this machine, and a district "bench" of one tiny guest
#
# A host is a districtd with its files in a directory: "bench" in $DIR, and "standby", which bench
# reaches over TLS on the loopback device, in $DIR/standby. Nothing outlives cleanup.

declare -A DAEMONS=() PORTS=()
PORT_FIRST=20000 PORT_COUNT=20000

host_dir() { [[ $1 = bench ]] && echo "$DIR" || echo "$DIR/$1"; }
on_host() { limited 600 "$BUILD/control/district" -c "$(host_dir "$1")/conf" --json "${@:2}"; }
district() { on_host bench "$@"; }
get() { "$GET" "$1"; }

# The process ids of what runs for district NAME on HOST.
host_processes()
{
	on_host "$1" show "$2" 2>/dev/null | jq -r '.processes[]?, .members[]?.pid // empty'
}

# End all districts of HOST, and what is left of their processes.
host_end()
{
	local name pid pids
	for name in $(on_host "$1" list 2>/dev/null | jq -r '.districts[].name'); do
		pids=$(host_processes "$1" "$name")
		on_host "$1" stop "$name" --force >/dev/null 2>&1
		on_host "$1" destroy "$name" --force >/dev/null 2>&1
		for pid in $pids; do
			[[ $(readlink "/proc/$pid/exe") = "$BUILD"/* ]] && kill -KILL "$pid" 2>/dev/null
		done
	done
	kill "${DAEMONS[$1]}"
	wait "${DAEMONS[$1]}"
}

cleanup()
{
	local host
	set +e
	for host in "${!DAEMONS[@]}"; do
		host_end "$host"
	done
	rm -rf "$DIR"
}

host_configure()
{
	local host=$1 dir program
	dir=$(host_dir "$host")
	mkdir -p "$DIR/libexec" "$DIR/out" "$dir"
	for program in vmm/district-vmm ckpt/district-ckpt netproxy/district-net standby/district-standby; do
		ln -sf "$BUILD/$program" "$DIR/libexec/"
	done
	PORTS[$host]=$((PORT_FIRST + RANDOM % PORT_COUNT))
	cat >"$dir/conf" <<-EOF
	[Daemon]
	HostName=$host
	StateDir=$dir/state
	RuntimeDir=$dir/run
	LogDir=$dir/log
	PkiDir=$dir/pki
	LibexecDir=$DIR/libexec
	Listen=127.0.0.1
	Port=${PORTS[$host]}
	EOF
}

# daemon_start [HOST]: bench if not given.
daemon_start()
{
	local host=${1:-bench} dir
	[[ -z ${DAEMONS[$host]:-} ]] || return 0
	dir=$(host_dir "$host")
	host_configure "$host"
	setpriv --pdeathsig TERM "$BUILD/control/districtd" --config "$dir/conf" --foreground \
		>"$dir/daemon.log" 2>&1 &
	DAEMONS[$host]=$!
	local i
	for ((i = 0; i < 100; i++)); do
		on_host "$host" list >/dev/null 2>&1 && return
		sleep 0.1
	done
	fail "districtd does not answer: $(tail -n 1 "$dir/daemon.log")"
}

# Both hosts, which know each other.
pair_start()
{
	local token i
	[[ -z ${DAEMONS[standby]:-} ]] || return 0
	daemon_start bench
	daemon_start standby
	token=$(on_host bench host add standby --address "127.0.0.1:${PORTS[standby]}" | get token)
	on_host standby host add bench --address "127.0.0.1:${PORTS[bench]}" --token "$token" >/dev/null
	for ((i = 0; i < 100; i++)); do
		[[ $(on_host bench host list | get hosts.0.reachable) = true ]] && return
		sleep 0.1
	done
	fail "the hosts cannot reach each other: $(tail -n 1 "$DIR/daemon.log")"
}

# Run a command each 0.1 s until it succeeds, for SECONDS at most.
await()
{
	local limit=$1 i
	shift
	for ((i = 0; i < limit * 10; i++)); do
		"$@" && return
		sleep 0.1
	done
	return 1
}

# district_new MIB GUEST-OPTIONS: "bench" runs, and its guest has written all of its working set once.
district_new()
{
	rm -f "$DIR/out/guest"
	cat >"$DIR/bench.district" <<-EOF
	[District]
	Name=bench
	Keep=50
	[Member guest]
	Kernel=$GUEST
	Memory=$1M
	CommandLine=$2
	Debugcon=$DIR/out/guest
	EOF
	district create "$DIR/bench.district" >/dev/null
	district start bench >/dev/null
	local i
	for ((i = 0; i < 3000; i++)); do
		grep -q "^chain " "$DIR/out/guest" 2>/dev/null && return
		sleep 0.1
	done
	fail "the guest has not written its memory within 300 s"
}

district_end()
{
	[[ $(district show bench | get state) = stopped ]] || district stop bench --force >/dev/null
	district destroy bench >/dev/null
}

# Of the numbers on standard input.
median() { sort -n | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
worst() { sort -n | tail -n 1; }

# Nearest-rank percentiles of the numbers on standard input, as JSON. (%d of mawk ends at 2^31.)
percentiles()
{
	sort -n | awk 'function rank(p) {i = int(p * NR); if (i < p * NR) i++; return v[i > 0 ? i : 1]}
		{v[NR] = $1}
		END {if (NR == 0) print "{\"count\":0,\"p50\":0,\"p99\":0,\"max\":0}"
		     else printf "{\"count\":%d,\"p50\":%.0f,\"p99\":%.0f,\"max\":%.0f}\n", NR, rank(.5), rank(.99), v[NR]}'
}
