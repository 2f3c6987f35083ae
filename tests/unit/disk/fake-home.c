/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A home image in memory. */
#include "fake-home.h"

#include <string.h>

typedef enum FakeKind {
    FAKE_READ,
    FAKE_WRITE,
    FAKE_FLUSH,
    FAKE_ZERO,
    FAKE_DISCARD,
} FakeKind;

typedef struct FakeRequest {
    FakeKind kind;
    uint64_t offset, len;
    void *buf;
    BlockDone done;
    void *opaque;
} FakeRequest;

static void
fake_perform(FakeHome *home, const FakeRequest *request)
{
    switch (request->kind) {
    case FAKE_READ:
        memcpy(request->buf, home->bytes + request->offset, request->len);
        home->reads++;
        break;
    case FAKE_WRITE:
        memcpy(home->bytes + request->offset, request->buf, request->len);
        home->changes++;
        break;
    case FAKE_FLUSH:
        home->flushes++;
        break;
    case FAKE_ZERO:
        memset(home->bytes + request->offset, 0, request->len);
        home->changes++;
        break;
    case FAKE_DISCARD:
        memset(home->bytes + request->offset, 0xdd, request->len);
        home->changes++;
        break;
    }
}

unsigned
fake_home_waiting(const FakeHome *home)
{
    return home->queue->len;
}

void
fake_home_end(FakeHome *home, unsigned index)
{
    FakeRequest request = *(FakeRequest *)home->queue->pdata[index];
    int error = home->error;

    g_ptr_array_remove_index_fast(home->queue, index);
    if (error == 0)
        fake_perform(home, &request);
    request.done(request.opaque, error);
}

static gboolean
on_auto(gpointer opaque)
{
    FakeHome *home = opaque;

    if (home->held || home->queue->len <= 1)
        home->auto_source = 0;
    if (home->held || home->queue->len == 0)
        return G_SOURCE_REMOVE;
    /* The last one first; its completion may close the home. */
    if (home->auto_source == 0) {
        fake_home_end(home, 0);
        return G_SOURCE_REMOVE;
    }
    fake_home_end(home, home->queue->len - 1);
    return G_SOURCE_CONTINUE;
}

static void
fake_wake(FakeHome *home)
{
    if (!home->held && home->auto_source == 0 && home->queue->len > 0)
        home->auto_source = g_idle_add_full(G_PRIORITY_DEFAULT, on_auto, home, NULL);
}

void
fake_home_hold(FakeHome *home, bool held)
{
    home->held = held;
    fake_wake(home);
}

static void
fake_queue(BlockBackend *b, FakeKind kind, uint64_t offset, void *buf, uint64_t len, BlockDone done,
           void *opaque)
{
    FakeHome *home = (FakeHome *)b;
    FakeRequest request = {kind, offset, len, buf, done, opaque};

    g_assert_cmpuint(offset % SECTOR_BYTES, ==, 0);
    g_assert_cmpuint(len % SECTOR_BYTES, ==, 0);
    g_assert_cmpuint(offset + len, <=, b->bytes);
    g_ptr_array_add(home->queue, g_memdup2(&request, sizeof request));
    fake_wake(home);
}

static void
fake_read(BlockBackend *b, uint64_t offset, void *buf, size_t len, BlockDone done, void *opaque)
{
    fake_queue(b, FAKE_READ, offset, buf, len, done, opaque);
}

static void
fake_write(BlockBackend *b, uint64_t offset, const void *buf, size_t len, BlockDone done,
           void *opaque)
{
    fake_queue(b, FAKE_WRITE, offset, (void *)buf, len, done, opaque);
}

static void
fake_flush(BlockBackend *b, BlockDone done, void *opaque)
{
    fake_queue(b, FAKE_FLUSH, 0, NULL, 0, done, opaque);
}

static void
fake_zero(BlockBackend *b, uint64_t offset, uint64_t len, bool unmap, BlockDone done, void *opaque)
{
    fake_queue(b, FAKE_ZERO, offset, NULL, len, done, opaque);
}

static void
fake_discard(BlockBackend *b, uint64_t offset, uint64_t len, BlockDone done, void *opaque)
{
    fake_queue(b, FAKE_DISCARD, offset, NULL, len, done, opaque);
}

static void
fake_close(BlockBackend *b)
{
    FakeHome *home = (FakeHome *)b;

    g_assert_cmpuint(home->queue->len, ==, 0);
    if (home->auto_source != 0)
        g_source_remove(home->auto_source);
    if (home->closed != NULL)
        *home->closed = true;
    g_ptr_array_free(home->queue, TRUE);
    g_free(b->home);
    g_free(home);
}

static const BlockBackendOps fake_ops = {
    .read = fake_read,
    .write = fake_write,
    .flush = fake_flush,
    .zero = fake_zero,
    .discard = fake_discard,
    .close = fake_close,
};

FakeHome *
fake_home_new(uint8_t *bytes, uint64_t size)
{
    FakeHome *home = g_new0(FakeHome, 1);

    home->backend.ops = &fake_ops;
    home->backend.bytes = size;
    home->backend.home = g_strdup("raw:/fake");
    home->bytes = bytes;
    home->queue = g_ptr_array_new_with_free_func(g_free);
    return home;
}
