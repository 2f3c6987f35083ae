#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# test-background.sh DISTRICTD DISTRICT: whoever starts districtd in the background learns what came of it.

set -uo pipefail

DISTRICTD=$1 DISTRICT=$2
WORK=$(mktemp -d)
N=0

# Those that were started here have our directory in their command lines.
clean_up()
{
	local pids
	mapfile -t pids < <(pgrep -f -- "--config $WORK/")
	[[ ${#pids[@]} -eq 0 ]] || kill "${pids[@]}"
	rm -rf "$WORK"
}
trap clean_up EXIT

result()
{
	N=$((N + 1))
	if [[ $1 -eq 0 ]]; then echo "ok $N - $2"; else echo "not ok $N - $2"; fi
}

# configure NAME STATE PORT
configure()
{
	cat >"$WORK/$1.conf" <<-END
		[Daemon]
		HostName=h1
		StateDir=$WORK/$2
		RuntimeDir=$WORK/run-$1
		LogDir=$WORK/log-$1
		PkiDir=$WORK/pki
		Listen=127.0.0.1
		Port=$3
	END
}

start() { timeout 30 "$DISTRICTD" --config "$WORK/$1.conf" >"$WORK/$1.out" 2>&1 </dev/null; }

# On a port that nobody has.
start_first()
{
	local i
	for ((i = 0; i < 20; i++)); do
		port=$((20000 + RANDOM % 30000))
		configure first state "$port"
		start first && return
	done
	return 1
}

echo 1..4
start_first
result $? "it succeeds when it runs"
timeout 10 "$DISTRICT" --config "$WORK/first.conf" list >/dev/null
result $? "it can be talked to at once"
configure second state $((port + 1))
! start second && grep -q 'another districtd has this state directory' "$WORK/second.out"
result $? "it fails, and says so, where another one has its state"
configure third other "$port"
! start third && grep -q "$port" "$WORK/third.out"
result $? "it fails, and says so, when its port is taken"
