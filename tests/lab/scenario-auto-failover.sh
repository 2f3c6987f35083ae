#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# With AutoFailover=yes nobody has to say anything: silence on all paths promotes the standby, and a
# home host that comes back after a reboot does not start the district again.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

make_guests
start_daemon h1
start_daemon h2
join_hosts h1 h2
write_shop h1 OutputCommit=no AutoFailover=yes FailoverAfter=3s DetachAfter=10s
start_shop h1
protect_shop h1 h2
sleep 4
claim "a standby that hears its peer does not promote itself" "" is h2 shop state standby
power-off h1
within 30 is h2 shop state running || true
claim "silence on all paths promotes the standby" "$(dst h2 list | grep shop)" is h2 shop state running
within 60 console_has h2 app 'app: acked' || true
claim "the guests go on" "$(console h2 app | head -n 1)" console_has h2 app 'app: acked'
power-on h1
start_daemon h1
within 30 is h1 shop state superseded || true
claim "the rebooted home host knows that it is superseded" "$(dst h1 list | grep shop)" \
	is h1 shop state superseded
claims_end auto-failover
