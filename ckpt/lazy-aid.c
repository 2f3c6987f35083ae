/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages for engines that wait for them before HELLO. They are read from the newest checkpoint, as in
 * lazy.c: a page that is still missing has not changed since any of them. What is put in place here,
 * lazy_adopt finds there.
 */
#include "ckpt/lazy-aid.h"

#include "ckpt/layout.h"
#include "ckpt/loader.h"
#include "common/pbmsg.h"
#include "member.pb-c.h"

#include <string.h>
#include <unistd.h>

/* The engine's socket for this: the name of the member's, and this. */
#define SOCKET_SUFFIX ".lazy"
#define ASK_TIMEOUT_MS 1000
/* Bytes per second that nobody waits for: these are for the loader that comes next. */
#define LOAD_RATE 1
/* The loader has so long to end: it may wait for a disk that hangs. */
#define END_LIMIT_MS 10000

struct LazyAid {
    Inbox *inbox; /* nobody reads it */
    CkptStore *store;
    Loader *loader;
    LoaderTarget targets[MEMBERS_MAX];
    uint32_t n;
};

/* What comes with the reply is checked by its use, as after HELLO: loader.c. */
static void
aid_ask(LazyAid *aid, const char *name, const char *member_path)
{
    g_autofree char *path = g_strconcat(member_path, SOCKET_SUFFIX, NULL);
    g_autoptr(GError) error = NULL;
    District__MemberLazyReply *reply;
    int uffd = -1, fd = fdmsg_connect(path, 0, NULL);
    guint n_fds = 1;

    /* As a rule its RAM is all there. */
    if (fd < 0)
        return;
    reply = (District__MemberLazyReply *)pbmsg_recv(fd, &district__member_lazy_reply__descriptor,
                                                    &uffd, &n_fds, ASK_TIMEOUT_MS, &error);
    close(fd);
    if (reply && n_fds == 1)
        aid->targets[aid->n++] =
            (LoaderTarget){.name = name, .uffd = uffd, .address = reply->ram_address};
    else
        g_warning("member %s: its memory is only in part there, and it does not pass it: %s", name,
                  error ? error->message : "no descriptor came");
    if (reply)
        district__member_lazy_reply__free_unpacked(reply, NULL);
}

/* Number the targets as cut does. */
static gboolean
aid_match(LazyAid *aid, const District__CutState *cut, GError **error)
{
    for (uint32_t i = 0; i < aid->n; i++) {
        LoaderTarget *target = &aid->targets[i];

        while (target->member < cut->n_members &&
               strcmp(cut->members[target->member]->name, target->name) != 0)
            target->member++;
        if (target->member < cut->n_members && cut->members[target->member]->state.len > 0)
            continue;
        g_set_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_NOT_FOUND,
                    "member %s: the checkpoint does not have its memory", target->name);
        return FALSE;
    }
    return TRUE;
}

static CkptStore *
aid_open_store(const CoordinatorConfig *config, GError **error)
{
    if (config->clone.of)
        return ckpt_store_open(config->clone.store, config->clone.of, CKPT_STORE_READ, error);
    if (config->persist.dir)
        return ckpt_store_open(config->persist.dir, config->district, CKPT_STORE_WRITE, error);
    g_set_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_NOT_FOUND, "there is no store");
    return NULL;
}

static gboolean
aid_load(LazyAid *aid, const CoordinatorConfig *config, GError **error)
{
    uint64_t id = config->clone.id;
    g_autoptr(StoreRam) ram = NULL;
    g_autoptr(Image) image = NULL;

    aid->store = aid_open_store(config, error);
    if (!aid->store || (!config->clone.of && !ckpt_store_head(aid->store, &id, error)))
        return FALSE;
    image = ckpt_store_load_lazy(aid->store, id, NULL, STORE_LAZY_ADOPT, &ram, error);
    if (!image || !aid_match(aid, image->cut, error))
        return FALSE;
    aid->inbox = inbox_new();
    aid->loader =
        loader_new(g_steal_pointer(&ram), aid->targets, aid->n, NULL, 0, LOAD_RATE, aid->inbox);
    return TRUE;
}

LazyAid *
lazy_aid_begin(const CoordinatorConfig *config)
{
    LazyAid *aid = g_new0(LazyAid, 1);
    g_autoptr(GError) error = NULL;

    for (uint32_t i = 0; config->member_names[i] != NULL && i < MEMBERS_MAX; i++)
        aid_ask(aid, config->member_names[i], config->member_paths[i]);
    if (aid->n > 0 && aid_load(aid, config, &error))
        return aid;
    if (error)
        g_warning("members that wait for memory are not helped before HELLO: %s", error->message);
    for (uint32_t i = 0; i < aid->n; i++)
        close(aid->targets[i].uffd);
    lazy_aid_end(aid);
    return NULL;
}

void
lazy_aid_end(LazyAid *aid)
{
    if (!aid)
        return;
    if (aid->loader && loader_failure(aid->loader))
        g_warning("%s", loader_failure(aid->loader));
    if (!loader_stop(aid->loader, END_LIMIT_MS)) {
        g_warning("memory before HELLO: the disk of the store does not answer");
        return;
    }
    loader_free(aid->loader);
    ckpt_store_close(aid->store);
    if (aid->inbox)
        inbox_free(aid->inbox);
    g_free(aid);
}
