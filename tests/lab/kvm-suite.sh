#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Tests that need /dev/kvm, inside a lab host: for machines whose own KVM cannot run them. Prints the TAP
# lines of all of them.
#
# On an emulated host these are the programs of EMULATED only. Most of the others have guests write while they
# are looked at, and count what comes of it in real time, which fails where everything takes a hundred times as
# long; or they load two emulated CPUs until the host stands still. They are skipped by name. What they
# show of failovers, restarts, disks and connections is seen in the lab's scenarios with real guests, too.

set -euo pipefail
TREE=$(cd "$(dirname "$0")/../.." && pwd)
BUILD=${LAB_BUILD:-$TREE/build}
EMULATED=(tiny-guest vmm-boot)
LIMIT=600
status=0

mapfile -t programs < <(meson test -C "$BUILD" --no-rebuild --list --suite kvm --no-suite stress 2>/dev/null |
	sed -n 's|.* / ||p')
[[ ${#programs[@]} -gt 0 ]] || { echo "not ok - there are tests that need KVM"; exit 1; }
for name in "${programs[@]}"; do
	if [[ $LAB_BACKEND == tcg && " ${EMULATED[*]} " != *" $name "* ]]; then
		echo "ok - $name # SKIP needs a machine with a KVM of its own"
		continue
	fi
	code=0
	on --timeout $((LIMIT + 30)) h1 timeout --kill-after=10 "$LIMIT" meson test -C "$BUILD" --no-rebuild \
		--num-processes 1 --timeout-multiplier 10 --logbase "kvm-$name" "$name" >/dev/null || code=$?
	on h1 cat "$BUILD/meson-logs/kvm-$name.txt" || code=1
	[[ $code -eq 0 ]] && continue
	status=1
	echo "not ok - $name ends well (status $code)"
done
exit "$status"
