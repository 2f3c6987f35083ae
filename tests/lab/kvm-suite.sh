#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The tests that need /dev/kvm, inside a lab host: for machines whose own KVM cannot run them. Prints
# the TAP lines of all of them.
#
# An emulated host is some hundred times slower, so not all of them fit into the time that there is
# (KVM_SUITE_SECONDS): those that do not are said to be skipped, by name. Programs of the engine come
# first, then those of whole districts.

set -euo pipefail
TREE=$(cd "$(dirname "$0")/../.." && pwd)
BUILD=${LAB_BUILD:-$TREE/build}
BUDGET=${KVM_SUITE_SECONDS:-1500}
# Of one program; those that take longer hang.
LIMIT=900
# It takes as much as one needs to start.
LEAST=60
status=0

mapfile -t programs < <(meson test -C "$BUILD" --no-rebuild --list --suite kvm --no-suite stress 2>/dev/null |
	sed -n 's|.* / ||p')
[[ ${#programs[@]} -gt 0 ]] || { echo "not ok - there are tests that need KVM"; exit 1; }
for name in "${programs[@]}"; do
	left=$((BUDGET - SECONDS))
	if [[ $left -lt $LEAST ]]; then
		echo "ok - $name # SKIP no time left for it on an emulated host: KVM_SUITE_SECONDS"
		continue
	fi
	began=$SECONDS code=0
	limit=$((left < LIMIT ? left : LIMIT))
	on --timeout $((limit + 30)) h1 timeout --kill-after=10 "$limit" meson test -C "$BUILD" --no-rebuild \
		--num-processes 1 --timeout-multiplier 10 --logbase "kvm-$name" "$name" >/dev/null || code=$?
	on h1 cat "$BUILD/meson-logs/kvm-$name.txt" || code=1
	echo "# $name: $((SECONDS - began)) s"
	if [[ $code -eq 124 && $limit -eq $left ]]; then
		echo "ok - the rest of $name # SKIP no time left for it on an emulated host: KVM_SUITE_SECONDS"
	elif [[ $code -ne 0 ]]; then
		status=1
		echo "not ok - $name ends well (status $code)"
	fi
done
exit "$status"
