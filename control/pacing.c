/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How often a protected district is cut. */
#include "control/pacing.h"
#include "ckpt/pace.h"
#include "control/error.h"
#include "control/json.h"
#include "control/units.h"

#include <string.h>

#define INTERVAL_MIN_US 1000
#define INTERVAL_MAX_US 10000000
#define INTERVAL_DEFAULT_US 25000
#define LAG_MIN_US (PACE_LAG_MIN_NS / NS_PER_US)
#define LAG_MAX_US (PACE_LAG_MAX_NS / NS_PER_US)

/* For messages: what may be given. */
#define INTERVAL_RANGE "1ms to 10s, or auto"
#define SLOWDOWN_RANGE "1% to 50%"
#define LAG_RANGE "10ms to 4s"

void
pacing_init(Pacing *pacing)
{
    *pacing = (Pacing){.interval_us = INTERVAL_DEFAULT_US,
                       .max_slowdown = PACE_SLOWDOWN_DEFAULT,
                       .max_lag_us = PACE_LAG_DEFAULT_NS / NS_PER_US};
}

static gboolean
interval_good(gint64 us)
{
    return us == PACING_AUTO || (us >= INTERVAL_MIN_US && us <= INTERVAL_MAX_US);
}

static gboolean
slowdown_good(gint64 percent)
{
    return percent >= PACE_SLOWDOWN_MIN && percent <= PACE_SLOWDOWN_MAX;
}

static gboolean
lag_good(gint64 us)
{
    return us >= LAG_MIN_US && us <= LAG_MAX_US;
}

static gboolean
out_of_range(const char *text, const char *range, GError **error)
{
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%.40s is out of range: give %s", text,
                range);
    return FALSE;
}

gboolean
pacing_parse_interval(const char *text, uint64_t *interval_us, GError **error)
{
    uint64_t us = PACING_AUTO;

    if (strcmp(text, "auto") != 0) {
        if (!units_parse_time(text, &us, error))
            return FALSE;
        if (us == PACING_AUTO || us > INTERVAL_MAX_US || !interval_good((gint64)us))
            return out_of_range(text, INTERVAL_RANGE, error);
    }
    *interval_us = us;
    return TRUE;
}

gboolean
pacing_parse_slowdown(const char *text, uint32_t *percent, GError **error)
{
    char *end = NULL;
    guint64 number = 0;

    if (g_ascii_isdigit(text[0]))
        number = g_ascii_strtoull(text, &end, 10);
    if (end == NULL || strcmp(end, "%") != 0) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "\"%.40s\" is not a whole number of per cent: write it like 10%%", text);
        return FALSE;
    }
    if (number > PACE_SLOWDOWN_MAX || !slowdown_good((gint64)number))
        return out_of_range(text, SLOWDOWN_RANGE, error);
    *percent = (uint32_t)number;
    return TRUE;
}

gboolean
pacing_parse_lag(const char *text, uint64_t *lag_us, GError **error)
{
    uint64_t us = 0;

    if (!units_parse_time(text, &us, error))
        return FALSE;
    if (us > LAG_MAX_US || !lag_good((gint64)us))
        return out_of_range(text, LAG_RANGE, error);
    *lag_us = us;
    return TRUE;
}

void
pacing_to_json(const Pacing *pacing, JsonObject *object)
{
    json_object_set_int_member(object, "interval_us", (gint64)pacing->interval_us);
    json_object_set_int_member(object, "max_slowdown_percent", pacing->max_slowdown);
    json_object_set_int_member(object, "max_lag_us", (gint64)pacing->max_lag_us);
}

gboolean
pacing_from_json(JsonObject *object, const char *who, Pacing *pacing, GError **error)
{
    gint64 interval = json_get_int(object, "interval_us", (gint64)pacing->interval_us);
    gint64 slowdown = json_get_int(object, "max_slowdown_percent", pacing->max_slowdown);
    gint64 lag = json_get_int(object, "max_lag_us", (gint64)pacing->max_lag_us);
    const char *what =
        !interval_good(interval)   ? "the interval is out of range: give " INTERVAL_RANGE
        : !slowdown_good(slowdown) ? "the most slowdown is out of range: give " SLOWDOWN_RANGE
        : !lag_good(lag)           ? "the most lag is out of range: give " LAG_RANGE
                                   : NULL;

    if (what != NULL) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%s: %s", who, what);
        return FALSE;
    }
    *pacing = (Pacing){.interval_us = (uint64_t)interval,
                       .max_slowdown = (uint32_t)slowdown,
                       .max_lag_us = (uint64_t)lag};
    return TRUE;
}
