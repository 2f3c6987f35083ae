/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What show --json says of a district-ckpt. */
#include "control/json.h"
#include "control/statusjson.h"

#include <glib.h>

#define N 3

static void
fill(District__CkptPercentiles *p, uint64_t mean)
{
    district__ckpt_percentiles__init(p);
    p->count = 10;
    p->p50 = mean - 1;
    p->p90 = mean + 1;
    p->p99 = mean + 2;
    p->max = mean + 3;
    p->mean = mean;
    p->last = mean + 4;
}

static gint64
number(JsonObject *object, const char *key, const char *which)
{
    return json_get_int(json_get_object(object, key), which, -1);
}

static void
test_phases(void)
{
    static const char *const names[N] = {"kick_ns", "resume_ns", "pause_ns"};
    District__CkptStatusReply s = DISTRICT__CKPT_STATUS_REPLY__INIT;
    District__CkptMeasure measures[N], *list[N];
    District__CkptPercentiles all[N], recent[N];

    for (unsigned i = 0; i < N; i++) {
        district__ckpt_measure__init(&measures[i]);
        fill(&all[i], 1000 * (i + 1));
        fill(&recent[i], 100 * (i + 1));
        measures[i].name = (char *)names[i];
        measures[i].phase = i < 2;
        measures[i].all = &all[i];
        measures[i].recent = &recent[i];
        list[i] = &measures[i];
    }
    s.n_measures = N;
    s.measures = list;
    s.interval_now_ns = 12500000;
    s.slowdown_ppm = 31000;
    g_autoptr(JsonObject) object = ckpt_status_to_json(&s);
    g_assert_cmpint(json_get_int(object, "interval_now_ns", 0), ==, 12500000);
    g_assert_cmpint(json_get_int(object, "slowdown_ppm", 0), ==, 31000);
    JsonObject *phases = json_get_object(object, "phases");
    g_assert_cmpuint(json_object_get_size(phases), ==, 2);
    g_assert_cmpint(number(phases, "kick_ns", "p50"), ==, 999);
    g_assert_cmpint(number(phases, "kick_ns", "p90"), ==, 1001);
    g_assert_cmpint(number(phases, "kick_ns", "p99"), ==, 1002);
    g_assert_cmpint(number(phases, "kick_ns", "max"), ==, 1003);
    g_assert_cmpint(number(phases, "kick_ns", "count"), ==, 10);
    g_assert_cmpint(number(phases, "kick_ns", "mean") + number(phases, "resume_ns", "mean"), ==,
                    number(object, "pause_ns", "mean"));
    g_assert_cmpint(number(object, "pause_ns", "last"), ==, 3004);
    g_assert_false(json_object_has_member(object, "kick_ns"));
    JsonObject *lately = json_get_object(object, "recent");
    g_assert_cmpuint(json_object_get_size(lately), ==, N);
    g_assert_cmpint(number(lately, "resume_ns", "mean"), ==, 200);
    g_assert_cmpint(number(lately, "pause_ns", "max"), ==, 303);
}

static void
test_older(void)
{
    District__CkptStatusReply s = DISTRICT__CKPT_STATUS_REPLY__INIT;
    District__CkptPercentiles pause;

    fill(&pause, 50);
    s.pause_ns = &pause;
    g_autoptr(JsonObject) object = ckpt_status_to_json(&s);
    g_assert_cmpint(number(object, "pause_ns", "p99"), ==, 52);
    g_assert_cmpint(number(object, "skew_ns", "p99"), ==, -1);
    g_assert_cmpuint(json_object_get_size(json_get_object(object, "phases")), ==, 0);
    g_assert_cmpuint(json_object_get_size(json_get_object(object, "recent")), ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func(
        "/statusjson/the phases of a pause are apart from other measures, and recent ones",
        test_phases);
    g_test_add_func("/statusjson/a district-ckpt that measures less is shown with what it has",
                    test_older);
    return g_test_run();
}
