#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2030,SC2031 # a subshell has a DIR of its own
#
# smoke BUILD: scripts/bench works: each comparison gives all of its figures, and they can be shown. What the figures
# are does not matter: machines that run tests are busy.

set -uo pipefail

ROOT=$(cd "$(dirname "$0")/../.." && pwd)
BENCH=$ROOT/scripts/bench
BUILD=$1
DIR=$(mktemp -d "${TMPDIR:-/tmp}/district-bench-smoke.XXXXXX")
trap 'rm -rf "$DIR"' EXIT
N=0

# NAME COMMAND...: one line of TAP.
check()
{
	local name=$1
	N=$((N + 1))
	shift
	if "$@" >"$DIR/check" 2>&1; then
		echo "ok $N - $name"
	else
		echo "not ok $N - $name"
		sed 's/^/# /' "$DIR/check"
	fi
}

# KIND FIELD...: there are such figures, and each has a positive number in each field.
has()
{
	local kind=$1 field
	shift
	for field in "$@"; do
		jq -e --arg kind "$kind" ".figures | map(select(.kind == \$kind)) | length > 0 and all(.$field > 0)" \
			"$DIR/figures.json" >/dev/null || { echo "$kind: $field is not there"; jq . "$DIR/figures.json"; return 1; }
	done
}

plots_are_xml()
{
	local name
	for name in pause slowdown stream activate workloads ratio; do
		python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$DIR/plots/$name.svg" || return 1
	done
}

tables_are_whole() { [[ $(grep -c '^[*][*].*[*][*]$' "$DIR/tables.md") = 9 ]]; }

# Epochs of the tiny guest, as recorded by what records real ones, in $DIR/traces. In a subshell, which host.sh cleans up.
# shellcheck disable=SC2317 # host.sh calls it
record()
(
	traces=$DIR/traces
	mkdir -p "$traces" "$DIR/record" || exit
	DIR=$DIR/record GUEST=$BUILD/tests/guest/tiny.elf GET=$BUILD/tests/lab/tools/json-get
	fail() { echo "$*"; exit 1; }
	. "$ROOT/scripts/lib/limited.sh"
	. "$ROOT/scripts/lib/bench/host.sh"
	trap cleanup EXIT
	daemon_start
	district_new 64 "pages=4096 pattern=random,text init=1 ring=3 dirty=64 report=50 delay=20000"
	"$ROOT/tests/bench/take-trace.sh" bench 3 0.2 "$DIR/state/districts/bench/store" "$traces/tiny" \
		"$BUILD/control/district" -c "$DIR/conf" || exit
	district_end
)

# It says no, in one line that names it, and measures nothing.
refused()
{
	! "$BENCH" stream --quick --build "$BUILD" --traces "$1" >"$DIR/refused" 2>&1 || return 1
	cat "$DIR/refused"
	[[ $(wc -l <"$DIR/refused") = 1 ]] && grep -qF -- "--traces $1" "$DIR/refused"
}

check "the epochs of a district that runs are recorded" record
check "a quick run ends well" timeout 600 "$BENCH" pause epochs stream activate many guest --quick --build "$BUILD" \
	--traces "$DIR/traces" --json "$DIR/figures.json" --markdown "$DIR/tables.md" --plots "$DIR/plots"
check "pauses are measured" has pause pause_ns.p50 pause_ns.p99 gap_ns.p50 interval_ms
check "District, the floor and QEMU take their turns" jq -e \
	'[.figures[] | select(.kind == "pause") | .system] == ["floor", "district", "qemu-cut", "qemu-migrate"]' \
	"$DIR/figures.json"
check "epochs are counted" has epochs epochs_per_s commit_ns.p50 slowdown_percent.without slowdown_percent.with \
	floor_slowdown_percent.with
check "the encoder and zstd are compared, on patterns and on what was recorded" has stream ratio encode_mb_s.p50 \
	decode_mb_s.p50
check "what was recorded has its epochs and all variants" jq -e \
	'[.figures[] | select(.source == "trace" and .workload == "tiny" and .epochs == 3 and .pages > 0) | .variant]
		== ["plain", "delta", "delta+dup", "zstd", "zstd-long"]' "$DIR/figures.json"
check "a directory without recorded epochs is refused" refused "$DIR/plots"
check "activation is timed" has activate daemon_ns.p50 client_ns.p50 guest_ns.p50
check "what members cost is measured" has many pause_ns.p50 per_member.home.memory_kib \
	per_member.standby.memory_kib
check "workloads are compared" has guest slowdown_percent.without slowdown_percent.with wire_ratio
check "the tables have all of it" tables_are_whole
check "the plots are XML" plots_are_xml
echo "1..$N"
