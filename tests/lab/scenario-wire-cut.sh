#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The wire is cut instead of the host lost: the standby is promoted, both sides run for a moment, and
# when the wire is mended the old home host finds out, stops its members and says so.

set -euo pipefail
. "$(dirname "$0")/lib.sh"

make_guests
start_daemon h1
start_daemon h2
join_hosts h1 h2
write_shop h1 OutputCommit=no DetachAfter=3s
start_shop h1
protect_shop h1 h2
cut-wire h1
within 15 is_not h1 shop protection protected || true
claim "the home host says that it is not protected any more" "$(dst h1 show shop | grep -i protect)" \
	is_not h1 shop protection protected
before=$(last_acked h1)
within 30 acked_above h1 "$before" || true
claim "its guests are not held up by the loss of the standby" "$before, then $(last_acked h1)" \
	acked_above h1 "$before"
dst h2 failover shop || die "failover failed"
claim "the standby runs the district when told to" "" is h2 shop state running
within 60 console_has h2 app 'app: acked' || true
claim "its guests go on there" "$(console h2 app | head -n 1)" console_has h2 app 'app: acked'
mend-wire h1
within 30 is h1 shop state superseded || true
claim "the old home host found out and says so" "$(dst h1 list | grep shop)" is h1 shop state superseded
frozen=$(last_acked h1)
sleep 2
claim "its members were stopped" "last value there: $frozen, then $(last_acked h1)" \
	eval 'test -n "$frozen" -a "$(last_acked h1)" = "$frozen" && no_process h1 district-vmm'
claim "it cannot be started there behind the new home's back" "$(dst h1 start shop 2>&1 || true)" \
	refused 'superseded by h2|host h2 runs it' dst h1 start shop
claim "the district goes on at its new home" "" is h2 shop state running
claims_end wire-cut
