#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The lab, where paths have blanks in them.

set -uo pipefail

LAB=$(cd "$(dirname "$(readlink -f "$0")")/../../.." && pwd)/scripts/lab
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
N=0

result()
{
	N=$((N + 1))
	if [[ $1 -eq 0 ]]; then echo "ok $N - $2"; else echo "not ok $N - $2"; fi
}

# Its functions, without what it does.
# shellcheck source=/dev/null
. <(sed -n '/^offer_kept_lab()/,/^}/p; /^check_paths()/,/^}/p' "$LAB")
# shellcheck disable=SC2317 # called by those
inner_pid() { echo "$1"; }
# shellcheck disable=SC2317
die() { exit 1; }

# A process that has ended stands for the lab.
true &
ended=$!
wait
LAB_DIR="$WORK/my tmp/lab.X"
mkdir -p "$LAB_DIR" "$WORK/my"
echo 'SEEN=yes' >"$LAB_DIR/env"
offer_kept_lab "$ended" >/dev/null

echo 1..5
# The command is not reached: there is nothing to enter.
[[ $(bash -x "$LAB_DIR/enter" true 2>&1) == *SEEN=yes* ]]
result $? "a kept lab is entered with its own environment"
"$LAB_DIR/stop"
[[ ! -e $LAB_DIR ]]
result $? "a kept lab that is stopped is gone"
[[ -d $WORK/my && -d "$WORK/my tmp" ]]
result $? "nothing else is removed with it"
# shellcheck disable=SC2034 # used by check_paths
LAB_BACKEND=tcg
! (check_paths /tmp "/root/my src")
result $? "an emulated host refuses a path that the kernel's command line would split"
# shellcheck disable=SC2034
LAB_BACKEND=netns
check_paths /tmp "/root/my src"
result $? "a host of namespaces takes it"
