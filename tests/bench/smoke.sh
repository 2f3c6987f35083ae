#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# smoke BUILD: scripts/bench works: each comparison gives all of its figures, and they can be shown. What the figures
# are does not matter: machines that run tests are busy.

set -uo pipefail

BENCH=$(cd "$(dirname "$0")/../.." && pwd)/scripts/bench
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
	for name in pause slowdown activate workloads ratio; do
		python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$DIR/plots/$name.svg" || return 1
	done
}

tables_are_whole() { [[ $(grep -c '^[*][*].*[*][*]$' "$DIR/tables.md") = 6 ]]; }

check "a quick run ends well" timeout 600 "$BENCH" pause epochs activate many guest --quick --build "$1" \
	--json "$DIR/figures.json" --markdown "$DIR/tables.md" --plots "$DIR/plots"
check "pauses are measured" has pause pause_ns.p50 pause_ns.p99 gap_ns.p50 interval_ms
check "District, the floor and QEMU take their turns" jq -e \
	'[.figures[] | select(.kind == "pause") | .system] == ["floor", "district", "qemu-cut", "qemu-migrate"]' \
	"$DIR/figures.json"
check "epochs are counted" has epochs epochs_per_s commit_ns.p50 slowdown_percent.without slowdown_percent.with \
	floor_slowdown_percent.with
check "activation is timed" has activate daemon_ns.p50 client_ns.p50 guest_ns.p50
check "what members cost is measured" has many pause_ns.p50 per_member.home.memory_kib \
	per_member.standby.memory_kib
check "workloads are compared" has guest slowdown_percent.without slowdown_percent.with wire_ratio
check "the tables have all of it" tables_are_whole
check "the plots are XML" plots_are_xml
echo "1..$N"
