/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A member engine without a VM. */
#include "fake-member.h"

#include "common/clock.h"
#include "common/diskindex.h"
#include "common/memfd.h"
#include "common/page.h"
#include "common/pagebits.h"
#include "common/pbmsg.h"
#include "member.pb-c.h"

#include <poll.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#define STATE_CAPACITY (64 * 1024)
#define BLOB_MAGIC UINT64_C(0x656b61662d6d6d76)
#define HOT_PAGES 32

typedef struct Blob {
    uint64_t magic;
    uint64_t pause;
    uint64_t ram_hash;
} Blob;

struct FakeMember {
    FakeMemberConfig config;
    char *name;
    char *path;
    int listen_fd;
    int client_fd;
    int bitmap_fd, state_fd, ram_fd;
    uint64_t *bitmap;
    uint8_t *state;
    GThread *server, *writer;
    gint stop;                  /* atomic */
    gint refuse_pauses;         /* atomic; so many */
    gint link_fd, journal_mode; /* atomic */
    gint links;                 /* atomic; how many there have been */
    int stir_fd;                /* -1: it cannot watch */
    gint refuse_disks;          /* atomic */
    char *home;                 /* of its disk */
    int data_fd, index_fd;

    GMutex lock; /* guards what follows, and is held for each write to RAM */
    uint8_t *ram;
    uint64_t *log; /* dirty since the last harvest */
    District__MemberState run;
    uint64_t writes, pauses, harvests, checks;
    uint64_t *at; /* of each block of its disk the place + 1; 0: not in the overlay */
    uint64_t places, entries, disk_cuts;
    unsigned resends;
    bool held;
    bool watched;
    uint8_t vmgenid[16];
};

/* ---- Guest ---- */

/* With the lock held. */
static void
guest_stirs(FakeMember *m)
{
    uint64_t one = 1;

    if (m->watched)
        g_assert_cmpint(write(m->stir_fd, &one, sizeof(one)), ==, sizeof(one));
    m->watched = false;
}

/* One write of the kinds that encoders care about. The log is set after the write: a harvest in
 * between then leaves it to the next. */
static void
guest_write(FakeMember *m, GRand *rand)
{
    uint64_t span = m->config.span_pages ? m->config.span_pages : page_count(m->config.ram_size);
    bool hot = g_rand_int_range(rand, 0, 4) == 0;
    uint64_t page =
        (uint64_t)g_rand_int_range(rand, 0, (gint32)(hot ? MIN(HOT_PAGES, span) : span));
    uint8_t *at = m->ram + page * PAGE_BYTES;

    switch (g_rand_int_range(rand, 0, 8)) {
    case 0:
        memset(at, 0, PAGE_BYTES);
        break;
    case 1: /* dirty, but the same */
        at[17] = *(volatile uint8_t *)(at + 17);
        break;
    case 2:
    case 3:
        for (size_t i = 0; i < PAGE_BYTES; i += 4)
            *(uint32_t *)(void *)(at + i) = g_rand_int(rand);
        break;
    default:
        *(uint32_t *)(void *)(at + (size_t)g_rand_int_range(rand, 0, 1024) * 4) = g_rand_int(rand);
    }
    pagebits_set(m->log, page);
    m->writes++;
    guest_stirs(m);
}

static gpointer
guest_run(gpointer data)
{
    FakeMember *m = data;
    GRand *rand = g_rand_new_with_seed(g_str_hash(m->name));

    while (!g_atomic_int_get(&m->stop)) {
        for (unsigned i = 0; i < m->config.writes_per_ms; i++) {
            g_mutex_lock(&m->lock);
            if (m->run == DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING)
                guest_write(m, rand);
            g_mutex_unlock(&m->lock);
        }
        g_usleep(1000);
    }
    g_rand_free(rand);
    return NULL;
}

/* ---- Its disk ---- */

/* With the lock held. */
static void
disk_list_block(FakeMember *m, uint64_t block)
{
    DiskIndexEntry entry = {block, (m->at[block] - 1) * PAGE_BYTES};

    g_assert_cmpint(pwrite(m->index_fd, &entry, sizeof(entry), (off_t)(m->entries * sizeof(entry))),
                    ==, sizeof(entry));
    m->entries++;
}

/* With the lock held. */
static void
disk_resend(FakeMember *m)
{
    for (uint64_t block = 0; block < m->config.disk_blocks; block++) {
        if (m->at[block] != 0)
            disk_list_block(m, block);
    }
    m->resends++;
}

/* Returns how many cuts are told of. With the lock held. */
static size_t
disk_cut(FakeMember *m, District__MemberDiskCut *cut)
{
    if (m->config.disk_blocks == 0)
        return 0;
    district__member_disk_cut__init(cut);
    cut->cut = ++m->disk_cuts;
    cut->index_end = m->entries;
    return 1;
}

/* Returns how many disks there are. */
static size_t
disk_hello(FakeMember *m, District__MemberDisk *disk, int *fds, guint *n_fds)
{
    if (m->config.disk_blocks == 0)
        return 0;
    district__member_disk__init(disk);
    disk->size = m->config.disk_blocks * PAGE_BYTES;
    disk->home = m->home;
    disk->overlay = TRUE;
    disk->cuts = m->disk_cuts;
    disk->index_entries = m->entries;
    fds[(*n_fds)++] = m->data_fd;
    fds[(*n_fds)++] = m->index_fd;
    return 1;
}

/* ---- Engine ---- */

/* Move the log to the shared bitmap; with the lock held. */
static uint64_t
engine_harvest(FakeMember *m)
{
    uint64_t pages = 0;

    for (size_t w = 0; w < pagebits_words(page_count(m->config.ram_size)); w++) {
        uint64_t bits = pagebits_take_word(m->log, w);
        if (bits)
            pages += pagebits_or(&m->bitmap[w], &bits, 1);
    }
    m->harvests++;
    return pages;
}

static void
engine_hello(FakeMember *m, District__MemberReply *reply)
{
    District__MemberHelloReply hello = DISTRICT__MEMBER_HELLO_REPLY__INIT;
    District__RamRegion region = DISTRICT__RAM_REGION__INIT;
    District__RamRegion *regions[] = {&region};
    District__MemberJournal journal = DISTRICT__MEMBER_JOURNAL__INIT;
    District__MemberDisk disk, *disks[] = {&disk};
    int fds[8] = {m->bitmap_fd, m->state_fd, m->ram_fd}, ends[2] = {-1, -1};
    guint n_fds = m->run == DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE ? 2 : 3;

    region.size = m->config.ram_size;
    hello.version = 2;
    hello.engine = (char *)"kvm";
    hello.name = m->name;
    hello.ram_size = m->config.ram_size;
    hello.n_regions = 1;
    hello.regions = regions;
    hello.vcpus = 1;
    hello.dirty_source = (char *)"bitmap";
    hello.state = m->run;
    hello.state_capacity = STATE_CAPACITY;
    reply->op_case = DISTRICT__MEMBER_REPLY__OP_HELLO;
    reply->hello = &hello;
    hello.n_disks = disk_hello(m, &disk, fds, &n_fds);
    hello.disks = disks;
    if (m->config.journal) {
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), ==, 0);
        journal.path = (char *)m->config.journal;
        journal.size = m->config.journal_bytes;
        journal.mode = (District__JournalMode)g_atomic_int_get(&m->journal_mode);
        journal.can_freeze = !m->config.journal_old;
        hello.journal = &journal;
        fds[n_fds++] = ends[1];
    }
    hello.can_stir = m->stir_fd >= 0;
    if (hello.can_stir)
        fds[n_fds++] = m->stir_fd;
    hello.lazy = m->config.partial;
    if (hello.lazy)
        fds[n_fds++] = m->state_fd;
    pbmsg_send(m->client_fd, &reply->base, fds, n_fds, 1000, NULL);
    if (ends[0] < 0)
        return;
    close(ends[1]);
    /* In place of the old one: its number is in use by the test's own thread. */
    if (m->link_fd < 0) {
        g_atomic_int_set(&m->link_fd, ends[0]);
    } else {
        g_assert_cmpint(dup3(ends[0], m->link_fd, O_CLOEXEC), ==, m->link_fd);
        close(ends[0]);
    }
    g_atomic_int_inc(&m->links);
}

static void
engine_pause(FakeMember *m, const District__MemberPauseRequest *want, District__MemberReply *reply)
{
    District__MemberPauseReply pause = DISTRICT__MEMBER_PAUSE_REPLY__INIT;
    District__MemberDiskCut cut, *cuts[] = {&cut};

    pause.requested_ns = (uint64_t)clock_monotonic_ns();
    if (m->config.pause_delay_ms)
        g_usleep(m->config.pause_delay_ms * 1000);
    g_mutex_lock(&m->lock);
    m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED;
    m->watched = false;
    m->pauses++;
    m->held = want->hold;
    pause.vcpus_out_ns = pause.devices_rest_ns = (uint64_t)clock_monotonic_ns();
    if (want->save_state) {
        Blob blob = {BLOB_MAGIC, m->pauses, XXH3_64bits(m->ram, m->config.ram_size)};
        memcpy(m->state, &blob, sizeof(blob));
        pause.state_len = sizeof(blob);
    }
    pause.saved_ns = (uint64_t)clock_monotonic_ns();
    pause.pages = engine_harvest(m);
    pause.n_disks = disk_cut(m, &cut);
    pause.disks = cuts;
    pause.harvested_ns = (uint64_t)clock_monotonic_ns();
    g_mutex_unlock(&m->lock);
    if (m->config.lies) {
        pause.requested_ns = 1;
        pause.vcpus_out_ns = UINT64_MAX;
        pause.saved_ns += (uint64_t)(3600 * NS_PER_S);
        pause.harvested_ns = 0;
    }
    reply->op_case = DISTRICT__MEMBER_REPLY__OP_PAUSE;
    reply->pause = &pause;
    pbmsg_send(m->client_fd, &reply->base, NULL, 0, 1000, NULL);
}

static void
engine_restore(FakeMember *m, const District__MemberRestoreRequest *want, int ram_fd,
               District__MemberReply *reply)
{
    District__MemberRestoreReply restore = DISTRICT__MEMBER_RESTORE_REPLY__INIT;

    g_mutex_lock(&m->lock);
    if (want->check_only) {
        m->checks++;
        if (ram_fd >= 0 || want->state_len != sizeof(Blob))
            reply->error = (char *)"this state does not fit here";
    } else if (m->run != DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE || ram_fd < 0 ||
               memfd_size(ram_fd) != m->config.ram_size) {
        reply->error = (char *)"not awaiting a restore, or RAM of another size";
    } else {
        m->ram = memfd_map(ram_fd, m->config.ram_size, TRUE, NULL);
        m->ram_fd = dup(ram_fd);
        if (!fake_member_check(m->state, want->state_len, m->ram, m->config.ram_size))
            reply->error = (char *)"RAM is not what it was at the cut";
        else
            m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED;
        if (want->vmgenid.len == sizeof(m->vmgenid))
            memcpy(m->vmgenid, want->vmgenid.data, sizeof(m->vmgenid));
    }
    g_mutex_unlock(&m->lock);
    reply->op_case = DISTRICT__MEMBER_REPLY__OP_RESTORE;
    reply->restore = &restore;
    pbmsg_send(m->client_fd, &reply->base, NULL, 0, 1000, NULL);
}

static void
engine_describe(FakeMember *m, District__MemberReply *reply)
{
    District__MemberDescribeReply describe = DISTRICT__MEMBER_DESCRIBE_REPLY__INIT;
    District__MemberDiskCut cut, *cuts[] = {&cut};

    g_mutex_lock(&m->lock);
    describe.state = m->run;
    describe.harvests = m->harvests;
    describe.pauses = m->pauses;
    if (m->run == DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN)
        describe.n_disks = disk_cut(m, &cut);
    describe.disks = cuts;
    g_mutex_unlock(&m->lock);
    reply->op_case = DISTRICT__MEMBER_REPLY__OP_DESCRIBE;
    reply->describe = &describe;
    pbmsg_send(m->client_fd, &reply->base, NULL, 0, 1000, NULL);
}

/* Also when the guest is off. */
static void
engine_disks(FakeMember *m, const District__MemberDisksRequest *want, District__MemberReply *reply)
{
    District__MemberDisksReply disks = DISTRICT__MEMBER_DISKS_REPLY__INIT;
    District__MemberDiskCut cut, *cuts[] = {&cut};

    if (g_atomic_int_get(&m->refuse_disks)) {
        reply->error = (char *)"there is no room for the index";
    } else {
        g_mutex_lock(&m->lock);
        if (want->n_disks == 1 && want->disks[0]->resend)
            disk_resend(m);
        if (m->run == DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN)
            disks.n_disks = disk_cut(m, &cut);
        disks.disks = cuts;
        g_mutex_unlock(&m->lock);
        reply->op_case = DISTRICT__MEMBER_REPLY__OP_DISKS;
        reply->disks = &disks;
    }
    pbmsg_send(m->client_fd, &reply->base, NULL, 0, 1000, NULL);
}

static void
engine_simple(FakeMember *m, const District__MemberRequest *request, District__MemberReply *reply)
{
    District__MemberHarvestReply harvest = DISTRICT__MEMBER_HARVEST_REPLY__INIT;
    District__MemberResumeReply resume = DISTRICT__MEMBER_RESUME_REPLY__INIT;
    District__MemberPowerButtonReply button = DISTRICT__MEMBER_POWER_BUTTON_REPLY__INIT;
    District__MemberQuitReply quit = DISTRICT__MEMBER_QUIT_REPLY__INIT;

    g_mutex_lock(&m->lock);
    switch (request->op_case) {
    case DISTRICT__MEMBER_REQUEST__OP_HARVEST:
        harvest.pages = engine_harvest(m);
        reply->op_case = DISTRICT__MEMBER_REPLY__OP_HARVEST;
        reply->harvest = &harvest;
        break;
    case DISTRICT__MEMBER_REQUEST__OP_RESUME:
        m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING;
        m->watched = request->resume->watch;
        if (m->watched && read(m->stir_fd, &(uint64_t){0}, sizeof(uint64_t)) > 0)
            g_test_message("stirred before the watch");
        resume.resumed_ns = (uint64_t)clock_monotonic_ns();
        reply->op_case = DISTRICT__MEMBER_REPLY__OP_RESUME;
        reply->resume = &resume;
        break;
    case DISTRICT__MEMBER_REQUEST__OP_POWER_BUTTON:
        button.heard = m->config.powers_off;
        if (m->config.powers_off)
            m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN;
        reply->op_case = DISTRICT__MEMBER_REPLY__OP_POWER_BUTTON;
        reply->power_button = &button;
        break;
    default:
        m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_UNKNOWN;
        reply->op_case = DISTRICT__MEMBER_REPLY__OP_QUIT;
        reply->quit = &quit;
    }
    g_mutex_unlock(&m->lock);
    pbmsg_send(m->client_fd, &reply->base, NULL, 0, 1000, NULL);
}

static void
engine_handle(FakeMember *m, const District__MemberRequest *request, int fd)
{
    District__MemberReply reply = DISTRICT__MEMBER_REPLY__INIT;
    bool off = m->run == DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN;

    reply.id = request->id;
    if (request->op_case == DISTRICT__MEMBER_REQUEST__OP_HELLO) {
        engine_hello(m, &reply);
    } else if (request->op_case == DISTRICT__MEMBER_REQUEST__OP_DESCRIBE) {
        engine_describe(m, &reply);
    } else if (request->op_case == DISTRICT__MEMBER_REQUEST__OP_DISKS) {
        engine_disks(m, request->disks, &reply);
    } else if (off) {
        reply.error = (char *)"the guest has powered itself off";
        pbmsg_send(m->client_fd, &reply.base, NULL, 0, 1000, NULL);
    } else if (request->op_case == DISTRICT__MEMBER_REQUEST__OP_PAUSE &&
               g_atomic_int_get(&m->refuse_pauses) > 0) {
        g_atomic_int_add(&m->refuse_pauses, -1);
        reply.error = (char *)"not now";
        pbmsg_send(m->client_fd, &reply.base, NULL, 0, 1000, NULL);
    } else if (request->op_case == DISTRICT__MEMBER_REQUEST__OP_PAUSE) {
        engine_pause(m, request->pause, &reply);
    } else if (request->op_case == DISTRICT__MEMBER_REQUEST__OP_RESTORE) {
        engine_restore(m, request->restore, fd, &reply);
    } else {
        engine_simple(m, request, &reply);
    }
}

static void
engine_serve(FakeMember *m)
{
    while (!g_atomic_int_get(&m->stop)) {
        int fd = -1;
        guint n_fds = 1;
        g_autoptr(GError) error = NULL;
        ProtobufCMessage *message = pbmsg_recv(m->client_fd, &district__member_request__descriptor,
                                               &fd, &n_fds, 100, &error);
        if (!message && g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
            continue;
        if (!message)
            return;
        engine_handle(m, (District__MemberRequest *)message, n_fds ? fd : -1);
        fdmsg_close_fds(&fd, n_fds);
        protobuf_c_message_free_unpacked(message, NULL);
    }
}

/* The client went away: what only it held goes on. */
static void
engine_let_go(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    if (m->run == DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED && m->pauses > 0 && !m->held)
        m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING;
}

static gpointer
engine_run(gpointer data)
{
    FakeMember *m = data;

    while (!g_atomic_int_get(&m->stop)) {
        struct pollfd p = {.fd = m->listen_fd, .events = POLLIN};
        if (poll(&p, 1, 50) <= 0)
            continue;
        m->client_fd = fdmsg_accept(m->listen_fd, NULL);
        if (m->client_fd < 0)
            continue;
        engine_serve(m);
        engine_let_go(m);
        close(m->client_fd);
        m->client_fd = -1;
    }
    return NULL;
}

/* ---- For the tests ---- */

static int
new_memfd(uint64_t size, void *map)
{
    int fd = memfd_create_sealed("fake-member", size, NULL);

    g_assert_cmpint(fd, >=, 0);
    *(void **)map = memfd_map(fd, size, TRUE, NULL);
    g_assert_nonnull(*(void **)map);
    return fd;
}

/* Its home is a sparse file beside its socket. */
static void
disk_make(FakeMember *m)
{
    g_autofree char *path = g_strconcat(m->path, ".home", NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    g_assert_cmpint(ftruncate(fd, (off_t)(m->config.disk_blocks * PAGE_BYTES)), ==, 0);
    close(fd);
    m->home = g_strconcat("raw:", path, NULL);
    m->at = g_new0(uint64_t, m->config.disk_blocks);
    m->data_fd = memfd_create("data", MFD_CLOEXEC);
    m->index_fd = memfd_create("index", MFD_CLOEXEC);
}

FakeMember *
fake_member_new(const FakeMemberConfig *config)
{
    FakeMember *m = g_new0(FakeMember, 1);
    g_autoptr(GError) error = NULL;
    uint64_t bitmap_bytes = pagebits_bytes(page_count(config->ram_size));

    m->config = *config;
    m->name = g_strdup(config->name);
    m->path = g_strdup(config->path);
    g_mutex_init(&m->lock);
    m->client_fd = -1;
    m->ram_fd = -1;
    m->link_fd = -1;
    m->data_fd = m->index_fd = -1;
    if (config->disk_blocks > 0)
        disk_make(m);
    m->stir_fd = config->watches ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
    m->bitmap_fd = new_memfd(bitmap_bytes, &m->bitmap);
    m->state_fd = new_memfd(STATE_CAPACITY, &m->state);
    m->log = g_malloc0(bitmap_bytes);
    m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE;
    if (!config->awaiting_restore) {
        m->ram_fd = new_memfd(config->ram_size, &m->ram);
        m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED;
        /* As a boot loader would: data at the start, the rest still holes. */
        for (size_t i = 0; i < config->ram_size / 4; i += 8)
            *(uint64_t *)(void *)(m->ram + i) = i * UINT64_C(0x9e3779b97f4a7c15);
    }
    m->listen_fd = fdmsg_listen(m->path, &error);
    g_assert_no_error(error);
    m->server = g_thread_new("engine", engine_run, m);
    m->writer = g_thread_new("guest", guest_run, m);
    return m;
}

void
fake_member_die(FakeMember *m)
{
    g_atomic_int_set(&m->stop, 1);
    if (!m->server)
        return;
    g_thread_join(g_steal_pointer(&m->server));
    g_thread_join(g_steal_pointer(&m->writer));
    close(m->listen_fd);
}

void
fake_member_free(FakeMember *m)
{
    fake_member_die(m);
    if (m->ram)
        munmap(m->ram, m->config.ram_size);
    munmap(m->bitmap, pagebits_bytes(page_count(m->config.ram_size)));
    munmap(m->state, STATE_CAPACITY);
    close(m->bitmap_fd);
    close(m->state_fd);
    if (m->ram_fd >= 0)
        close(m->ram_fd);
    if (m->link_fd >= 0)
        close(m->link_fd);
    if (m->stir_fd >= 0)
        close(m->stir_fd);
    if (m->data_fd >= 0)
        close(m->data_fd);
    if (m->index_fd >= 0)
        close(m->index_fd);
    unlink(m->path);
    g_free(m->home);
    g_free(m->at);
    g_free(m->log);
    g_free(m->name);
    g_free(m->path);
    g_mutex_clear(&m->lock);
    g_free(m);
}

void
fake_member_power_off(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN;
    pagebits_set_range(m->log, 0, page_count(m->config.ram_size));
    engine_harvest(m);
    guest_stirs(m);
}

void
fake_member_write_block(FakeMember *m, uint64_t block, uint8_t byte)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);
    uint8_t data[PAGE_BYTES];

    memset(data, byte, sizeof(data));
    g_assert_cmpint(pwrite(m->data_fd, data, sizeof(data), (off_t)(m->places * PAGE_BYTES)), ==,
                    sizeof(data));
    m->at[block] = ++m->places;
    disk_list_block(m, block);
    guest_stirs(m);
}

unsigned
fake_member_resends(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    return m->resends;
}

void
fake_member_refuse_disks(FakeMember *m, bool refuse)
{
    g_atomic_int_set(&m->refuse_disks, refuse);
}

void
fake_member_hold(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    m->run = DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED;
    m->held = true;
    m->pauses++;
    m->disk_cuts++;
}

void
fake_member_write(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);
    GRand *rand = g_rand_new_with_seed((guint32)m->writes);

    guest_write(m, rand);
    g_rand_free(rand);
}

void
fake_member_wait_links(FakeMember *m, int n)
{
    for (int i = 0; i < 1000 && g_atomic_int_get(&m->links) < n; i++)
        g_usleep(10000);
    g_assert_cmpint(g_atomic_int_get(&m->links), >=, n);
}

int
fake_member_link(FakeMember *m)
{
    return g_atomic_int_get(&m->link_fd);
}

void
fake_member_journal_mode(FakeMember *m, int mode)
{
    g_atomic_int_set(&m->journal_mode, mode);
}

void
fake_member_refuse_pauses(FakeMember *m, int n)
{
    g_atomic_int_set(&m->refuse_pauses, n);
}

bool
fake_member_refused(FakeMember *m)
{
    return g_atomic_int_get(&m->refuse_pauses) == 0;
}

bool
fake_member_running(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    return m->run == DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING;
}

uint64_t
fake_member_writes(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    return m->writes;
}

uint64_t
fake_member_pauses(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    return m->pauses;
}

uint64_t
fake_member_harvests(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    return m->harvests;
}

uint64_t
fake_member_checks(FakeMember *m)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    return m->checks;
}

void
fake_member_vmgenid(FakeMember *m, uint8_t out[16])
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&m->lock);

    memcpy(out, m->vmgenid, sizeof(m->vmgenid));
}

bool
fake_member_check(const void *data, size_t len, const void *ram, uint64_t ram_size)
{
    Blob blob;

    if (len != sizeof(blob))
        return false;
    memcpy(&blob, data, sizeof(blob));
    return blob.magic == BLOB_MAGIC && blob.ram_hash == XXH3_64bits(ram, ram_size);
}
