/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole way of a checkpoint: engine, district-ckpt, TLS, district-standby, new engine. Every
 * image that a standby hands over must be one instant of each guest's life, the one of the epoch
 * that was committed last, and the guests must go on from it.
 */
#include "rig.h"

#include "ckpt/image.h"
#include "common/memfd.h"
#include "tests/guest/check.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAILOVERS 200
#define KILLS 100
#define RAM_BYTES (32ULL << 20)
#define VMM_OPTIONS "--memory 32M --cpus 1"
#define INTERVAL_US 5000
#define MEMBERS 2

static const char *const member_names[MEMBERS] = {"db", "app"};
static const char *const member_macs[MEMBERS] = {"52:54:00:00:00:01", "52:54:00:00:00:02"};
static const char *const guest_options[MEMBERS] = {
    "base=0x400000 pages=128 dirty=8 report=8 verify=16 seed=1",
    "base=0x400000 pages=128 dirty=4 report=8 verify=16 seed=2 pattern=random",
};

/* A district of two tiny guests on a rig, in some incarnation. */
typedef struct District {
    Rig *rig;
    gboolean network; /* with a district-net; the guests leave it alone, the cuts do not */
    Vmm vmms[MEMBERS];
    GuestChecker *checkers[MEMBERS];
    uint64_t incarnation;
    unsigned generation;
    ChainPos last[MEMBERS]; /* where the guests were in the image run last */
} District;

static void
district_start_net(District *d)
{
    char *ports[MEMBERS + 1] = {NULL};

    for (int i = 0; i < MEMBERS; i++)
        ports[i] = g_strdup_printf("%s=%s/%s.net", member_names[i], d->rig->dir, member_names[i]);
    rig_net_start(d->rig, (const char *const *)ports, d->incarnation);
    for (int i = 0; i < MEMBERS; i++)
        g_free(ports[i]);
}

static void
district_start_vmm(District *d, int i, gboolean incoming)
{
    g_autofree char *options = d->network
                                   ? g_strdup_printf(VMM_OPTIONS " --net %s/%s.net --mac %s",
                                                     d->rig->dir, member_names[i], member_macs[i])
                                   : g_strdup(VMM_OPTIONS);

    vmm_start(&d->vmms[i], d->rig->dir, member_names[i], d->generation, incoming, guest_options[i],
              options);
}

static void
district_start_engines(District *d, gboolean incoming)
{
    char *args[MEMBERS + 1] = {NULL};

    d->generation++;
    if (d->network)
        district_start_net(d);
    for (int i = 0; i < MEMBERS; i++) {
        district_start_vmm(d, i, incoming);
        args[i] = g_strdup_printf("%s=%s", member_names[i], d->vmms[i].socket);
    }
    rig_ckpt_start(d->rig, (const char *const *)args, d->incarnation);
    for (int i = 0; i < MEMBERS; i++)
        g_free(args[i]);
}

static void
district_stop_engines(District *d)
{
    rig_ckpt_stop(d->rig);
    for (int i = 0; i < MEMBERS; i++)
        vmm_stop(&d->vmms[i]);
    rig_net_stop(d->rig);
}

static District *
district_new(gboolean network)
{
    District *d = g_new0(District, 1);
    g_autoptr(GError) error = NULL;

    d->rig = rig_new();
    d->network = network;
    d->incarnation = 1;
    for (int i = 0; i < MEMBERS; i++) {
        d->checkers[i] = guest_checker_new(guest_options[i], &error);
        g_assert_no_error(error);
    }
    district_start_engines(d, FALSE);
    rig_ckpt_cold_start(d->rig, 1);
    return d;
}

static void
district_free(District *d)
{
    district_stop_engines(d);
    for (int i = 0; i < MEMBERS; i++) {
        guest_checker_free(d->checkers[i]);
        g_free(d->vmms[i].socket);
        g_free(d->vmms[i].debugcon);
        g_free(d->vmms[i].proc.name);
    }
    rig_free(d->rig);
    g_free(d);
}

static void
district_protect(District *d, gboolean new_standby)
{
    if (new_standby)
        rig_standby_start(d->rig, FALSE);
    rig_protect(d->rig, INTERVAL_US);
    rig_wait_protected(d->rig);
}

/* Every member's RAM in an image is an instant of its guest, not before the last image run. */
static void
district_check_image(District *d, const RigImage *image)
{
    g_assert_cmpuint(image->n_fds, ==, MEMBERS + 1);
    for (int i = 0; i < MEMBERS; i++) {
        g_autoptr(GError) error = NULL;
        ChainPos pos;
        void *ram = memfd_map(image->fds[1 + i], RAM_BYTES, FALSE, &error);
        g_assert_no_error(error);
        GuestImage guest = {.low = ram, .low_bytes = RAM_BYTES};
        guest_checker_image(d->checkers[i], &guest, &error);
        if (error)
            rig_fail(d->rig->dir, "epoch %" G_GUINT64_FORMAT ", %s: %s", image->epoch,
                     member_names[i], error->message);
        g_assert_true(guest_image_position(&guest, 0, &pos, &error));
        g_assert_cmpuint(pos.round, >=, d->last[i].round);
        d->last[i] = pos;
        munmap(ram, RAM_BYTES);
    }
}

/* Every guest goes on: wait for n reports of each under this incarnation. */
static void
district_wait_lines(const District *d, guint n)
{
    for (int i = 0; i < MEMBERS; i++)
        vmm_wait_lines(&d->vmms[i], n);
}

/* What the engines of this incarnation have reported is right. */
static void
district_check_reports(District *d)
{
    for (int i = 0; i < MEMBERS; i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *text = vmm_report(&d->vmms[i]);
        guest_checker_output(d->checkers[i], text, NULL, &error);
        if (error)
            rig_fail(d->rig->dir, "%s, incarnation %" G_GUINT64_FORMAT ": %s", member_names[i],
                     d->incarnation, error->message);
    }
}

/* What the standby says it has committed; *connected: more may come. */
static uint64_t
standby_epoch(District *d, gboolean *connected)
{
    District__StandbyMessage *m = rig_standby_status(d->rig);
    uint64_t epoch = m->reply->status->committed_epoch;

    *connected = m->reply->status->connected;
    district__standby_message__free_unpacked(m, NULL);
    return epoch;
}

/* The last epoch that the standby has committed, once all that was sent has been received. */
static uint64_t
standby_last_epoch(District *d)
{
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;
    gboolean connected;
    uint64_t epoch;

    while ((epoch = standby_epoch(d, &connected)), connected) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(d->rig->dir, "the standby does not notice that its primary is dead");
        g_usleep(1000);
    }
    return epoch;
}

/*
 * Lose the home host: all engines and district-ckpt are killed; then run the standby's image, which
 * is that of the last epoch committed.
 */
static uint64_t
district_fail_over(District *d)
{
    RigImage image;
    g_autofree char *refused = NULL;
    uint64_t epoch;

    district_stop_engines(d);
    district_check_reports(d);
    d->incarnation++;
    epoch = standby_last_epoch(d);
    if (!rig_activate(d->rig, d->incarnation, &image))
        rig_fail(d->rig->dir, "the standby has nothing to activate");
    g_assert_cmpuint(image.epoch, ==, epoch);
    district_check_image(d, &image);
    rig_standby_stop(d->rig);
    district_start_engines(d, TRUE);
    refused = rig_check_image(d->rig, &image);
    g_assert_cmpstr(refused, ==, NULL);
    rig_start_image(d->rig, &image, d->incarnation);
    rig_image_clear(&image);
    return epoch;
}

static void
test_failovers_in_a_row(void)
{
    District *d = district_new(FALSE);

    for (int i = 0; i < FAILOVERS; i++) {
        district_protect(d, TRUE);
        g_usleep((gulong)g_random_int_range(0, 60000));
        district_fail_over(d);
        district_wait_lines(d, 1);
    }
    district_wait_lines(d, 5);
    district_check_reports(d);
    district_free(d);
}

/* The last epoch that district-ckpt knows as committed must not be newer than what is activated. */
static uint64_t
acked_epoch(District *d)
{
    District__CkptMessage *m = rig_status(d->rig);
    uint64_t epoch = m->reply->status->committed_epoch;

    district__ckpt_message__free_unpacked(m, NULL);
    return epoch;
}

typedef enum Victim { VICTIM_CKPT, VICTIM_STANDBY, VICTIM_VMM, VICTIM_NET, VICTIMS } Victim;

/* Kill the standby: its successor has all that it has acknowledged until then. */
static uint64_t
kill_standby(District *d)
{
    gboolean connected;
    uint64_t acked;

    rig_standby_stop(d->rig);
    if (!rig_wait_ckpt_event(d->rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_STREAM_LOST,
                             RIG_LIMIT_MS))
        rig_fail(d->rig->dir, "district-ckpt does not notice that its standby is dead");
    acked = acked_epoch(d);
    rig_standby_start(d->rig, TRUE);
    g_assert_cmpuint(standby_epoch(d, &connected), >=, acked);
    return acked;
}

/* Kill one process; whichever it is, what was committed can still be activated. */
static void
kill_one(District *d, Victim victim)
{
    uint64_t acked = acked_epoch(d);

    g_usleep((gulong)g_random_int_range(0, 15000));
    switch (victim) {
    case VICTIM_CKPT:
        rig_ckpt_stop(d->rig);
        break;
    case VICTIM_VMM:
        vmm_stop(&d->vmms[g_random_int_range(0, MEMBERS)]);
        acked = acked_epoch(d);
        break;
    case VICTIM_NET:
        rig_net_stop(d->rig);
        acked = acked_epoch(d);
        break;
    default:
        acked = kill_standby(d);
        break;
    }
    g_usleep((gulong)g_random_int_range(0, 5000));
    g_assert_cmpuint(district_fail_over(d), >=, acked);
}

static void
test_kills(void)
{
    District *d = district_new(TRUE);

    for (int i = 0; i < KILLS; i++) {
        district_protect(d, TRUE);
        g_usleep((gulong)g_random_int_range(0, 30000));
        kill_one(d, (Victim)(i % VICTIMS));
        district_wait_lines(d, 1);
    }
    district_check_reports(d);
    district_free(d);
}

static void
test_guests_outlive_ckpt(void)
{
    District *d = district_new(FALSE);
    char *args[MEMBERS + 1] = {NULL};

    district_protect(d, TRUE);
    for (int i = 0; i < 10; i++) {
        g_usleep((gulong)g_random_int_range(0, 20000));
        rig_ckpt_stop(d->rig);
        for (int j = 0; j < MEMBERS; j++)
            args[j] = g_strdup_printf("%s=%s", member_names[j], d->vmms[j].socket);
        rig_ckpt_start(d->rig, (const char *const *)args, d->incarnation);
        for (int j = 0; j < MEMBERS; j++)
            g_free(args[j]);
        district_protect(d, FALSE);
    }
    district_fail_over(d);
    district_wait_lines(d, 2);
    district_check_reports(d);
    district_free(d);
}

static void
test_standby_restart_is_resynced(void)
{
    District *d = district_new(FALSE);

    district_protect(d, TRUE);
    for (int i = 0; i < 5; i++) {
        rig_standby_stop(d->rig);
        rig_standby_start(d->rig, TRUE);
        rig_wait_protected(d->rig);
        g_usleep((gulong)g_random_int_range(0, 50000));
    }
    district_fail_over(d);
    district_wait_lines(d, 2);
    district_check_reports(d);
    district_free(d);
}

/* districtd or district-ckpt may be killed between the hand-over and the first instruction. */
static void
test_image_is_kept_until_it_runs(void)
{
    District *d = district_new(FALSE);
    RigImage image;

    district_protect(d, TRUE);
    g_usleep(20000);
    district_stop_engines(d);
    g_assert_true(rig_activate(d->rig, ++d->incarnation, &image));
    uint64_t epoch = image.epoch;
    rig_image_clear(&image);
    g_assert_true(rig_activate(d->rig, ++d->incarnation, &image));
    g_assert_cmpuint(image.epoch, ==, epoch);
    district_check_image(d, &image);
    district_start_engines(d, TRUE);
    rig_start_image(d->rig, &image, d->incarnation);
    rig_image_clear(&image);
    district_wait_lines(d, 2);
    district_check_reports(d);
    g_assert_false(rig_activate(d->rig, d->incarnation + 1, &image));
    district_free(d);
}

static void
test_checkpoint_file(void)
{
    District *d = district_new(FALSE);
    g_autofree char *path = g_build_filename(d->rig->dir, "a.dckpt", NULL);

    district_wait_lines(d, 3);
    g_assert_cmpuint(rig_checkpoint(d->rig, path), >, 0);
    g_usleep(30000);
    district_stop_engines(d);
    d->incarnation++;
    district_start_engines(d, TRUE);
    rig_start_file(d->rig, path, d->incarnation);
    district_wait_lines(d, 3);
    district_check_reports(d);
    district_free(d);
}

static void
test_checkpoint_beside_protection(void)
{
    District *d = district_new(FALSE);
    g_autofree char *path = g_build_filename(d->rig->dir, "b.dckpt", NULL);

    district_protect(d, TRUE);
    for (int i = 0; i < 5; i++) {
        g_assert_cmpuint(rig_checkpoint(d->rig, path), >, 0);
        g_autoptr(GError) error = NULL;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        g_autoptr(Image) image = image_load_file(fd, path, &error);
        g_assert_no_error(error);
        for (int j = 0; j < MEMBERS; j++) {
            void *ram = memfd_map(image->ram_fds[j], RAM_BYTES, FALSE, &error);
            GuestImage guest = {.low = ram, .low_bytes = RAM_BYTES};
            guest_checker_image(d->checkers[j], &guest, &error);
            g_assert_no_error(error);
            munmap(ram, RAM_BYTES);
        }
        close(fd);
    }
    district_fail_over(d);
    district_free(d);
}

/* For a minute of the guests' life or so: what is sustained, printed, not judged. */
static void
test_sustained(void)
{
    District *d = district_new(FALSE);

    district_protect(d, TRUE);
    g_usleep(3000000);
    District__CkptMessage *m = rig_status(d->rig);
    const District__CkptStatusReply *s = m->reply->status;
    g_test_message("epochs %" G_GUINT64_FORMAT ", pause p50 %.3f ms p99 %.3f ms, skew p99 %.3f ms, "
                   "commit p50 %.3f ms, interval p50 %.3f ms, %" G_GUINT64_FORMAT
                   " dirty pages, %" G_GUINT64_FORMAT " bytes on the wire",
                   s->committed_epoch, (double)s->pause_ns->p50 / 1e6,
                   (double)s->pause_ns->p99 / 1e6, (double)s->skew_ns->p99 / 1e6,
                   (double)s->commit_ns->p50 / 1e6, (double)s->interval_ns->p50 / 1e6,
                   s->dirty_pages, s->wire_bytes);
    g_assert_cmpuint(s->committed_epoch, >, 10);
    district__ckpt_message__free_unpacked(m, NULL);
    district_fail_over(d);
    district_free(d);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/failover/epochs go on committing", test_sustained);
    g_test_add_func("/failover/an image is kept until its members run, and never run twice",
                    test_image_is_kept_until_it_runs);
    g_test_add_func("/failover/a checkpoint file restarts the district", test_checkpoint_file);
    g_test_add_func("/failover/a checkpoint file beside protection is a consistent cut",
                    test_checkpoint_beside_protection);
    g_test_add_func("/failover/guests outlive a killed district-ckpt", test_guests_outlive_ckpt);
    g_test_add_func("/failover/a restarted standby is brought up to date",
                    test_standby_restart_is_resynced);
    g_test_add_func("/failover/200 failovers in a row each go on at the last committed epoch",
                    test_failovers_in_a_row);
    g_test_add_func("/failover/100 kills at random points lose no committed epoch", test_kills);
    return g_test_run();
}
