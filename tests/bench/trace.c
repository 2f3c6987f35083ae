/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Epochs recorded from a guest: the checkpoint files of a directory, each an epoch. */
#include "epochs.h"

#include "ckpt/layout.h"
#include "ckpt/record-file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

typedef struct TraceSource {
    EpochSource base;
    char *dir;
    GPtrArray *names;
    guint at;
    GArray *pages;    /* of the epoch being read: BenchPage */
    GByteArray *data; /* of its pages; refs are offsets while it grows */
} TraceSource;

static const uint8_t zero_page[PAGE_BYTES];

static gboolean
trace_hello(void *opaque, const District__StreamHello *hello, GError **error)
{
    (void)opaque;
    (void)hello;
    (void)error;
    return TRUE;
}

static gboolean
trace_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    TraceSource *t = opaque;
    g_autofree uint64_t *n_pages_of = layout_image_pages(begin);

    if (t->base.n_pages_of == NULL) {
        t->base.n_images = (uint32_t)begin->n_members;
        t->base.n_pages_of = g_memdup2(n_pages_of, begin->n_members * sizeof *n_pages_of);
    }
    if (begin->n_members == t->base.n_images &&
        memcmp(n_pages_of, t->base.n_pages_of, begin->n_members * sizeof *n_pages_of) == 0)
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                "it is of other members than the files before: record them from one run");
    return FALSE;
}

static gboolean
trace_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    TraceSource *t = opaque;

    (void)error;
    for (uint32_t i = 0; image < t->base.n_images && i < count; i++) {
        BenchPage page = {image, {pages[i].index, NULL}};
        if (pages[i].data != NULL) {
            /* An offset for now, from 1. */
            page.ref.data = (const uint8_t *)(uintptr_t)(t->data->len + 1);
            g_byte_array_append(t->data, pages[i].data, PAGE_BYTES);
        }
        g_array_append_val(t->pages, page);
    }
    return TRUE;
}

static gboolean
trace_state(void *opaque, const uint8_t *packed, size_t len, const District__CutState *state,
            GError **error)
{
    (void)opaque;
    (void)packed;
    (void)len;
    (void)state;
    (void)error;
    return TRUE;
}

static gboolean
trace_end(void *opaque, uint64_t epoch, GError **error)
{
    (void)opaque;
    (void)epoch;
    (void)error;
    return TRUE;
}

static const ReceiverOps trace_ops = {
    .hello = trace_hello,
    .begin = trace_begin,
    .pages = trace_pages,
    .state = trace_state,
    .end = trace_end,
};

static gboolean
read_file(TraceSource *t, const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    gboolean more = TRUE, good = TRUE;

    if (fd < 0) {
        g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(errno), "%s: %s", path,
                    g_strerror(errno));
        return FALSE;
    }
    RecordFile *file = record_file_new(fd);
    Receiver *receiver = receiver_new(&trace_ops, t);
    while (good && more)
        good = record_file_feed(file, receiver, &more, error);
    receiver_free(receiver);
    record_file_free(file);
    close(fd);
    if (!good)
        g_prefix_error(error, "%s: ", path);
    return good;
}

static gint
compare_pages(gconstpointer a, gconstpointer b)
{
    const BenchPage *p = a, *q = b;

    if (p->image != q->image)
        return p->image < q->image ? -1 : 1;
    return p->ref.index < q->ref.index ? -1 : p->ref.index > q->ref.index;
}

/* In ascending order; of a page that came more than once the last one holds. (g_array_sort is stable.) */
static void
order_pages(GArray *pages)
{
    guint n = 0;

    g_array_sort(pages, compare_pages);
    for (guint i = 0; i < pages->len; i++) {
        const BenchPage *page = &g_array_index(pages, BenchPage, i);
        if (i + 1 < pages->len && compare_pages(page, page + 1) == 0)
            continue;
        g_array_index(pages, BenchPage, n++) = *page;
    }
    g_array_set_size(pages, n);
}

static gboolean
trace_next(EpochSource *base, GArray *pages, GError **error)
{
    TraceSource *t = (TraceSource *)base;

    if (t->at == t->names->len)
        return FALSE;
    g_autofree char *path = g_build_filename(t->dir, g_ptr_array_index(t->names, t->at++), NULL);
    t->pages = pages;
    g_byte_array_set_size(t->data, 0);
    if (!read_file(t, path, error))
        return FALSE;
    for (guint i = 0; i < pages->len; i++) {
        PageRef *ref = &g_array_index(pages, BenchPage, i).ref;
        uintptr_t at = (uintptr_t)ref->data;
        ref->data = at == 0 ? zero_page : t->data->data + at - 1;
    }
    order_pages(pages);
    return TRUE;
}

static void
trace_free(EpochSource *base)
{
    TraceSource *t = (TraceSource *)base;

    g_ptr_array_unref(t->names);
    g_byte_array_unref(t->data);
    g_free(t->dir);
    g_free(base->n_pages_of);
    g_free(t);
}

static gint
compare_names(gconstpointer a, gconstpointer b)
{
    return strverscmp(*(const char *const *)a, *(const char *const *)b);
}

/* Does a record start the file? A store has other files beside its checkpoints. */
static bool
is_checkpoint(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    uint32_t magic = 0;

    if (fd < 0)
        return false;
    if (read(fd, &magic, sizeof magic) != sizeof magic)
        magic = 0;
    close(fd);
    return GUINT32_FROM_LE(magic) == RECORD_MAGIC;
}

EpochSource *
trace_source_new(const char *dir, GError **error)
{
    GDir *listing = g_dir_open(dir, 0, error);
    const char *name;

    if (listing == NULL)
        return NULL;
    TraceSource *t = g_new0(TraceSource, 1);
    t->base = (EpochSource){.next = trace_next, .free = trace_free};
    t->dir = g_strdup(dir);
    t->names = g_ptr_array_new_with_free_func(g_free);
    t->data = g_byte_array_new();
    while ((name = g_dir_read_name(listing)) != NULL) {
        if (is_checkpoint(dir, name))
            g_ptr_array_add(t->names, g_strdup(name));
    }
    g_dir_close(listing);
    g_ptr_array_sort(t->names, compare_names);
    if (t->names->len >= 2)
        return &t->base;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_TRUNCATED,
                "%s: at least two checkpoint files are needed, %u are there", dir, t->names->len);
    trace_free(&t->base);
    return NULL;
}
