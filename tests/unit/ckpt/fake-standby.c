/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The other end of a stream, with exact checks. */
#include "fake-standby.h"

#include "ckpt/receive.h"
#include "common/clock.h"
#include "common/tls.h"
#include "fake-member.h"

#include <arpa/inet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LIMIT_MS 5000

typedef struct Shadow {
    uint8_t *ram;
    uint64_t size;
} Shadow;

struct FakeStandby {
    TlsIdentity *identity;
    int listen_fd;
    uint16_t port;
    GThread *thread;
    gint stop, drop, hang, hold_acks, delay_acks, refuse; /* atomic, set by the test */
    gint good, wrong, full, goodbye, n_members, unacked;  /* atomic, set by the thread */
    gint hold_journal;                                    /* atomic, set by the test */
    gint journal, published, journal_byte;                /* atomic, set by the thread */
    uint64_t committed;                                   /* atomic */
    GMutex lock;
    char *error;            /* under lock */
    GByteArray *journal_is; /* under lock; NULL: no BEGIN yet */

    /* Of the connection; thread only. */
    TlsChannel *channel;
    Receiver *receiver;
    GArray *shadows; /* of the members' RAM, then of their disks; these under lock */
    bool is_full, is_right;
    uint64_t sequence;
    uint64_t to_ack;
    uint64_t journal_to_ack;
    int64_t said_ns;
};

static void
shadows_clear(FakeStandby *s)
{
    for (guint i = 0; i < s->shadows->len; i++)
        g_free(g_array_index(s->shadows, Shadow, i).ram);
    g_array_set_size(s->shadows, 0);
}

/* With the lock. */
static void
shadows_add(FakeStandby *s, uint64_t size)
{
    Shadow shadow = {g_malloc0(size), size};

    g_array_append_val(s->shadows, shadow);
}

/* Of all members, then of all of their disks. */
static void
shadows_make(FakeStandby *s, const District__StreamEpochBegin *begin)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&s->lock);

    shadows_clear(s);
    for (size_t i = 0; i < begin->n_members; i++)
        shadows_add(s, begin->members[i]->ram_size);
    for (size_t i = 0; i < begin->n_members; i++) {
        for (size_t k = 0; k < begin->members[i]->n_disks; k++)
            shadows_add(s, begin->members[i]->disks[k]->size);
    }
}

static gboolean
on_hello(void *opaque, const District__StreamHello *hello, GError **error)
{
    return TRUE;
}

static gboolean
on_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    FakeStandby *s = opaque;

    s->is_full = begin->full;
    if (begin->full)
        shadows_make(s, begin);
    else if (begin->base_epoch != __atomic_load_n(&s->committed, __ATOMIC_SEQ_CST))
        g_error("epoch builds on one that was not the last");
    g_atomic_int_set(&s->n_members, (gint)begin->n_members);
    return TRUE;
}

static gboolean
on_pages(void *opaque, uint32_t member, const DecodedPage *pages, uint32_t count, GError **error)
{
    FakeStandby *s = opaque;
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&s->lock);
    Shadow *shadow = &g_array_index(s->shadows, Shadow, member);

    for (uint32_t i = 0; i < count; i++) {
        uint8_t *to = shadow->ram + pages[i].index * PAGE_BYTES;
        if (pages[i].data)
            memcpy(to, pages[i].data, PAGE_BYTES);
        else
            memset(to, 0, PAGE_BYTES);
    }
    return TRUE;
}

static gboolean
on_state(void *opaque, const uint8_t *packed, size_t len, const District__CutState *state,
         GError **error)
{
    FakeStandby *s = opaque;

    s->is_right = (gint)state->n_members == g_atomic_int_get(&s->n_members);
    for (guint i = 0; s->is_right && i < state->n_members; i++) {
        const Shadow *shadow = &g_array_index(s->shadows, Shadow, i);
        if (state->members[i]->state.len == 0 && state->members[i]->n_disks > 0)
            continue; /* off: it has disks only */
        s->is_right = fake_member_check(state->members[i]->state.data, state->members[i]->state.len,
                                        shadow->ram, shadow->size);
    }
    return TRUE;
}

static gboolean
on_end(void *opaque, uint64_t epoch, GError **error)
{
    FakeStandby *s = opaque;

    g_atomic_int_inc(s->is_right ? &s->good : &s->wrong);
    if (s->is_right && s->is_full)
        g_atomic_int_inc(&s->full);
    __atomic_store_n(&s->committed, epoch, __ATOMIC_SEQ_CST);
    s->to_ack = epoch;
    g_atomic_int_inc(&s->unacked);
    return TRUE;
}

static gboolean
on_journal(void *opaque, const District__StreamJournal *record, GError **error)
{
    FakeStandby *s = opaque;

    if (record->data.len > 0)
        g_atomic_int_set(&s->journal_byte, record->data.data[0]);
    g_mutex_lock(&s->lock);
    if (record->kind == DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_BEGIN) {
        g_clear_pointer(&s->journal_is, g_byte_array_unref);
        s->journal_is = g_byte_array_new_take(g_malloc0(record->size), record->size);
    } else if (record->data.len > 0) {
        memcpy(s->journal_is->data + record->offset, record->data.data, record->data.len);
    }
    g_mutex_unlock(&s->lock);
    if (record->kind == DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_PUBLISH ||
        g_atomic_int_get(&s->published) > 0)
        g_atomic_int_inc(&s->published);
    g_atomic_int_inc(&s->journal);
    s->journal_to_ack = record->seq;
    return TRUE;
}

static const uint8_t *
on_content(void *opaque, uint32_t member, uint64_t page)
{
    FakeStandby *s = opaque;

    return g_array_index(s->shadows, Shadow, member).ram + page * PAGE_BYTES;
}

static const ReceiverOps receiver_ops = {on_hello, on_begin,   on_pages,  on_state,
                                         on_end,   on_journal, on_content};

static gboolean
say(FakeStandby *s, RecordType type, const ProtobufCMessage *message, GError **error)
{
    size_t len = message ? protobuf_c_message_get_packed_size(message) : 0;
    g_autofree uint8_t *record = g_malloc(RECORD_HEADER_BYTES + len);

    s->said_ns = clock_monotonic_ns();
    if (message)
        protobuf_c_message_pack(message, record + RECORD_HEADER_BYTES);
    record_header_encode(record, type, s->sequence++, 0, record + RECORD_HEADER_BYTES,
                         (uint32_t)len);
    return tls_channel_send(s->channel, record, RECORD_HEADER_BYTES + len, LIMIT_MS, error);
}

static gboolean
say_hello(FakeStandby *s, GError **error)
{
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;

    hello.version = STREAM_VERSION;
    hello.software = (char *)"fake-standby";
    hello.district = (char *)"shop";
    hello.host = (char *)"a";
    hello.committed_epoch = __atomic_load_n(&s->committed, __ATOMIC_SEQ_CST);
    return say(s, RECORD_HELLO, &hello.base, error);
}

static gboolean
say_refused(FakeStandby *s, GError **error)
{
    District__StreamError refusal = DISTRICT__STREAM_ERROR__INIT;

    refusal.code = (District__StreamErrorCode)g_atomic_int_get(&s->refuse);
    refusal.text = (char *)"the test wants it so";
    refusal.incarnation = FAKE_STANDBY_NEWER;
    say(s, RECORD_ERROR, &refusal.base, error);
    g_set_error(error, TLS_ERROR, TLS_ERROR_CLOSED, "refused");
    return FALSE;
}

static gboolean
say_ack(FakeStandby *s, GError **error)
{
    District__StreamAck ack = DISTRICT__STREAM_ACK__INIT;

    if (s->to_ack == 0 || g_atomic_int_get(&s->hold_acks))
        return TRUE;
    g_usleep((gulong)g_atomic_int_get(&s->delay_acks) * 1000);
    ack.committed_epoch = s->to_ack;
    s->to_ack = 0;
    g_atomic_int_set(&s->unacked, 0);
    return say(s, RECORD_ACK, &ack.base, error);
}

static gboolean
say_journal_ack(FakeStandby *s, GError **error)
{
    District__StreamJournalAck ack = DISTRICT__STREAM_JOURNAL_ACK__INIT;

    if (s->journal_to_ack == 0 || g_atomic_int_get(&s->hold_journal))
        return TRUE;
    ack.seq = s->journal_to_ack;
    s->journal_to_ack = 0;
    return say(s, RECORD_JOURNAL_ACK, &ack.base, error);
}

static gboolean
hear_one(FakeStandby *s, GError **error)
{
    uint8_t raw[RECORD_HEADER_BYTES];
    RecordHeader header;

    while (g_atomic_int_get(&s->hang) && !g_atomic_int_get(&s->drop) && !g_atomic_int_get(&s->stop))
        g_usleep(10000);
    if (g_atomic_int_get(&s->stop) || g_atomic_int_compare_and_exchange(&s->drop, 1, 0)) {
        g_set_error(error, TLS_ERROR, TLS_ERROR_CLOSED, "dropped by the test");
        return FALSE;
    }
    if (!tls_channel_recv(s->channel, raw, sizeof(raw), LIMIT_MS, error) ||
        !record_header_decode(raw, &header, error))
        return FALSE;
    g_autofree uint8_t *payload = g_malloc(header.length + 1);
    if (header.length > 0 && !tls_channel_recv(s->channel, payload, header.length, LIMIT_MS, error))
        return FALSE;
    if (!receiver_record(s->receiver, raw, payload, error))
        return FALSE;
    if (g_atomic_int_get(&s->refuse))
        return say_refused(s, error);
    if (header.type == RECORD_HELLO)
        return say_hello(s, error);
    if (header.type == RECORD_BYE) {
        g_atomic_int_set(&s->goodbye, 1);
        g_set_error(error, TLS_ERROR, TLS_ERROR_CLOSED, "goodbye");
        return FALSE;
    }
    if (clock_monotonic_ns() - s->said_ns > 100 * NS_PER_MS &&
        !say(s, RECORD_HEARTBEAT, NULL, error))
        return FALSE;
    return say_journal_ack(s, error) && say_ack(s, error);
}

static void
serve(FakeStandby *s, int fd)
{
    char preamble[TLS_PREAMBLE_BYTES];
    GError *error = NULL;

    if (recv(fd, preamble, sizeof(preamble), MSG_WAITALL) != (ssize_t)sizeof(preamble)) {
        close(fd);
        return;
    }
    s->channel = tls_channel_server(s->identity, fd, "a", LIMIT_MS, &error);
    s->receiver = receiver_new(&receiver_ops, s);
    s->sequence = 0;
    s->to_ack = 0;
    s->journal_to_ack = 0;
    g_atomic_int_set(&s->journal, 0);
    g_atomic_int_set(&s->published, 0);
    g_atomic_int_set(&s->unacked, 0);
    while (s->channel && hear_one(s, &error))
        ;
    receiver_free(s->receiver);
    g_clear_pointer(&s->channel, tls_channel_free);
    g_mutex_lock(&s->lock);
    g_clear_pointer(&s->error, g_free);
    if (error && !g_error_matches(error, TLS_ERROR, TLS_ERROR_CLOSED))
        s->error = g_strdup(error->message);
    g_mutex_unlock(&s->lock);
    g_clear_error(&error);
}

static gpointer
standby_run(gpointer data)
{
    FakeStandby *s = data;

    while (!g_atomic_int_get(&s->stop)) {
        struct pollfd p = {.fd = s->listen_fd, .events = POLLIN};
        if (poll(&p, 1, 50) > 0)
            serve(s, accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC));
    }
    return NULL;
}

FakeStandby *
fake_standby_new(const char *pki_dir)
{
    FakeStandby *s = g_new0(FakeStandby, 1);
    g_autoptr(GError) error = NULL;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);

    g_mutex_init(&s->lock);
    s->identity = tls_identity_load(pki_dir, &error);
    g_assert_no_error(error);
    s->shadows = g_array_new(FALSE, FALSE, sizeof(Shadow));
    s->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(s->listen_fd, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(s->listen_fd, 4), ==, 0);
    g_assert_cmpint(getsockname(s->listen_fd, (struct sockaddr *)&addr, &len), ==, 0);
    s->port = ntohs(addr.sin_port);
    s->thread = g_thread_new("standby", standby_run, s);
    return s;
}

void
fake_standby_free(FakeStandby *s)
{
    g_atomic_int_set(&s->stop, 1);
    g_thread_join(s->thread);
    close(s->listen_fd);
    shadows_clear(s);
    g_array_unref(s->shadows);
    tls_identity_unref(s->identity);
    g_free(s->error);
    g_clear_pointer(&s->journal_is, g_byte_array_unref);
    g_mutex_clear(&s->lock);
    g_free(s);
}

uint16_t
fake_standby_port(FakeStandby *s)
{
    return s->port;
}

unsigned
fake_standby_good(FakeStandby *s)
{
    return (unsigned)g_atomic_int_get(&s->good);
}

unsigned
fake_standby_wrong(FakeStandby *s)
{
    return (unsigned)g_atomic_int_get(&s->wrong);
}

unsigned
fake_standby_full(FakeStandby *s)
{
    return (unsigned)g_atomic_int_get(&s->full);
}

uint64_t
fake_standby_committed(FakeStandby *s)
{
    return __atomic_load_n(&s->committed, __ATOMIC_SEQ_CST);
}

void
fake_standby_hold_journal(FakeStandby *s, bool hold)
{
    g_atomic_int_set(&s->hold_journal, hold);
}

unsigned
fake_standby_journal(FakeStandby *s)
{
    return (unsigned)g_atomic_int_get(&s->journal);
}

unsigned
fake_standby_published(FakeStandby *s)
{
    return (unsigned)g_atomic_int_get(&s->published);
}

int
fake_standby_journal_byte(FakeStandby *s)
{
    return g_atomic_int_get(&s->journal_byte);
}

int
fake_standby_journal_at(FakeStandby *s, uint64_t offset)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&s->lock);

    return s->journal_is ? s->journal_is->data[offset] : -1;
}

unsigned
fake_standby_unacknowledged(FakeStandby *s)
{
    return (unsigned)g_atomic_int_get(&s->unacked);
}

int
fake_standby_block(FakeStandby *s, unsigned disk, uint64_t block)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&s->lock);
    guint at = (guint)g_atomic_int_get(&s->n_members) + disk;

    return at < s->shadows->len ? g_array_index(s->shadows, Shadow, at).ram[block * PAGE_BYTES]
                                : -1;
}

unsigned
fake_standby_members(FakeStandby *s)
{
    return (unsigned)g_atomic_int_get(&s->n_members);
}

bool
fake_standby_goodbye(FakeStandby *s)
{
    return g_atomic_int_get(&s->goodbye) != 0;
}

char *
fake_standby_error(FakeStandby *s)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&s->lock);

    return g_strdup(s->error);
}

void
fake_standby_drop(FakeStandby *s)
{
    g_atomic_int_set(&s->drop, 1);
}

void
fake_standby_hold_acks(FakeStandby *s, bool hold)
{
    g_atomic_int_set(&s->hold_acks, hold);
}

void
fake_standby_delay_acks(FakeStandby *s, unsigned ms)
{
    g_atomic_int_set(&s->delay_acks, (gint)ms);
}

void
fake_standby_hang(FakeStandby *s, bool hang)
{
    g_atomic_int_set(&s->hang, hang);
}

void
fake_standby_refuse(FakeStandby *s, District__StreamErrorCode code)
{
    g_atomic_int_set(&s->refuse, (gint)code);
}
