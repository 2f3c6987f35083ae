/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lazy restores: members run while a loader fills in their RAM (loader.h). Until it is done, pages
 * are read here only if the guest has written them, which has brought them in; so nothing that
 * reads all of RAM begins (lazy_under_way).
 */
#include "ckpt/coordinator-internal.h"

#include "ckpt/loader.h"

#include <poll.h>

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

/* A loader for the members that have a userfaultfd; their index in ram is index_of. Takes ram. */
static void
lazy_start_loader(Coordinator *c, StoreRam *ram, const uint32_t *index_of)
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
    c->loader = loader_new(ram, targets, n, c->load_rate, c->inbox);
}

gboolean
lazy_begin(Coordinator *c, StoreRam *ram, const Image *image, const uint32_t *index_of,
           GError **error)
{
    g_autoptr(StoreRam) owned = ram;
    bool *asked = g_newa0(bool, c->n_members);
    GError *first = NULL;

    for (uint32_t i = 0; i < c->n_members && !first; i++) {
        if (index_of[i] != IMAGE_WITHOUT)
            asked[i] = member_send_lazy(c->members[i], image->ram_fds[index_of[i]], &first);
    }
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (asked[i])
            member_collect_lazy(c->members[i], first ? NULL : &first);
    }
    if (first) {
        g_propagate_error(error, first);
        return FALSE;
    }
    lazy_start_loader(c, g_steal_pointer(&owned), index_of);
    return TRUE;
}

CkptStore *
lazy_clone_store(Coordinator *c, GError **error)
{
    if (!c->clone_reader)
        c->clone_reader = ckpt_store_open(c->clone_store, c->clone_of, CKPT_STORE_READ, error);
    return c->clone_reader;
}

/* A clone makes no checkpoints: what is not there yet is as in the one that it runs. */
static gboolean
lazy_load_clone(Coordinator *c, StoreRam **ram, uint32_t *index_of, GError **error)
{
    CkptStore *store = lazy_clone_store(c, error);
    g_autoptr(Image) image = NULL;

    if (store && c->clone_id == 0)
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                    "their memory is only in part there: start district-ckpt with the --clone-id "
                    "that they run");
    if (!store || c->clone_id == 0)
        return FALSE;
    image = ckpt_store_load_lazy(store, c->clone_id, c->clone_overlays, ram, error);
    return image && life_match(c, image->cut, index_of, error);
}

/* What is not there yet is as in the newest checkpoint: had it been changed since the one that they
 * were restored from, it would be there. */
static gboolean
lazy_load_head(Coordinator *c, StoreRam **ram, uint32_t *index_of, GError **error)
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
    image = ckpt_store_load_lazy(store, head, c->persist->dir, ram, error);
    return image && life_match(c, image->cut, index_of, error);
}

gboolean
lazy_adopt(Coordinator *c, GError **error)
{
    g_autofree uint32_t *index_of = g_new0(uint32_t, c->n_members);
    g_autoptr(StoreRam) ram = NULL;
    bool any = false;

    for (uint32_t i = 0; i < c->n_members; i++)
        any = any || c->members[i]->lazy_fd >= 0;
    if (!any)
        return TRUE;
    if (c->clone_of ? !lazy_load_clone(c, &ram, index_of, error)
                    : !lazy_load_head(c, &ram, index_of, error))
        return FALSE;
    for (uint32_t i = 0; i < c->n_members; i++) {
        const Member *m = c->members[i];
        if (m->lazy_fd < 0)
            continue;
        if (index_of[i] == IMAGE_WITHOUT) {
            g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                        "member %s: its memory is only in part there, and the newest checkpoint "
                        "does not have it",
                        m->name);
            return FALSE;
        }
        loader_skip_present(ram, index_of[i], m->ram_fd);
    }
    g_message("going on reading memory from the store");
    lazy_start_loader(c, g_steal_pointer(&ram), index_of);
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
