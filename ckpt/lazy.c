/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lazy restores: members run while a loader fills in their RAM, and the overlays of their disks
 * (loader.h). Until it is done, pages are read here only if the guest has written them, which has
 * brought them in; so nothing that reads all of RAM, or of overlays, begins (lazy_under_way).
 */
#include "ckpt/coordinator-internal.h"

#include "ckpt/loader.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

/* How often it is looked whether a reply is still to be expected. */
#define REPLY_POLL_MS 50

bool
lazy_possible(const Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (member_is_on(c->members[i]) && !c->members[i]->can_lazy)
            return false;
    }
    return true;
}

StoreLazy
lazy_disks(const Coordinator *c)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (member_is_on(c->members[i]) && !c->members[i]->can_lazy_disks)
            return STORE_LAZY_RAM;
    }
    return STORE_LAZY_DISKS;
}

bool
lazy_under_way(const Coordinator *c)
{
    return c->loader != NULL;
}

const char *
lazy_failure(const Coordinator *c)
{
    return c->loader ? loader_failure(c->loader) : NULL;
}

gboolean
lazy_wait_reply(Coordinator *c, const Member *member, GError **error)
{
    struct pollfd poll_member = {.fd = member->fd, .events = POLLIN};

    while (!lazy_failure(c) && poll(&poll_member, 1, REPLY_POLL_MS) == 0 &&
           clock_monotonic_ns() - member->sent_ns < MEMBER_RESTORE_TIMEOUT_MS * NS_PER_MS)
        ;
    if (!lazy_failure(c))
        return TRUE;
    g_set_error_literal(error, MEMBER_ERROR, MEMBER_ERROR_LOST, lazy_failure(c));
    return FALSE;
}

/* ---- Disks ---- */

/* The first disk of member k of an image among all of its disks. */
static uint32_t
first_disk(const District__CutState *cut, uint32_t k)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < k; i++)
        at += (uint32_t)cut->members[i]->n_disks;
    return at;
}

/* What is shared is opened once more, and data_fd duplicated: they are the loader's. */
static gboolean
lazy_add_disk(GArray *disks, const LoaderDisk *like, const LazyDisk *shared, GError **error)
{
    LoaderDisk disk = *like;

    disk.shared = lazydisk_open(lazydisk_fds(shared), error);
    if (!disk.shared)
        return FALSE;
    disk.data_fd = fcntl(like->data_fd, F_DUPFD_CLOEXEC, 3);
    g_array_append_val(disks, disk);
    if (disk.data_fd >= 0)
        return TRUE;
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED, "member %s: an overlay: %s", disk.name,
                g_strerror(errno));
    return FALSE;
}

static void
lazy_disk_clear(gpointer data)
{
    LoaderDisk *disk = data;

    lazydisk_free(disk->shared);
    if (disk->data_fd >= 0)
        close(disk->data_fd);
}

static GArray *
lazy_disks_new(void)
{
    GArray *disks = g_array_new(FALSE, FALSE, sizeof(LoaderDisk));

    g_array_set_clear_func(disks, lazy_disk_clear);
    return disks;
}

/* Those that member, which has index k in image, is given without their data. */
static gboolean
lazy_image_disks(const Member *member, const Image *image, uint32_t k, GArray *disks,
                 GError **error)
{
    uint32_t first = first_disk(image->cut, k);

    for (uint32_t i = first; image->disks && i < first + image->cut->members[k]->n_disks; i++) {
        const ImageDisk *from = &image->disks[i];
        LoaderDisk disk = {.name = member->name,
                           .disk = STORERAM_DISK(i),
                           .bytes = image->cut->members[k]->disks[i - first]->size,
                           .data_fd = from->data_fd};
        if (from->lazy && !lazy_add_disk(disks, &disk, from->lazy, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- The loader ---- */

/* A loader for the members that have a userfaultfd; their index in ram is index_of. Takes ram and what
 * is in disks. */
static void
lazy_start_loader(Coordinator *c, StoreRam *ram, const uint32_t *index_of, GArray *disks)
{
    LoaderTarget *targets = g_newa0(LoaderTarget, c->n_members);
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n_members; i++) {
        Member *m = c->members[i];
        if (m->lazy_fd < 0)
            continue;
        targets[n++] = (LoaderTarget){
            .name = m->name, .uffd = m->lazy_fd, .address = m->lazy_address, .member = index_of[i]};
        m->lazy_fd = -1;
    }
    c->loader = loader_new(ram, targets, n, (const LoaderDisk *)(const void *)disks->data,
                           disks->len, c->load_rate, c->inbox);
    g_array_set_clear_func(disks, NULL);
}

gboolean
lazy_begin(Coordinator *c, StoreRam *ram, const Image *image, const uint32_t *index_of,
           GError **error)
{
    g_autoptr(StoreRam) owned = ram;
    g_autoptr(GArray) disks = lazy_disks_new();
    bool *asked = g_newa0(bool, c->n_members);
    GError *first = NULL;

    for (uint32_t i = 0; i < c->n_members && !first; i++) {
        Member *m = c->members[i];
        uint32_t k = life_index(image->cut, m->name);

        if (k != IMAGE_WITHOUT && lazy_image_disks(m, image, k, disks, &first) &&
            index_of[i] != IMAGE_WITHOUT)
            asked[i] = member_send_lazy(m, image->ram_fds[k], &first);
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i])
            member_collect_lazy(c->members[i], first ? NULL : &first);
    }
    if (first) {
        g_propagate_error(error, first);
        return FALSE;
    }
    lazy_start_loader(c, g_steal_pointer(&owned), index_of, disks);
    return TRUE;
}

/* ---- After another district-ckpt ---- */

CkptStore *
lazy_clone_store(Coordinator *c, GError **error)
{
    if (!c->clone_reader)
        c->clone_reader = ckpt_store_open(c->clone_store, c->clone_of, CKPT_STORE_READ, error);
    return c->clone_reader;
}

/* A clone makes no checkpoints: what is not there yet is as in the one that it runs. */
static gboolean
lazy_load_clone(Coordinator *c, StoreRam **ram, District__CutState **cut, uint32_t *index_of,
                GError **error)
{
    CkptStore *store = lazy_clone_store(c, error);
    g_autoptr(Image) image = NULL;

    if (store && c->clone_id == 0)
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                    "their memory is only in part there: start district-ckpt with the --clone-id "
                    "that they run");
    if (!store || c->clone_id == 0)
        return FALSE;
    image = ckpt_store_load_lazy(store, c->clone_id, NULL, STORE_LAZY_ADOPT, ram, error);
    if (!image || !life_match(c, image->cut, index_of, error))
        return FALSE;
    *cut = g_steal_pointer(&image->cut);
    return TRUE;
}

/* What is not there yet is as in the newest checkpoint: had it been changed since the one that they
 * were restored from, it would be there. */
static gboolean
lazy_load_head(Coordinator *c, StoreRam **ram, District__CutState **cut, uint32_t *index_of,
               GError **error)
{
    CkptStore *store = c->persist ? durable_store(c->persist->durable) : NULL;
    g_autoptr(Image) image = NULL;
    uint64_t head = 0;

    if (!store) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                    "their memory is only in part there, and there is no store to read it from: "
                    "start district-ckpt with the --store it had");
        return FALSE;
    }
    if (!ckpt_store_head(store, &head, error))
        return FALSE;
    image = ckpt_store_load_lazy(store, head, NULL, STORE_LAZY_ADOPT, ram, error);
    if (!image || !life_match(c, image->cut, index_of, error))
        return FALSE;
    *cut = g_steal_pointer(&image->cut);
    return TRUE;
}

/* Overlays of member, which has index k in cut, that are not whole. */
static gboolean
lazy_adopt_disks(Member *member, const District__CutState *cut, uint32_t k, StoreRam *ram,
                 GArray *disks, GError **error)
{
    const District__CutMember *saved = cut->members[k];

    for (unsigned i = 0, number = 0; i < member->n_disks; i++) {
        MemberDisk *md = &member->disks[i];
        uint32_t id = STORERAM_DISK(first_disk(cut, k) + number);
        LoaderDisk disk = {.name = member->name,
                           .disk = id,
                           .bytes = md->size,
                           .data_fd = md->data_fd,
                           .home = md->home};

        number += md->overlay;
        if (!md->lazy)
            continue;
        if (number > saved->n_disks || saved->disks[number - 1]->size != md->size) {
            g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                        "member %s: disk %u is only in part there, and is another one in the "
                        "newest checkpoint",
                        member->name, i);
            return FALSE;
        }
        if (!storeram_adopt_disk(ram, id, md->lazy, error) ||
            !lazy_add_disk(disks, &disk, md->lazy, error))
            return FALSE;
        g_clear_pointer(&md->lazy, lazydisk_free);
    }
    return TRUE;
}

/* Are its RAM or disks only in part there? */
static bool
lazy_is_partial(const Member *member)
{
    bool partial = member->lazy_fd >= 0;

    for (unsigned i = 0; i < member->n_disks; i++)
        partial = partial || member->disks[i].lazy != NULL;
    return partial;
}

static gboolean
lazy_adopt_members(Coordinator *c, StoreRam *ram, const District__CutState *cut,
                   const uint32_t *index_of, GArray *disks, GError **error)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        Member *m = c->members[i];

        if (!lazy_is_partial(m))
            continue;
        if (index_of[i] == IMAGE_WITHOUT) {
            g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                        "member %s: it is only in part there, and the newest checkpoint does not "
                        "have it",
                        m->name);
            return FALSE;
        }
        if (m->lazy_fd >= 0)
            loader_skip_present(ram, index_of[i], m->ram_fd);
        if (!lazy_adopt_disks(m, cut, index_of[i], ram, disks, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
lazy_adopt(Coordinator *c, GError **error)
{
    g_autofree uint32_t *index_of = g_new0(uint32_t, c->n_members);
    g_autoptr(GArray) disks = lazy_disks_new();
    g_autoptr(StoreRam) ram = NULL;
    District__CutState *cut = NULL;
    bool any = false, good;

    for (uint32_t i = 0; i < c->n_members; i++)
        any = any || lazy_is_partial(c->members[i]);
    if (!any)
        return TRUE;
    good = (c->clone_of ? lazy_load_clone(c, &ram, &cut, index_of, error)
                        : lazy_load_head(c, &ram, &cut, index_of, error)) &&
           lazy_adopt_members(c, ram, cut, index_of, disks, error);
    if (cut)
        district__cut_state__free_unpacked(cut, NULL);
    if (!good)
        return FALSE;
    g_message("going on reading memory from the store");
    lazy_start_loader(c, g_steal_pointer(&ram), index_of, disks);
    return TRUE;
}

void
lazy_loaded(Coordinator *c)
{
    bool *asked = g_newa0(bool, c->n_members);
    GError **errors = g_newa0(GError *, c->n_members);

    if (!c->loader)
        return;
    for (uint32_t i = 0; i < c->n_members; i++)
        asked[i] = member_is_on(c->members[i]) && c->members[i]->can_lazy &&
                   member_send_lazy_done(c->members[i], &errors[i]);
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i])
            member_collect_lazy_done(c->members[i], &errors[i]);
    }
    g_clear_pointer(&c->loader, loader_free);
    g_clear_pointer(&c->clone_reader, ckpt_store_close);
    members_settle(c, errors);
}

void
lazy_failed(Coordinator *c, const char *why)
{
    /* Guests may wait for pages that will not come, and cannot be paused: there is no way on. */
    members_fail_district(c, why);
    members_quit(c);
}
