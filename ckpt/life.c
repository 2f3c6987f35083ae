/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Life and death of a district here: start, restore, hand-over, take back. */
#include "ckpt/coordinator-internal.h"

#include "ckpt/member-hello.h"

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

/* ---- Disks of freshly booted members ---- */

uint32_t
life_index(const District__CutState *cut, const char *name)
{
    for (uint32_t k = 0; k < cut->n_members; k++) {
        if (strcmp(cut->members[k]->name, name) == 0)
            return k;
    }
    return IMAGE_WITHOUT;
}

/* The disks of member k of image, those with an overlay; n of them. */
static void
life_image_disks(const Image *image, uint32_t k, MemberImage *out)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < k; i++)
        at += (uint32_t)image->cut->members[i]->n_disks;
    out->n_disks = image->disks ? (unsigned)image->cut->members[k]->n_disks : 0;
    for (unsigned i = 0; i < out->n_disks; i++) {
        const ImageDisk *disk = &image->disks[at + i];
        out->disks[i] = (MemberRestoreDisk){.data_fd = disk->data_fd,
                                            .index_fd = disk->index_fd,
                                            .entries = disk->entries,
                                            .lazy = disk->lazy};
    }
}

static gboolean
life_disks_fit(const Member *m, const District__CutMember *saved, GError **error)
{
    size_t k = 0;

    for (unsigned i = 0; i < m->n_disks; i++) {
        if (!m->disks[i].overlay)
            continue;
        if (k < saved->n_disks && saved->disks[k]->size == m->disks[i].size) {
            k++;
            continue;
        }
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                    "member %s: disk %u has %" G_GUINT64_FORMAT
                    " bytes, which is not what was saved; use the definition and the images it "
                    "was saved with",
                    m->name, i, m->disks[i].size);
        return FALSE;
    }
    if (k == saved->n_disks)
        return TRUE;
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                "member %s: %zu disks were saved, it has %zu; use the definition it was saved with",
                m->name, saved->n_disks, k);
    return FALSE;
}

/* Give each member, which is paused and has not run yet, the disks that image has. */
static gboolean
life_load_disks(Coordinator *c, const Image *image, GError **error)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        Member *m = c->members[i];
        MemberImage load = {.ram_fd = -1};
        uint32_t k = life_index(image->cut, m->name);

        if (k == IMAGE_WITHOUT)
            continue;
        if (!life_disks_fit(m, image->cut->members[k], error))
            return FALSE;
        life_image_disks(image, k, &load);
        if (load.n_disks > 0 &&
            (!member_send_restore(m, &load, error) || !member_collect_restore(m, error)))
            return FALSE;
    }
    return TRUE;
}

/* The head of the store and its epoch; 0 for an empty one. */
static gboolean
life_store_head(Coordinator *c, uint64_t *head, uint64_t *epoch, GError **error)
{
    CkptStore *store = durable_store(c->persist->durable);

    *head = *epoch = 0;
    if (!ckpt_store_head(store, head, error))
        return FALSE;
    g_autoptr(GPtrArray) list = *head != 0 ? ckpt_store_list(store, error) : NULL;
    if (*head != 0 && !list)
        return FALSE;
    for (guint i = 0; list && i < list->len; i++) {
        const CkptStoreEntry *entry = list->pdata[i];
        if (entry->id == *head)
            *epoch = entry->epoch;
    }
    return TRUE;
}

static bool
life_has_overlays(const Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (member_overlays(c->members[i]) > 0)
            return true;
    }
    return false;
}

/* A boot goes on with the disks where the last durable checkpoint has them. */
static gboolean
life_boot_store(Coordinator *c, GError **error)
{
    uint64_t head, epoch;

    disks_begin(c);
    if (!c->persist)
        return TRUE;
    if (!life_store_head(c, &head, &epoch, error))
        return FALSE;
    if (head != 0 && life_has_overlays(c)) {
        g_autoptr(Image) image =
            ckpt_store_load(durable_store(c->persist->durable), head, c->persist->dir, error);
        if (!image || !life_load_disks(c, image, error))
            return FALSE;
    }
    return persist_begin(c, head, epoch, PERSIST_BOOTED, error);
}

/* Is its guest off, and was it so before we began? */
static bool
life_was_off(const Member *m)
{
    return !member_is_on(m) && m->run_state == DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN;
}

/* Members that were off before we began have disks still: in a checkpoint without these their blocks,
 * as far as their homes do not have them, would be lost. */
static gboolean
life_adopt_off(Coordinator *c, uint64_t head, GError **error)
{
    District__CutState *cut = NULL;
    gboolean good = TRUE;

    for (uint32_t i = 0; i < c->n_members && good && head != 0; i++) {
        if (!life_was_off(c->members[i]))
            continue;
        if (!cut)
            cut = ckpt_store_state(durable_store(c->persist->durable), head, error);
        uint32_t k = cut ? life_index(cut, c->members[i]->name) : IMAGE_WITHOUT;
        good = cut && (k == IMAGE_WITHOUT || cut->members[k]->n_disks == 0 ||
                       member_adopt_off(c->members[i], cut->members[k], error));
    }
    if (cut)
        district__cut_state__free_unpacked(cut, NULL);
    return good;
}

/* Members that have run, under another district-ckpt, go on with their disks as they have them. */
static gboolean
life_adopt_store(Coordinator *c, GError **error)
{
    uint64_t head = 0, epoch = 0;

    gboolean known =
        !c->persist || (life_store_head(c, &head, &epoch, error) && life_adopt_off(c, head, error));

    disks_begin(c);
    return known && (!c->persist || persist_begin(c, head, epoch, PERSIST_ADOPTED, error));
}

/* A disk that has been cut is one of a member that has run. */
static bool
life_has_run(const Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        for (unsigned k = 0; k < c->members[i]->n_disks; k++) {
            if (c->members[i]->disks[k].cut > 0)
                return true;
        }
    }
    return false;
}

/* Paused members need not be freshly booted: a district-ckpt before this one may have handed them
 * over, or restored them in part, and have been killed. */
static gboolean
life_prepare_disks(Coordinator *c, GError **error)
{
    if (!lazy_adopt(c, error))
        return FALSE;
    return lazy_under_way(c) || life_has_run(c) ? life_adopt_store(c, error)
                                                : life_boot_store(c, error);
}

void
life_start(Coordinator *c, ControlRequest *request)
{
    uint64_t incarnation = request->message->start->incarnation;
    g_autoptr(GError) error = NULL;

    if (c->run != RUN_WAITING ||
        !life_members_are(c, DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED)) {
        control_request_error(request,
                              "district %s: cannot start: it is %s, or a member is not paused; "
                              "restart its members",
                              c->district, run_state_name(c->run));
        return;
    }
    if (incarnation == 0) {
        control_request_error(request, "district %s: incarnations are numbered from 1",
                              c->district);
        return;
    }
    if (!life_prepare_disks(c, &error)) {
        control_request_error(request, "district %s: %s", c->district, error->message);
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

gboolean
life_match(Coordinator *c, const District__CutState *cut, uint32_t *index_of, GError **error)
{
    uint32_t found = 0;

    if (strcmp(cut->district, c->clone_of ? c->clone_of : c->district) != 0) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED, "the image is of district '%s'",
                    cut->district);
        return FALSE;
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        uint32_t k = life_index(cut, c->members[i]->name);
        index_of[i] = k;
        if (k == IMAGE_WITHOUT)
            continue;
        found++;
        /* Only its disks are there. */
        if (cut->members[k]->state.len == 0)
            index_of[i] = IMAGE_WITHOUT;
        else if (!life_layout_fits(c->members[i], cut->members[k], error))
            return FALSE;
    }
    if (found == cut->n_members)
        return TRUE;
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                "the image has %zu members, of which the district knows %u: use the definition it "
                "was saved with",
                cut->n_members, found);
    return FALSE;
}

/* What a life goes on from. */
typedef struct LifeImage {
    const Image *image;
    StoreRam *ram;        /* where its RAM is; NULL: in the image */
    uint64_t incarnation; /* of the life */
    uint64_t store_id;    /* the checkpoint in our store that it was loaded from, 0: elsewhere */
    bool reset_crossing;
    bool journal_current; /* a hand-over: no guest has gone on from it before */
} LifeImage;

static gboolean
life_restore_send(Member *m, const LifeImage *from, uint32_t k, bool lazy, GError **error)
{
    const Image *image = from->image;
    const District__CutMember *saved = image->cut->members[k];
    MemberImage restore = {.ram_fd = image->ram_fds[k],
                           .lazy = lazy,
                           .state = saved->state.data,
                           .state_len = saved->state.len,
                           .ram_known = from->store_id != 0 || lazy,
                           .journal_current = from->journal_current};

    life_image_disks(image, k, &restore);
    if (getrandom(restore.vmgenid, MEMBER_VMGENID_BYTES, 0) != MEMBER_VMGENID_BYTES) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED, "getrandom: %s", g_strerror(errno));
        return FALSE;
    }
    return member_send_restore(m, &restore, error);
}

/* RESTORE on all members, in parallel. The first error is reported, all replies are collected. */
static gboolean
life_restore_members(Coordinator *c, const LifeImage *from, const uint32_t *index_of,
                     GError **error)
{
    bool *asked = g_newa0(bool, c->n_members);
    GError *first = NULL;

    for (uint32_t i = 0; i < c->n_members && !first; i++) {
        if (index_of[i] != IMAGE_WITHOUT)
            asked[i] =
                life_restore_send(c->members[i], from, index_of[i], lazy_under_way(c), &first);
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (!asked[i])
            continue;
        if (lazy_wait_reply(c, c->members[i], first ? NULL : &first))
            member_collect_restore(c->members[i], first ? NULL : &first);
        else
            member_disconnect(c->members[i]);
    }
    if (first)
        g_propagate_error(error, first);
    return first == NULL;
}

/* What image has of the disks of a member that stays off is for the standby: no engine has it. */
static gboolean
life_keep_disks(Member *m, const Image *image, GError **error)
{
    MemberImage load = {.ram_fd = -1};
    uint32_t k = life_index(image->cut, m->name);

    if (k == IMAGE_WITHOUT)
        return TRUE;
    life_image_disks(image, k, &load);
    return load.n_disks == 0 || (life_disks_fit(m, image->cut->members[k], error) &&
                                 member_disks_replace(m, &load, error));
}

/*
 * Load image into all that takes part, then mark it as spent. From there on the engines hold the
 * only copy of the district, so what takes time comes before, and what is left is to resume.
 */
static gboolean
life_load(Coordinator *c, const LifeImage *from, const uint32_t *index_of, GError **error)
{
    const Image *image = from->image;
    g_autofree bool *off = g_new0(bool, c->n_members);

    if (!life_restore_members(c, from, index_of, error) ||
        !netctl_restore(c->net, image->cut->net.data, image->cut->net.len, from->reset_crossing,
                        from->incarnation, error))
        return FALSE;
    for (uint32_t i = 0; i < c->n_members; i++) {
        off[i] = index_of[i] == IMAGE_WITHOUT;
        if (off[i] && !life_keep_disks(c->members[i], image, error))
            return FALSE;
    }
    members_leave_off(c, off);
    return image_mark_spent(image, error);
}

/* From another host or a file, what is in our store is another line of history: the next checkpoint
 * has all of RAM. */
static gboolean
life_begin_store(Coordinator *c, const Image *image, uint64_t store_id, GError **error)
{
    uint64_t head, epoch;

    if (!c->persist)
        return TRUE;
    if (store_id != 0)
        return persist_begin(c, store_id, image->cut->epoch, PERSIST_FROM, error);
    return life_store_head(c, &head, &epoch, error) &&
           persist_begin(c, head, epoch, PERSIST_BOOTED, error);
}

static gboolean
life_restore(Coordinator *c, LifeImage *from, GError **error)
{
    const Image *image = from->image;
    g_autoptr(StoreRam) ram = g_steal_pointer(&from->ram);
    g_autofree uint32_t *index_of = g_new0(uint32_t, c->n_members);

    if (from->incarnation <= image->cut->incarnation) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                    "the image is of incarnation %" G_GUINT64_FORMAT
                    ": it goes on under a newer one only",
                    image->cut->incarnation);
        return FALSE;
    }
    if (!life_match(c, image->cut, index_of, error))
        return FALSE;
    if ((ram && !lazy_begin(c, g_steal_pointer(&ram), image, index_of, error)) ||
        !life_load(c, from, index_of, error)) {
        /* Some may have loaded it, others not: nothing may run from here. */
        members_fail_district(c, "the image could not be loaded into all members");
        return FALSE;
    }
    c->incarnation = from->incarnation;
    numbers_skip_to(c, MAX(image->cut->epoch, image->cut->cut));
    disks_begin(c);
    return life_begin_store(c, image, from->store_id, error);
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

/* Takes from->ram. */
static void
life_start_from(Coordinator *c, ControlRequest *request, LifeImage *from, int64_t since_ns)
{
    g_autoptr(GError) error = NULL;
    uint64_t epoch = from->image->cut->epoch;

    if (!life_restore(c, from, &error)) {
        control_request_error(request, "district %s: %s", c->district, error->message);
        return;
    }
    life_run(c, request);
    g_message("running from epoch %" G_GUINT64_FORMAT " as incarnation %" G_GUINT64_FORMAT
              " after %.3f ms",
              epoch, from->incarnation, (double)(clock_monotonic_ns() - since_ns) / NS_PER_MS);
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
    g_autoptr(Image) image =
        image_from_fds(request->fds[0], want->state_len, request->fds + 1, n - 1, &error);
    if (!image) {
        control_request_error(request, "district %s: %s", c->district, error->message);
        return;
    }
    LifeImage from = {.image = image,
                      .incarnation = want->incarnation,
                      .reset_crossing = want->reset_crossing,
                      .journal_current = want->journal_current};
    life_start_from(c, request, &from, since_ns);
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
    g_autoptr(Image) image = image_load_file(request->fds[0], want->path, &error);
    if (!image) {
        control_request_error(request, "district %s: %s", c->district, error->message);
        return;
    }
    LifeImage from = {.image = image, .incarnation = want->incarnation, .reset_crossing = true};
    life_start_from(c, request, &from, since_ns);
}

/* What was on from the checkpoint is left behind before anything runs. *ram: where its RAM is, if
 * the members can run before it is there. */
static Image *
life_load_store(Coordinator *c, const char *from, uint64_t *id, StoreRam **ram, GError **error)
{
    CkptStore *store = durable_store(c->persist->durable);
    g_autoptr(StoreRam) source = NULL;
    g_autoptr(Image) image = NULL;

    if (!ckpt_store_find(store, from, id, error))
        return NULL;
    image = lazy_possible(c)
                ? ckpt_store_load_lazy(store, *id, c->persist->dir, lazy_disks(c), &source, error)
                : ckpt_store_load(store, *id, c->persist->dir, error);
    if (!image || !ckpt_store_set_head(store, *id, error))
        return NULL;
    *ram = g_steal_pointer(&source);
    return g_steal_pointer(&image);
}

/* Of the store that the clone is of. Somebody else may write to it, and fold the files, but the
 * checkpoint is pinned. */
static Image *
life_load_clone(Coordinator *c, const char *from, StoreRam **ram, GError **error)
{
    CkptStore *store = lazy_clone_store(c, error);
    uint64_t id;

    if (!store || !ckpt_store_find(store, from, &id, error))
        return NULL;
    return lazy_possible(c)
               ? ckpt_store_load_lazy(store, id, c->clone_overlays, lazy_disks(c), ram, error)
               : ckpt_store_load(store, id, c->clone_overlays, error);
}

void
life_start_store(Coordinator *c, ControlRequest *request)
{
    const District__CkptStartStoreRequest *want = request->message->start_store;
    int64_t since_ns = clock_monotonic_ns();
    g_autoptr(GError) error = NULL;
    StoreRam *ram = NULL;
    uint64_t id = 0;

    if (life_refuse_restore(c, request))
        return;
    if (!c->persist && !c->clone_of) {
        control_request_error(request, "district %s: it has no store", c->district);
        return;
    }
    g_autoptr(Image) image = c->clone_of ? life_load_clone(c, want->from, &ram, &error)
                                         : life_load_store(c, want->from, &id, &ram, &error);
    if (!image) {
        control_request_error(request, "district %s: %s", c->district, error->message);
        return;
    }
    LifeImage from = {.image = image,
                      .ram = ram,
                      .incarnation = want->incarnation,
                      .store_id = id,
                      .reset_crossing = true};
    life_start_from(c, request, &from, since_ns);
}

void
life_adopt(Coordinator *c)
{
    g_autoptr(GError) error = NULL;
    bool any = false;

    for (uint32_t i = 0; i < c->n_members; i++)
        any = any || c->members[i]->run_state == DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING;
    if (!any)
        return;
    g_message("members run already: going on");
    if (!lazy_adopt(c, &error)) {
        lazy_failed(c, error->message);
        return;
    }
    if (!life_adopt_store(c, &error))
        g_warning("no durable checkpoints: %s", error->message);
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
