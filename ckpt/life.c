/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Life and death of a district here: start, restore, hand-over, take back. */
#include "ckpt/coordinator-internal.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* All members but those that are off. */
static bool
life_members_are(const Coordinator *c, District__MemberState state)
{
    uint32_t on = 0;

    for (uint32_t i = 0; i < c->n_members; i++) {
        const Member *m = c->members[i];
        if (m->run_state == DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN)
            continue;
        if (!member_is_on(m) || m->run_state != state)
            return false;
        on++;
    }
    return on > 0;
}

/* Everything is in place: run. */
static void
life_run(Coordinator *c, ControlRequest *request)
{
    g_autoptr(GError) error = NULL;

    coordinator_move(c, RUN_RUNNING);
    if (!members_resume(c)) {
        control_request_error(request, "district %s: %s", c->district,
                              c->run_error ? c->run_error : "a member did not resume");
        return;
    }
    if (!netctl_announce(c->net, &error))
        g_warning("%s", error->message);
    coordinator_event(c, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_RUNNING, "", "", c->last_number);
    control_request_ok(request);
}

void
life_start(Coordinator *c, ControlRequest *request)
{
    uint64_t incarnation = request->message->start->incarnation;

    if (c->run != RUN_WAITING ||
        !life_members_are(c, DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED)) {
        control_request_error(request,
                              "district %s: cannot start: it is %s, or a member is not freshly "
                              "booted; restart its members",
                              c->district, run_state_name(c->run));
        return;
    }
    if (incarnation == 0) {
        control_request_error(request, "district %s: incarnations are numbered from 1",
                              c->district);
        return;
    }
    c->incarnation = incarnation;
    life_run(c, request);
}

/* ---- From an image ---- */

static gboolean
life_layout_fits(const Member *m, const District__CutMember *saved, GError **error)
{
    bool fits = saved->ram_size == m->ram_size && saved->n_regions == m->n_regions;

    for (size_t k = 0; fits && k < m->n_regions; k++) {
        const District__RamRegion *a = &m->regions[k], *b = saved->regions[k];
        fits = a->gpa == b->gpa && a->size == b->size && a->offset == b->offset;
    }
    if (fits && strcmp(saved->engine, m->engine) == 0)
        return TRUE;
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                "member %s: saved by engine '%s' with %" G_GUINT64_FORMAT
                " bytes of RAM, but here is '%s' with %" G_GUINT64_FORMAT
                "; use the definition it was saved with",
                m->name, saved->engine, saved->ram_size, m->engine, m->ram_size);
    return FALSE;
}

/* Not in the image: its guest had powered itself off. */
#define IMAGE_WITHOUT UINT32_MAX

/* Index of each member in cut, or IMAGE_WITHOUT; all in it must be members. */
static gboolean
life_match(Coordinator *c, const District__CutState *cut, uint32_t *index_of, GError **error)
{
    uint32_t found = 0;

    if (strcmp(cut->district, c->district) != 0) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED, "the image is of district '%s'",
                    cut->district);
        return FALSE;
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        uint32_t k = 0;
        while (k < cut->n_members && strcmp(cut->members[k]->name, c->members[i]->name) != 0)
            k++;
        index_of[i] = k < cut->n_members ? k : IMAGE_WITHOUT;
        if (index_of[i] == IMAGE_WITHOUT)
            continue;
        if (!life_layout_fits(c->members[i], cut->members[k], error))
            return FALSE;
        found++;
    }
    if (found == cut->n_members)
        return TRUE;
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                "the image has %zu members, of which the district knows %u: use the definition it "
                "was saved with",
                cut->n_members, found);
    return FALSE;
}

static gboolean
life_restore_send(Member *m, const Image *image, uint32_t k, GError **error)
{
    uint8_t vmgenid[MEMBER_VMGENID_BYTES];
    const District__CutMember *saved = image->cut->members[k];

    if (getrandom(vmgenid, sizeof(vmgenid), 0) != (ssize_t)sizeof(vmgenid)) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED, "getrandom: %s", g_strerror(errno));
        return FALSE;
    }
    return member_send_restore(m, image->ram_fds[k], saved->state.data, saved->state.len, vmgenid,
                               error);
}

/* RESTORE on all members, in parallel. The first error is reported, all replies are collected. */
static gboolean
life_restore_members(Coordinator *c, const Image *image, const uint32_t *index_of, GError **error)
{
    bool *asked = g_newa0(bool, c->n_members);
    GError *first = NULL;

    for (uint32_t i = 0; i < c->n_members && !first; i++) {
        if (index_of[i] != IMAGE_WITHOUT)
            asked[i] = life_restore_send(c->members[i], image, index_of[i], &first);
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i])
            member_collect_restore(c->members[i], first ? NULL : &first);
    }
    if (first)
        g_propagate_error(error, first);
    return first == NULL;
}

/*
 * Load image into all that takes part, then mark it as spent. From there on the engines hold the
 * only copy of the district, so what takes time comes before, and what is left is to resume.
 */
static gboolean
life_load(Coordinator *c, const Image *image, const uint32_t *index_of, bool reset_crossing,
          uint64_t incarnation, GError **error)
{
    g_autofree bool *off = g_new0(bool, c->n_members);

    if (!life_restore_members(c, image, index_of, error) ||
        !netctl_restore(c->net, image->cut->net.data, image->cut->net.len, reset_crossing,
                        incarnation, error))
        return FALSE;
    for (uint32_t i = 0; i < c->n_members; i++)
        off[i] = index_of[i] == IMAGE_WITHOUT;
    members_leave_off(c, off);
    return image_mark_spent(image, error);
}

static gboolean
life_restore(Coordinator *c, const Image *image, bool reset_crossing, uint64_t incarnation,
             GError **error)
{
    g_autofree uint32_t *index_of = g_new0(uint32_t, c->n_members);

    if (incarnation <= image->cut->incarnation) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                    "the image is of incarnation %" G_GUINT64_FORMAT
                    ": it goes on under a newer one only",
                    image->cut->incarnation);
        return FALSE;
    }
    if (!life_match(c, image->cut, index_of, error))
        return FALSE;
    if (!life_load(c, image, index_of, reset_crossing, incarnation, error)) {
        /* Some may have loaded it, others not: nothing may run from here. */
        members_fail_district(c, "the image could not be loaded into all members");
        return FALSE;
    }
    c->incarnation = incarnation;
    numbers_skip_to(c, MAX(image->cut->epoch, image->cut->cut));
    return TRUE;
}

static bool
life_refuse_restore(Coordinator *c, ControlRequest *request)
{
    if (c->run == RUN_WAITING &&
        life_members_are(c, DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE))
        return false;
    control_request_error(request,
                          "district %s: cannot restore: it is %s, or a member does not await it; "
                          "start the members with --incoming",
                          c->district, run_state_name(c->run));
    return true;
}

/* Can all members load the cut here? They go on awaiting it. */
static gboolean
life_check_members(Coordinator *c, const District__CutState *cut, GError **error)
{
    g_autofree uint32_t *index_of = g_new0(uint32_t, c->n_members);
    bool *asked = g_newa0(bool, c->n_members);
    GError *first = NULL;

    if (!life_match(c, cut, index_of, error))
        return FALSE;
    for (uint32_t i = 0; i < c->n_members && !first; i++) {
        if (index_of[i] != IMAGE_WITHOUT) {
            const District__CutMember *saved = cut->members[index_of[i]];
            asked[i] = member_send_restore_check(c->members[i], saved->state.data, saved->state.len,
                                                 &first);
        }
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i])
            member_collect_restore_check(c->members[i], first ? NULL : &first);
    }
    if (first)
        g_propagate_error(error, first);
    return first == NULL;
}

void
life_check(Coordinator *c, ControlRequest *request)
{
    g_autoptr(GError) error = NULL;
    District__CutState *cut;

    if (life_refuse_restore(c, request))
        return;
    if (request->n_fds != 1) {
        control_request_error(request, "district %s: pass one descriptor, the state of the cut",
                              c->district);
        return;
    }
    cut = image_cut_from_fd(request->fds[0], request->message->check->state_len, &error);
    if (cut && life_check_members(c, cut, &error))
        control_request_ok(request);
    else
        control_request_error(request, "district %s: %s", c->district, error->message);
    if (cut)
        district__cut_state__free_unpacked(cut, NULL);
}

/* Takes image. */
static void
life_start_from(Coordinator *c, ControlRequest *request, Image *image, bool reset_crossing,
                uint64_t incarnation, int64_t since_ns)
{
    G_GNUC_UNUSED g_autoptr(Image) owned = image;
    g_autoptr(GError) error = NULL;
    uint64_t epoch = image->cut->epoch;

    if (!life_restore(c, image, reset_crossing, incarnation, &error)) {
        control_request_error(request, "district %s: %s", c->district, error->message);
        return;
    }
    life_run(c, request);
    g_message("running from epoch %" G_GUINT64_FORMAT " as incarnation %" G_GUINT64_FORMAT
              " after %.3f ms",
              epoch, incarnation, (double)(clock_monotonic_ns() - since_ns) / NS_PER_MS);
}

void
life_start_image(Coordinator *c, ControlRequest *request)
{
    const District__CkptStartImageRequest *want = request->message->start_image;
    int64_t since_ns = clock_monotonic_ns();
    g_autoptr(GError) error = NULL;

    if (life_refuse_restore(c, request))
        return;
    if (request->n_fds < 2) {
        control_request_error(request,
                              "district %s: no image: pass a state and a RAM memfd per "
                              "member",
                              c->district);
        return;
    }
    guint n = request->n_fds;
    request->n_fds = 1; /* the rest is the image's now */
    Image *image =
        image_from_fds(request->fds[0], want->state_len, request->fds + 1, n - 1, &error);
    if (!image) {
        control_request_error(request, "district %s: %s", c->district, error->message);
        return;
    }
    life_start_from(c, request, image, want->reset_crossing, want->incarnation, since_ns);
}

void
life_start_file(Coordinator *c, ControlRequest *request)
{
    const District__CkptStartFileRequest *want = request->message->start_file;
    int64_t since_ns = clock_monotonic_ns();
    g_autoptr(GError) error = NULL;

    if (life_refuse_restore(c, request))
        return;
    if (request->n_fds != 1) {
        control_request_error(request, "district %s: pass one descriptor, open for reading",
                              c->district);
        return;
    }
    Image *image = image_load_file(request->fds[0], want->path, &error);
    if (!image) {
        control_request_error(request, "district %s: %s", c->district, error->message);
        return;
    }
    life_start_from(c, request, image, true, want->incarnation, since_ns);
}

void
life_adopt(Coordinator *c)
{
    bool any = false;

    for (uint32_t i = 0; i < c->n_members; i++)
        any = any || c->members[i]->run_state == DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING;
    if (!any)
        return;
    g_message("members run already: going on");
    coordinator_move(c, RUN_RUNNING);
    /* Output that our predecessor had held stays held until there is protection again, or none. */
    c->protect.net_told = NET_TOLD_UNKNOWN;
    c->protect.lost_ns = clock_monotonic_ns();
    members_resume(c);
}

/* ---- Hand-over ---- */

void
life_hand_over(Coordinator *c, ControlRequest *request)
{
    if (c->run == RUN_THROTTLED && members_resume(c))
        coordinator_move(c, RUN_RUNNING);
    if (c->run != RUN_RUNNING || c->protect.state != PROTECT_PROTECTED) {
        control_request_error(request,
                              "district %s: cannot hand over: it is %s and its protection is %s; "
                              "wait until it is protected",
                              c->district, run_state_name(c->run),
                              protect_state_name(c->protect.state));
        return;
    }
    coordinator_move(c, RUN_HANDING_OVER);
    c->hand_over =
        (HandOver){.request = request, .deadline_ns = clock_monotonic_ns() + HAND_OVER_TIMEOUT_NS};
}

void
life_hand_over_refuse(Coordinator *c, const char *why)
{
    ControlRequest *request = g_steal_pointer(&c->hand_over.request);

    c->hand_over.number = 0;
    if (request)
        control_request_error(request, "district %s: not handed over: %s", c->district, why);
}

void
life_hand_over_fail(Coordinator *c, const char *why)
{
    if (c->run != RUN_HANDING_OVER)
        return;
    coordinator_move(c, RUN_RUNNING);
    members_resume(c);
    life_hand_over_refuse(c, why);
}

void
life_hand_over_tick(Coordinator *c, int64_t now)
{
    if (c->run != RUN_HANDING_OVER)
        return;
    if (now >= c->hand_over.deadline_ns) {
        life_hand_over_fail(c, "the standby did not acknowledge the last epoch in time");
        return;
    }
    if (c->hand_over.number != 0 || !cut_possible(c))
        return;
    if (!cut_make(c, true)) {
        life_hand_over_fail(c, "the last cut could not be made");
        return;
    }
    c->hand_over.number = c->stream_base;
    c->hand_over.stopped_ns = c->last_cut_ns;
}

void
life_hand_over_acked(Coordinator *c, uint64_t number)
{
    District__CkptHandOverReply done = DISTRICT__CKPT_HAND_OVER_REPLY__INIT;
    District__CkptReply reply = DISTRICT__CKPT_REPLY__INIT;

    if (c->run != RUN_HANDING_OVER || c->hand_over.number == 0 || number < c->hand_over.number)
        return;
    done.epoch = number;
    done.paused_ns = (uint64_t)(clock_monotonic_ns() - c->hand_over.stopped_ns);
    reply.hand_over = &done;
    coordinator_move(c, RUN_HANDED_OVER);
    members_hold(c);
    control_request_reply(g_steal_pointer(&c->hand_over.request), &reply);
    checkpoint_fail(c, "the district was handed over");
    protect_unprotect(c);
    g_message("handed over with epoch %" G_GUINT64_FORMAT, number);
}

/* ---- An orderly end ---- */

void
life_power_button(Coordinator *c, ControlRequest *request)
{
    District__CkptReply reply = DISTRICT__CKPT_REPLY__INIT;
    char **names = g_newa0(char *, c->n_members);

    if (c->run != RUN_RUNNING && c->run != RUN_THROTTLED) {
        control_request_error(request, "district %s: it is %s: no guest runs", c->district,
                              run_state_name(c->run));
        return;
    }
    reply.members_heard = names;
    reply.n_members_heard = members_power_button(c, names);
    if (c->run == RUN_FAILED)
        control_request_error(request, "district %s: %s", c->district, c->run_error);
    else
        control_request_reply(request, &reply);
}

void
life_take_back(Coordinator *c, ControlRequest *request)
{
    if (c->run != RUN_HANDED_OVER) {
        control_request_error(request, "district %s: nothing to take back: it is %s", c->district,
                              run_state_name(c->run));
        return;
    }
    if (request->message->take_back->incarnation <= c->incarnation) {
        control_request_error(request,
                              "district %s: it was handed over as incarnation %" G_GUINT64_FORMAT
                              ": take it back under a newer one",
                              c->district, c->incarnation);
        return;
    }
    c->incarnation = request->message->take_back->incarnation;
    life_run(c, request);
}
