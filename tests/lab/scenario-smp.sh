#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A guest with two vCPUs is checkpointed and fails over like any other.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

make_guests
start_daemon h1
start_daemon h2
join_hosts h1 h2
DB_CPUS=2 write_shop h1 OutputCommit=no
start_shop h1
claim "the guest runs on two CPUs" "$(console h1 db | grep -E 'CPUs|tick' | tail -n 3)" \
	eval 'console_has h1 db "db: 2 CPUs" && test "$(field h1 shop checkpointing.members.0.vcpus)" = 2'
protect_shop h1 h2
sleep 5
power-off h1
dst h2 failover shop || die "failover failed"
claim "a district with a two-CPU member runs on after failover" "" is h2 shop state running
within 60 console_has h2 app 'app: acked' || true
claim "its client goes on over the same connection" "$(console h2 app | head -n 2)" \
	eval 'console_has h2 app "app: acked" && ! console_has h2 app "connected port"'
within 20 eval 'console_has h2 db "cpu 0 tick" && console_has h2 db "cpu 1 tick"' || true
claim "both CPUs go on" "$(console h2 db | grep tick | tail -n 4)" \
	eval 'console_has h2 db "cpu 0 tick" && console_has h2 db "cpu 1 tick"'
claim "its console says nothing of a stuck or lost CPU" "$(console h2 db | tail -n 2)" \
	eval '! console h2 db | has -iE "stuck|stall|lockup|panic"'
claims_end smp
