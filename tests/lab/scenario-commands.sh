#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The command, as an operator uses it from day to day, on stock Debian guests.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

make_guests
claim "doctor finds a lab host fit" "$(dst h1 doctor | grep -v '^ok' || true)" dst h1 doctor
start_daemon h1
start_daemon h2
join_hosts h1 h2
within 20 eval 'dst h1 host list | has "^h2.*yes"' || true
claim "each host lists the other as reachable" "$(dst h1 host list; dst h2 host list)" \
	eval 'test "$(dst h1 host list --json | "$BUILD/tests/lab/tools/json-get" hosts.0.reachable)" = true &&
		test "$(dst h2 host list --json | "$BUILD/tests/lab/tools/json-get" hosts.0.reachable)" = true'
write_shop h1 OutputCommit=no
start_shop h1

# It is asked again and again: a shell that is not ready yet loses what is typed.
out=$LAB_LOG/console.out
while sleep 2; do printf 'echo console-$((40 + 2))\n'; done |
	on --timeout 60 h1 "$BUILD/control/district" console shop/db >"$out" 2>&1 &
within 30 grep -q console-42 "$out" || true
kill $! 2>/dev/null || true
claim "the console takes input and shows output" "$(tail -n 3 "$out")" grep -q console-42 "$out"
claim "top shows the district" "$(dst h1 top --once | tail -n 3)" eval 'dst h1 top --once | has shop'

# A checkpoint, taken without protection, and back to it.
at_checkpoint=$(last_acked h1)
SAVED=$(dst h1 checkpoint shop --label before --json) || die "checkpoint failed: $SAVED"
claim "a checkpoint is listed with its label" "$(dst h1 log shop)" eval 'dst h1 log shop | has before'
within 60 acked_above h1 $((at_checkpoint + 50)) || true
later=$(last_acked h1)
dst h1 stop --timeout 1s shop || die "stop failed"
claim "a stopped district runs nothing" "$(dst h1 list | grep shop)" \
	eval 'is h1 shop state stopped && no_process h1 district-vmm'
on h1 sh -c ': >/var/log/district/shop/app.console.log'
RESTARTED=$(dst h1 restart shop --from before) || die "restart failed: $RESTARTED"
within 60 console_has h1 app 'app: acked' || true
first=$(console h1 app | sed -n 's/.*app: acked \([0-9]*\)$/\1/p' | head -n 1)
claim "restart goes on at the checkpoint, not at the end and not at boot" \
	"$at_checkpoint just before the checkpoint, $later at the stop, $first after the restart" \
	test "${first:-0}" -ge "$at_checkpoint" -a "${first:-0}" -lt "$later"
claim "the connection inside the district is the one of the checkpoint" "" unbroken h1
claim "the restart is a new incarnation" "$RESTARTED" is h1 shop incarnation 2

# A guest that powers itself off.
printf 'poweroff\n' | on --timeout 20 h1 timeout 5 "$BUILD/control/district" console shop/app >/dev/null 2>&1 || true
within 40 eval 'dst h1 show shop --json | has "\"off\":true"' || true
claim "a member that powers itself off is shown as off; the other runs on" \
	"$(dst h1 show shop | grep Member)" \
	eval 'dst h1 show shop --json | has "\"off\":true" && test "$(redis h1 PING)" = +PONG'
# The district goes on without it: district-ckpt killed, then the host lost.
protect_shop h1 h2
on h1 pkill -KILL -x district-ckpt
within 10 is_not h1 shop protection protected || true
within 180 is h1 shop protection protected || true
claim "a killed district-ckpt comes back beside a member that is off" "$(dst h1 show shop | grep Protection)" \
	is h1 shop protection protected
claim "events tell the story" "$(dst h1 events | tail -n 4)" eval 'dst h1 events | has shop'
power-off h1
FAILED_OVER=$(dst h2 failover shop 2>&1) || true
claim "a district with a member that is off fails over without it" "$FAILED_OVER" \
	eval 'is h2 shop state running && test "$(redis h2 PING)" = +PONG &&
		dst h2 show shop --json | has "\"off\":true"'
power-on h1
start_daemon h1
within 30 is h1 shop state superseded || true
claim "a district can be removed, and is gone" "$(dst h1 destroy shop 2>&1 || true)" \
	refused 'shop: no such district here' dst h1 show shop

# The last guest powers itself off while a migration waits for a standby that hangs.
protect_shop h2 h1
on h1 kill -STOP "$(field h1 shop processes.standby)"
within 60 is_not h2 shop protection protected || true
dst h2 migrate shop --to h1 >/dev/null 2>&1 &
within 20 is h2 shop operation migrate || true
printf 'poweroff\n' | on --timeout 20 h2 timeout 5 "$BUILD/control/district" console shop/db >/dev/null 2>&1 || true
within 40 is h2 shop members.0.off true || true
off=$(field h2 shop state)
on h2 kill -KILL "$(field h2 shop processes.ckpt)" # ends the migration
within 30 is h2 shop state stopped || true
claim "a district whose last guest is off is stopped when what is under way has ended" \
	"$off with all guests off, then $(field h2 shop state)" is h2 shop state stopped
claim "a verb of a later version says so" "$(dst h1 evacuate h1 2>&1 || true)" \
	refused 'not available in this version' dst h1 evacuate h1
claims_end commands
