# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# host.sh: one districtd in the directory of a benchmark ($DIR), and a district "bench" of one tiny guest

DAEMON=
PORT_FIRST=20000 PORTS=20000

district() { limited 600 "$BUILD/control/district" -c "$DIR/conf" --json "$@"; }
get() { "$GET" "$1"; }

cleanup()
{
	set +e
	if [[ -n $DAEMON ]]; then
		district stop bench --force >/dev/null 2>&1
		kill "$DAEMON"
		wait "$DAEMON"
	fi
	rm -rf "$DIR"
}
daemon_start()
{
	mkdir "$DIR/libexec" "$DIR/out"
	local program
	for program in vmm/district-vmm ckpt/district-ckpt netproxy/district-net standby/district-standby; do
		ln -s "$BUILD/$program" "$DIR/libexec/"
	done
	cat >"$DIR/conf" <<-EOF
	[Daemon]
	HostName=bench
	StateDir=$DIR/state
	RuntimeDir=$DIR/run
	LogDir=$DIR/log
	PkiDir=$DIR/pki
	LibexecDir=$DIR/libexec
	Listen=127.0.0.1
	Port=$((PORT_FIRST + RANDOM % PORTS))
	EOF
	setpriv --pdeathsig TERM "$BUILD/control/districtd" --config "$DIR/conf" --foreground \
		>"$DIR/daemon.log" 2>&1 &
	DAEMON=$!
	local i
	for ((i = 0; i < 100; i++)); do
		district list >/dev/null 2>&1 && return
		sleep 0.1
	done
	fail "districtd does not answer: $(tail -n 1 "$DIR/daemon.log")"
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
