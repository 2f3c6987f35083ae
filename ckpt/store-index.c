/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Indexes of checkpoint files: where in a file each page is, so that one page can be read without
 * all that comes before it.
 *
 * Theory of operation. index/checkpoint-ID-N.idx is made from a file that has been read and verified
 * whole. It is a cache: it has a checksum, says which file it is of, is never synced, and one that is
 * missing or does not fit is made anew by reading the file. What it says is only where to look: each
 * record that is read by it is verified there, and its page table is what counts.
 *
 * Layout, in words of 64 bits, little-endian: magic, id, generation, bytes of the file, offset of its
 * STATE record, number of records, number of runs; per PAGES record, in order: its offset, then
 * image << 32 | number of its runs; the runs of all records: first page << 16 | pages; XXH3-64 of all
 * words before.
 */
#include "ckpt/store-internal.h"

#include <xxhash.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INDEX_MAGIC UINT64_C(0x3158444952545344) /* "DSTRIDX1" */
#define HEAD_WORDS 7
#define RECORD_WORDS 2
#define RUN_SHIFT 16
/* Words of the largest index that is believed; a file that needs a larger one is read whole. */
#define INDEX_WORDS_MAX (UINT64_C(1) << 26)

G_STATIC_ASSERT(PAGES_PER_RECORD_MAX < 1 << RUN_SHIFT);

struct IndexJob {
    CatalogRow row;
    StoreIndex *index;
    StoreReader *reader;
};

/* ---- In memory ---- */

static StoreIndex *
index_new(void)
{
    StoreIndex *index = g_new0(StoreIndex, 1);

    index->records = g_array_new(FALSE, FALSE, sizeof(StoreIndexRecord));
    index->runs = g_array_new(FALSE, FALSE, sizeof(StoreIndexRun));
    return index;
}

void
storeindex_free(StoreIndex *index)
{
    if (index == NULL)
        return;
    g_array_unref(index->records);
    g_array_unref(index->runs);
    g_free(index);
}

/* ---- Making one ---- */

static gboolean
index_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    IndexJob *job = opaque;
    StoreIndexRecord record = {
        .offset = storefile_bytes(job->reader), .image = image, .first_run = job->index->runs->len};

    for (uint32_t i = 0; i < count; i++) {
        StoreIndexRun *last =
            job->index->runs->len > record.first_run
                ? &g_array_index(job->index->runs, StoreIndexRun, job->index->runs->len - 1)
                : NULL;
        if (last != NULL && last->first + last->count == pages[i].index) {
            last->count++;
        } else {
            StoreIndexRun run = {.first = pages[i].index, .count = 1};
            g_array_append_val(job->index->runs, run);
        }
    }
    record.n_runs = job->index->runs->len - record.first_run;
    g_array_append_val(job->index->records, record);
    return TRUE;
}

static gboolean
index_state(void *opaque, const uint8_t *packed, size_t len, GError **error)
{
    IndexJob *job = opaque;

    job->index->state_at = storefile_bytes(job->reader);
    return TRUE;
}

static const StoreVisitor index_visitor = {.pages = index_pages, .state = index_state};

void
index_job_free(IndexJob *job)
{
    if (job == NULL)
        return;
    storefile_close(job->reader);
    storeindex_free(job->index);
    catalog_row_clear(&job->row);
    g_free(job);
}

static IndexJob *
index_job_new(CkptStore *store, const CatalogRow *row, GError **error)
{
    g_autoptr(IndexJob) job = g_new0(IndexJob, 1);

    job->row = catalog_row_copy(row);
    job->index = index_new();
    job->reader = storefile_open(store, row, true, &index_visitor, job, error);
    return job->reader != NULL ? g_steal_pointer(&job) : NULL;
}

/* ---- Files ---- */

static char *
index_name(uint64_t id, uint32_t generation)
{
    return g_strdup_printf(STORE_INDEX_DIR "/checkpoint-%" G_GUINT64_FORMAT "-%u.idx", id,
                           generation);
}

static GArray *
index_to_words(const StoreIndex *index, const CatalogRow *row)
{
    const uint64_t head[HEAD_WORDS] = {INDEX_MAGIC,     row->id,         row->generation,
                                       row->bytes,      index->state_at, index->records->len,
                                       index->runs->len};
    GArray *words = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    uint64_t sum;

    g_array_append_vals(words, head, HEAD_WORDS);
    for (guint i = 0; i < index->records->len; i++) {
        const StoreIndexRecord *r = &g_array_index(index->records, StoreIndexRecord, i);
        const uint64_t pair[RECORD_WORDS] = {r->offset, (uint64_t)r->image << 32 | r->n_runs};
        g_array_append_vals(words, pair, RECORD_WORDS);
    }
    for (guint i = 0; i < index->runs->len; i++) {
        const StoreIndexRun *run = &g_array_index(index->runs, StoreIndexRun, i);
        uint64_t word = run->first << RUN_SHIFT | run->count;
        g_array_append_val(words, word);
    }
    for (guint i = 0; i < words->len; i++)
        g_array_index(words, uint64_t, i) = GUINT64_TO_LE(g_array_index(words, uint64_t, i));
    sum = GUINT64_TO_LE(XXH3_64bits(words->data, words->len * sizeof(uint64_t)));
    g_array_append_val(words, sum);
    return words;
}

/* What cannot be written is not there: the next one who wants it makes it again. */
static bool
index_write(CkptStore *store, const StoreIndex *index, const CatalogRow *row)
{
    g_autoptr(GArray) words = index_to_words(index, row);
    g_autofree char *name = index_name(row->id, row->generation);
    g_autofree char *passing = g_strconcat(name, ".new", NULL);
    int err = 0, fd;

    mkdirat(store->dir_fd, STORE_INDEX_DIR, 0700); /* it is there already, or openat fails */
    fd =
        openat(store->dir_fd, passing, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        err = errno;
    else
        err = store_write_all(fd, words->data, words->len * sizeof(uint64_t), 0);
    if (fd >= 0)
        close(fd);
    if (err == 0 && renameat(store->dir_fd, passing, store->dir_fd, name) != 0)
        err = errno;
    if (err == 0)
        return true;
    unlinkat(store->dir_fd, passing, 0);
    g_debug("store %s/%s: %s", store->path, name, g_strerror(err));
    return false;
}

/* All of a file, which is to be whole words; NULL if it is no such file. */
static GArray *
index_read_words(CkptStore *store, const char *name)
{
    g_autoptr(GArray) words = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    int fd = openat(store->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    bool good = fd >= 0 && fstat(fd, &st) == 0 && st.st_size % sizeof(uint64_t) == 0 &&
                (uint64_t)st.st_size / sizeof(uint64_t) > HEAD_WORDS &&
                (uint64_t)st.st_size / sizeof(uint64_t) <= INDEX_WORDS_MAX;

    for (size_t done = 0; good && done < (size_t)st.st_size;) {
        if (done == 0)
            g_array_set_size(words, (guint)((size_t)st.st_size / sizeof(uint64_t)));
        ssize_t n = pread(fd, words->data + done, (size_t)st.st_size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        good = n > 0;
        done += (size_t)MAX(n, 0);
    }
    if (fd >= 0)
        close(fd);
    return good ? g_steal_pointer(&words) : NULL;
}

/* A run of a record, which has pages already. */
static bool
run_parse(StoreIndexRun *run, uint64_t word, uint32_t *pages)
{
    run->first = word >> RUN_SHIFT;
    run->count = (uint32_t)(word & ((1u << RUN_SHIFT) - 1));
    *pages += run->count;
    return run->count > 0 && *pages <= PAGES_PER_RECORD_MAX;
}

/* words have the right sum and head. */
static bool
index_parse(StoreIndex *index, const uint64_t *words, uint64_t n_records, uint64_t n_runs,
            uint64_t bytes)
{
    const uint64_t *at = words + HEAD_WORDS + n_records * RECORD_WORDS, *end = at + n_runs;

    for (uint64_t i = 0; i < n_records; i++) {
        const uint64_t *pair = words + HEAD_WORDS + i * RECORD_WORDS;
        uint64_t image_runs = GUINT64_FROM_LE(pair[1]);
        StoreIndexRecord record = {.offset = GUINT64_FROM_LE(pair[0]),
                                   .image = (uint32_t)(image_runs >> 32),
                                   .first_run = index->runs->len,
                                   .n_runs = (uint32_t)image_runs};
        uint32_t pages = 0;

        if (record.offset >= bytes || record.n_runs > (uint64_t)(end - at))
            return false;
        g_array_append_val(index->records, record);
        for (uint32_t k = 0; k < record.n_runs; k++) {
            StoreIndexRun run;
            if (!run_parse(&run, GUINT64_FROM_LE(*at++), &pages))
                return false;
            g_array_append_val(index->runs, run);
        }
    }
    return at == end;
}

/* The index in words, if it is row's. */
static StoreIndex *
index_from_words(const GArray *words, const CatalogRow *row)
{
    const uint64_t *w = (const uint64_t *)(const void *)words->data;
    uint64_t body = words->len - 1, n_records = GUINT64_FROM_LE(w[5]),
             n_runs = GUINT64_FROM_LE(w[6]);
    g_autoptr(StoreIndex) index = index_new();

    if (GUINT64_FROM_LE(w[body]) != XXH3_64bits(w, body * sizeof(uint64_t)) ||
        GUINT64_FROM_LE(w[0]) != INDEX_MAGIC || GUINT64_FROM_LE(w[1]) != row->id ||
        GUINT64_FROM_LE(w[2]) != row->generation || GUINT64_FROM_LE(w[3]) != row->bytes)
        return NULL;
    index->state_at = GUINT64_FROM_LE(w[4]);
    if (index->state_at >= row->bytes || n_records > body || n_runs > body ||
        HEAD_WORDS + n_records * RECORD_WORDS + n_runs != body ||
        !index_parse(index, w, n_records, n_runs, row->bytes))
        return NULL;
    return g_steal_pointer(&index);
}

static StoreIndex *
index_read(CkptStore *store, const CatalogRow *row)
{
    g_autofree char *name = index_name(row->id, row->generation);
    g_autoptr(GArray) words = index_read_words(store, name);

    return words != NULL ? index_from_words(words, row) : NULL;
}

StoreIndex *
storeindex_get(CkptStore *store, const CatalogRow *row, GError **error)
{
    StoreIndex *index = index_read(store, row);
    g_autoptr(IndexJob) job = index == NULL ? index_job_new(store, row, error) : NULL;

    if (index != NULL)
        return index;
    if (job == NULL || !storefile_read(job->reader, error))
        return NULL;
    if (store_is_writer(store))
        index_write(store, job->index, row);
    return g_steal_pointer(&job->index);
}

void
storeindex_remove(CkptStore *store, uint64_t id, uint32_t generation)
{
    g_autofree char *name = index_name(id, generation);

    if (store->index != NULL && store->index->row.id == id &&
        store->index->row.generation == generation)
        g_clear_pointer(&store->index, index_job_free);
    if (unlinkat(store->dir_fd, name, 0) != 0 && errno != ENOENT)
        g_debug("store %s/%s: %s", store->path, name, g_strerror(errno));
}

/* ---- In the background ---- */

/* The first file that has none, in the order of the catalog. */
static const CatalogRow *
first_without(CkptStore *store, const Catalog *catalog)
{
    for (guint i = 0; i < catalog->rows->len; i++) {
        const CatalogRow *row = &g_array_index(catalog->rows, CatalogRow, i);
        g_autofree char *name = index_name(row->id, row->generation);
        if (faccessat(store->dir_fd, name, F_OK, 0) != 0)
            return row;
    }
    return NULL;
}

/* *none: every file has one. */
static gboolean
index_begin(CkptStore *store, gboolean *none, GError **error)
{
    g_autoptr(Catalog) catalog = catalog_read(store, error);
    const CatalogRow *row;

    if (catalog == NULL)
        return FALSE;
    row = first_without(store, catalog);
    *none = row == NULL;
    if (row != NULL)
        store->index = index_job_new(store, row, error);
    return row == NULL || store->index != NULL;
}

/* *more FALSE: the file has been read, and its index written if that was possible. */
static gboolean
index_step(CkptStore *store, uint64_t budget, gboolean *more, GError **error)
{
    StoreReader *reader = store->index->reader;
    uint64_t start = storefile_bytes(reader);

    *more = TRUE;
    while (*more && storefile_bytes(reader) - start < budget) {
        if (!storefile_step(reader, more, error))
            return FALSE;
    }
    if (!*more)
        store->index_off = !index_write(store, store->index->index, &store->index->row);
    return TRUE;
}

gboolean
ckpt_store_index_some(CkptStore *store, uint64_t budget, gboolean *done, GError **error)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->work);
    gboolean more = TRUE, good;

    *done = store->index_off;
    if (!store_check_writer(store, error))
        return FALSE;
    if (!*done && store->index == NULL && !index_begin(store, done, error)) {
        store->index_off = true;
        return FALSE;
    }
    if (*done)
        return TRUE;
    good = index_step(store, budget, &more, error);
    /* What cannot be read now is not read again and again. */
    store->index_off = store->index_off || !good;
    if (!more || !good)
        g_clear_pointer(&store->index, index_job_free);
    return good;
}

/* Those of files that have gone, and what was being written. A cache: failures do not matter. */
void
storeindex_sweep(CkptStore *store, const Catalog *catalog)
{
    int fd = openat(store->dir_fd, STORE_INDEX_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    g_autoptr(GHashTable) known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    const struct dirent *entry;

    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (guint i = 0; i < catalog->rows->len; i++) {
        const CatalogRow *row = &g_array_index(catalog->rows, CatalogRow, i);
        g_autofree char *name = index_name(row->id, row->generation);
        g_hash_table_add(known, g_path_get_basename(name));
    }
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.' && !g_hash_table_contains(known, entry->d_name) &&
            unlinkat(dirfd(dir), entry->d_name, 0) != 0)
            g_debug("store %s/" STORE_INDEX_DIR "/%s: %s", store->path, entry->d_name,
                    g_strerror(errno));
    }
    closedir(dir);
}
