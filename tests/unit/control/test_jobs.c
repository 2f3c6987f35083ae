/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Operations on a district, whatever becomes of it meanwhile. */
#include "rig.h"

#include <glib/gstdio.h>
#include <sys/wait.h>

#define LIMIT_US (5 * G_USEC_PER_SEC)

/* JobDone; data: how many have failed. */
static void
on_done(JsonObject *result, const GError *error, gpointer data)
{
    *(guint *)data += error != NULL ? 1 : 0;
}

/* ---- What is answered late ---- */

/* End the operation under way, and with it the district, as stop --force and destroy do. Returns the
 * job, to which an answer is still to come. */
static Job *
end_district(Rig *rig)
{
    Job *job = job_ref(rig->district->job);

    job_fail_new(job, CONTROL_ERROR_STATE, "shop: stopped by force");
    g_hash_table_remove(rig->daemon.districts, "shop");
    return job;
}

/* Wait until nobody else has the job: the answer has come. */
static void
wait_answered(Job *job)
{
    gint64 end = g_get_monotonic_time() + LIMIT_US;

    while (!g_atomic_ref_count_compare(&job->refs, 1)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_main_context_iteration(NULL, FALSE);
        g_usleep(500);
    }
    job_unref(job);
}

static void
test_late_claim(Rig *rig, gconstpointer data)
{
    guint failed = 0;

    rig_add_peer(rig, "h2");
    rig->district->record.peer = g_strdup("h2");
    operation_start(rig->district, FALSE, on_done, &failed);
    g_assert_nonnull(rig->district->job);
    wait_answered(end_district(rig));
    g_assert_cmpuint(failed, ==, 1);
}

/* A process, so that the district runs; it is held at its gate. */
static pid_t
add_process(District *d)
{
    const char *argv[] = {"/bin/true", NULL};
    Child *child = child_spawn("vmm", "db", argv, "/dev/null", -1, NULL, NULL, NULL);

    g_assert_nonnull(child);
    g_ptr_array_add(d->children, child);
    return child_process(child)->pid;
}

static void
test_late_verification(Rig *rig, gconstpointer data)
{
    static const JobStep steps[] = {step_verify_store, NULL};
    guint failed = 0;

    rig_fake_ckpt(rig, "echo district shop\n");
    pid_t pid = add_process(rig->district);
    Job *job = job_new(rig->district, "restart", steps, on_done, &failed);
    job->id = 1;
    job_next(job);
    wait_answered(end_district(rig));
    g_assert_cmpuint(failed, ==, 1);
    waitpid(pid, NULL, 0);
}

/* ---- What cannot be written ---- */

static void
test_failed_start(Rig *rig, gconstpointer data)
{
    g_autofree char *in_the_way =
        g_build_filename(rig->dir, "districts", "shop", "state.json.tmp", NULL);
    District *d = rig->district;
    guint failed = 0;

    d->record.role = ROLE_NONE;
    d->record.superseded_by = g_strdup("h2");
    d->record.superseded_incarnation = 7;
    g_assert_cmpint(g_mkdir(in_the_way, 0700), ==, 0);
    operation_start(d, TRUE, on_done, &failed);
    g_assert_cmpuint(failed, ==, 1);
    g_assert_cmpuint(d->incarnation, ==, 8);
    g_assert_false(district_claim(d).home);
    g_assert_cmpstr(d->record.superseded_by, ==, "h2");
    g_assert_cmpuint(d->record.superseded_incarnation, ==, 7);
}

/* ---- Removal ---- */

/* JobDone, as the others: once, with all files gone. */
static void
on_gone(JsonObject *result, const GError *error, gpointer data)
{
    g_assert_no_error(error);
    ++*(guint *)data;
}

static void
test_removed(Rig *rig, gconstpointer data)
{
    g_autofree char *path = g_build_filename(rig->dir, "districts", NULL);
    gint64 end = g_get_monotonic_time() + LIMIT_US;
    guint gone = 0;

    operation_remove(rig->district, TRUE, on_gone, &gone);
    while (gone == 0) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_main_context_iteration(NULL, FALSE);
        g_usleep(500);
    }
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    g_assert_null(g_dir_read_name(dir));
    g_assert_cmpuint(g_hash_table_size(rig->daemon.districts), ==, 0);
}

#define ADD(name, function) g_test_add(name, Rig, NULL, rig_set_up, function, rig_tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/jobs/a claim that comes after its district was destroyed is passed over",
        test_late_claim);
    ADD("/jobs/a verification that ends after its district was destroyed is passed over",
        test_late_verification);
    ADD("/jobs/a forced start that cannot be written down claims nothing", test_failed_start);
    ADD("/jobs/a district is removed when all of its files are", test_removed);
    return g_test_run();
}
