/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The network inside a district, through cuts, failovers and kills. Two tiny guests exchange
 * numbered frames through district-net as fast as they can; neither ever sends one again. Frames in
 * flight at a cut are part of the checkpoint, so after a failover each guest must see every number
 * once: a frame that was lost, doubled or came from the receiver's future shows in its counters.
 */
#include "rig.h"

#include "ckpt/image.h"
#include "common/memfd.h"
#include "netstate.pb-c.h"
#include "tests/guest/check.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FAILOVERS 50
#define CKPT_KILLS 30
#define NET_KILLS 12
#define RAM_BYTES (32ULL << 20)
#define INTERVAL_US 5000
#define INTERVAL_TIGHT_US 1000 /* a cut is under way nearly always */
#define MEMBERS 2
#define SENDER 0
#define ECHOER 1
#define PROGRESS_FRAMES 48

static const char *const member_names[MEMBERS] = {"db", "app"};
static const char *const member_macs[MEMBERS] = {"52:54:00:00:00:01", "52:54:00:00:00:02"};
/* A window as large as receive buffers allow, so that there is always something on the way. */
static const char *const echo_options[MEMBERS] = {
    "op=devices net=send peer=52:54:00:00:00:02 window=12 report=16 base=0x400000 pages=1",
    "op=devices net=echo report=16 base=0x400000 pages=1",
};

/* These go on when frames are lost. */
static const char *const lossy_options[MEMBERS] = {
    "op=devices net=send peer=52:54:00:00:00:02 window=0 report=16 base=0x400000 pages=1",
    "op=devices net=recv report=16 base=0x400000 pages=1",
};

typedef struct Counters {
    guint64 tx, rx, lost, dup, bad;
} Counters;

typedef struct District {
    Rig *rig;
    const char *const *guest_options;
    Vmm vmms[MEMBERS];
    uint64_t incarnation;
    unsigned generation;
    guint64 frames[MEMBERS]; /* seen and sent, in the image run last */
    guint recorded_frames;   /* in all images run */
} District;

/* ---- What the guests say ---- */

static guint64
counters_frames(const Counters *c)
{
    return c->tx + c->rx;
}

/* The newest counters that a guest has reported in whole; FALSE: none yet. */
static gboolean
counters_reported(const Vmm *vmm, Counters *counters)
{
    g_autofree char *text = vmm_report(vmm);
    char *end = strrchr(text, '\n');

    if (!end)
        return FALSE;
    *end = '\0';
    char *line = g_strrstr(text, "net tx=");
    return line &&
           sscanf(line,
                  "net tx=%" G_GUINT64_FORMAT " rx=%" G_GUINT64_FORMAT " lost=%" G_GUINT64_FORMAT
                  " dup=%" G_GUINT64_FORMAT " bad=%" G_GUINT64_FORMAT,
                  &counters->tx, &counters->rx, &counters->lost, &counters->dup,
                  &counters->bad) == 5;
}

static void
counters_check(District *d, int member, const Counters *c)
{
    gboolean may_lose = d->guest_options == lossy_options;

    if ((c->lost == 0 || may_lose) && c->dup == 0 && c->bad == 0)
        return;
    rig_fail(d->rig->dir,
             "%s, incarnation %" G_GUINT64_FORMAT ": tx=%" G_GUINT64_FORMAT " rx=%" G_GUINT64_FORMAT
             " lost=%" G_GUINT64_FORMAT " dup=%" G_GUINT64_FORMAT " bad=%" G_GUINT64_FORMAT,
             member_names[member], d->incarnation, c->tx, c->rx, c->lost, c->dup, c->bad);
}

/* Wait until both guests have more frames than `above` says, with nothing lost or doubled. */
static void
district_wait_frames(District *d, const guint64 above[MEMBERS])
{
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;

    for (int i = 0; i < MEMBERS; i++) {
        Counters c = {0};
        while (!counters_reported(&d->vmms[i], &c) || counters_frames(&c) <= above[i]) {
            if (g_get_monotonic_time() > deadline)
                rig_fail(d->rig->dir,
                         "%s, incarnation %" G_GUINT64_FORMAT ": %" G_GUINT64_FORMAT
                         " frames seen and sent and no more after %d ms: frames were lost",
                         member_names[i], d->incarnation, counters_frames(&c), RIG_LIMIT_MS);
            g_usleep(2000);
        }
        counters_check(d, i, &c);
    }
}

/* Wait until both guests have PROGRESS_FRAMES more than they have reported by now. */
static void
district_wait_progress(District *d)
{
    guint64 above[MEMBERS];

    for (int i = 0; i < MEMBERS; i++) {
        Counters c = {0};
        counters_reported(&d->vmms[i], &c);
        above[i] = MAX(counters_frames(&c), d->frames[i]) + PROGRESS_FRAMES;
    }
    district_wait_frames(d, above);
}

/* ---- The district ---- */

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
district_start_ckpt(District *d)
{
    char *args[MEMBERS + 1] = {NULL};

    for (int i = 0; i < MEMBERS; i++)
        args[i] = g_strdup_printf("%s=%s", member_names[i], d->vmms[i].socket);
    rig_ckpt_start(d->rig, (const char *const *)args, d->incarnation);
    for (int i = 0; i < MEMBERS; i++)
        g_free(args[i]);
}

static void
district_start(District *d, gboolean incoming)
{
    district_start_net(d);
    d->generation++;
    for (int i = 0; i < MEMBERS; i++) {
        g_autofree char *options = g_strdup_printf("--memory 32M --cpus 1 --net %s/%s.net --mac %s",
                                                   d->rig->dir, member_names[i], member_macs[i]);
        vmm_start(&d->vmms[i], d->rig->dir, member_names[i], d->generation, incoming,
                  d->guest_options[i], options);
    }
    district_start_ckpt(d);
}

/* The home host is lost: everything of it at once. */
static void
district_stop(District *d)
{
    rig_ckpt_stop(d->rig);
    for (int i = 0; i < MEMBERS; i++)
        vmm_stop(&d->vmms[i]);
    rig_net_stop(d->rig);
}

static District *
district_new(const char *const *options)
{
    District *d = g_new0(District, 1);

    d->guest_options = options;
    d->rig = rig_new();
    d->incarnation = 1;
    district_start(d, FALSE);
    rig_ckpt_cold_start(d->rig, 1);
    district_wait_progress(d);
    return d;
}

static void
district_free(District *d)
{
    district_stop(d);
    for (int i = 0; i < MEMBERS; i++) {
        g_free(d->vmms[i].socket);
        g_free(d->vmms[i].debugcon);
        g_free(d->vmms[i].proc.name);
    }
    rig_free(d->rig);
    g_free(d);
}

static void
district_protect(District *d, gboolean new_standby, uint64_t interval_us)
{
    if (new_standby)
        rig_standby_start(d->rig, FALSE);
    rig_protect(d->rig, interval_us);
    rig_wait_protected(d->rig);
}

/* ---- Images ---- */

static Counters
image_counters(District *d, const RigImage *image, int member)
{
    g_autoptr(GError) error = NULL;
    GuestHeader header;
    void *ram = memfd_map(image->fds[1 + member], RAM_BYTES, FALSE, &error);

    g_assert_no_error(error);
    GuestImage guest = {.low = ram, .low_bytes = RAM_BYTES};
    guest_image_header(&guest, &header, &error);
    g_assert_no_error(error);
    munmap(ram, RAM_BYTES);
    const GuestDeviceState *s = &header.devices;
    Counters c = {s->net_tx, s->net_rx, s->net_lost, s->net_dup, s->net_bad};
    counters_check(d, member, &c);
    return c;
}

/* Frames that district-net caught in flight, as recorded in an image. */
static guint
image_recorded_frames(const RigImage *image)
{
    g_autoptr(GError) error = NULL;
    guint n = 0;
    void *map = memfd_map(image->fds[0], memfd_size(image->fds[0]), FALSE, &error);

    g_assert_no_error(error);
    District__CutState *cut = district__cut_state__unpack(NULL, image->state_len, map);
    g_assert_nonnull(cut);
    District__NetState *net = district__net_state__unpack(NULL, cut->net.len, cut->net.data);
    g_assert_nonnull(net);
    for (size_t i = 0; i < net->n_ports; i++)
        n += (guint)net->ports[i]->n_frames;
    district__net_state__free_unpacked(net, NULL);
    district__cut_state__free_unpacked(cut, NULL);
    munmap(map, memfd_size(image->fds[0]));
    return n;
}

/*
 * The two members' memories are of one cut: nobody has received what the other has not yet sent (a
 * guest counts a frame just after sending it, hence the one), and nobody has gone back.
 */
static void
district_check_image(District *d, const RigImage *image)
{
    Counters sender, echoer;

    g_assert_cmpuint(image->n_fds, ==, MEMBERS + 1);
    sender = image_counters(d, image, SENDER);
    echoer = image_counters(d, image, ECHOER);
    g_assert_cmpuint(echoer.rx, <=, sender.tx + 1);
    g_assert_cmpuint(sender.rx, <=, echoer.tx + 1);
    g_assert_cmpuint(counters_frames(&sender), >=, d->frames[SENDER]);
    g_assert_cmpuint(counters_frames(&echoer), >=, d->frames[ECHOER]);
    d->frames[SENDER] = counters_frames(&sender);
    d->frames[ECHOER] = counters_frames(&echoer);
    d->recorded_frames += image_recorded_frames(image);
}

/* What was committed last, run on new engines and a new switch; the frames go on from there. */
static uint64_t
district_fail_over(District *d)
{
    RigImage image;

    district_stop(d);
    d->incarnation++;
    if (!rig_activate(d->rig, d->incarnation, &image))
        rig_fail(d->rig->dir, "the standby has nothing to activate");
    district_check_image(d, &image);
    rig_standby_stop(d->rig);
    district_start(d, TRUE);
    rig_start_image(d->rig, &image, d->incarnation);
    rig_image_clear(&image);
    district_wait_progress(d);
    return image.epoch;
}

static uint64_t
committed_epoch(District *d)
{
    District__CkptMessage *m = rig_status(d->rig);
    uint64_t epoch = m->reply->status->committed_epoch;

    district__ckpt_message__free_unpacked(m, NULL);
    return epoch;
}

/* ---- Tests ---- */

static void
test_failovers(void)
{
    District *d = district_new(echo_options);

    for (int i = 0; i < FAILOVERS; i++) {
        district_protect(d, TRUE, INTERVAL_US);
        g_usleep((gulong)g_random_int_range(0, 60000));
        district_fail_over(d);
    }
    g_test_message("%" G_GUINT64_FORMAT " frames of the sender, %u recorded in %d images",
                   d->frames[SENDER], d->recorded_frames, FAILOVERS);
    /* Else this has shown nothing. */
    g_assert_cmpuint(d->recorded_frames, >, 0);
    district_free(d);
}

/*
 * Half of the kills come after a stop, during which a cut that was under way stays so: what the
 * members that run send to the others is held.
 */
static void
kill_ckpt(District *d, gboolean stop_first)
{
    g_usleep((gulong)g_random_int_range(0, 20000));
    if (stop_first) {
        kill(d->rig->ckpt.pid, SIGSTOP);
        g_usleep(10000);
    }
    rig_ckpt_stop(d->rig);
}

/* How many cuts this district-net has given up because their client went. */
static guint
cuts_abandoned(District *d)
{
    g_autofree char *path = g_build_filename(d->rig->dir, "net.log", NULL), *text = NULL;
    guint n = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (const char *p = text; (p = strstr(p, "abandoned")); p++)
        n++;
    return n;
}

static void
test_ckpt_kills(void)
{
    District *d = district_new(echo_options);

    district_protect(d, TRUE, INTERVAL_TIGHT_US);
    for (int i = 0; i < CKPT_KILLS; i++) {
        kill_ckpt(d, i % 2 == 0);
        if (i % 3 == 0)
            district_wait_progress(d);
        district_start_ckpt(d);
        district_protect(d, FALSE, INTERVAL_TIGHT_US);
        district_wait_progress(d);
    }
    g_test_message("%u of %d kills hit a cut", cuts_abandoned(d), CKPT_KILLS);
    /* Else this has shown nothing. */
    g_assert_cmpuint(cuts_abandoned(d), >, 0);
    district_fail_over(d);
    district_free(d);
}

/* Wait for an epoch cut from now on to commit, with all that this takes of district-net. */
static void
district_wait_commit(District *d)
{
    gint64 deadline = g_get_monotonic_time() + RIG_LIMIT_MS * 1000;
    District__CkptMessage *m = rig_status(d->rig);
    uint64_t begun = m->reply->status->epoch;

    district__ckpt_message__free_unpacked(m, NULL);
    while (committed_epoch(d) <= begun) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(d->rig->dir, "no epoch after %" G_GUINT64_FORMAT " was committed within %d ms",
                     begun, RIG_LIMIT_MS);
        g_usleep(5000);
    }
}

/* Frames may be lost with a switch; the guests of this one send on without waiting for any. */
static void
test_net_kills(void)
{
    District *d = district_new(lossy_options);

    district_protect(d, TRUE, INTERVAL_US);
    for (int i = 0; i < NET_KILLS; i++) {
        g_usleep((gulong)g_random_int_range(0, 20000));
        rig_net_stop(d->rig);
        g_usleep((gulong)g_random_int_range(0, 20000));
        district_start_net(d);
        district_wait_progress(d);
        district_wait_commit(d);
        if (i % 4 == 3) {
            uint64_t acked = committed_epoch(d);
            g_assert_cmpuint(district_fail_over(d), >=, acked);
            district_protect(d, TRUE, INTERVAL_US);
        }
    }
    district_free(d);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/frames/50 failovers lose and double no frame inside the district",
                    test_failovers);
    g_test_add_func("/frames/a district-ckpt killed in a cut costs no frame", test_ckpt_kills);
    g_test_add_func("/frames/guests, epochs and failover outlive a killed district-net",
                    test_net_kills);
    return g_test_run();
}
