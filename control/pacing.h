/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How often a protected district is cut: as people write it, and in JSON. ckpt/pace.h has what auto does. */
#ifndef DISTRICT_CONTROL_PACING_H
#define DISTRICT_CONTROL_PACING_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdint.h>

#define PACING_AUTO 0

typedef struct Pacing {
    uint64_t interval_us;  /* between cuts, or PACING_AUTO */
    uint32_t max_slowdown; /* auto: of guests, per cent */
    uint64_t max_lag_us;   /* auto: age of the last committed cut */
} Pacing;

void pacing_init(Pacing *pacing);

/* "25ms" or "auto"; "10%"; "200ms". FALSE with an error about text, which says what to give. */
gboolean pacing_parse_interval(const char *text, uint64_t *interval_us, GError **error);
gboolean pacing_parse_slowdown(const char *text, uint32_t *percent, GError **error);
gboolean pacing_parse_lag(const char *text, uint64_t *lag_us, GError **error);

/* Members interval_us, max_slowdown_percent and max_lag_us. */
void pacing_to_json(const Pacing *pacing, JsonObject *object);
/* Take those that object has, which may come from anywhere. FALSE with error set, which begins with
 * who: one is out of range. */
gboolean pacing_from_json(JsonObject *object, const char *who, Pacing *pacing, GError **error);

#endif
