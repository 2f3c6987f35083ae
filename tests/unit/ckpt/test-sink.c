/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks through a sink: from an overlay's entries to what a receiver makes of the records. */
#include "ckpt/encode-pool.h"
#include "ckpt/receive.h"
#include "ckpt/sink-internal.h"
#include "common/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LIMIT_MS 10000
#define RAM_PAGES 16
/* Members "db" and "web"; "db" has two disks, the second one's last block is used up to there. */
#define N_DISKS 2
#define LAST_USED ((size_t)3 * SECTOR_BYTES)
#define DISK_BLOCKS 2000
#define FIRST_DISK 2

static const uint64_t disk_sizes[N_DISKS] = {DISK_BLOCKS * PAGE_BYTES,
                                             (DISK_BLOCKS - 1) * PAGE_BYTES + LAST_USED};

/* What the sink wrote, and what the receiver made of it. */
typedef struct Fixture {
    Inbox *inbox;
    EncodePool *pool;
    Sink *sink;
    int data_fd;      /* block i of it is full of i + 1, and of 0xee in the second half */
    gint done;        /* atomic */
    GMutex lock;      /* guards out */
    GByteArray *out;  /* all records */
    gint held;        /* atomic: write blocks */
    gint interrupted; /* atomic */
    uint8_t *disks[N_DISKS];
    unsigned ends;
} Fixture;

/* ---- A transport to memory ---- */

static gboolean
memory_open(void *opaque, GError **error)
{
    return TRUE;
}

static gboolean
memory_greet(void *opaque, Sink *sink, uint64_t *held, GError **error)
{
    return TRUE;
}

static gboolean
memory_write(void *opaque, const void *data, size_t len, GError **error)
{
    Fixture *f = opaque;

    while (g_atomic_int_get(&f->held) && !g_atomic_int_get(&f->interrupted))
        g_usleep(1000);
    g_mutex_lock(&f->lock);
    g_byte_array_append(f->out, data, (guint)len);
    g_mutex_unlock(&f->lock);
    return TRUE;
}

static gboolean
memory_finish(void *opaque, GError **error)
{
    return TRUE;
}

static void
memory_interrupt(void *opaque)
{
    g_atomic_int_set(&((Fixture *)opaque)->interrupted, 1);
}

static void
memory_free(void *opaque)
{
}

static const SinkTransport memory_transport = {
    .open = memory_open,
    .greet = memory_greet,
    .write = memory_write,
    .finish = memory_finish,
    .interrupt = memory_interrupt,
    .free = memory_free,
};

/* ---- The receiving end ---- */

static gboolean
take_hello(void *opaque, const District__StreamHello *hello, GError **error)
{
    return TRUE;
}

static gboolean
take_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    return TRUE;
}

static gboolean
take_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    Fixture *f = opaque;

    g_assert_cmpuint(image, >=, FIRST_DISK);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *to = f->disks[image - FIRST_DISK] + pages[i].index * PAGE_BYTES;
        if (pages[i].data)
            memcpy(to, pages[i].data, PAGE_BYTES);
        else
            memset(to, 0, PAGE_BYTES);
    }
    return TRUE;
}

static gboolean
take_state(void *opaque, const uint8_t *packed, size_t len, const District__CutState *state,
           GError **error)
{
    return TRUE;
}

static gboolean
take_end(void *opaque, uint64_t epoch, GError **error)
{
    ((Fixture *)opaque)->ends++;
    return TRUE;
}

static const ReceiverOps receiver_ops = {take_hello, take_begin, take_pages, take_state,
                                         take_end,   NULL,       NULL};

static void
receive_all(Fixture *f)
{
    Receiver *receiver = receiver_new(&receiver_ops, f);
    g_autoptr(GError) error = NULL;

    for (size_t at = 0; at < f->out->len;) {
        RecordHeader header;

        g_assert_true(record_header_decode(f->out->data + at, &header, &error));
        receiver_record(receiver, f->out->data + at, f->out->data + at + RECORD_HEADER_BYTES,
                        &error);
        g_assert_no_error(error);
        at += RECORD_HEADER_BYTES + header.length;
    }
    receiver_free(receiver);
}

/* ---- An epoch ---- */

/* One layout for EPOCH_BEGIN and CutState. */
typedef struct Layout {
    District__StreamDisk disks[N_DISKS], *disk_list[N_DISKS];
    District__StreamMember members[2], *member_list[2];
    District__CutMember cut_members[2], *cut_list[2];
} Layout;

static void
layout_init(Layout *l)
{
    static char *const names[] = {(char *)"db", (char *)"web"};

    for (unsigned i = 0; i < 2; i++) {
        l->members[i] = (District__StreamMember)DISTRICT__STREAM_MEMBER__INIT;
        l->cut_members[i] = (District__CutMember)DISTRICT__CUT_MEMBER__INIT;
        l->members[i].name = l->cut_members[i].name = names[i];
        l->members[i].ram_size = l->cut_members[i].ram_size = RAM_PAGES * PAGE_BYTES;
        l->member_list[i] = &l->members[i];
        l->cut_list[i] = &l->cut_members[i];
        l->disks[i] = (District__StreamDisk)DISTRICT__STREAM_DISK__INIT;
        l->disks[i].size = disk_sizes[i];
        l->disk_list[i] = &l->disks[i];
    }
    l->members[0].n_disks = l->cut_members[0].n_disks = N_DISKS;
    l->members[0].disks = l->cut_members[0].disks = l->disk_list;
}

static void
begin(Fixture *f, uint64_t epoch, uint64_t base)
{
    District__StreamEpochBegin begin = DISTRICT__STREAM_EPOCH_BEGIN__INIT;
    Layout l;

    layout_init(&l);
    begin.epoch = epoch;
    begin.full = base == 0;
    begin.base_epoch = base;
    begin.n_members = 2;
    begin.members = l.member_list;
    sink_begin(f->sink, &begin);
}

static void
end(Fixture *f, uint64_t epoch)
{
    District__CutState cut = DISTRICT__CUT_STATE__INIT;
    GByteArray *packed = g_byte_array_new();
    Layout l;

    layout_init(&l);
    cut.version = CUT_STATE_VERSION;
    cut.district = (char *)"shop";
    cut.epoch = epoch;
    cut.incarnation = 1;
    cut.n_members = 2;
    cut.members = l.cut_list;
    g_byte_array_set_size(packed, (guint)protobuf_c_message_get_packed_size(&cut.base));
    protobuf_c_message_pack(&cut.base, packed->data);
    sink_state_end(f->sink, epoch, packed);
}

static void
on_done(gpointer opaque)
{
    g_atomic_int_inc(&((Fixture *)opaque)->done);
}

/* Blocks first .. first + count of disk, each from the place in the data file with its number. */
static void
send_blocks(Fixture *f, uint64_t epoch, uint32_t disk, uint64_t first, uint32_t count)
{
    g_autofree DiskIndexEntry *entries = g_new(DiskIndexEntry, count);

    for (uint32_t i = 0; i < count; i++)
        entries[i] = (DiskIndexEntry){first + i, (first + i) * PAGE_BYTES};
    sink_disk_blocks(f->sink, epoch, FIRST_DISK + disk, f->data_fd, entries, count, on_done, f);
}

/* Wait for the next message of the sink. */
static InboxMessage *
next_message(Fixture *f)
{
    int64_t until = clock_monotonic_ns() + LIMIT_MS * NS_PER_MS;
    InboxMessage *message;

    while ((message = inbox_take(f->inbox)) == NULL) {
        g_assert_cmpint(clock_monotonic_ns(), <, until);
        g_usleep(1000);
    }
    return message;
}

/* Wait for the end of what is queued and let the receiver have it. */
static void
finish(Fixture *f)
{
    InboxMessage *message;

    sink_finish(f->sink);
    message = next_message(f);
    if (message->error)
        g_error("the sink failed: %s", message->error->message);
    g_assert_cmpint(message->kind, ==, INBOX_SINK_FINISHED);
    g_free(message);
    receive_all(f);
}

/* The sink must close with an error that has these words. */
static void
expect_failure(Fixture *f, const char *object, const char *reason)
{
    InboxMessage *message = next_message(f);

    g_assert_cmpint(message->kind, ==, INBOX_SINK_CLOSED);
    g_test_message("%s", message->error->message);
    g_assert_nonnull(strstr(message->error->message, object));
    g_assert_nonnull(strstr(message->error->message, reason));
    g_error_free(message->error);
    g_free(message);
}

static void
wait_done(Fixture *f, int calls)
{
    int64_t until = clock_monotonic_ns() + LIMIT_MS * NS_PER_MS;

    while (g_atomic_int_get(&f->done) < calls && clock_monotonic_ns() < until)
        g_usleep(1000);
    g_assert_cmpint(g_atomic_int_get(&f->done), ==, calls);
}

static void
fill_block(uint8_t *block, uint64_t index)
{
    memset(block, (int)(index % 200) + 1, PAGE_BYTES / 2);
    memset(block + PAGE_BYTES / 2, 0xee, PAGE_BYTES / 2);
}

static void
assert_block(Fixture *f, uint32_t disk, uint64_t block, uint64_t like)
{
    uint8_t expected[PAGE_BYTES];

    fill_block(expected, like);
    g_assert_cmpmem(f->disks[disk] + block * PAGE_BYTES, PAGE_BYTES, expected, PAGE_BYTES);
}

static void
assert_zeros(Fixture *f, uint32_t disk, uint64_t block, size_t from)
{
    for (size_t i = from; i < PAGE_BYTES; i++)
        g_assert_cmpuint(f->disks[disk][block * PAGE_BYTES + i], ==, 0);
}

static void
set_up(Fixture *f, gconstpointer data)
{
    static const uint64_t n_pages_of[] = {RAM_PAGES, RAM_PAGES};
    static const uint32_t wire_index[] = {0, 1};
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;
    SinkConfig config = {.id = 1,
                         .transport = &memory_transport,
                         .opaque = f,
                         .hello = &hello,
                         .n_pages_of = n_pages_of,
                         .wire_index = wire_index,
                         .n_members = 2};
    InboxMessage *message;

    g_mutex_init(&f->lock);
    f->out = g_byte_array_new();
    for (unsigned i = 0; i < N_DISKS; i++)
        f->disks[i] = g_malloc0(DISK_BLOCKS * PAGE_BYTES);
    f->data_fd = memfd_create("overlay", MFD_CLOEXEC);
    for (uint64_t i = 0; i < DISK_BLOCKS; i++) {
        uint8_t block[PAGE_BYTES];

        fill_block(block, i);
        g_assert_cmpint(write(f->data_fd, block, sizeof block), ==, sizeof block);
    }
    hello.version = FILE_VERSION;
    hello.district = (char *)"shop";
    hello.incarnation = 1;
    config.inbox = f->inbox = inbox_new();
    config.pool = f->pool = encode_pool_new(0);
    f->sink = sink_new(&config);
    message = next_message(f);
    g_assert_cmpint(message->kind, ==, INBOX_SINK_UP);
    g_free(message);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    if (f->sink)
        sink_release(f->sink, false);
    g_assert_true(encode_pool_wait_unused(f->pool, LIMIT_MS));
    encode_pool_free(f->pool);
    inbox_free(f->inbox);
    g_byte_array_unref(f->out);
    for (unsigned i = 0; i < N_DISKS; i++)
        g_free(f->disks[i]);
    close(f->data_fd);
    g_mutex_clear(&f->lock);
}

/* ---- Tests ---- */

static void
test_blocks_arrive(Fixture *f, gconstpointer data)
{
    SinkStats stats;

    begin(f, 1, 0);
    send_blocks(f, 1, 0, 0, DISK_BLOCKS);
    send_blocks(f, 1, 1, 100, 600);
    end(f, 1);
    begin(f, 2, 1);
    send_blocks(f, 2, 0, 7, 1);
    end(f, 2);
    finish(f);
    g_assert_cmpuint(f->ends, ==, 2);
    for (uint64_t i = 0; i < DISK_BLOCKS; i++)
        assert_block(f, 0, i, i);
    for (uint64_t i = 100; i < 700; i++)
        assert_block(f, 1, i, i);
    assert_zeros(f, 1, 99, 0);
    assert_zeros(f, 1, 700, 0);
    wait_done(f, 3);
    stats = sink_stats(f->sink);
    g_assert_cmpuint(stats.pages.disk_blocks, ==, DISK_BLOCKS + 601);
    g_assert_cmpuint(stats.pages.disk_zero, ==, 0);
    g_assert_cmpuint(stats.pages.raw + stats.pages.zero + stats.pages.unchanged, ==, 0);
}

static void
test_last_entry_holds(Fixture *f, gconstpointer data)
{
    g_autofree DiskIndexEntry *entries = g_new(DiskIndexEntry, DISK_BLOCKS);

    /* Ten blocks written again and again, all over the data file. */
    for (uint32_t i = 0; i < DISK_BLOCKS; i++)
        entries[i] = (DiskIndexEntry){i % 10, (i * 7 % DISK_BLOCKS) * PAGE_BYTES};
    entries[DISK_BLOCKS - 10].offset = DISK_INDEX_ZERO;
    begin(f, 1, 0);
    sink_disk_blocks(f->sink, 1, FIRST_DISK, f->data_fd, entries, DISK_BLOCKS, on_done, f);
    end(f, 1);
    finish(f);
    assert_zeros(f, 0, 0, 0);
    for (uint32_t i = DISK_BLOCKS - 9; i < DISK_BLOCKS; i++)
        assert_block(f, 0, i % 10, i * 7 % DISK_BLOCKS);
    g_assert_cmpuint(sink_stats(f->sink).pages.disk_zero, ==, 1);
    g_assert_cmpuint(sink_stats(f->sink).pages.disk_blocks, ==, DISK_BLOCKS);
}

static void
test_last_block_is_filled_up(Fixture *f, gconstpointer data)
{
    uint64_t last = DISK_BLOCKS - 1;
    uint8_t block[PAGE_BYTES];

    begin(f, 1, 0);
    send_blocks(f, 1, 1, last, 1);
    end(f, 1);
    begin(f, 2, 1);
    memset(block, 0x77, sizeof block);
    sink_sync_disk(f->sink, 2, FIRST_DISK + 1, &last, 1, block);
    end(f, 2);
    finish(f);
    g_assert_cmpuint(f->ends, ==, 2);
    g_assert_cmpmem(f->disks[1] + last * PAGE_BYTES, LAST_USED, block, LAST_USED);
    assert_zeros(f, 1, last, LAST_USED);
}

static void
test_sync_then_blocks(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *copy = g_malloc(PAGES_PER_RECORD_MAX * PAGE_BYTES);
    uint64_t blocks[PAGES_PER_RECORD_MAX];

    begin(f, 1, 0);
    g_atomic_int_set(&f->held, 1);
    for (unsigned batch = 0; batch < 4; batch++) {
        for (unsigned i = 0; i < PAGES_PER_RECORD_MAX; i++) {
            blocks[i] = batch * PAGES_PER_RECORD_MAX + i;
            fill_block(copy + i * PAGE_BYTES, blocks[i] + 1);
        }
        sink_sync_disk(f->sink, 1, FIRST_DISK, blocks, PAGES_PER_RECORD_MAX, copy);
    }
    g_assert_cmpuint(sink_sync_outstanding(f->sink), ==, 4);
    memset(copy, 0, PAGES_PER_RECORD_MAX * PAGE_BYTES); /* it has been copied */
    send_blocks(f, 1, 0, 300, 10);
    end(f, 1);
    g_atomic_int_set(&f->held, 0);
    finish(f);
    g_assert_cmpuint(sink_sync_outstanding(f->sink), ==, 0);
    for (uint64_t i = 0; i < 1024; i++)
        assert_block(f, 0, i, i >= 300 && i < 310 ? i : i + 1);
}

static void
test_done_when_gone(Fixture *f, gconstpointer data)
{
    begin(f, 1, 0);
    g_atomic_int_set(&f->held, 1);
    send_blocks(f, 1, 0, 0, DISK_BLOCKS);
    send_blocks(f, 1, 0, 0, 0);
    sink_release(g_steal_pointer(&f->sink), false);
    wait_done(f, 2);
}

static void
test_not_far_ahead(Fixture *f, gconstpointer data)
{
    unsigned calls = 3 * SINK_DISK_AHEAD_MAX * PAGES_PER_RECORD_MAX / DISK_BLOCKS;
    uint64_t most = (uint64_t)SINK_DISK_AHEAD_MAX * PAGES_PER_RECORD_MAX;
    int64_t until = clock_monotonic_ns() + LIMIT_MS * NS_PER_MS;

    g_atomic_int_set(&f->held, 1);
    begin(f, 1, 0);
    for (unsigned i = 0; i < calls; i++)
        send_blocks(f, 1, 0, 0, DISK_BLOCKS);
    end(f, 1);
    while (sink_stats(f->sink).pages.disk_blocks < most / 2 && clock_monotonic_ns() < until)
        g_usleep(1000);
    g_usleep(100000);
    g_assert_cmpuint(sink_stats(f->sink).pages.disk_blocks, <=, most);
    g_assert_cmpint(g_atomic_int_get(&f->done), <, (int)calls);
    g_atomic_int_set(&f->held, 0);
    finish(f);
    g_assert_cmpuint(sink_stats(f->sink).pages.disk_blocks, ==, (uint64_t)calls * DISK_BLOCKS);
    wait_done(f, (int)calls);
}

static void
test_missing_data(Fixture *f, gconstpointer data)
{
    begin(f, 1, 0);
    g_assert_cmpint(ftruncate(f->data_fd, 1000 * PAGE_BYTES + 100), ==, 0);
    send_blocks(f, 1, 1, 900, 200);
    end(f, 1);
    expect_failure(f, "disk 1 of member db", "at byte 4096100: it ends there");
    wait_done(f, 1);
}

static void
test_unreadable_data(Fixture *f, gconstpointer data)
{
    DiskIndexEntry entry = {5, 0};
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

    begin(f, 1, 0);
    sink_disk_blocks(f->sink, 1, FIRST_DISK, fd, &entry, 1, on_done, f);
    close(fd);
    expect_failure(f, "disk 0 of member db", g_strerror(EBADF));
    wait_done(f, 1);
}

static void
test_closed_descriptor(Fixture *f, gconstpointer data)
{
    DiskIndexEntry entry = {5, 0};

    begin(f, 1, 0);
    sink_disk_blocks(f->sink, 1, FIRST_DISK, -1, &entry, 1, on_done, f);
    expect_failure(f, "disk 0 of member db", g_strerror(EBADF));
    wait_done(f, 1);
}

/* All pages of a member, each with the data of a block from first on; wait until they have gone. */
static void
send_ram(Fixture *f, uint64_t first)
{
    g_autofree uint8_t *ram = g_malloc(RAM_PAGES * PAGE_BYTES);
    int64_t until = clock_monotonic_ns() + LIMIT_MS * NS_PER_MS;
    uint64_t pages[RAM_PAGES];

    for (uint64_t i = 0; i < RAM_PAGES; i++) {
        pages[i] = i;
        fill_block(ram + i * PAGE_BYTES, first + i);
    }
    sink_sync_pages(f->sink, 1, 0, pages, RAM_PAGES, ram);
    while (sink_sync_outstanding(f->sink) > 0 && clock_monotonic_ns() < until)
        g_usleep(1000);
    g_assert_cmpuint(sink_sync_outstanding(f->sink), ==, 0);
}

/* It would hold up the batches of the stream after it. */
static void
test_failed_encodes_nothing(Fixture *f, gconstpointer data)
{
    begin(f, 1, 0);
    send_ram(f, 0);
    g_assert_cmpuint(sink_stats(f->sink).pages.raw, ==, RAM_PAGES);
    sink_fail(f->sink, g_error_new_literal(G_FILE_ERROR, G_FILE_ERROR_IO, "the link is cut"));
    expect_failure(f, "the link", "is cut");
    send_ram(f, RAM_PAGES);
    g_assert_cmpuint(sink_stats(f->sink).pages.raw, ==, RAM_PAGES);
}

static void
test_impossible_entry(Fixture *f, gconstpointer data)
{
    const DiskIndexEntry *entry = data;

    begin(f, 1, 0);
    sink_disk_blocks(f->sink, 1, FIRST_DISK, f->data_fd, entry, 1, on_done, f);
    expect_failure(f, "disk 0 of member db", entry->block < DISK_BLOCKS ? "offset" : "block");
    wait_done(f, 1);
}

#define ADD(path, data, function) g_test_add(path, Fixture, data, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    static const DiskIndexEntry beyond = {DISK_BLOCKS, 0}, far = {UINT64_MAX, 0},
                                crooked = {0, SECTOR_BYTES}, negative = {0, UINT64_MAX - 4095};

    g_test_init(&argc, &argv, NULL);
    ADD("/sink/blocks of disks arrive as they are in the overlay", NULL, test_blocks_arrive);
    ADD("/sink/of several entries of a block the last one holds", NULL, test_last_entry_holds);
    ADD("/sink/the last block is filled up with zeros", NULL, test_last_block_is_filled_up);
    ADD("/sink/what is written after the initial copy holds", NULL, test_sync_then_blocks);
    ADD("/sink/it says when nothing is read any more, even when it has gone", NULL,
        test_done_when_gone);
    ADD("/sink/blocks are not read far ahead of a slow reader", NULL, test_not_far_ahead);
    ADD("/sink/an overlay that is too short fails it by name", NULL, test_missing_data);
    ADD("/sink/an overlay that cannot be read fails it by name", NULL, test_unreadable_data);
    ADD("/sink/a descriptor that is none fails it by name", NULL, test_closed_descriptor);
    ADD("/sink/nothing is encoded for one that has failed", NULL, test_failed_encodes_nothing);
    ADD("/sink/an entry beyond the disk fails it by name", &beyond, test_impossible_entry);
    ADD("/sink/an entry far beyond the disk fails it by name", &far, test_impossible_entry);
    ADD("/sink/an entry at no whole block fails it by name", &crooked, test_impossible_entry);
    ADD("/sink/an entry at no possible offset fails it by name", &negative, test_impossible_entry);
    return g_test_run();
}
