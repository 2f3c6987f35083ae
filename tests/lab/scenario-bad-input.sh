#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Wrong input and broken surroundings give one clear line and lose nothing.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

# refuses SENTENCE PATTERN COMMAND...: it says no, with one line on stderr that matches PATTERN.
refuses()
{
	local sentence=$1 pattern=$2 out status=0
	shift 2
	out=$("$@" 2>&1 >/dev/null) || status=$?
	claim "$sentence" "status $status: $out" \
		eval 'test "$status" -eq 1 -a "$(wc -l <<<"$out")" = 1 && has -E "$pattern" <<<"$out"'
}

# define LINE...: try to create a district from these lines.
define()
{
	printf '%s\n' "$@" | on h1 sh -c 'cat >/tmp/bad.district'
	dst h1 create /tmp/bad.district
}

make_guests
start_daemon h1
start_daemon h2
M=("[District]" "Name=bad" "[Member a]" "Engine=kvm" "Memory=64M")
refuses "an unknown key is refused by name" 'Colour' define "${M[@]}" "Kernel=$LAB_KERNEL" "Colour=red"
refuses "a missing kernel is refused by name" '/nonexistent' define "${M[@]}" "Kernel=/nonexistent"
refuses "a size that is none is refused" 'Memory' define "[District]" "Name=bad" "[Member a]" "Memory=lots" "Kernel=$LAB_KERNEL"
refuses "a district of no name is refused" 'Name' define "[District]" "[Member a]" "Memory=64M" "Kernel=$LAB_KERNEL"
refuses "a file that is not there is refused by name" '/tmp/none.district' dst h1 create /tmp/none.district
refuses "a district that is not there is refused by name" 'nowhere' dst h1 start nowhere
refuses "an unknown standby is refused with the remedy" 'host add' eval 'write_shop h1 >/dev/null; dst h1 create /etc/district/shop.district >/dev/null; dst h1 protect shop --standby h2'
join_hosts h1 h2
dst h1 start shop || die "start failed"
within 120 console_has h1 app 'app: acked' || die "the guests did not come up"
protect_shop h1 h2

# A peer that speaks no TLS, or has no certificate of ours, gets nothing.
status=0
on h1 bash -c 'exec 3<>/dev/tcp/10.77.0.2/7117 || exit 9; printf "GET / HTTP/1.0\r\n\r\n" >&3; timeout 20 cat <&3 >/tmp/answer' || status=$?
# cat ends by itself: at the end, or with a connection that was reset.
claim "a plaintext peer is closed without an answer" "status $status" \
	eval 'test "$status" -eq 0 -o "$status" -eq 1 && on h1 test -e /tmp/answer -a ! -s /tmp/answer'
claim "the district stays protected" "" is h1 shop protection protected

# A standby without memory for the district.
dst h1 unprotect shop || die "unprotect failed"
free_kb=$(on h2 awk '/MemAvailable/ { print $2 }' /proc/meminfo)
on h2 mkdir -p /tmp/fill
on h2 mount -t tmpfs -o size=100% none /tmp/fill
on h2 dd if=/dev/zero of=/tmp/fill/f bs=1M count=$((free_kb / 1024 - 150)) 2>/dev/null || true
dst h1 protect shop --standby h2 >/dev/null 2>&1 || true
within 30 eval 'field h1 shop checkpointing.protection_error | has -iE "memory|MiB|full"' || true
claim "a standby without memory says so, with figures" "$(field h1 shop checkpointing.protection_error)" \
	eval 'field h1 shop checkpointing.protection_error | has -iE "memory|MiB"'
before=$(last_acked h1)
within 30 acked_above h1 "$before" || true
claim "the guests go on meanwhile" "$before, then $(last_acked h1)" acked_above h1 "$before"
claim "there is still no room" "$(field h1 shop protection)" is_not h1 shop protection protected
on h2 umount /tmp/fill
within 180 is h1 shop protection protected || true
claim "protection comes back by itself when there is room" "$(field h1 shop protection)" is h1 shop protection protected

# A damaged checkpoint file. What a restart that fails has started may be ending still.
restart_at_last()
{
	local out
	for _ in {1..60}; do
		if out=$(dst h1 restart shop 2>&1); then
			echo "$out"
			return 0
		fi
		has 'started or ended' <<<"$out" || break
		sleep 1
	done
	echo "$out" >&2
	return 1
}
dst h1 checkpoint shop --label good || die "checkpoint failed"
dst h1 stop --timeout 1s shop || die "stop failed"
file=$(on h1 sh -c 'ls -S /var/lib/district/districts/shop/store/checkpoint-*.dcp | head -n 1')
on h1 cp "$file" /tmp/good.dcp
# With an index the guests would run until they come upon it (tests/vm/pipeline/test-lazy.c).
on h1 rm -rf /var/lib/district/districts/shop/store/index
on h1 sh -c "printf X | dd of=$file bs=1 seek=100000 conv=notrunc 2>/dev/null"
refuses "a flipped byte in a checkpoint file is refused by name" "$(basename "$file")" restart_at_last
on h1 sh -c "head -c 50000 /tmp/good.dcp >$file"
refuses "a truncated checkpoint file is refused by name" "$(basename "$file")" restart_at_last
on h1 cp /tmp/good.dcp "$file"
claim "the good file restarts the district" "$(restart_at_last 2>&1)" is h1 shop state running
claims_end bad-input
