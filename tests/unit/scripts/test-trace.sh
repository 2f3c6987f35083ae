#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# test-trace.sh PROGRAM...: all trace points are in the programs, and docs/tracing.md has them with
# as many arguments.

set -uo pipefail

ROOT=$(cd "$(dirname "$(readlink -f "$0")")/../../.." && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# Lines "NAME ARGUMENTS".
sed -nE 's/.*DTRACE_PROBE([0-9]*)\(district, ([a-z_]+),.*/\2 \1/p' "$ROOT/common/trace.h" |
	sort >"$WORK/header"
for program in "$@"; do
	readelf -n "$program"
done | awk '/Provider:/ { ours = $2 == "district" } /Name:/ { name = $2 } /Arguments:/ && ours { print name, NF - 1 }' |
	sort -u >"$WORK/programs"
# Commas in parentheses are no separators.
# shellcheck disable=SC2016
sed -nE 's/^\| `([a-z]+_[a-z_]+)` \| [^|]* \| (.*) \|$/\1|\2/p' "$ROOT/docs/tracing.md" |
	sed -E 's/\([^)]*\)//g' | awk -F '|' '{ print $1, split($2, fields, ",") }' | sort >"$WORK/docs"

N=0
result()
{
	N=$((N + 1))
	if [[ $1 -eq 0 ]]; then echo "ok $N - $2"; else echo "not ok $N - $2"; fi
}

echo 1..3
[[ -s $WORK/header ]]
result $? "there are trace points"
diff "$WORK/header" "$WORK/programs" | sed 's/^/# /'
result "${PIPESTATUS[0]}" "the programs have every one of them"
diff "$WORK/header" "$WORK/docs" | sed 's/^/# /'
result "${PIPESTATUS[0]}" "each is documented with its arguments"
