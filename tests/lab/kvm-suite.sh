#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The tests that need /dev/kvm, inside a lab host: for machines whose own KVM cannot run them.

set -euo pipefail
TREE=$(cd "$(dirname "$0")/../.." && pwd)
on h1 env MESON_TESTTHREADS=1 meson test -C "${LAB_BUILD:-$TREE/build}" --no-rebuild --suite kvm \
	--timeout-multiplier 10 --verbose --logbase /tmp/kvm-suite
