/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which life of which district: what one host may conclude from what the other one says. */
#include "pair.h"

#include <string.h>
#include <unistd.h>

/* ---- Two districts of one name ---- */

static void
create_and_start(Pair *pair, const Host *host)
{
    const char *create[] = {"create", pair->definition, NULL}, *start[] = {"start", "shop", NULL};

    pair_must(pair, host, create);
    pair_must(pair, host, start);
}

/* Neither ends the other, whichever has the higher incarnation, and neither takes its place. */
static void
test_namesakes(void)
{
    Pair *pair = pair_new_empty(PAIR_FAILOVER_AFTER);
    const Host *first = pair_home(pair), *second = pair_standby(pair);
    const char *stop[] = {"stop", "shop", NULL}, *start[] = {"start", "shop", NULL};
    const char *protect[] = {"protect", "shop", "--standby", "h2", NULL};
    g_autofree char *why = NULL;

    create_and_start(pair, first);
    create_and_start(pair, second);
    pair_must(pair, second, stop);
    pair_must(pair, second, start);
    g_assert_cmpint(pair_number(pair, second, "incarnation"), >,
                    pair_number(pair, first, "incarnation"));
    g_assert_true(pair_had_event(pair, first, "namesake"));
    pair_wait(pair, first, "state", "running");
    pair_must(pair, second, stop);
    g_assert_null(pair_command(pair, first, &why, protect));
    g_assert_nonnull(strstr(why, "host h2 has another district of this name: destroy that one"));
    pair_wait(pair, second, "role", "home");
    pair_wait_progress(pair);
    pair_free(pair);
}

/* ---- A standby that is not wanted any more ---- */

/* Processes, dead or alive, that a districtd has. */
static guint
children_of(const Host *host)
{
    g_autofree char *path =
        g_strdup_printf("/proc/%d/task/%d/children", host->daemon.pid, host->daemon.pid);
    g_autofree char *text = NULL;
    guint n = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_auto(GStrv) words = g_strsplit(g_strstrip(text), " ", -1);
    for (char **word = words; *word && **word; word++)
        n++;
    return n;
}

static guint
checkpoints_on(Pair *pair, const Host *host)
{
    const char *log[] = {"log", "shop", NULL};
    g_autoptr(JsonNode) answer = pair_command(pair, host, NULL, log);

    g_assert_nonnull(answer);
    return json_array_get_length(
        json_object_get_array_member(json_node_get_object(answer), "checkpoints"));
}

static void
test_drop_leaves_nothing(void)
{
    Pair *pair = pair_new();
    const Host *standby = pair_standby(pair);
    const char *unprotect[] = {"unprotect", "shop", NULL}, *show[] = {"show", "shop", NULL};

    g_assert_cmpuint(children_of(standby), >, 1);
    pair_must(pair, pair_home(pair), unprotect);
    g_assert_null(pair_command(pair, standby, NULL, show));
    g_assert_cmpuint(children_of(standby), ==, 0);
    pair_free(pair);
}

/* What a host saved while it was home is not part of the copy that it keeps later. */
static void
test_drop_keeps_checkpoints(void)
{
    Pair *pair = pair_new();
    const Host *first = pair_home(pair);
    const char *checkpoint[] = {"checkpoint", "shop", NULL};
    const char *migrate[] = {"migrate", "shop", "--to", "h2", NULL};
    const char *unprotect[] = {"unprotect", "shop", NULL};
    const char *protect[] = {"protect", "shop", "--standby", "h1", "--wait", NULL};

    pair_must(pair, first, checkpoint);
    pair_must(pair, first, migrate);
    pair_swap(pair);
    pair_wait_protected(pair);
    pair_must(pair, pair_home(pair), unprotect);
    pair_wait(pair, first, "role", "none");
    pair_wait(pair, first, "state", "stopped");
    g_assert_cmpuint(checkpoints_on(pair, first), ==, 1);
    g_assert_cmpuint(children_of(first), ==, 0);
    /* It can stand by again. */
    pair_must(pair, pair_home(pair), protect);
    g_assert_cmpuint(checkpoints_on(pair, first), ==, 1);
    pair_free(pair);
}

/* Only a person may say that a home is gone for good. */
static void
test_destroy_copy(void)
{
    Pair *pair = pair_new();
    const char *destroy[] = {"destroy", "shop", NULL}, *show[] = {"show", "shop", NULL};
    const char *force[] = {"destroy", "shop", "--force", NULL};
    Host *home = pair_home(pair);
    const Host *standby = pair_standby(pair);
    g_autofree char *why = NULL;

    proc_kill(&home->daemon);
    g_assert_null(pair_command(pair, standby, &why, destroy));
    g_assert_nonnull(strstr(why, "--force"));
    pair_must(pair, standby, force);
    g_assert_null(pair_command(pair, standby, NULL, show));
    g_assert_cmpuint(children_of(standby), ==, 0);
    pair_daemon_start(pair, home);
    pair_free(pair);
}

/* ---- A district that cannot be loaded ---- */

static void
damage_and_destroy(Pair *pair, Host *host)
{
    const char *destroy[] = {"destroy", "shop", NULL};
    const char *force[] = {"destroy", "shop", "--force", NULL};
    const char *create[] = {"create", pair->definition, NULL};
    g_autofree char *state =
        g_build_filename(pair->dir, host->name, "state/districts/shop/state.json", NULL);
    g_autofree char *why = NULL, *why_not = NULL;

    proc_kill(&host->daemon);
    g_assert_true(g_file_set_contents(state, "{", 1, NULL));
    pair_daemon_start(pair, host);
    g_assert_null(pair_command(pair, host, &why, destroy));
    g_assert_nonnull(strstr(why, "not loaded"));
    g_assert_null(pair_command(pair, host, &why_not, create));
    g_assert_nonnull(strstr(why_not, "destroy --force shop"));
    pair_must(pair, host, force);
    pair_must(pair, host, create);
}

static void
test_destroy_damaged(void)
{
    Pair *pair = pair_new_empty(PAIR_FAILOVER_AFTER);
    Host *host = pair_home(pair);
    const char *create[] = {"create", pair->definition, NULL}, *start[] = {"start", "shop", NULL};

    pair_must(pair, host, create);
    damage_and_destroy(pair, host);
    pair_must(pair, host, start);
    pair_free(pair);
}

/* ---- A home that was handed over, and is started again ---- */

static JsonNode *
read_record(const char *path)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    JsonNode *record = json_from_string(text, NULL);
    g_assert_nonnull(record);
    return record;
}

/* As a host finds it that lost its power between two steps of a hand-over. */
static void
write_hand_over(const char *path)
{
    g_autoptr(JsonNode) record = read_record(path);

    json_object_set_int_member(json_node_get_object(record), "ended_incarnation", 5);
    json_object_set_string_member(json_node_get_object(record), "handing_to", "h2");
    g_autofree char *text = json_to_string(record, FALSE);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void
test_start_after_hand_over(void)
{
    Pair *pair = pair_new();
    Host *home = pair_home(pair);
    const char *stop[] = {"stop", "shop", NULL}, *start[] = {"start", "shop", NULL};
    g_autofree char *path =
        g_build_filename(pair->dir, home->name, "state/districts/shop/state.json", NULL);

    pair_must(pair, home, stop);
    proc_kill(&home->daemon);
    write_hand_over(path);
    pair_daemon_start(pair, home);
    pair_must(pair, home, start);
    /* Above 6, which the target may have been given; and a home that can be superseded. */
    g_assert_cmpint(pair_number(pair, home, "incarnation"), >=, 7);
    g_autoptr(JsonNode) record = read_record(path);
    g_assert_cmpint(json_object_get_int_member(json_node_get_object(record), "ended_incarnation"),
                    ==, 0);
    g_assert_false(json_object_has_member(json_node_get_object(record), "handing_to"));
    pair_free(pair);
}

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/identity/two districts of one name leave each other alone", test_namesakes);
    g_test_add_func("/identity/a copy that is dropped leaves no process", test_drop_leaves_nothing);
    g_test_add_func("/identity/a copy that is dropped leaves the host its checkpoints",
                    test_drop_keeps_checkpoints);
    g_test_add_func("/identity/a copy whose home is gone can be removed by force",
                    test_destroy_copy);
    g_test_add_func("/identity/a damaged district can be removed by force", test_destroy_damaged);
    g_test_add_func("/identity/a start after a hand-over is a home of its own",
                    test_start_after_hand_over);
    return g_test_run();
}
