/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disks in cuts (ckpt/disks.h): two members whose engines are threads that take notes, the overlays'
 * files, and a stream to nowhere that can be made to stand still.
 */
#include "ckpt/coordinator-internal.h"
#include "ckpt/durable-internal.h"
#include "common/pbmsg.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define LIMIT_US (10 * G_USEC_PER_SEC)
#define BLOCKS 32
#define RAM_BYTES (4 * PAGE_BYTES)
#define N_MEMBERS 2
/* Disks with an overlay: db's second one, and both of web. */
#define N_DISKS 3

/* What an engine was told last. */
typedef struct Engine {
    GThread *thread;
    int fd;
    gint refuses; /* atomic */
    GMutex lock;  /* guards what follows */
    guint told;   /* how often */
    size_t n_notes;
    uint64_t released[DISKS_MAX], home[DISKS_MAX];
    bool resend;
    /* What it answers once its guest is off. */
    size_t n_last;
    District__MemberDiskCut last[DISKS_MAX];
    District__MemberDiskCut *last_list[DISKS_MAX];
} Engine;

typedef struct Fixture {
    Coordinator c;
    Persist persist;
    Durable durable;
    uint64_t home_below[N_DISKS];
    Target stream;
    Engine engines[N_MEMBERS];
    int64_t now;
    gint held; /* atomic: the stream's write does not return */
} Fixture;

/* ---- Engines ---- */

static void
engine_note(Engine *e, const District__MemberDisksRequest *request)
{
    g_mutex_lock(&e->lock);
    e->told++;
    e->n_notes = request->n_disks;
    e->resend = false;
    for (size_t i = 0; i < request->n_disks; i++) {
        e->released[i] = request->disks[i]->released_below;
        e->home[i] = request->disks[i]->home_below;
        e->resend = e->resend || request->disks[i]->resend;
    }
    g_mutex_unlock(&e->lock);
}

static gpointer
engine_run(gpointer data)
{
    Engine *e = data;
    District__MemberRequest *request;

    while ((request = (District__MemberRequest *)pbmsg_recv(
                e->fd, &district__member_request__descriptor, NULL, NULL, -1, NULL)) != NULL) {
        District__MemberReply reply = DISTRICT__MEMBER_REPLY__INIT;
        District__MemberDisksReply disks = DISTRICT__MEMBER_DISKS_REPLY__INIT;
        District__MemberDescribeReply describe = DISTRICT__MEMBER_DESCRIBE_REPLY__INIT;

        reply.id = request->id;
        if (request->op_case == DISTRICT__MEMBER_REQUEST__OP_DISKS) {
            engine_note(e, request->disks);
            reply.op_case = DISTRICT__MEMBER_REPLY__OP_DISKS;
            reply.disks = &disks;
            if (g_atomic_int_get(&e->refuses))
                reply.error = (char *)"there is no room for the index";
        } else {
            g_assert_cmpint(request->op_case, ==, DISTRICT__MEMBER_REQUEST__OP_DESCRIBE);
            describe.state = DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING;
            reply.op_case = DISTRICT__MEMBER_REPLY__OP_DESCRIBE;
            reply.describe = &describe;
        }
        disks.n_disks = e->n_last;
        disks.disks = e->last_list;
        pbmsg_send(e->fd, &reply.base, NULL, 0, 1000, NULL);
        district__member_request__free_unpacked(request, NULL);
    }
    return NULL;
}

/* ---- The stream ---- */

static gboolean
nowhere_open(void *opaque, GError **error)
{
    return TRUE;
}

static gboolean
nowhere_greet(void *opaque, Sink *sink, uint64_t *held, GError **error)
{
    return TRUE;
}

static gboolean
nowhere_write(void *opaque, const void *data, size_t len, GError **error)
{
    Fixture *f = opaque;

    while (g_atomic_int_get(&f->held))
        g_usleep(1000);
    return TRUE;
}

static gboolean
nowhere_finish(void *opaque, GError **error)
{
    return TRUE;
}

static void
nowhere_void(void *opaque)
{
}

static const SinkTransport nowhere = {
    .open = nowhere_open,
    .greet = nowhere_greet,
    .write = nowhere_write,
    .finish = nowhere_finish,
    .interrupt = nowhere_void,
    .free = nowhere_void,
};

static void
stream_up(Fixture *f, TargetPhase phase)
{
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;
    static const uint32_t wire_index[N_MEMBERS] = {0, 1};
    SinkConfig config = {.transport = &nowhere,
                         .opaque = f,
                         .wire_index = wire_index,
                         .hello = &hello,
                         .id = 1,
                         .pool = f->c.pool,
                         .inbox = f->c.inbox,
                         .n_pages_of = f->c.n_pages_of,
                         .n_members = N_MEMBERS};

    hello.version = FILE_VERSION;
    hello.district = (char *)"shop";
    f->stream.sink = sink_new(&config);
    f->stream.phase = phase;
    f->c.stream = &f->stream;
}

static void
stream_down(Fixture *f)
{
    if (f->stream.sink)
        sink_release(f->stream.sink, false);
    f->stream.sink = NULL;
    f->c.stream = NULL;
}

/* ---- Members and their disks ---- */

static MemberDisk
disk_make(const char *member, bool overlay)
{
    MemberDisk disk = {.member = g_strdup(member),
                       .size = BLOCKS * PAGE_BYTES,
                       .n_blocks = BLOCKS,
                       .home = g_strdup("raw:/nowhere"),
                       .overlay = overlay,
                       .data_fd = -1,
                       .index_fd = -1};

    if (overlay) {
        disk.data_fd = memfd_create("data", MFD_CLOEXEC);
        disk.index_fd = memfd_create("index", MFD_CLOEXEC);
    }
    return disk;
}

static MemberDisk *
disk_at(Fixture *f, uint32_t i)
{
    return disks_member_disk(&f->c, i);
}

/* The guest writes these blocks, and is cut. */
static void
write_and_cut(Fixture *f, uint32_t i, const uint64_t *blocks, size_t n)
{
    MemberDisk *disk = disk_at(f, i);

    for (size_t k = 0; k < n; k++) {
        uint8_t data[PAGE_BYTES] = {1};
        DiskIndexEntry entry = {blocks[k], disk->index_end * PAGE_BYTES};
        g_assert_cmpint(pwrite(disk->data_fd, data, sizeof data, (off_t)entry.offset), ==,
                        sizeof data);
        g_assert_cmpint(
            pwrite(disk->index_fd, &entry, sizeof entry, (off_t)(disk->index_end * sizeof entry)),
            ==, sizeof entry);
        disk->index_end++;
    }
    disk->cut++;
}

static void
set_up(Fixture *f, gconstpointer data)
{
    static const char *const names[N_MEMBERS] = {"db", "web"};

    f->c.district = (char *)"shop";
    f->c.n_members = N_MEMBERS;
    f->c.members = g_new0(Member *, N_MEMBERS);
    f->c.n_pages_of = g_new0(uint64_t, N_MEMBERS);
    f->c.inbox = inbox_new();
    f->c.pool = encode_pool_new(0);
    f->c.run = RUN_RUNNING;
    f->c.persist = &f->persist;
    f->persist.durable = &f->durable;
    g_mutex_init(&f->durable.lock);
    f->durable.home_below = f->home_below;
    for (int i = 0; i < N_MEMBERS; i++) {
        int ends[2];
        Member *m = f->c.members[i] = member_new(names[i], "/nowhere");

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), ==, 0);
        m->fd = ends[0];
        m->ram_size = RAM_BYTES;
        m->n_pages = f->c.n_pages_of[i] = RAM_BYTES / PAGE_BYTES;
        m->n_disks = 2;
        m->disks[0] = disk_make(names[i], i == 1);
        m->disks[1] = disk_make(names[i], true);
        f->engines[i].fd = ends[1];
        g_mutex_init(&f->engines[i].lock);
        f->engines[i].thread = g_thread_new("engine", engine_run, &f->engines[i]);
    }
    disks_begin(&f->c);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    g_atomic_int_set(&f->held, 0);
    stream_down(f);
    g_assert_true(encode_pool_wait_unused(f->c.pool, 10000));
    for (int i = 0; i < N_MEMBERS; i++) {
        member_free(f->c.members[i]);
        g_thread_join(f->engines[i].thread);
        close(f->engines[i].fd);
        g_mutex_clear(&f->engines[i].lock);
    }
    disks_free(&f->c);
    encode_pool_free(f->c.pool);
    inbox_free(f->c.inbox);
    g_mutex_clear(&f->durable.lock);
    g_free(f->c.members);
    g_free(f->c.n_pages_of);
}

static void
tick(Fixture *f)
{
    f->now += NS_PER_S;
    disks_tick(&f->c, f->now);
}

/* All durable checkpoints up to the last cut of disk i are committed. */
static void
commit(Fixture *f, uint32_t i)
{
    g_free(disks_stored_ranges(&f->c));
    f->c.disks[i].durable_cut = f->c.disks[i].writing_cut;
}

/* ---- Which disks there are ---- */

static void
test_listed(Fixture *f, gconstpointer data)
{
    static const CutDisk want[N_DISKS] = {{.member = 0, .index = 1, .number = 0},
                                          {.member = 1, .index = 0, .number = 0},
                                          {.member = 1, .index = 1, .number = 1}};

    g_assert_cmpuint(f->c.n_disks, ==, N_DISKS);
    for (int i = 0; i < N_DISKS; i++) {
        g_assert_cmpuint(f->c.disks[i].member, ==, want[i].member);
        g_assert_cmpuint(f->c.disks[i].index, ==, want[i].index);
        g_assert_cmpuint(f->c.disks[i].number, ==, want[i].number);
    }
}

static void
test_images(Fixture *f, gconstpointer data)
{
    for (uint32_t i = 0; i < N_DISKS; i++)
        g_assert_cmpuint(disks_image(&f->c, i), ==, N_MEMBERS + i);
}

/* ---- What is taken ---- */

static void
test_stored(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {3, 4, 5};
    g_autofree DurableRange *first = NULL, *second = NULL;

    write_and_cut(f, 1, blocks, 3);
    first = disks_stored_ranges(&f->c);
    g_assert_cmpuint(first[1].from, ==, 0);
    g_assert_cmpuint(first[1].to, ==, 3);
    g_assert_cmpuint(first[1].cut, ==, 1);
    g_assert_cmpuint(first[1].image, ==, N_MEMBERS + 1);
    g_assert_cmpuint(first[0].from, ==, first[0].to);
    write_and_cut(f, 1, blocks, 2);
    second = disks_stored_ranges(&f->c);
    g_assert_cmpuint(second[1].from, ==, 3);
    g_assert_cmpuint(second[1].to, ==, 5);
    g_assert_cmpuint(second[1].cut, ==, 2);
}

static void
test_streamed(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {3, 4, 5};
    g_autofree DurableRange *stored = NULL, *streamed = NULL;

    write_and_cut(f, 0, blocks, 2);
    stored = disks_stored_ranges(&f->c);
    write_and_cut(f, 0, blocks, 1);
    streamed = disks_streamed_ranges(&f->c);
    g_assert_cmpuint(stored[0].to, ==, 2);
    g_assert_cmpuint(streamed[0].from, ==, 0);
    g_assert_cmpuint(streamed[0].to, ==, 3);
}

static void
queue_epoch(Fixture *f, uint64_t number)
{
    g_autofree DurableRange *ranges = disks_streamed_ranges(&f->c);
    g_autoptr(GError) error = NULL;

    freeze_begin(&f->c, &f->stream, number, number == 1, number - 1);
    disks_queue(&f->c, &f->stream, number, ranges, &error);
    g_assert_no_error(error);
}

static void
wait_blocks(Fixture *f, uint64_t blocks)
{
    gint64 until = g_get_monotonic_time() + LIMIT_US;

    while (sink_stats(f->stream.sink).pages.disk_blocks < blocks && g_get_monotonic_time() < until)
        g_usleep(1000);
    g_assert_cmpuint(sink_stats(f->stream.sink).pages.disk_blocks, ==, blocks);
}

static void
test_queued(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {3, 4, 3, 3};

    stream_up(f, TARGET_STEADY);
    write_and_cut(f, 0, blocks, 4);
    write_and_cut(f, 2, blocks, 1);
    queue_epoch(f, 1);
    wait_blocks(f, 3); /* of several entries of a block the last one */
    g_assert_cmpuint(f->c.disks[0].streamed_cut, ==, 1);
    write_and_cut(f, 0, blocks, 1);
    queue_epoch(f, 2);
    wait_blocks(f, 4);
    g_assert_cmpuint(f->c.disks[0].streamed_cut, ==, 2);
}

static void
test_unreadable(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {3, BLOCKS};
    g_autofree DurableRange *ranges = NULL;
    g_autoptr(GError) error = NULL;

    stream_up(f, TARGET_STEADY);
    write_and_cut(f, 2, blocks, 2);
    ranges = disks_streamed_ranges(&f->c);
    freeze_begin(&f->c, &f->stream, 1, true, 0);
    g_assert_false(disks_queue(&f->c, &f->stream, 1, ranges, &error));
    g_assert_nonnull(strstr(error->message, "member web"));
    g_assert_nonnull(strstr(error->message, "not possible"));
}

/* ---- What engines are told ---- */

static void
test_durable_told(Fixture *f, gconstpointer data)
{
    static const uint64_t block = 1;

    write_and_cut(f, 1, &block, 1);
    write_and_cut(f, 1, &block, 1);
    commit(f, 1);
    tick(f);
    g_assert_cmpuint(f->engines[1].told, ==, 1);
    g_assert_cmpuint(f->engines[1].n_notes, ==, 2);
    g_assert_cmpuint(f->engines[1].released[0], ==, 3);
    g_assert_cmpuint(f->engines[1].released[1], ==, 1);
    g_assert_false(f->engines[1].resend);
}

static void
test_told_once(Fixture *f, gconstpointer data)
{
    static const uint64_t block = 1;

    tick(f); /* that nothing is durable is news at first */
    guint told = f->engines[0].told;
    tick(f);
    g_assert_cmpuint(f->engines[0].told, ==, told);
    write_and_cut(f, 0, &block, 1);
    commit(f, 0);
    tick(f);
    tick(f);
    g_assert_cmpuint(f->engines[0].told, ==, told + 1);
    g_assert_cmpuint(f->engines[1].told, ==, told);
}

static void
test_home_told(Fixture *f, gconstpointer data)
{
    tick(f);
    f->home_below[2] = 9;
    tick(f);
    g_assert_cmpuint(f->engines[1].home[0], ==, 0);
    g_assert_cmpuint(f->engines[1].home[1], ==, 9);
}

/* It has not been sent yet, and a checkpoint is no copy for the standby. */
static void
test_stream_needs(Fixture *f, gconstpointer data)
{
    static const uint64_t block = 1;

    stream_up(f, TARGET_STEADY);
    write_and_cut(f, 0, &block, 1);
    queue_epoch(f, 1);
    wait_blocks(f, 1);
    write_and_cut(f, 0, &block, 1);
    write_and_cut(f, 0, &block, 1);
    commit(f, 0);
    g_assert_cmpuint(f->c.disks[0].durable_cut, ==, 3);
    tick(f);
    g_assert_cmpuint(f->engines[0].released[0], ==, 2);
    queue_epoch(f, 2);
    wait_blocks(f, 2);
    for (gint64 until = g_get_monotonic_time() + LIMIT_US;
         f->engines[0].released[0] != 4 && g_get_monotonic_time() < until; g_usleep(1000))
        tick(f);
    g_assert_cmpuint(f->engines[0].released[0], ==, 4);
}

/* Before its full copy has begun the stream will get all anew. */
static void
test_connecting_needs_nothing(Fixture *f, gconstpointer data)
{
    static const uint64_t block = 1;

    stream_up(f, TARGET_OPENING);
    write_and_cut(f, 0, &block, 1);
    commit(f, 0);
    tick(f);
    g_assert_cmpuint(f->engines[0].released[0], ==, 2);
}

/* Workers of a stream that is lost may still read. */
static void
test_held_while_read(Fixture *f, gconstpointer data)
{
    uint64_t blocks[BLOCKS];

    for (uint64_t i = 0; i < BLOCKS; i++)
        blocks[i] = i;
    g_atomic_int_set(&f->held, 1);
    stream_up(f, TARGET_STEADY);
    /* More batches than are given to workers while the stream stands still. */
    for (uint64_t number = 1; number <= 200; number++) {
        write_and_cut(f, 0, blocks, BLOCKS);
        queue_epoch(f, number);
    }
    f->c.stream = NULL;
    commit(f, 0);
    tick(f);
    g_assert_cmpuint(f->c.disks[0].durable_cut, ==, 200);
    g_assert_cmpuint(f->engines[0].released[0], <=, 200);
    g_atomic_int_set(&f->held, 0);
    sink_release(g_steal_pointer(&f->stream.sink), false);
    for (gint64 until = g_get_monotonic_time() + LIMIT_US;
         f->engines[0].released[0] != 201 && g_get_monotonic_time() < until; g_usleep(1000))
        tick(f);
    g_assert_cmpuint(f->engines[0].released[0], ==, 201);
}

/* A stream that comes later needs what is there then, not what has gone. */
static void
test_never_taken_back(Fixture *f, gconstpointer data)
{
    static const uint64_t block = 1;

    write_and_cut(f, 0, &block, 1);
    commit(f, 0);
    tick(f);
    g_assert_cmpuint(f->engines[0].released[0], ==, 2);
    stream_up(f, TARGET_SYNCING);
    f->home_below[0] = 1;
    tick(f);
    g_assert_cmpuint(f->engines[0].home[0], ==, 1);
    g_assert_cmpuint(f->engines[0].released[0], ==, 2);
}

static void
test_off(Fixture *f, gconstpointer data)
{
    static const uint64_t block = 1;

    write_and_cut(f, 0, &block, 1);
    write_and_cut(f, 1, &block, 1);
    member_disconnect(f->c.members[0]);
    commit(f, 0);
    f->c.disks[1].durable_cut = 1;
    tick(f);
    g_assert_cmpuint(f->engines[0].told, ==, 0);
    g_assert_cmpuint(f->engines[1].released[0], ==, 2);
}

static void
test_not_running(Fixture *f, gconstpointer data)
{
    f->c.run = RUN_HANDED_OVER;
    f->home_below[0] = 5;
    tick(f);
    g_assert_cmpuint(f->engines[0].told, ==, 0);
}

static void
test_not_all_the_time(Fixture *f, gconstpointer data)
{
    tick(f);
    guint told = f->engines[0].told;
    f->home_below[0] = 5;
    disks_tick(&f->c, f->now + NS_PER_MS);
    g_assert_cmpuint(f->engines[0].told, ==, told);
    tick(f);
    g_assert_cmpuint(f->engines[0].told, ==, told + 1);
}

/* ---- Beginning anew ---- */

static void
test_resend_streamed(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {1, 2};
    g_autofree DurableRange *ranges = NULL;

    write_and_cut(f, 0, blocks, 2);
    g_assert_true(disks_resend_streamed(&f->c));
    for (int i = 0; i < N_MEMBERS; i++)
        g_assert_true(f->engines[i].resend);
    /* What the engine has written again follows. */
    write_and_cut(f, 0, blocks, 2);
    ranges = disks_streamed_ranges(&f->c);
    g_assert_cmpuint(ranges[0].from, ==, 2);
    g_assert_cmpuint(ranges[0].to, ==, 4);
    g_assert_cmpuint(f->c.disks[0].stored, ==, 0);
}

/* Each list takes room: one that has given it is not asked again because another one could not. */
static void
test_resend_in_part(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {1, 2};
    g_autofree DurableRange *ranges = NULL;

    stream_up(f, TARGET_OPENING);
    write_and_cut(f, 0, blocks, 2);
    write_and_cut(f, 1, blocks, 2);
    g_atomic_int_set(&f->engines[1].refuses, 1);
    g_assert_false(disks_resend_streamed(&f->c));
    guint told = f->engines[0].told;
    write_and_cut(f, 0, blocks, 2);
    write_and_cut(f, 1, blocks, 2);
    commit(f, 0);
    g_atomic_int_set(&f->engines[1].refuses, 0);
    g_assert_true(disks_resend_streamed(&f->c));
    /* Only told of what is durable, which is not what it has listed. */
    g_assert_cmpuint(f->engines[0].told, <=, told + 1);
    g_assert_false(f->engines[0].resend && f->engines[0].told > told);
    g_assert_cmpuint(f->engines[0].released[0], <=, 2);
    ranges = disks_streamed_ranges(&f->c);
    g_assert_cmpuint(ranges[0].from, ==, 2);
    g_assert_cmpuint(ranges[1].from, ==, 4);
}

static void
test_another_stream(Fixture *f, gconstpointer data)
{
    g_assert_true(disks_resend_streamed(&f->c));
    guint told = f->engines[0].told;
    g_assert_true(disks_resend_streamed(&f->c));
    g_assert_cmpuint(f->engines[0].told, ==, told);
    disks_begin_streamed(&f->c);
    g_assert_true(disks_resend_streamed(&f->c));
    g_assert_cmpuint(f->engines[0].told, ==, told + 1);
}

static void
test_resend_stored(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {1, 2};
    g_autofree DurableRange *ranges = NULL;

    write_and_cut(f, 2, blocks, 2);
    disks_begin_stored(&f->c, false);
    disks_resend_stored(&f->c);
    g_assert_true(f->engines[1].resend);
    g_assert_true(disks_stored_whole(&f->c));
    ranges = disks_stored_ranges(&f->c);
    g_assert_cmpuint(ranges[2].from, ==, 2);
    g_assert_cmpuint(f->c.disks[2].streamed, ==, 0);
}

/* What it has listed and written since is still to be stored. */
static void
test_resend_once(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {1, 2};
    g_autofree DurableRange *ranges = NULL;

    disks_begin_stored(&f->c, false);
    disks_resend_stored(&f->c);
    guint told = f->engines[0].told;
    write_and_cut(f, 0, blocks, 2);
    disks_resend_stored(&f->c);
    g_assert_cmpuint(f->engines[0].told, ==, told);
    member_disconnect(f->c.members[0]);
    disks_resend_stored(&f->c);
    ranges = disks_stored_ranges(&f->c);
    g_assert_cmpuint(ranges[0].from, ==, 0);
    g_assert_cmpuint(ranges[0].to, ==, 2);
}

static void
test_known_is_not_resent(Fixture *f, gconstpointer data)
{
    disks_begin_stored(&f->c, true);
    g_assert_true(disks_stored_whole(&f->c));
    disks_resend_stored(&f->c);
    g_assert_false(f->engines[0].resend);
    g_assert_false(f->engines[1].resend);
}

static void
test_off_cannot_resend(Fixture *f, gconstpointer data)
{
    disks_begin_stored(&f->c, false);
    member_disconnect(f->c.members[0]);
    disks_resend_stored(&f->c);
    g_assert_false(disks_stored_whole(&f->c));
    g_assert_true(f->c.disks[1].stored_whole);
}

static void
test_untaken(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {1, 2};
    g_autofree DurableRange *failed = NULL, *ranges = NULL;

    write_and_cut(f, 0, blocks, 2);
    failed = disks_stored_ranges(&f->c);
    write_and_cut(f, 0, blocks, 1);
    disks_untake_stored(&f->c, failed);
    ranges = disks_stored_ranges(&f->c);
    g_assert_cmpuint(ranges[0].from, ==, 0);
    g_assert_cmpuint(ranges[0].to, ==, 3);
}

/* ---- Members that are off ---- */

/* The guest of db powers itself off. Its engine lists so many blocks that its overlay has. */
static void
db_goes_off(Fixture *f, uint64_t blocks)
{
    Engine *e = &f->engines[0];
    const MemberDisk *disk = disk_at(f, 0);

    district__member_disk_cut__init(&e->last[0]);
    e->last[0].cut = disk->cut + 1;
    e->last[0].index_end = disk->index_end + blocks;
    e->last_list[0] = &e->last[0];
    e->n_last = 1;
    disks_member_off(&f->c, 0);
    member_disconnect(f->c.members[0]);
}

static void
test_stream_of_off(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {1, 2};
    g_autofree DurableRange *ranges = NULL;

    write_and_cut(f, 0, blocks, 2);
    db_goes_off(f, 2);
    g_assert_true(f->engines[0].resend);
    g_assert_null(disks_unlisted(&f->c));
    g_assert_true(disks_resend_streamed(&f->c));
    ranges = disks_streamed_ranges(&f->c);
    g_assert_cmpuint(ranges[0].from, ==, 2);
    g_assert_cmpuint(ranges[0].to, ==, 4);
    /* And another one, later. */
    disks_begin_streamed(&f->c);
    g_assert_true(disks_resend_streamed(&f->c));
    g_autofree DurableRange *again = disks_streamed_ranges(&f->c);
    g_assert_cmpuint(again[0].from, ==, 2);
    g_assert_cmpuint(again[0].to, ==, 4);
}

static void
test_store_of_off(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {1, 2};
    g_autofree DurableRange *ranges = NULL;

    disks_begin_stored(&f->c, true);
    write_and_cut(f, 0, blocks, 2);
    db_goes_off(f, 20);
    ranges = disks_stored_ranges(&f->c);
    g_assert_cmpuint(ranges[0].from, ==, 0);
    g_assert_cmpuint(ranges[0].to, ==, 2);
}

static void
test_adopted_off(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {1, 2};
    g_autofree DurableRange *ranges = NULL;

    write_and_cut(f, 0, blocks, 2);
    disks_begin_stored(&f->c, false);
    db_goes_off(f, 2);
    g_assert_true(f->c.disks[0].stored_whole);
    ranges = disks_stored_ranges(&f->c);
    g_assert_cmpuint(ranges[0].from, ==, 2);
    g_assert_cmpuint(ranges[0].to, ==, 4);
}

static void
test_unlisted(Fixture *f, gconstpointer data)
{
    g_assert_null(disks_unlisted(&f->c));
    member_disconnect(f->c.members[0]);
    disks_member_off(&f->c, 0);
    g_assert_cmpstr(disks_unlisted(&f->c), ==, "db");
}

static void
test_own_homes(Fixture *f, gconstpointer data)
{
    g_free(disk_at(f, 1)->home);
    disk_at(f, 1)->home = g_strdup("nbd:/run/nbd-1-0");
    disk_at(f, 1)->image = g_strdup("qcow2:/var/web.qcow2");
    disks_own_homes(&f->c, 1);
    g_assert_cmpstr(disk_at(f, 0)->home, ==, "raw:/nowhere");
    g_assert_cmpstr(disk_at(f, 1)->home, ==, "image:qcow2:/var/web.qcow2");
    g_assert_cmpstr(disk_at(f, 2)->home, ==, "raw:/nowhere");
}

/* ---- Homes ---- */

/* A home whose block has data; disk i gets it. */
static int
home_make(Fixture *f, uint32_t i, uint64_t block)
{
    int home = memfd_create("home", MFD_CLOEXEC);
    uint8_t data[PAGE_BYTES] = {7};

    g_assert_cmpint(ftruncate(home, BLOCKS * PAGE_BYTES), ==, 0);
    g_assert_cmpint(pwrite(home, data, sizeof data, (off_t)(block * PAGE_BYTES)), ==, sizeof data);
    g_free(disk_at(f, i)->home);
    disk_at(f, i)->home = g_strdup_printf("raw:/proc/self/fd/%d", home);
    return home;
}

static void
wait_counted(DiskSync *sync)
{
    gint64 until = g_get_monotonic_time() + LIMIT_US;

    while (!disk_sync_counted(sync) && g_get_monotonic_time() < until)
        g_usleep(1000);
    g_assert_true(disk_sync_counted(sync));
}

static DiskSyncBatch *
wait_batch(DiskSync *sync)
{
    gint64 until = g_get_monotonic_time() + LIMIT_US;
    DiskSyncBatch *batch;

    while ((batch = disk_sync_take(sync)) == NULL && g_get_monotonic_time() < until)
        g_usleep(1000);
    g_assert_nonnull(batch);
    return batch;
}

/* The standby gets a new image of every disk, also of one that nobody uses any more. */
static void
test_sync_homes(Fixture *f, gconstpointer data)
{
    gint64 until = g_get_monotonic_time() + LIMIT_US;
    g_autoptr(GError) error = NULL;
    int homes[N_DISKS];
    DiskSync *sync;

    member_disconnect(f->c.members[1]);
    for (uint32_t i = 0; i < N_DISKS; i++)
        homes[i] = home_make(f, i, 5 + i);
    sync = disks_sync_homes(&f->c);
    g_assert_nonnull(sync);
    wait_counted(sync);
    g_usleep(20000);
    g_assert_null(disk_sync_take(sync)); /* not before it is told to */
    disk_sync_begin(sync);
    for (uint32_t i = 0; i < N_DISKS; i++) {
        g_assert_cmpuint(disk_sync_data(sync, N_MEMBERS + i), ==, PAGE_BYTES);
        DiskSyncBatch *batch = wait_batch(sync);
        g_assert_cmpuint(batch->image, ==, N_MEMBERS + i);
        g_assert_cmpuint(batch->n, ==, 1);
        g_assert_cmpuint(batch->blocks[0], ==, 5 + i);
        disk_sync_batch_free(batch);
    }
    while (!disk_sync_over(sync, &error) && g_get_monotonic_time() < until)
        g_usleep(1000);
    g_assert_no_error(error);
    disk_sync_free(sync);
    for (uint32_t i = 0; i < N_DISKS; i++)
        close(homes[i]);
}

static unsigned
count_threads(const char *name)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/task", 0, NULL);
    unsigned n = 0;

    for (const char *id; (id = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename("/proc/self/task", id, "comm", NULL);
        g_autofree char *comm = NULL;
        if (g_file_get_contents(path, &comm, NULL, NULL))
            n += strcmp(g_strchomp(comm), name) == 0;
    }
    return n;
}

/* In many homes, a hole after each block: counting or reading all of that takes long. */
#define MANY_HOMES 3000
#define MANY_BLOCKS 4096

/* begin: while it reads, which finds nothing but zeros; else while it counts. */
static void
check_sync_stops(Fixture *f, bool begin)
{
    static DiskSyncHome homes[MANY_HOMES];
    int home = memfd_create("home", MFD_CLOEXEC);
    g_autofree char *name = g_strdup_printf("raw:/proc/self/fd/%d", home);
    const uint8_t zero[PAGE_BYTES] = {0};
    gint64 until = g_get_monotonic_time() + LIMIT_US;

    g_assert_cmpint(ftruncate(home, 2 * MANY_BLOCKS * PAGE_BYTES), ==, 0);
    for (off_t i = 0; i < (begin ? 1 : MANY_BLOCKS); i++)
        g_assert_cmpint(pwrite(home, zero, sizeof zero, 2 * i * PAGE_BYTES), ==, sizeof zero);
    for (guint i = 0; i < MANY_HOMES; i++)
        homes[i] = (DiskSyncHome){i, name, 2 * MANY_BLOCKS * PAGE_BYTES};
    DiskSync *sync = disk_sync_new(homes, MANY_HOMES, 0, f->c.inbox);
    if (begin) {
        wait_counted(sync);
        for (off_t i = 1; i < MANY_BLOCKS; i++)
            g_assert_cmpint(pwrite(home, zero, sizeof zero, 2 * i * PAGE_BYTES), ==, sizeof zero);
        disk_sync_begin(sync);
    }
    g_usleep(50000);
    g_assert_cmpuint(count_threads("disk-sync"), ==, 1);
    disk_sync_free(sync);
    gint64 began = g_get_monotonic_time();
    while (count_threads("disk-sync") > 0 && g_get_monotonic_time() < until)
        g_usleep(1000);
    g_assert_cmpint(g_get_monotonic_time() - began, <, G_USEC_PER_SEC);
    close(home);
}

static void
test_sync_stops_counting(Fixture *f, gconstpointer data)
{
    check_sync_stops(f, false);
}

static void
test_sync_stops_reading(Fixture *f, gconstpointer data)
{
    check_sync_stops(f, true);
}

static void
test_data(Fixture *f, gconstpointer data)
{
    static const uint64_t blocks[] = {1, 2};

    write_and_cut(f, 0, blocks, 2);
    g_assert_cmpuint(disks_data(&f->c, 0, 0), ==, 2 * PAGE_BYTES);
    g_assert_cmpuint(disks_data(&f->c, 0, 5 * PAGE_BYTES), ==, 5 * PAGE_BYTES);
    g_assert_cmpuint(disks_data(&f->c, 0, UINT64_MAX), ==, BLOCKS * PAGE_BYTES);
    g_assert_cmpuint(disks_data(&f->c, 1, 0), ==, 0);
}

static void
test_no_homes(Fixture *f, gconstpointer data)
{
    f->c.n_disks = 0;
    g_assert_null(disks_sync_homes(&f->c));
    f->c.n_disks = N_DISKS;
}

#define ADD(name, function) g_test_add("/disks/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_log_set_always_fatal(G_LOG_LEVEL_CRITICAL);
    g_log_set_handler(NULL, G_LOG_LEVEL_WARNING | G_LOG_LEVEL_MESSAGE, g_log_default_handler, NULL);
    ADD("only disks with an overlay are in cuts", test_listed);
    ADD("their images follow the members' RAM", test_images);
    ADD("a durable checkpoint takes what is new since the one before", test_stored);
    ADD("the stream takes entries of its own", test_streamed);
    ADD("an epoch has the last write of each block that is new", test_queued);
    ADD("an entry that is not possible fails by the member's name", test_unreadable);
    ADD("engines are told what is durable", test_durable_told);
    ADD("engines are told what is new, once", test_told_once);
    ADD("engines are told what their homes have", test_home_told);
    ADD("what the stream has not sent is not released", test_stream_needs);
    ADD("a stream that connects needs nothing", test_connecting_needs_nothing);
    ADD("what is still read of a lost stream is not released", test_held_while_read);
    ADD("what was released stays so", test_never_taken_back);
    ADD("a member that is off is not told", test_off);
    ADD("nobody is told once the district does not run here", test_not_running);
    ADD("engines are not asked all the time", test_not_all_the_time);
    ADD("a new stream gets all that overlays have", test_resend_streamed);
    ADD("an engine lists all once for a stream, whatever others do", test_resend_in_part);
    ADD("for another stream all is listed anew", test_another_stream);
    ADD("a store that begins anew gets all that overlays have", test_resend_stored);
    ADD("an engine that has listed all is not asked again", test_resend_once);
    ADD("what the store has is not asked for", test_known_is_not_resent);
    ADD("what an engine that is off had is not taken for known", test_off_cannot_resend);
    ADD("a durable checkpoint takes what one that failed had taken", test_untaken);
    ADD("a stream begun after a member is off has its blocks", test_stream_of_off);
    ADD("what a member lists as it goes off is not stored twice", test_store_of_off);
    ADD("an adopted member lists for the store as it goes off", test_adopted_off);
    ADD("a member that went off without listing is named", test_unlisted);
    ADD("an image behind the qemu-nbd of a member that is off is served here", test_own_homes);
    ADD("the first copy reads the homes of all members", test_sync_homes);
    ADD("a first copy that is given up ends while it counts", test_sync_stops_counting);
    ADD("a first copy that is given up ends while it finds zeros", test_sync_stops_reading);
    ADD("the first copy is said to have what home or overlay have", test_data);
    ADD("the first copy of no disk is none", test_no_homes);
    return g_test_run();
}
