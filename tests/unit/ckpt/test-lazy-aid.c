/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Engines that wait for memory before they can answer HELLO. */
#include "store-rig.h"

#include "ckpt/lazy-aid.h"
#include "common/memfd.h"
#include "common/pbmsg.h"
#include "member.pb-c.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGES 64 /* of the first member of the rig */
#define BYTES (PAGES * PAGE_BYTES)
#define LIMIT_US (10 * G_USEC_PER_SEC)

/* The RAM of one whose guest runs already, and two of its threads. */
typedef struct Engine {
    int uffd;
    int listen_fd;
    int ram_fd;
    uint8_t *ram;
    uint8_t *seen;
    gint done; /* atomic */
    GThread *share, *main;
} Engine;

/* As vmm/lazy_ram.c. */
static gpointer
engine_share(gpointer data)
{
    Engine *e = data;
    District__MemberLazyReply reply = DISTRICT__MEMBER_LAZY_REPLY__INIT;
    struct pollfd p = {.fd = e->listen_fd, .events = POLLIN};

    reply.ram_address = (uint64_t)(uintptr_t)e->ram;
    if (poll(&p, 1, LIMIT_US / 1000) != 1)
        return NULL;
    int fd = fdmsg_accept(e->listen_fd, NULL);
    g_assert_true(pbmsg_send(fd, &reply.base, &e->uffd, 1, 1000, NULL));
    close(fd);
    return NULL;
}

/* It is in need of every page, in no order. */
static gpointer
engine_main(gpointer data)
{
    Engine *e = data;

    for (uint64_t i = 0; i < PAGES; i++) {
        uint64_t page = i * 29 % PAGES;
        for (uint64_t k = 0; k < PAGE_BYTES; k++)
            e->seen[page * PAGE_BYTES + k] =
                ((const volatile uint8_t *)e->ram)[page * PAGE_BYTES + k];
    }
    g_atomic_int_set(&e->done, 1);
    return NULL;
}

/* FALSE: this process may not have a userfaultfd, and the test is skipped. */
static bool
engine_init(Engine *e, const char *member_path)
{
    g_autofree char *path = g_strconcat(member_path, ".lazy", NULL);
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
    struct uffdio_register range = {.range.len = BYTES, .mode = UFFDIO_REGISTER_MODE_MISSING};

    *e = (Engine){.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)};
    if (e->uffd < 0 || ioctl(e->uffd, UFFDIO_API, &api) != 0) {
        g_test_skip("no right to have a userfaultfd");
        return false;
    }
    e->ram_fd = memfd_create_sealed("ram", BYTES, NULL);
    e->ram = memfd_map(e->ram_fd, BYTES, TRUE, NULL);
    e->seen = g_malloc0(BYTES);
    range.range.start = (uint64_t)(uintptr_t)e->ram;
    g_assert_cmpint(ioctl(e->uffd, UFFDIO_REGISTER, &range), ==, 0);
    e->listen_fd = fdmsg_listen(path, NULL);
    g_assert_cmpint(e->listen_fd, >=, 0);
    e->share = g_thread_new("share", engine_share, e);
    e->main = g_thread_new("main", engine_main, e);
    return true;
}

static void
engine_wait(Engine *e)
{
    for (gint64 limit = g_get_monotonic_time() + LIMIT_US; g_atomic_int_get(&e->done) == 0;) {
        if (g_get_monotonic_time() > limit)
            g_error("the engine still waits for a page");
        g_usleep(1000);
    }
}

static void
engine_clear(Engine *e)
{
    g_thread_join(e->share);
    g_thread_join(e->main);
    close(e->listen_fd);
    close(e->uffd);
    munmap(e->ram, BYTES);
    close(e->ram_fd);
    g_free(e->seen);
}

/* The store is closed, and a district-ckpt is about to say HELLO to its members. */
typedef struct District {
    Rig rig;
    uint64_t head;
    char *paths[RIG_MEMBERS + 1];
    CoordinatorConfig config;
} District;

static void
district_init(District *d)
{
    static char *names[] = {(char *)"db", (char *)"web", NULL};

    rig_init(&d->rig);
    rig_commit(&d->rig, true, NULL);
    d->head = rig_commit(&d->rig, false, NULL);
    g_clear_pointer(&d->rig.store, ckpt_store_close);
    for (int i = 0; i < RIG_MEMBERS; i++)
        d->paths[i] = g_build_filename(d->rig.dir, names[i], NULL);
    d->paths[RIG_MEMBERS] = NULL;
    d->config = (CoordinatorConfig){.district = "shop",
                                    .persist.dir = d->rig.path,
                                    .member_names = names,
                                    .member_paths = d->paths};
}

static void
district_clear(District *d)
{
    for (int i = 0; i < RIG_MEMBERS; i++)
        g_free(d->paths[i]);
    rig_clear(&d->rig);
}

static void
test_waits(void)
{
    District d;
    Engine e;

    district_init(&d);
    if (engine_init(&e, d.paths[0])) {
        LazyAid *aid = lazy_aid_begin(&d.config);
        g_assert_nonnull(aid);
        engine_wait(&e);
        lazy_aid_end(aid);
        g_autoptr(RigState) model = rig_model(&d.rig, d.head);
        g_assert_cmpmem(e.seen, BYTES, model->of[0], BYTES);
        engine_clear(&e);
    }
    rig_open(&d.rig, CKPT_STORE_WRITE); /* nobody has it open any more */
    district_clear(&d);
}

/* That of an engine that has ended stays. */
static void
test_stale_socket(void)
{
    District d;

    district_init(&d);
    g_autofree char *path = g_strconcat(d.paths[1], ".lazy", NULL);
    int fd = fdmsg_listen(path, NULL);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_assert_null(lazy_aid_begin(&d.config));
    district_clear(&d);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_in_memory = true;
    g_test_add_func("/lazy-aid/an engine that waits for memory gets it before HELLO", test_waits);
    g_test_add_func("/lazy-aid/an engine that has ended gets none", test_stale_socket);
    return g_test_run();
}
