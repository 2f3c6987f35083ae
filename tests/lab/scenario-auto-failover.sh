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

# Back: a member and districtd die together, and the next districtd has the other host take over.
protect_shop h2 h1
within 30 field h1 shop processes.ckpt || true
ckpt=$(field h1 shop processes.ckpt) engine=$(field h2 shop members.0.pid) daemon=$(on -n h2 pgrep -x districtd)
on h1 kill -STOP "$ckpt" # so that it takes a while
on h2 kill -KILL "$daemon" "$engine"
start_daemon h2
within 30 is h1 shop operation failover || true
claim "a home that failed is not started while its standby is about to take over" "$(dst h2 list | grep shop)" \
	refused 'runs it, or is about to' dst h2 start shop
on h1 kill -CONT "$ckpt"
within 60 is h1 shop state running || true
claim "a member that is lost with districtd is failed over, too" "$(dst h1 events | grep -E 'failed|failover|took-over' || true)" \
	is h1 shop state running
within 60 console_has h1 app 'app: acked' || true
claim "the guests go on there" "$(console h1 app | head -n 1)" console_has h1 app 'app: acked'
within 30 is h2 shop state superseded || true
claim "the home that failed knows that it is superseded" "$(dst h2 list | grep shop)" is h2 shop state superseded
claims_end auto-failover
