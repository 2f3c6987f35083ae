#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The tests that need /dev/kvm, inside a lab host: for machines whose own KVM cannot run them. Prints
# the TAP lines of all of them.

set -euo pipefail
TREE=$(cd "$(dirname "$0")/../.." && pwd)
BUILD=${LAB_BUILD:-$TREE/build}
status=0
on h1 meson test -C "$BUILD" --no-rebuild --suite kvm --num-processes 1 --timeout-multiplier 10 \
	--logbase kvm-suite >/dev/null || status=$?
on h1 cat "$BUILD/meson-logs/kvm-suite.txt"
exit "$status"
