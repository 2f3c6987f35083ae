/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What district-ckpt and district-standby say of themselves, as JSON: "checkpointing" and "standby" of
 * district show --json. */
#ifndef DISTRICT_CONTROL_STATUSJSON_H
#define DISTRICT_CONTROL_STATUSJSON_H

#include "ckpt.pb-c.h"
#include "standby.pb-c.h"

#include <json-glib/json-glib.h>

/* Its measures: "pause_ns" and the like since district-ckpt began, and in "phases" those of which a
 * pause consists: {"kick_ns": {"count", "p50", "p90", "p99", "max", "mean", "last"}, ...}. In "recent" all
 * of them once more, of the last 5 to 10 s. */
JsonObject *ckpt_status_to_json(const District__CkptStatusReply *s);
JsonObject *standby_status_to_json(const District__StandbyStatusReply *s);

#endif
