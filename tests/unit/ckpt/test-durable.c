/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The writer of durable checkpoints (ckpt/durable.h) with a store and a home of its own, and a member
 * that is a few pages of RAM and the two files of an overlay. Hooks on write(2) and fdatasync(2) are
 * the broken disks.
 */
#include "ckpt/durable-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGES 64
#define BLOCKS 64
#define BYTES (PAGES * PAGE_BYTES)
#define LIMIT_MS 15000
#define DISTRICT "shop"
#define MEMBER "db"

static uint64_t n_pages = PAGES;

/* ---- Broken disks ---- */

static gint write_error;     /* atomic: of every write to a file */
static gint sync_error_once; /* atomic */
static gint hang;            /* atomic: writes do not return */
static gint hanging;         /* atomic: one does not */

ssize_t
write(int fd, const void *buf, size_t n)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *path = g_file_read_link(link, NULL);

    if (path == NULL || !g_str_has_suffix(path, ".dcp"))
        return syscall(SYS_write, fd, buf, n);
    while (g_atomic_int_get(&hang)) {
        g_atomic_int_set(&hanging, 1);
        g_usleep(1000);
    }
    errno = g_atomic_int_get(&write_error);
    return errno != 0 ? -1 : syscall(SYS_write, fd, buf, n);
}

int
fdatasync(int fd)
{
    gint error = g_atomic_int_get(&sync_error_once);

    if (error != 0 && g_atomic_int_compare_and_exchange(&sync_error_once, error, 0)) {
        errno = error;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

/* ---- The rig ---- */

typedef struct Rig {
    char *dir;
    char *store;
    char *home;
    Inbox *inbox;
    StagingPool *pool;
    Durable *durable;
    Staging *staging;
    int data_fd, index_fd;
    uint64_t entries, stored;
    uint64_t cuts;
    uint64_t number; /* of the last cut */
    uint64_t parent, parent_epoch;
    uint8_t ram[BYTES], disk[BYTES]; /* as they are for the guest */
} Rig;

static int
rig_file(Rig *rig, const char *name)
{
    g_autofree char *path = g_build_filename(rig->dir, name, NULL);

    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static DurableDisk *
rig_disks(Rig *rig)
{
    DurableDisk *disks = g_new0(DurableDisk, 1);

    disks->disk = (MemberDisk){.member = g_strdup(MEMBER),
                               .size = BYTES,
                               .n_blocks = BLOCKS,
                               .home = g_strconcat("raw:", rig->home, NULL),
                               .overlay = true,
                               .data_fd = dup(rig->data_fd),
                               .index_fd = dup(rig->index_fd)};
    return disks;
}

static Rig *
rig_new(void)
{
    Rig *rig = g_new0(Rig, 1);
    g_autoptr(GError) error = NULL;
    DurableConfig config = {.district = DISTRICT,
                            .host = "a",
                            .keep = {.keep_last = 3},
                            .merge_rate = 64 << 20,
                            .n_pages_of = &n_pages,
                            .n_members = 1};

    rig->dir = g_dir_make_tmp("district-durable-XXXXXX", &error);
    g_assert_no_error(error);
    config.dir = rig->store = g_build_filename(rig->dir, "store", NULL);
    rig->home = g_build_filename(rig->dir, "home.raw", NULL);
    rig->data_fd = rig_file(rig, "data");
    rig->index_fd = rig_file(rig, "index");
    int home = rig_file(rig, "home.raw");
    g_assert_cmpint(ftruncate(home, BYTES), ==, 0);
    close(home);
    config.inbox = rig->inbox = inbox_new();
    rig->pool = staging_pool_new(&n_pages, 1, 16, rig->inbox, &error);
    rig->durable = durable_new(&config, &error);
    g_assert_no_error(error);
    durable_begin(rig->durable, rig_disks(rig), 1, 0);
    rig->staging = staging_pool_take(rig->pool);
    return rig;
}

static void
rig_free(Rig *rig)
{
    const char *rm[] = {"rm", "-rf", rig->dir, NULL};

    g_assert_true(durable_free(rig->durable, LIMIT_MS));
    staging_pool_give(rig->pool, rig->staging);
    staging_pool_free(rig->pool);
    inbox_free(rig->inbox);
    close(rig->data_fd);
    close(rig->index_fd);
    g_spawn_sync(NULL, (char **)rm, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
    g_free(rig->dir);
    g_free(rig->store);
    g_free(rig->home);
    g_free(rig);
}

/* The guest writes. */
static void
rig_write_ram(Rig *rig, uint64_t page, uint8_t fill)
{
    uint8_t *at = rig->ram + page * PAGE_BYTES;

    memset(at, fill, PAGE_BYTES);
    staging_copy(rig->staging, 0, page, at);
}

static void
rig_add_entry(Rig *rig, uint64_t block, uint64_t offset)
{
    DiskIndexEntry entry = {.block = block, .offset = offset};

    g_assert_cmpint(
        pwrite(rig->index_fd, &entry, sizeof entry, (off_t)(rig->entries * sizeof entry)), ==,
        sizeof entry);
    rig->entries++;
}

static void
rig_write_block(Rig *rig, uint64_t block, uint8_t fill)
{
    uint8_t *at = rig->disk + block * PAGE_BYTES;
    uint64_t offset = rig->entries * PAGE_BYTES;

    memset(at, fill, PAGE_BYTES);
    g_assert_cmpint(pwrite(rig->data_fd, at, PAGE_BYTES, (off_t)offset), ==, PAGE_BYTES);
    rig_add_entry(rig, block, offset);
}

/* ---- Cuts ---- */

static GByteArray *
pack(const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    GByteArray *bytes = g_byte_array_new();

    g_byte_array_set_size(bytes, (guint)len);
    protobuf_c_message_pack(message, bytes->data);
    return bytes;
}

static void
pack_begin(const Rig *rig, DurableCut *cut)
{
    District__StreamEpochBegin begin = DISTRICT__STREAM_EPOCH_BEGIN__INIT;
    District__StreamMember member = DISTRICT__STREAM_MEMBER__INIT, *members = &member;
    District__StreamDisk disk = DISTRICT__STREAM_DISK__INIT, *disks = &disk;
    District__RamRegion region = DISTRICT__RAM_REGION__INIT, *regions = &region;

    disk.size = region.size = member.ram_size = BYTES;
    member.name = (char *)MEMBER;
    member.n_regions = member.n_disks = 1;
    member.regions = &regions;
    member.disks = &disks;
    begin.epoch = cut->number;
    begin.full = cut->full;
    begin.base_epoch = cut->full ? 0 : rig->parent_epoch;
    begin.n_members = 1;
    begin.members = &members;
    cut->begin = pack(&begin.base);
}

static void
pack_state(DurableCut *cut)
{
    District__CutState state = DISTRICT__CUT_STATE__INIT;
    District__CutMember member = DISTRICT__CUT_MEMBER__INIT, *members = &member;
    District__StreamDisk disk = DISTRICT__STREAM_DISK__INIT, *disks = &disk;
    District__RamRegion region = DISTRICT__RAM_REGION__INIT, *regions = &region;

    disk.size = region.size = member.ram_size = BYTES;
    member.name = (char *)MEMBER;
    member.engine = (char *)"kvm";
    member.n_regions = member.n_disks = 1;
    member.regions = &regions;
    member.disks = &disks;
    member.state.data = (uint8_t *)MEMBER;
    member.state.len = strlen(MEMBER);
    state.version = CUT_STATE_VERSION;
    state.district = (char *)DISTRICT;
    state.epoch = cut->number;
    state.incarnation = cut->incarnation;
    state.realtime_ns = cut->realtime_ns;
    state.n_members = 1;
    state.members = &members;
    cut->state = pack(&state.base);
}

/* The next message of this kind, others are dropped. Its number; the text of its error, if wanted. */
static uint64_t
rig_wait(Rig *rig, InboxKind kind, char **text)
{
    gint64 limit = g_get_monotonic_time() + LIMIT_MS * INT64_C(1000);

    while (g_get_monotonic_time() < limit) {
        struct pollfd pfd = {.fd = inbox_fd(rig->inbox), .events = POLLIN};
        g_autofree InboxMessage *message = inbox_take(rig->inbox);
        if (!message) {
            poll(&pfd, 1, 10);
            continue;
        }
        g_autoptr(GError) error = message->error;
        if (message->kind != kind)
            continue;
        if (text)
            *text = g_strdup(error->message);
        return message->number;
    }
    g_error("no message of kind %d", kind);
}

static void
rig_wait_ready(Rig *rig)
{
    gint64 limit = g_get_monotonic_time() + LIMIT_MS * INT64_C(1000);

    while (!durable_ready(rig->durable)) {
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_usleep(1000);
    }
}

/* The guest is cut: all that has been written since the last time is gathered. */
static void
rig_gather(Rig *rig)
{
    g_autoptr(Epoch) epoch = epoch_new(1);

    epoch->pool = rig->pool;
    epoch->staging = rig->staging;
    while (!staging_pool_ready(rig->pool))
        g_usleep(1000);
    rig->staging = staging_pool_take(rig->pool);
    durable_gather(rig->durable, epoch);
}

/* All that has changed becomes a checkpoint; the first one must have all of RAM. */
static void
rig_cut(Rig *rig)
{
    DurableCut *cut = g_new0(DurableCut, 1);

    rig_wait_ready(rig);
    rig_gather(rig);
    cut->number = ++rig->number;
    cut->incarnation = 1;
    cut->realtime_ns = (int64_t)cut->number * 1000;
    cut->parent_id = rig->parent;
    cut->full = rig->parent == 0;
    cut->wire_index = g_new0(uint32_t, 1);
    cut->ranges = g_new0(DurableRange, 1);
    *cut->ranges =
        (DurableRange){.image = 1, .from = rig->stored, .to = rig->entries, .cut = ++rig->cuts};
    rig->stored = rig->entries;
    pack_begin(rig, cut);
    pack_state(cut);
    durable_write(rig->durable, cut);
}

static uint64_t
rig_done(Rig *rig)
{
    rig->parent = rig_wait(rig, INBOX_DURABLE_DONE, NULL);
    rig->parent_epoch = rig->number;
    return rig->parent;
}

/* ---- What is in the store ---- */

/* Homes as they are now, and over them what the image has. */
static void
disk_of(const Rig *rig, const ImageDisk *disk, uint8_t *out)
{
    g_autofree char *home = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(rig->home, &home, &len, NULL));
    g_assert_cmpuint(len, ==, BYTES);
    memcpy(out, home, BYTES);
    for (uint64_t i = 0; i < disk->entries; i++) {
        DiskIndexEntry entry;
        g_assert_cmpint(pread(disk->index_fd, &entry, sizeof entry, (off_t)(i * sizeof entry)), ==,
                        sizeof entry);
        uint8_t *to = out + entry.block * PAGE_BYTES;
        if (entry.offset == DISK_INDEX_ZERO)
            memset(to, 0, PAGE_BYTES);
        else
            g_assert_cmpint(pread(disk->data_fd, to, PAGE_BYTES, (off_t)entry.offset), ==,
                            PAGE_BYTES);
    }
}

/* The head is checkpoint id, and what the guest had at its cut, which is what it has now. */
static void
assert_head_is(Rig *rig, uint64_t id)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptStore) store = ckpt_store_open(rig->store, DISTRICT, CKPT_STORE_READ, &error);
    g_autofree uint8_t *bytes = g_malloc(BYTES);
    uint64_t head;

    g_assert_no_error(error);
    g_assert_true(ckpt_store_head(store, &head, NULL));
    g_assert_cmpuint(head, ==, id);
    g_autoptr(Image) image = ckpt_store_load(store, id, rig->dir, &error);
    g_assert_no_error(error);
    g_assert_cmpint(pread(image->ram_fds[0], bytes, BYTES, 0), ==, BYTES);
    g_assert_cmpmem(bytes, BYTES, rig->ram, BYTES);
    disk_of(rig, &image->disks[0], bytes);
    g_assert_cmpmem(bytes, BYTES, rig->disk, BYTES);
    g_assert_cmpint(ckpt_store_check(store, NULL, NULL, NULL), ==, 0);
}

static guint
count_files(const Rig *rig)
{
    g_autoptr(GDir) dir = g_dir_open(rig->store, 0, NULL);
    guint n = 0;

    for (const char *name; (name = g_dir_read_name(dir)) != NULL;)
        n += g_str_has_suffix(name, ".dcp");
    return n;
}

static Rig *
rig_new_begun(void)
{
    Rig *rig = rig_new();

    for (uint64_t i = 0; i < PAGES; i++)
        rig_write_ram(rig, i, (uint8_t)(i % 5)); /* some of them zero */
    rig_write_block(rig, 7, 1);
    rig_cut(rig);
    rig_done(rig);
    return rig;
}

/* The home is out of reach. */
static void
rig_hide_home(Rig *rig, bool hide)
{
    g_autofree char *hidden = g_strconcat(rig->home, ".hidden", NULL);

    g_assert_cmpint(g_rename(hide ? rig->home : hidden, hide ? hidden : rig->home), ==, 0);
}

static guint
count_listed(const Rig *rig)
{
    g_autoptr(CkptStore) store = ckpt_store_open(rig->store, DISTRICT, CKPT_STORE_READ, NULL);
    g_autoptr(GPtrArray) list = ckpt_store_list(store, NULL);

    return list->len;
}

/* ---- Tests ---- */

static void
test_written(void)
{
    Rig *rig = rig_new_begun();

    assert_head_is(rig, rig->parent);
    for (uint8_t round = 10; round < 16; round++) {
        rig_write_ram(rig, round, round);
        rig_write_ram(rig, 3, round);
        rig_write_block(rig, round, round);
        rig_write_block(rig, 7, round);
        rig_write_block(rig, 7, (uint8_t)(round + 100)); /* the last one holds */
        rig_cut(rig);
        g_assert_false(durable_ready(rig->durable));
        assert_head_is(rig, rig_done(rig));
    }
    DurableStats stats;
    durable_stats(rig->durable, &stats);
    g_assert_cmpuint(stats.checkpoints, ==, 7);
    g_assert_cmpuint(stats.last_id, ==, rig->parent);
    g_assert_cmpstr(stats.error, ==, "");
    rig_free(rig);
}

/* What was gathered before and is forgotten is in no checkpoint. */
static void
test_cleared(void)
{
    Rig *rig = rig_new_begun();
    uint8_t other[PAGE_BYTES];

    memset(other, 99, sizeof other);
    staging_copy(rig->staging, 0, 20, other);
    rig_gather(rig);
    durable_gather_clear(rig->durable);
    rig_cut(rig);
    assert_head_is(rig, rig_done(rig));
    rig_free(rig);
}

static void
test_home(void)
{
    Rig *rig = rig_new_begun();
    g_autofree char *home = NULL;

    rig_wait(rig, INBOX_DURABLE_HOME, NULL);
    g_assert_cmpuint(durable_home_below(rig->durable, 0), ==, 2);
    g_assert_cmpuint(g_hash_table_size(rig->durable->cuts_of), ==, 0);
    g_assert_true(g_file_get_contents(rig->home, &home, NULL, NULL));
    g_assert_cmpmem(home, BYTES, rig->disk, BYTES);
    rig_free(rig);
}

/* As of a member that is off, when nobody has written to its disk. */
static void
test_no_home_needed(void)
{
    Rig *rig = rig_new();

    rig_hide_home(rig, true);
    rig_write_ram(rig, 1, 1);
    rig_cut(rig);
    rig_done(rig);
    rig_wait(rig, INBOX_DURABLE_HOME, NULL);
    rig_free(rig);
}

static void
test_home_moves(void)
{
    Rig *rig = rig_new();
    g_autofree char *text = NULL;

    rig_hide_home(rig, true);
    rig_write_block(rig, 7, 1);
    rig_cut(rig);
    rig_done(rig);
    rig_wait(rig, INBOX_DURABLE_FAILED, &text);
    g_assert_nonnull(strstr(text, MEMBER));
    g_autofree char *moved = g_strconcat("raw:", rig->home, ".hidden", NULL);
    durable_set_home(rig->durable, 0, moved);
    rig_wait(rig, INBOX_DURABLE_HOME, NULL);
    rig_free(rig);
}

/* Three are kept, and the root, which is not merged. */
static void
test_folds_without_home(void)
{
    Rig *rig = rig_new();
    gint64 limit = g_get_monotonic_time() + LIMIT_MS * INT64_C(1000);

    rig_hide_home(rig, true);
    for (uint8_t round = 1; round <= 8; round++) {
        rig_write_ram(rig, 1, round);
        rig_write_block(rig, 7, round);
        rig_cut(rig);
        rig_done(rig);
    }
    while (count_listed(rig) > 4 && g_get_monotonic_time() < limit)
        g_usleep(10000);
    g_assert_cmpuint(count_listed(rig), ==, 4);
    rig_hide_home(rig, false);
    rig_wait(rig, INBOX_DURABLE_HOME, NULL);
    assert_head_is(rig, rig->parent);
    rig_free(rig);
}

/* A merge that fails is nothing that a checkpoint waits for. */
static void
test_prompt_without_home(void)
{
    Rig *rig = rig_new();

    rig_hide_home(rig, true);
    rig_write_block(rig, 7, 1);
    rig_cut(rig);
    rig_done(rig);
    rig_wait(rig, INBOX_DURABLE_FAILED, NULL);
    DurableStats stats;
    durable_stats(rig->durable, &stats);
    g_assert_cmpstr(stats.error, ==, "");
    gint64 least = G_MAXINT64;
    for (uint8_t round = 2; round < 6; round++) {
        gint64 began = g_get_monotonic_time();
        rig_write_block(rig, 7, round);
        rig_cut(rig);
        rig_done(rig);
        least = MIN(least, g_get_monotonic_time() - began);
    }
    g_assert_cmpint(least, <, G_USEC_PER_SEC);
    rig_free(rig);
}

static void
test_full(void)
{
    Rig *rig = rig_new_begun();
    g_autofree char *text = NULL;

    rig_wait_ready(rig); /* so that there is a file prepared */
    guint files = count_files(rig);
    rig_write_ram(rig, 1, 77);
    rig_write_block(rig, 9, 77);
    g_atomic_int_set(&write_error, ENOSPC);
    rig_cut(rig);
    rig_wait(rig, INBOX_DURABLE_FAILED, &text);
    g_assert_nonnull(strstr(text, "free some space"));
    g_assert_nonnull(strstr(text, ".dcp"));
    g_assert_cmpuint(count_files(rig), <=, files);
    g_atomic_int_set(&write_error, 0);
    assert_head_is(rig, rig_done(rig));
    DurableStats stats;
    durable_stats(rig->durable, &stats);
    g_assert_cmpstr(stats.error, ==, "");
    rig_free(rig);
}

/* What a failed sync has written may not be there: it is written anew. */
static void
test_sync_fails(void)
{
    Rig *rig = rig_new_begun();
    g_autofree char *text = NULL;
    uint64_t id = rig->parent;

    rig_wait(rig, INBOX_DURABLE_HOME, NULL); /* no merge is under way */
    rig_wait_ready(rig);
    rig_write_ram(rig, 1, 78);
    g_atomic_int_set(&sync_error_once, EIO);
    rig_cut(rig);
    rig_wait(rig, INBOX_DURABLE_FAILED, &text);
    g_assert_nonnull(strstr(text, "Input/output error"));
    uint64_t done = rig_done(rig);
    g_assert_cmpuint(done, >, id + 1); /* not the file that was prepared */
    assert_head_is(rig, done);
    rig_free(rig);
}

/* An engine that lies: its entry is outside the disk. */
static void
test_bad_entry(void)
{
    Rig *rig = rig_new_begun();
    g_autofree char *text = NULL;
    uint64_t id = rig->parent;

    rig_add_entry(rig, BLOCKS, 0);
    rig_cut(rig);
    rig_wait(rig, INBOX_DURABLE_FAILED, &text);
    g_assert_nonnull(strstr(text, MEMBER));
    g_assert_false(durable_ready(rig->durable));
    assert_head_is(rig, id);
    rig_free(rig);
}

static void
test_sink_fails(void)
{
    Rig *rig = rig_new_begun();
    uint64_t id, head = rig->parent;
    int fd;

    rig_wait_ready(rig);
    g_assert_true(durable_take_file(rig->durable, &id, &fd));
    g_assert_false(durable_ready(rig->durable));
    g_assert_cmpint(write(fd, "half", 4), ==, 4);
    close(fd);
    g_autofree char *path = ckpt_store_new_path(durable_store(rig->durable), id);
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    durable_file_done(rig->durable, id, NULL);
    rig_wait_ready(rig);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    rig_write_ram(rig, 2, 5);
    rig_cut(rig);
    g_assert_cmpuint(rig_done(rig), >, id);
    assert_head_is(rig, rig->parent);
    g_assert_cmpuint(rig->parent, >, head);
    rig_free(rig);
}

/* The end does not wait for a disk that hangs. */
static void
test_hangs(void)
{
    Rig *rig = rig_new_begun();
    gint64 began = g_get_monotonic_time();

    rig_wait_ready(rig);
    g_atomic_int_set(&hang, 1);
    rig_cut(rig);
    while (!g_atomic_int_get(&hanging))
        g_usleep(1000);
    g_assert_false(durable_free(rig->durable, 200));
    g_assert_cmpint(g_get_monotonic_time() - began, <, LIMIT_MS * INT64_C(1000));
    g_atomic_int_set(&hang, 0);
    rig_free(rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_log_set_always_fatal(G_LOG_LEVEL_CRITICAL);
    g_log_set_handler(NULL, G_LOG_LEVEL_WARNING | G_LOG_LEVEL_MESSAGE, g_log_default_handler, NULL);
    g_test_add_func("/durable/what is gathered becomes a checkpoint with the disks", test_written);
    g_test_add_func("/durable/what is forgotten is in none", test_cleared);
    g_test_add_func("/durable/it says when the home has all of a cut", test_home);
    g_test_add_func("/durable/a disk without blocks needs no home", test_no_home_needed);
    g_test_add_func("/durable/a home that has moved is merged to", test_home_moves);
    g_test_add_func("/durable/what is not kept is folded while a home is out of reach",
                    test_folds_without_home);
    g_test_add_func("/durable/a checkpoint does not wait for a merge that fails",
                    test_prompt_without_home);
    g_test_add_func("/durable/a full disk is told once, and the cut written when there is room",
                    test_full);
    g_test_add_func("/durable/after a sync that failed all is written anew", test_sync_fails);
    g_test_add_func("/durable/an impossible entry of an overlay is named and nothing committed",
                    test_bad_entry);
    g_test_add_func("/durable/a file that a sink gave up is discarded", test_sink_fails);
    g_test_add_func("/durable/its end does not wait for a disk that hangs", test_hangs);
    return g_test_run();
}
