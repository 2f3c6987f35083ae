#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Scripts do not take a wrong command line for a right one.

set -uo pipefail

SCRIPTS=$(cd "$(dirname "$(readlink -f "$0")")/../../.." && pwd)/scripts
N=0

result()
{
	N=$((N + 1))
	if [[ $1 -eq 0 ]]; then echo "ok $N - $2"; else echo "not ok $N - $2"; fi
}

# refuses WORD SCRIPT ARGUMENT...: with status 2, and WORD in what it says.
refuses()
{
	local word=$1 script=$2 said status=0
	shift 2
	said=$(timeout 30 "$SCRIPTS/$script" "$@" 2>&1) || status=$?
	[[ $status -eq 2 && $said == *"$word"* ]]
}

echo 1..6
refuses stress test --only unti
result $? "test: --only refuses what is no stage, and names those there are"
refuses stress test --only "style build"
result $? "test: --only refuses two stages in one word"
refuses stress test --only
result $? "test: --only needs a value"
refuses seconds test --fuzz-seconds
result $? "test: --fuzz-seconds needs a value"
refuses usage install-deps --hosts
result $? "install-deps: an option that there is not is refused"
! "$SCRIPTS/install-deps" --host --list | grep -qE '^(linux-image|qemu-system|clang)'
result $? "install-deps: a host gets neither a kernel, nor an emulator, nor clang"
