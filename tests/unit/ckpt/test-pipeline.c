/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The whole pipeline without KVM: after each epoch the standby has what each member had at the cut.
 */
#include "ckpt-rig.h"

#include "ckpt/image.h"
#include "common/memfd.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

/* More than may be staged before guests are throttled. */
static const FakeMemberConfig wide = {.ram_size = 320 * MIB, .writes_per_ms = 500};
static const FakeMemberConfig busy = {.ram_size = 16 * MIB, .writes_per_ms = 40};

static Rig *
rig_protected(guint n_members, const FakeMemberConfig *like, unsigned interval_us,
              unsigned detach_after_ms)
{
    Rig *rig = rig_new(n_members, like);

    rig_run(rig);
    rig_start(rig);
    rig_protect(rig, interval_us, detach_after_ms);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_PROTECTED);
    return rig;
}

/* It runs; a cut may hold it for a moment. */
static void
assert_goes_on(FakeMember *member)
{
    uint64_t writes = fake_member_writes(member);

    for (int i = 0; i < 500 && fake_member_writes(member) == writes; i++)
        g_usleep(10000);
    g_assert_cmpuint(fake_member_writes(member), >, writes);
}

static void
wait_goodbye(Rig *rig)
{
    for (int i = 0; i < 1000 && !fake_standby_goodbye(rig->standby); i++)
        g_usleep(10000);
    g_assert_true(fake_standby_goodbye(rig->standby));
}

static void
test_exact(void)
{
    Rig *rig = rig_protected(2, &busy, 8000, 3000);
    District__CkptReply *hold;

    rig_wait_good(rig, 200);
    District__CkptStatusReply *s = rig_status(rig, &hold);
    g_assert_cmpstr(s->state, ==, "running");
    g_assert_cmpstr(s->protection, ==, "protected");
    g_assert_cmpuint(s->committed_epoch, >, 100);
    g_assert_cmpuint(s->unchanged_pages, >, 0);
    g_assert_cmpuint(s->zero_pages, >, 0);
    g_assert_cmpuint(s->delta_pages, >, 0);
    g_test_message("pause p50 %.3f p99 %.3f ms, skew p50 %.3f ms, interval p50 %.3f ms, commit p50 "
                   "%.3f p99 %.3f ms, %" G_GUINT64_FORMAT " dirty pages, %" G_GUINT64_FORMAT
                   " bytes",
                   (double)s->pause_ns->p50 / 1e6, (double)s->pause_ns->p99 / 1e6,
                   (double)s->skew_ns->p50 / 1e6, (double)s->interval_ns->p50 / 1e6,
                   (double)s->commit_ns->p50 / 1e6, (double)s->commit_ns->p99 / 1e6, s->dirty_pages,
                   s->wire_bytes);
    district__ckpt_reply__free_unpacked(hold, NULL);
    g_assert_cmpuint(fake_standby_full(rig->standby), ==, 1);
    rig_free(rig);
}

/* At 5 ms pauses of 10 ms would leave the guests a third of the time. */
static void
test_stretched(void)
{
    const FakeMemberConfig slow = {.ram_size = MIB, .writes_per_ms = 1, .pause_delay_ms = 10};
    Rig *rig = rig_protected(1, &slow, 5000, 30000);
    District__CkptReply *hold;

    rig_wait_good(rig, 20);
    District__CkptStatusReply *s = rig_status(rig, &hold);
    g_assert_cmpuint(s->interval_ns->p50, >=, UINT64_C(90000000));
    district__ckpt_reply__free_unpacked(hold, NULL);
    rig_free(rig);
}

static double
interval_now_ms(Rig *rig)
{
    District__CkptReply *hold;
    double ms = (double)rig_status(rig, &hold)->interval_now_ns / 1e6;

    district__ckpt_reply__free_unpacked(hold, NULL);
    return ms;
}

/* Until it is at most or, if above, at least that. */
static void
wait_interval(Rig *rig, bool above, double ms)
{
    double now = 0;

    for (int i = 0; i < 2000; i++) {
        now = interval_now_ms(rig);
        if (above ? now >= ms : now <= ms)
            return;
        g_usleep(10000);
    }
    g_error("the interval is %.1f ms after 20 s, not %s %.1f", now, above ? "above" : "below", ms);
}

/* Acknowledgements that take 100 ms ask for 125; pauses here ask for little. */
static void
test_auto(void)
{
    const FakeMemberConfig calm = {.ram_size = 4 * MIB, .writes_per_ms = 2};
    Rig *rig = rig_new(2, &calm);

    rig_run(rig);
    rig_start(rig);
    g_assert_cmpfloat(interval_now_ms(rig), ==, 0);
    rig_protect_auto(rig, 50, 2000);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_PROTECTED);
    wait_interval(rig, false, 24);
    fake_standby_delay_acks(rig->standby, 100);
    wait_interval(rig, true, 110);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 5);
    g_assert_cmpfloat(interval_now_ms(rig), >=, 110);
    g_assert_cmpfloat(interval_now_ms(rig), <, 300);
    fake_standby_delay_acks(rig->standby, 0);
    wait_interval(rig, false, 40);
    /* Nothing had to be throttled or sent anew. */
    assert_goes_on(rig->members[0]);
    g_assert_cmpuint(fake_standby_full(rig->standby), ==, 1);
    rig_free(rig);
}

/* A standby that acknowledges nothing for a while: the lag bounds what it is stretched to. */
static void
test_auto_lag(void)
{
    const FakeMemberConfig calm = {.ram_size = 4 * MIB, .writes_per_ms = 2};
    Rig *rig = rig_new(1, &calm);

    rig_run(rig);
    rig_start(rig);
    rig_protect_auto(rig, 50, 100);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_PROTECTED);
    fake_standby_delay_acks(rig->standby, 100);
    wait_interval(rig, true, 49.9);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 5);
    g_assert_cmpfloat(interval_now_ms(rig), >=, 49.9);
    /* On a busy host pauses may ask for more for a while; the way alone would for 125 ms. */
    wait_interval(rig, false, 51);
    rig_free(rig);
}

static void
protect_refused(Rig *rig, uint32_t max_slowdown, uint64_t max_lag_us, const char *why)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptProtectRequest protect = DISTRICT__CKPT_PROTECT_REQUEST__INIT;

    protect.peer_name = (char *)"a";
    protect.address = (char *)"127.0.0.1";
    protect.port = 1;
    protect.auto_interval = true;
    protect.max_slowdown = max_slowdown;
    protect.max_lag_us = max_lag_us;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_PROTECT;
    request.protect = &protect;
    District__CkptReply *reply = rig_call(rig, &request, NULL, 0);
    g_assert_nonnull(strstr(reply->error, why));
    district__ckpt_reply__free_unpacked(reply, NULL);
}

static void
test_auto_refused(void)
{
    Rig *rig = rig_new(1, &busy);

    rig_run(rig);
    rig_start(rig);
    protect_refused(rig, 51, 0, "1 to 50 per cent");
    protect_refused(rig, UINT32_MAX, 0, "1 to 50 per cent");
    protect_refused(rig, 10, 9999, "10 ms to 4 s");
    protect_refused(rig, 10, UINT64_MAX, "10 ms to 4 s");
    rig_free(rig);
}

static const District__CkptMeasure *
measure_of(const District__CkptStatusReply *s, const char *name)
{
    for (size_t i = 0; i < s->n_measures; i++) {
        if (strcmp(s->measures[i]->name, name) == 0)
            return s->measures[i];
    }
    g_error("no measure %s", name);
}

/* Every pause has a sample of each phase, and together they are all of it. */
static void
assert_phases_add_up(const District__CkptStatusReply *s)
{
    uint64_t sum = 0, phases = 0;

    for (size_t i = 0; i < s->n_measures; i++) {
        const District__CkptMeasure *m = s->measures[i];
        if (!m->phase)
            continue;
        g_test_message("%s: p50 %.1f p99 %.1f us", m->name, (double)m->all->p50 / 1e3,
                       (double)m->all->p99 / 1e3);
        g_assert_cmpuint(m->all->count, ==, s->pause_ns->count);
        g_assert_cmpuint(m->all->p50, <=, m->all->p90);
        g_assert_cmpuint(m->all->p90, <=, m->all->p99);
        g_assert_cmpuint(m->all->p99, <=, m->all->max);
        g_assert_cmpuint(m->all->max, <=, s->pause_ns->max);
        sum += m->all->mean;
        phases++;
    }
    g_assert_cmpuint(phases, ==, 8);
    g_assert_cmpuint(sum, <=, s->pause_ns->mean);
    g_assert_cmpuint(s->pause_ns->mean - sum, <=, phases); /* means are rounded down */
}

static void
test_phases(void)
{
    const FakeMemberConfig slow = {.ram_size = MIB, .writes_per_ms = 10, .pause_delay_ms = 10};
    Rig *rig = rig_protected(2, &slow, 5000, 30000);
    District__CkptReply *hold;

    rig_wait_good(rig, 20);
    District__CkptStatusReply *s = rig_status(rig, &hold);
    assert_phases_add_up(s);
    /* Each takes that long to get its vCPUs out. */
    g_assert_cmpuint(measure_of(s, "kick_ns")->all->p50, >=, UINT64_C(10000000));
    g_assert_cmpuint(measure_of(s, "residue_pages")->all->count, ==, s->pause_ns->count);
    g_assert_cmpuint(measure_of(s, "residue_pages")->all->max, >, 0);
    g_assert_cmpuint(measure_of(s, "encode_ns")->all->count, >, 0);
    g_assert_cmpuint(measure_of(s, "encode_ns")->all->p50, >, 0);
    g_assert_cmpuint(measure_of(s, "send_ns")->all->p50, >, 0);
    g_assert_cmpuint(measure_of(s, "precut_ns")->all->count, ==, s->skew_ns->count);
    g_assert_cmpuint(measure_of(s, "kick_ns")->recent->count, >, 0);
    district__ckpt_reply__free_unpacked(hold, NULL);
    rig_free(rig);
}

/* All that it can make of a pause is where the time goes that it says nothing of. */
static void
test_lies(void)
{
    const FakeMemberConfig liar = {.ram_size = MIB, .writes_per_ms = 10, .lies = true};
    Rig *rig = rig_protected(1, &liar, 8000, 30000);
    District__CkptReply *hold;

    rig_wait_good(rig, 20);
    District__CkptStatusReply *s = rig_status(rig, &hold);
    assert_phases_add_up(s);
    g_assert_cmpuint(s->pause_ns->max, <, UINT64_C(3600000000000));
    g_assert_cmpuint(measure_of(s, "kick_ns")->all->max, ==, 0);
    g_assert_cmpuint(measure_of(s, "reply_ns")->all->p50, >, 0);
    district__ckpt_reply__free_unpacked(hold, NULL);
    rig_free(rig);
}

static void
test_resync(void)
{
    Rig *rig = rig_protected(2, &busy, 5000, 5000);

    for (unsigned round = 2; round <= 4; round++) {
        rig_wait_good(rig, fake_standby_good(rig->standby) + 20);
        fake_standby_drop(rig->standby);
        while (fake_standby_full(rig->standby) < round)
            g_usleep(2000);
    }
    rig_wait_good(rig, fake_standby_good(rig->standby) + 20);
    g_autofree char *protection = rig_protection(rig);
    g_assert_cmpstr(protection, ==, "protected");
    g_assert_cmpuint(rig_count_events(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_STREAM_LOST), ==,
                     3);
    g_assert_cmpuint(rig_count_events(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_DETACHED), ==, 0);
    rig_free(rig);
}

/* Every page of the image is what the member had when it was cut. */
static void
check_file(const char *path, guint n_members)
{
    g_autoptr(GError) error = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    g_autoptr(Image) image = image_load_file(fd, path, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(image->n_members, ==, n_members);
    for (guint i = 0; i < n_members; i++) {
        const District__CutMember *m = image->cut->members[i];
        void *ram = mmap(NULL, m->ram_size, PROT_READ, MAP_SHARED, image->ram_fds[i], 0);
        g_assert_true(ram != MAP_FAILED);
        g_assert_true(fake_member_check(m->state.data, m->state.len, ram, m->ram_size));
        munmap(ram, m->ram_size);
    }
    close(fd);
}

static void
test_file_alone(void)
{
    Rig *rig = rig_new(2, &busy);
    g_autofree char *path = g_build_filename(rig->dir, "one.ckpt", NULL);

    rig_run(rig);
    rig_start(rig);
    g_usleep(100000);
    g_assert_null(rig_checkpoint(rig, path));
    check_file(path, 2);
    g_assert_null(rig_checkpoint(rig, path));
    check_file(path, 2);
    rig_free(rig);
}

static void
test_file_beside_stream(void)
{
    Rig *rig = rig_protected(2, &busy, 5000, 3000);
    g_autofree char *path = g_build_filename(rig->dir, "two.ckpt", NULL);

    for (int i = 0; i < 5; i++) {
        unsigned before = fake_standby_good(rig->standby);
        g_assert_null(rig_checkpoint(rig, path));
        check_file(path, 2);
        rig_wait_good(rig, before + 10);
    }
    g_assert_cmpuint(fake_standby_full(rig->standby), ==, 1);
    rig_free(rig);
}

static void
test_file_no_space(void)
{
    Rig *rig = rig_protected(1, &busy, 10000, 3000);
    g_autofree char *error = rig_checkpoint(rig, "/dev/full");

    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error, "/dev/full"));
    g_assert_nonnull(strstr(error, "space"));
    rig_wait_good(rig, fake_standby_good(rig->standby) + 10);
    assert_goes_on(rig->members[0]);
    rig_free(rig);
}

static void
test_restore_from_file(void)
{
    Rig *rig = rig_new(2, &busy);
    g_autofree char *path = g_strdup("/tmp/district-restore-XXXXXX");
    FakeMemberConfig waiting = busy;
    uint8_t first[16], second[16];

    close(g_mkstemp(path));
    rig_run(rig);
    rig_start(rig);
    g_assert_null(rig_checkpoint(rig, path));
    rig_free(rig);

    waiting.awaiting_restore = true;
    rig = rig_new(2, &waiting);
    rig_run(rig);
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartFileRequest start = DISTRICT__CKPT_START_FILE_REQUEST__INIT;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    start.path = path;
    start.incarnation = 1; /* that life has ended */
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START_FILE;
    request.start_file = &start;
    District__CkptReply *reply = rig_call(rig, &request, &fd, 1);
    g_assert_nonnull(strstr(reply->error, "newer"));
    district__ckpt_reply__free_unpacked(reply, NULL);
    start.incarnation = 2;
    reply = rig_call(rig, &request, &fd, 1);
    g_assert_cmpstr(reply->error, ==, "");
    district__ckpt_reply__free_unpacked(reply, NULL);
    close(fd);
    assert_goes_on(rig->members[0]);
    assert_goes_on(rig->members[1]);
    fake_member_vmgenid(rig->members[0], first);
    fake_member_vmgenid(rig->members[1], second);
    g_assert_cmpint(memcmp(first, second, 16), !=, 0);
    /* And what runs now can be protected. */
    rig_protect(rig, 10000, 3000);
    rig_wait_good(rig, 20);
    rig_free(rig);
    unlink(path);
}

/* Check of a cut; the error of the reply, empty if the members could load it. */
static char *
check_cut(Rig *rig, const District__CutState *cut)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptCheckRequest check = DISTRICT__CKPT_CHECK_REQUEST__INIT;
    size_t len = district__cut_state__get_packed_size(cut);
    g_autofree uint8_t *packed = g_malloc(len);
    int fd;

    district__cut_state__pack(cut, packed);
    fd = memfd_from_data("cut", packed, len, NULL);
    check.state_len = len;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_CHECK;
    request.check = &check;
    District__CkptReply *reply = rig_call(rig, &request, &fd, 1);
    char *error = g_strdup(reply->error);
    district__ckpt_reply__free_unpacked(reply, NULL);
    close(fd);
    return error;
}

static Image *
checkpoint_load(Rig *rig)
{
    g_autofree char *path = g_strdup("/tmp/district-check-XXXXXX");
    g_autoptr(GError) error = NULL;
    int fd;

    close(g_mkstemp(path));
    g_assert_null(rig_checkpoint(rig, path));
    fd = open(path, O_RDONLY | O_CLOEXEC);
    Image *image = image_load_file(fd, path, &error);
    g_assert_no_error(error);
    close(fd);
    unlink(path);
    return image;
}

static void
test_restore_is_checked(void)
{
    Rig *rig = rig_new(2, &busy);
    FakeMemberConfig waiting = busy;

    rig_run(rig);
    rig_start(rig);
    g_autoptr(Image) image = checkpoint_load(rig);
    g_autofree char *running = check_cut(rig, image->cut);
    g_assert_nonnull(strstr(running, "--incoming"));
    rig_free(rig);

    waiting.awaiting_restore = true;
    rig = rig_new(2, &waiting);
    rig_run(rig);
    g_autofree char *good = check_cut(rig, image->cut);
    g_assert_cmpstr(good, ==, "");
    g_assert_cmpuint(fake_member_checks(rig->members[0]), ==, 1);
    g_assert_cmpuint(fake_member_checks(rig->members[1]), ==, 1);
    image->cut->members[1]->state.len--; /* the engine knows what is wrong with that */
    g_autofree char *bad = check_cut(rig, image->cut);
    g_assert_nonnull(strstr(bad, image->cut->members[1]->name));
    g_assert_nonnull(strstr(bad, "does not fit here"));
    image->cut->members[0]->ram_size += 4096; /* and this district-ckpt sees by itself */
    image->cut->members[0]->regions[0]->size += 4096;
    g_autofree char *other = check_cut(rig, image->cut);
    g_assert_nonnull(strstr(other, "use the definition"));
    g_assert_cmpuint(fake_member_checks(rig->members[0]), ==, 2);
    rig_free(rig);
}

static void
test_hand_over(void)
{
    Rig *rig = rig_protected(2, &busy, 10000, 3000);
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptHandOverRequest hand_over = DISTRICT__CKPT_HAND_OVER_REQUEST__INIT;
    District__CkptTakeBackRequest take_back = DISTRICT__CKPT_TAKE_BACK_REQUEST__INIT;

    rig_wait_good(rig, 10);
    request.op_case = DISTRICT__CKPT_REQUEST__OP_HAND_OVER;
    request.hand_over = &hand_over;
    District__CkptReply *reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    g_test_message("paused for %.3f ms", (double)reply->hand_over->paused_ns / 1e6);
    g_assert_cmpuint(reply->hand_over->epoch, ==, fake_standby_committed(rig->standby));
    district__ckpt_reply__free_unpacked(reply, NULL);
    g_assert_false(fake_member_running(rig->members[0]));
    g_assert_false(fake_member_running(rig->members[1]));
    wait_goodbye(rig);
    g_autofree char *state = rig_state(rig);
    g_assert_cmpstr(state, ==, "handed-over");

    take_back.incarnation = 1; /* that life has ended */
    request.op_case = DISTRICT__CKPT_REQUEST__OP_TAKE_BACK;
    request.take_back = &take_back;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_nonnull(strstr(reply->error, "newer"));
    district__ckpt_reply__free_unpacked(reply, NULL);

    take_back.incarnation = 2;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_TAKE_BACK;
    request.take_back = &take_back;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    district__ckpt_reply__free_unpacked(reply, NULL);
    assert_goes_on(rig->members[0]);
    rig_free(rig);
}

static void
test_hand_over_holds(void)
{
    Rig *rig = rig_protected(2, &busy, 10000, 3000);
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptHandOverRequest hand_over = DISTRICT__CKPT_HAND_OVER_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_HAND_OVER;
    request.hand_over = &hand_over;
    District__CkptReply *reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    district__ckpt_reply__free_unpacked(reply, NULL);
    rig_kill(rig);
    g_usleep(300000);
    g_assert_false(fake_member_running(rig->members[0]));
    g_assert_false(fake_member_running(rig->members[1]));
    rig_run(rig);
    g_autofree char *state = rig_state(rig);
    g_assert_cmpstr(state, ==, "waiting");
    g_assert_false(fake_member_running(rig->members[0]));
    rig_free(rig);
}

static void
test_hand_over_unacknowledged(void)
{
    Rig *rig = rig_protected(1, &busy, 10000, 3000);
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptHandOverRequest hand_over = DISTRICT__CKPT_HAND_OVER_REQUEST__INIT;

    fake_standby_hold_acks(rig->standby, true);
    request.op_case = DISTRICT__CKPT_REQUEST__OP_HAND_OVER;
    request.hand_over = &hand_over;
    rig_send(rig, &request, NULL, 0);
    g_usleep(200000);
    fake_standby_drop(rig->standby);
    District__CkptReply *reply = rig_receive(rig, 20000);
    g_assert_cmpstr(reply->error, !=, "");
    district__ckpt_reply__free_unpacked(reply, NULL);
    assert_goes_on(rig->members[0]);
    fake_standby_hold_acks(rig->standby, false);
    rig_free(rig);
}

static void
test_two_in_flight(void)
{
    Rig *rig = rig_protected(1, &busy, 5000, 5000);

    rig_wait_good(rig, 10);
    fake_standby_hold_acks(rig->standby, true);
    for (int i = 0; i < 2000 && fake_standby_unacknowledged(rig->standby) < 2; i++)
        g_usleep(10000);
    unsigned before = fake_standby_good(rig->standby);
    g_assert_cmpuint(fake_standby_unacknowledged(rig->standby), ==, 2);
    uint64_t writes = fake_member_writes(rig->members[0]);
    g_usleep(300000);
    g_assert_cmpuint(fake_standby_good(rig->standby), ==, before);
    g_assert_cmpuint(fake_member_writes(rig->members[0]), >, writes + 1000);
    fake_standby_hold_acks(rig->standby, false);
    rig_wait_good(rig, before + 20);
    rig_free(rig);
}

/* In how many of a hundred looks member stands still. */
static unsigned
looks_paused(FakeMember *member)
{
    unsigned paused = 0;

    for (int i = 0; i < 100; i++) {
        paused += !fake_member_running(member);
        g_usleep(3000);
    }
    return paused;
}

static void
wait_throttled(Rig *rig)
{
    bool throttled = false;

    for (int i = 0; i < 400 && !throttled; i++) {
        District__CkptReply *hold;
        g_usleep(50000);
        throttled = strstr(rig_status(rig, &hold)->protection_error, "throttled") != NULL;
        district__ckpt_reply__free_unpacked(hold, NULL);
    }
    g_assert_true(throttled);
}

/*
 * Two epochs in flight for good: dirty pages gather up to the bound, then guests are held. What one
 * that is off wrote last must not come to be another one's meanwhile.
 */
static void
test_throttle(void)
{
    const FakeMemberConfig each[] = {{.ram_size = MIB}, wide};
    Rig *rig = rig_new_mixed(2, each);

    rig_run(rig);
    rig_start(rig);
    rig_protect(rig, 20000, 60000);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_PROTECTED);
    fake_member_power_off(rig->members[0]);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_OFF);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 5);
    g_assert_cmpuint(fake_standby_members(rig->standby), ==, 1);
    fake_standby_hold_acks(rig->standby, true);
    wait_throttled(rig);
    /* No cut is made meanwhile, so nothing else lets it stand still. */
    unsigned paused = looks_paused(rig->members[1]);
    g_test_message("paused in %u of 100 looks", paused);
    g_assert_cmpuint(paused, >=, 25);
    assert_goes_on(rig->members[1]);
    unsigned before = fake_standby_good(rig->standby);
    fake_standby_hold_acks(rig->standby, false);
    rig_wait_good(rig, before + 5);
    g_assert_cmpuint(fake_standby_wrong(rig->standby), ==, 0);
    rig_free(rig);
}

static void
test_detach(void)
{
    Rig *rig = rig_protected(1, &busy, 10000, 600);

    fake_standby_hang(rig->standby, true);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_DETACHED);
    assert_goes_on(rig->members[0]);
    g_autofree char *detached = rig_protection(rig);
    g_assert_cmpstr(detached, ==, "detached");
    /* The standby comes back: protected again, in full. */
    fake_standby_drop(rig->standby);
    fake_standby_hang(rig->standby, false);
    while (fake_standby_full(rig->standby) < 2)
        g_usleep(5000);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 10);
    g_autofree char *protected = rig_protection(rig);
    g_assert_cmpstr(protected, ==, "protected");
    rig_free(rig);
}

static void
test_superseded(void)
{
    Rig *rig = rig_protected(2, &busy, 10000, 3000);

    fake_standby_refuse(rig->standby, DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_SUPERSEDED);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_SUPERSEDED);
    g_assert_cmpuint(rig->event_incarnation, ==, FAKE_STANDBY_NEWER);
    g_assert_false(fake_member_running(rig->members[0]));
    g_assert_false(fake_member_running(rig->members[1]));
    g_autofree char *state = rig_state(rig);
    g_assert_cmpstr(state, ==, "failed");
    rig_free(rig);
}

static void
test_refused(void)
{
    Rig *rig = rig_new(1, &busy);

    fake_standby_refuse(rig->standby, DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_FULL);
    rig_run(rig);
    rig_start(rig);
    rig_protect(rig, 10000, 60000);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_REFUSED);
    assert_goes_on(rig->members[0]);
    fake_standby_refuse(rig->standby, DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_UNKNOWN);
    rig_wait_good(rig, 5);
    rig_free(rig);
}

static void
test_member_lost(void)
{
    Rig *rig = rig_protected(2, &busy, 10000, 3000);

    fake_member_die(rig->members[0]);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_LOST);
    g_autofree char *state = rig_state(rig);
    g_assert_cmpstr(state, ==, "failed");
    g_assert_false(fake_member_running(rig->members[1]));
    g_assert_false(fake_standby_goodbye(rig->standby));
    rig_free(rig);
}

static void
test_member_off(void)
{
    Rig *rig = rig_protected(2, &busy, 10000, 3000);

    fake_member_power_off(rig->members[0]);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_OFF);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 10);
    g_assert_cmpuint(fake_standby_members(rig->standby), ==, 1);
    assert_goes_on(rig->members[1]);
    rig_free(rig);
}

static District__CkptReply *
power_button(Rig *rig)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptPowerButtonRequest button = DISTRICT__CKPT_POWER_BUTTON_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_POWER_BUTTON;
    request.power_button = &button;
    return rig_call(rig, &request, NULL, 0);
}

static void
test_power_button(void)
{
    FakeMemberConfig listening = busy;
    Rig *rig;

    listening.powers_off = true;
    rig = rig_protected(2, &listening, 10000, 3000);
    District__CkptReply *reply = power_button(rig);
    g_assert_cmpstr(reply->error, ==, "");
    g_assert_cmpuint(reply->n_members_heard, ==, 2);
    g_assert_cmpstr(reply->members_heard[1], ==, "m1");
    district__ckpt_reply__free_unpacked(reply, NULL);
    for (int i = 0;
         i < 500 && rig_count_events(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_OFF) < 2;
         i++) {
        g_free(rig_state(rig)); /* takes events in */
        g_usleep(10000);
    }
    g_assert_cmpuint(rig_count_events(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_OFF), ==,
                     2);
    g_assert_cmpuint(rig_count_events(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_LOST), ==,
                     0);
    reply = power_button(rig);
    g_assert_nonnull(strstr(reply->error, "no guest runs"));
    district__ckpt_reply__free_unpacked(reply, NULL);
    rig_free(rig);
}

static void
test_power_button_unheard(void)
{
    Rig *rig = rig_protected(2, &busy, 10000, 3000);
    District__CkptReply *reply = power_button(rig);

    g_assert_cmpstr(reply->error, ==, "");
    g_assert_cmpuint(reply->n_members_heard, ==, 0);
    district__ckpt_reply__free_unpacked(reply, NULL);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 10);
    assert_goes_on(rig->members[0]);
    rig_free(rig);
}

static void
wait_refused(FakeMember *member)
{
    for (int i = 0; i < 2000 && !fake_member_refused(member); i++)
        g_usleep(5000);
    g_assert_true(fake_member_refused(member));
}

/* The next cut is seconds away: until then nobody may stand still for the one that failed. */
static void
test_pause_refused(void)
{
    FakeMemberConfig slow = {.ram_size = 16 * MIB, .writes_per_ms = 40, .pause_delay_ms = 50};
    Rig *rig = rig_protected(2, &slow, 3000000, 30000);

    fake_member_refuse_pauses(rig->members[1], 1);
    wait_refused(rig->members[1]);
    g_usleep(500000);
    g_assert_true(fake_member_running(rig->members[0]));
    g_assert_true(fake_member_running(rig->members[1]));
    rig_free(rig);
}

/* As an engine does whose guest resets itself, and waits for its disks. The cut that completes a full
 * copy is due at all times. */
static void
test_pause_refused_for_long(void)
{
    Rig *rig = rig_new(2, &busy);

    rig_run(rig);
    rig_start(rig);
    fake_member_refuse_pauses(rig->members[1], 31);
    gint64 begun = g_get_monotonic_time();
    rig_protect(rig, 10000, 30000);
    /* Whoever asks for something wakes it. */
    for (int i = 0; i < 20000 && !fake_member_refused(rig->members[1]); i++) {
        g_free(rig_state(rig));
        g_usleep(1000);
    }
    g_assert_true(fake_member_refused(rig->members[1]));
    g_assert_cmpint(g_get_monotonic_time() - begun, >=, 3 * G_USEC_PER_SEC);
    rig_wait_good(rig, 5);
    rig_free(rig);
}

/* It beats on but commits nothing: after 10 s that is a stream lost, and soon detached. */
static void
test_never_acknowledged(void)
{
    Rig *rig = rig_protected(1, &busy, 10000, 600);

    fake_standby_hold_acks(rig->standby, true);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_STREAM_LOST);
    assert_goes_on(rig->members[0]);
    fake_standby_hold_acks(rig->standby, false);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 10);
    rig_free(rig);
}

static void
test_crash_goes_on(void)
{
    Rig *rig = rig_protected(2, &busy, 10000, 3000);

    rig_wait_good(rig, 10);
    uint64_t committed = fake_standby_committed(rig->standby);
    /* Killed at an instant that may be in the middle of a cut. */
    rig_kill(rig);
    rig_run(rig);
    g_autofree char *state = rig_state(rig);
    g_assert_cmpstr(state, ==, "running");
    rig_protect(rig, 10000, 3000);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 10);
    g_assert_cmpuint(fake_standby_committed(rig->standby), >, committed);
    assert_goes_on(rig->members[0]);
    assert_goes_on(rig->members[1]);
    rig_free(rig);
}

static void
test_client_comes_back(void)
{
    Rig *rig = rig_protected(1, &busy, 10000, 3000);

    rig_connect(rig);
    g_autofree char *protection = rig_protection(rig);
    g_assert_cmpstr(protection, ==, "protected");
    rig_unprotect(rig);
    g_autofree char *off = rig_protection(rig);
    g_assert_cmpstr(off, ==, "off");
    wait_goodbye(rig);
    rig_free(rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pipeline/epochs get longer where guests stand still for long",
                    test_stretched);
    g_test_add_func("/pipeline/a slow standby stretches auto, and a quick one shortens it again",
                    test_auto);
    g_test_add_func("/pipeline/auto is not stretched above half of the lag", test_auto_lag);
    g_test_add_func("/pipeline/limits out of range are refused", test_auto_refused);
    g_test_add_func("/pipeline/the phases of a pause add up to it", test_phases);
    g_test_add_func(
        "/pipeline/an engine that lies about its times costs no more than their meaning",
        test_lies);
    g_test_add_func("/pipeline/the standby has after each epoch what each member had at the cut",
                    test_exact);
    g_test_add_func("/pipeline/a lost stream is made up for by a full sync", test_resync);
    g_test_add_func("/pipeline/a checkpoint file holds a cut without a standby", test_file_alone);
    g_test_add_func("/pipeline/a checkpoint file is written beside the stream",
                    test_file_beside_stream);
    g_test_add_func("/pipeline/a full disk fails the checkpoint and nothing else",
                    test_file_no_space);
    g_test_add_func("/pipeline/members run on from a checkpoint file", test_restore_from_file);
    g_test_add_func("/pipeline/whether members could run on is checked beforehand",
                    test_restore_is_checked);
    g_test_add_func("/pipeline/a hand-over leaves the members paused and all of them committed",
                    test_hand_over);
    g_test_add_func("/pipeline/a hand-over that is not acknowledged lets the members run on",
                    test_hand_over_unacknowledged);
    g_test_add_func("/pipeline/a crash after a hand-over does not run the members again",
                    test_hand_over_holds);
    g_test_add_func("/pipeline/at most two epochs are in flight", test_two_in_flight);
    g_test_add_func("/pipeline/guests are throttled when nothing can be cut or staged",
                    test_throttle);
    g_test_add_func("/pipeline/a silent standby is detached and taken back", test_detach);
    g_test_add_func("/pipeline/a newer incarnation elsewhere stops the members", test_superseded);
    g_test_add_func("/pipeline/a refusal leaves the members running", test_refused);
    g_test_add_func("/pipeline/a lost member stops the others", test_member_lost);
    g_test_add_func("/pipeline/a guest that powers off leaves the others protected",
                    test_member_off);
    g_test_add_func("/pipeline/guests that listen for their power button power off",
                    test_power_button);
    g_test_add_func("/pipeline/guests that do not listen for it go on", test_power_button_unheard);
    g_test_add_func("/pipeline/a member that refuses to pause leaves none of them paused",
                    test_pause_refused);
    g_test_add_func("/pipeline/a member that refuses to pause is asked again after a while",
                    test_pause_refused_for_long);
    g_test_add_func("/pipeline/a standby that commits nothing is a lost one",
                    test_never_acknowledged);
    g_test_add_func("/pipeline/a crash of district-ckpt stops nobody", test_crash_goes_on);
    g_test_add_func("/pipeline/the control client may go and come back", test_client_comes_back);
    return g_test_run();
}
