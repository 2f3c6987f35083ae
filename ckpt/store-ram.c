/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * RAM that is read page by page.
 *
 * Theory of operation. A map says for each page where its newest content is: in a record of a
 * checkpoint file (the indexes of the files say which pages are in which record), or in the base
 * image; or that it has been read. A record is read whole, and all of its pages that are the newest
 * go with the one that was wanted; of a base image some pages around it.
 *
 * Disks are the same, but for a list of the blocks that are in any file: only these are read, and each
 * has a place in the overlay's data file, in the order of the list.
 */
#include "ckpt/store-internal.h"

#include "ckpt/layout.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* In the map: in the base image or, without one, zero; below WHERE_ZERO: record number + 1. */
#define WHERE_START 0
#define WHERE_HOME (UINT32_MAX - 2) /* a block that is in no file any more */
#define WHERE_ZERO (UINT32_MAX - 1)
#define WHERE_READ UINT32_MAX

/* Pages of a base image that are read together. */
#define WINDOW_PAGES 128

typedef struct RamFile {
    char *name;
    int fd;
    uint64_t *n_pages_of;
    uint32_t n_images;
} RamFile;

typedef struct RamMember {
    uint64_t n_pages;
    uint32_t *where;
    BaseImage *base; /* NULL: pages that are in no file are zero */
    /* Of disks: */
    GArray *blocks;  /* of uint64_t: those that are in a file; NULL: this is RAM */
    uint32_t *place; /* per block, sparse: its place + 1, 0: none */
} RamMember;

typedef struct RamRecord {
    uint32_t file;
    uint32_t image; /* of the file */
    uint64_t offset;
    RamMember *m;
} RamRecord;

struct StoreRam {
    char *path; /* of the store */
    uint32_t n_members;
    RamMember *members;
    GPtrArray *seen;  /* of RamMember: disks, as the files came to have them */
    GPtrArray *disks; /* of RamMember, not owned: those of the image, in order */
    GArray *files;    /* of RamFile */
    GArray *records;  /* of RamRecord */
    GByteArray *payload;
    Decoder *decoder;
    /* Where storeram_next is. */
    uint32_t at_member;
    uint64_t at_page;
    uint64_t at_data; /* of its base image: pages from at_page to here are zero */
    uint32_t at_disk;
    guint at_block;
    uint64_t passed; /* pages of members and disks before */
};

static RamMember *
member_at(const StoreRam *ram, uint32_t member)
{
    return member < MEMBERS_MAX ? &ram->members[member]
                                : g_ptr_array_index(ram->disks, member - MEMBERS_MAX);
}

static void
member_clear(RamMember *m)
{
    storefile_unmap(m->where, m->n_pages * sizeof(uint32_t));
    storefile_unmap(m->place, m->n_pages * sizeof(uint32_t));
    base_close(m->base);
    if (m->blocks != NULL)
        g_array_unref(m->blocks);
}

static void
disk_free(gpointer data)
{
    member_clear(data);
    g_free(data);
}

static void
file_clear(gpointer data)
{
    RamFile *file = data;

    g_free(file->name);
    g_free(file->n_pages_of);
    if (file->fd >= 0)
        close(file->fd);
}

void
storeram_free(StoreRam *ram)
{
    if (ram == NULL)
        return;
    for (uint32_t i = 0; i < ram->n_members; i++)
        member_clear(&ram->members[i]);
    g_ptr_array_unref(ram->disks);
    g_ptr_array_unref(ram->seen);
    g_free(ram->members);
    g_array_unref(ram->files);
    g_array_unref(ram->records);
    g_byte_array_unref(ram->payload);
    decoder_free(ram->decoder);
    g_free(ram->path);
    g_free(ram);
}

StoreRam *
storeram_new(CkptStore *store)
{
    StoreRam *ram = g_new0(StoreRam, 1);

    ram->path = g_strdup(store->path);
    ram->seen = g_ptr_array_new_with_free_func(disk_free);
    ram->disks = g_ptr_array_new();
    ram->files = g_array_new(FALSE, FALSE, sizeof(RamFile));
    g_array_set_clear_func(ram->files, file_clear);
    ram->records = g_array_new(FALSE, FALSE, sizeof(RamRecord));
    ram->payload = g_byte_array_new();
    ram->decoder = decoder_new();
    return ram;
}

gboolean
storeram_set_members(StoreRam *ram, CkptStore *store, const District__StreamEpochBegin *begin,
                     GError **error)
{
    ram->members = g_new0(RamMember, begin->n_members);
    for (size_t i = 0; i < begin->n_members; i++) {
        RamMember *m = &ram->members[ram->n_members++];
        const District__StreamMember *from = begin->members[i];

        m->n_pages = page_count(from->ram_size);
        m->where = storefile_map(m->n_pages * sizeof(uint32_t), error);
        if (m->where == NULL)
            return FALSE;
        if (!begin->full)
            m->base = base_open(store, from->name, from->ram_size, BASE_READ, error);
        if (!begin->full && m->base == NULL)
            return FALSE;
    }
    return TRUE;
}

/* ---- Disks ---- */

gboolean
storeram_see_disk(StoreRam *ram, uint64_t bytes, GError **error)
{
    RamMember *m = g_new0(RamMember, 1);

    m->n_pages = disk_blocks(bytes);
    m->blocks = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_ptr_array_add(ram->seen, m);
    m->where = storefile_map(m->n_pages * sizeof(uint32_t), error);
    if (m->where != NULL)
        m->place = storefile_map(m->n_pages * sizeof(uint32_t), error);
    return m->place != NULL;
}

void
storeram_use_disk(StoreRam *ram, guint seen)
{
    g_ptr_array_add(ram->disks, g_ptr_array_index(ram->seen, seen));
}

uint32_t
storeram_disks(const StoreRam *ram)
{
    return ram->disks->len;
}

const GArray *
storeram_blocks(const StoreRam *ram, uint32_t disk)
{
    return member_at(ram, disk)->blocks;
}

uint64_t
storeram_place(const StoreRam *ram, uint32_t disk, uint64_t block)
{
    uint32_t place = member_at(ram, disk)->place[block];

    return place != 0 ? place - 1 : UINT64_MAX;
}

bool
storeram_at_home(const StoreRam *ram, uint32_t disk, uint64_t block)
{
    return member_at(ram, disk)->where[block] == WHERE_HOME;
}

void
storeram_skip_disk(StoreRam *ram, uint32_t disk)
{
    RamMember *m = member_at(ram, disk);

    for (guint i = 0; i < m->blocks->len; i++)
        m->where[g_array_index(m->blocks, uint64_t, i)] = WHERE_READ;
}

/* The block at one place of an overlay. */
static gboolean
adopt_place(RamMember *m, const LazyDisk *overlay, uint64_t place, GError **error)
{
    uint64_t block = lazydisk_block(overlay, place);

    if (block >= m->n_pages || m->place[block] != 0) {
        g_set_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_REFUSED,
                    "what is shared of an overlay that is being read is not of this disk: place "
                    "%" G_GUINT64_FORMAT " has block %" G_GUINT64_FORMAT,
                    place, block);
        return FALSE;
    }
    m->place[block] = (uint32_t)place + 1;
    if (lazydisk_has(overlay, place, 1))
        m->where[block] = WHERE_READ;
    else if (m->where[block] == WHERE_START)
        m->where[block] = WHERE_HOME;
    return TRUE;
}

gboolean
storeram_adopt_disk(StoreRam *ram, uint32_t disk, const LazyDisk *overlay, GError **error)
{
    RamMember *m = member_at(ram, disk);
    guint in_files = m->blocks->len;

    if (lazydisk_places(overlay) >= UINT32_MAX) {
        g_set_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_REFUSED,
                    "an overlay that is being read has more places than can be");
        return FALSE;
    }
    for (guint i = 0; i < in_files; i++)
        m->place[g_array_index(m->blocks, uint64_t, i)] = 0;
    for (uint64_t place = 0; place < lazydisk_places(overlay); place++) {
        if (!adopt_place(m, overlay, place, error))
            return FALSE;
    }
    /* What the guest has written since has another place, and need not be read. */
    for (guint i = 0; i < in_files; i++) {
        uint64_t block = g_array_index(m->blocks, uint64_t, i);
        if (m->place[block] == 0)
            m->where[block] = WHERE_READ;
    }
    return TRUE;
}

/* ---- What is where ---- */

/* A block of a disk is in a file. */
static void
give_place(RamMember *m, uint64_t block)
{
    if (m->place[block] != 0)
        return;
    g_array_append_val(m->blocks, block);
    m->place[block] = m->blocks->len;
}

static gboolean
add_record(StoreRam *ram, const char *name, const StoreIndex *index, guint i, RamMember *m,
           GError **error)
{
    const StoreIndexRecord *from = &g_array_index(index->records, StoreIndexRecord, i);
    RamRecord record = {
        .file = ram->files->len - 1, .image = from->image, .offset = from->offset, .m = m};

    for (uint32_t k = 0; k < from->n_runs; k++) {
        const StoreIndexRun *run = &g_array_index(index->runs, StoreIndexRun, from->first_run + k);

        if (run->first >= m->n_pages || run->count > m->n_pages - run->first) {
            g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                        "store %s: the index of %s names pages that are not there: remove the "
                        "store's directory " STORE_INDEX_DIR,
                        ram->path, name);
            return FALSE;
        }
        for (uint32_t p = 0; p < run->count; p++) {
            m->where[run->first + p] = ram->records->len + 1;
            if (m->blocks != NULL)
                give_place(m, run->first + p);
        }
    }
    g_array_append_val(ram->records, record);
    return TRUE;
}

/* Of an image of a file; NULL: it is not wanted of this file. */
static RamMember *
member_of(const StoreRam *ram, uint32_t image, int seen)
{
    if (seen == STORERAM_IS_RAM)
        return image < ram->n_members ? &ram->members[image] : NULL;
    return seen >= 0 ? g_ptr_array_index(ram->seen, seen) : NULL;
}

gboolean
storeram_add(StoreRam *ram, const char *name, int fd, const StoreIndex *index,
             const uint64_t *n_pages_of, uint32_t n_images, const int *seen_of, GError **error)
{
    RamFile file = {.name = g_strdup(name),
                    .fd = fcntl(fd, F_DUPFD_CLOEXEC, 3),
                    .n_pages_of = g_memdup2(n_pages_of, n_images * sizeof *n_pages_of),
                    .n_images = n_images};

    g_array_append_val(ram->files, file);
    if (file.fd < 0) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "store %s/%s: %s",
                    ram->path, name, g_strerror(errno));
        return FALSE;
    }
    for (guint i = 0; i < index->records->len; i++) {
        uint32_t image = g_array_index(index->records, StoreIndexRecord, i).image;
        RamMember *m = image < n_images ? member_of(ram, image, seen_of[image]) : NULL;
        if (m != NULL && !add_record(ram, name, index, i, m, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
storeram_check_room(const StoreRam *ram, GError **error)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < ram->n_members; i++) {
        const RamMember *m = &ram->members[i];
        if (m->base != NULL)
            bytes += base_allocated(m->base);
        for (uint64_t page = 0; page < m->n_pages; page++)
            bytes += m->where[page] != WHERE_START ? PAGE_BYTES : 0;
    }
    return memory_check_room(bytes, error);
}

uint32_t
storeram_members(const StoreRam *ram)
{
    return ram->n_members;
}

uint64_t
storeram_pages(const StoreRam *ram, uint32_t member)
{
    return member_at(ram, member)->n_pages;
}

void
storeram_have(StoreRam *ram, uint32_t member, uint64_t first, uint64_t count)
{
    for (uint64_t page = first; page < first + count; page++)
        member_at(ram, member)->where[page] = WHERE_READ;
}

/* ---- Records ---- */

static gboolean
read_exactly(int fd, void *buf, size_t len, uint64_t offset, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int err = n < 0 ? errno : EIO;
            g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(err), "cannot be read: %s",
                        n < 0 ? g_strerror(err) : "it has become shorter");
            return FALSE;
        }
        done += (size_t)n;
    }
    return TRUE;
}

gboolean
storeram_read_record(int fd, uint64_t offset, RecordType type, GByteArray *payload, GError **error)
{
    uint8_t raw[RECORD_HEADER_BYTES];
    RecordHeader header;

    if (!read_exactly(fd, raw, sizeof raw, offset, error) ||
        !record_header_decode(raw, &header, error))
        return FALSE;
    if (header.type != type) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "damaged: there is a %s record at %" G_GUINT64_FORMAT " instead of %s",
                    record_type_name(header.type), offset, record_type_name(type));
        return FALSE;
    }
    g_byte_array_set_size(payload, header.length);
    return read_exactly(fd, payload->data, header.length, offset + RECORD_HEADER_BYTES, error) &&
           record_verify(raw, payload->data, error);
}

static const DecodedPage *
read_pages(StoreRam *ram, const RamRecord *record, uint32_t *count, GError **error)
{
    const RamFile *file = &g_array_index(ram->files, RamFile, record->file);
    const DecodedPage *pages = NULL;
    const DecodeInput input = {.n_pages_of = file->n_pages_of, .n_images = file->n_images};
    uint32_t image = 0;

    if (storeram_read_record(file->fd, record->offset, RECORD_PAGES, ram->payload, error))
        pages = decoder_pages(ram->decoder, ram->payload->data, ram->payload->len, &input, &image,
                              count, error);
    if (pages != NULL && image != record->image) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "damaged: the record at %" G_GUINT64_FORMAT " is of another image",
                    record->offset);
        pages = NULL;
    }
    if (pages == NULL)
        g_prefix_error(error, "store %s/%s: ", ram->path, file->name);
    return pages;
}

/* Read record number n, of member; wanted (UINT64_MAX: none): put this page even if it is zero. */
static gboolean
put_record(StoreRam *ram, uint32_t member, uint32_t n, uint64_t wanted, StoreRamPut put,
           void *opaque, GError **error)
{
    const RamRecord *record = &g_array_index(ram->records, RamRecord, n);
    RamMember *m = record->m;
    DecodedPage fresh[PAGES_PER_RECORD_MAX];
    uint32_t count = 0, n_fresh = 0;
    const DecodedPage *pages = read_pages(ram, record, &count, error);

    if (pages == NULL)
        return FALSE;
    /* Of a page that is there twice the later one holds. */
    for (uint32_t i = count; i-- > 0;) {
        const DecodedPage *page = &pages[i];
        bool take = page->data != NULL || page->index == wanted || m->blocks != NULL;

        if (m->where[page->index] != n + 1)
            continue;
        m->where[page->index] = take ? WHERE_READ : WHERE_ZERO;
        if (take)
            fresh[PAGES_PER_RECORD_MAX - ++n_fresh] = *page;
    }
    return n_fresh == 0 ||
           put(opaque, member, fresh + PAGES_PER_RECORD_MAX - n_fresh, n_fresh, error);
}

/* ---- Base images ---- */

typedef struct Window {
    const StoreRam *ram;
    RamMember *m;
    DecodedPage pages[WINDOW_PAGES];
    uint32_t n;
} Window;

static gboolean
window_page(void *opaque, uint64_t page, const uint8_t *data, bool good, GError **error)
{
    Window *w = opaque;

    if (w->m->where[page] != WHERE_START)
        return TRUE;
    if (!good) {
        g_set_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_DAMAGED,
                    "store %s/%s: damaged: page %" G_GUINT64_FORMAT
                    " is not what was written: bring back an intact copy of the store",
                    w->ram->path, base_name(w->m->base), page);
        return FALSE;
    }
    w->m->where[page] = WHERE_READ;
    w->pages[w->n++] = (DecodedPage){.index = page, .data = data};
    return TRUE;
}

/* Read count pages from first on that are in the base image. */
static gboolean
put_window(StoreRam *ram, uint32_t member, uint64_t first, uint64_t count, StoreRamPut put,
           void *opaque, GError **error)
{
    RamMember *m = member_at(ram, member);
    Window window = {.ram = ram, .m = m};
    g_autofree uint8_t *buffer = g_malloc(WINDOW_PAGES * PAGE_BYTES);

    if (!base_read_some(m->base, first, count, buffer, window_page, &window, error))
        return FALSE;
    for (uint64_t page = first; page < first + count; page++) {
        if (m->where[page] == WHERE_START)
            m->where[page] = WHERE_ZERO;
    }
    return window.n == 0 || put(opaque, member, window.pages, window.n, error);
}

/* ---- Reading ---- */

static bool
is_record(uint32_t where)
{
    return where != WHERE_START && where < WHERE_HOME;
}

/* Read the record that page's newest content is said to be in. */
static gboolean
put_record_of(StoreRam *ram, uint32_t member, uint64_t page, uint64_t wanted, StoreRamPut put,
              void *opaque, GError **error)
{
    const uint32_t *where = &member_at(ram, member)->where[page];
    uint32_t n = *where - 1;
    const RamRecord *record = &g_array_index(ram->records, RamRecord, n);

    if (!put_record(ram, member, n, wanted, put, opaque, error))
        return FALSE;
    if (!is_record(*where))
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                "store %s: the index of %s is of another file: remove the store's "
                "directory " STORE_INDEX_DIR,
                ram->path, g_array_index(ram->files, RamFile, record->file).name);
    return FALSE;
}

gboolean
storeram_fetch(StoreRam *ram, uint32_t member, uint64_t page, StoreRamPut put, void *opaque,
               GError **error)
{
    RamMember *m = member_at(ram, member);
    uint64_t first = page - page % WINDOW_PAGES;
    DecodedPage zero = {.index = page};

    if (is_record(m->where[page]) && !put_record_of(ram, member, page, page, put, opaque, error))
        return FALSE;
    if (m->where[page] == WHERE_START && m->base != NULL &&
        !put_window(ram, member, first, MIN(WINDOW_PAGES, m->n_pages - first), put, opaque, error))
        return FALSE;
    if (m->where[page] == WHERE_READ)
        return TRUE;
    m->where[page] = WHERE_READ;
    return put(opaque, member, &zero, 1, error);
}

/* Is there something to be read of the page we are at? */
static gboolean
look_at(StoreRam *ram, const RamMember *m, bool *wanted, GError **error)
{
    uint32_t where = m->where[ram->at_page];

    *wanted = is_record(where);
    if (where != WHERE_START || m->base == NULL)
        return TRUE;
    if (ram->at_data <= ram->at_page && !base_next(m->base, ram->at_page, &ram->at_data, error))
        return FALSE;
    *wanted = ram->at_data <= ram->at_page;
    return TRUE;
}

/* The next page of RAM that there is something to read of. *found FALSE: there is none. */
static gboolean
look_for(StoreRam *ram, bool *found, GError **error)
{
    *found = false;
    for (; ram->at_member < ram->n_members; ram->at_member++) {
        const RamMember *m = &ram->members[ram->at_member];
        for (; ram->at_page < m->n_pages; ram->at_page++) {
            if (!look_at(ram, m, found, error))
                return FALSE;
            if (*found)
                return TRUE;
        }
        ram->passed += m->n_pages;
        ram->at_page = ram->at_data = 0;
    }
    return TRUE;
}

/* The next block of a disk that is to be read from a file. */
static bool
look_for_block(StoreRam *ram)
{
    for (; ram->at_disk < ram->disks->len; ram->at_disk++) {
        const RamMember *m = g_ptr_array_index(ram->disks, ram->at_disk);
        for (; ram->at_block < m->blocks->len; ram->at_block++) {
            if (is_record(m->where[g_array_index(m->blocks, uint64_t, ram->at_block)]))
                return true;
        }
        ram->passed += m->blocks->len;
        ram->at_block = 0;
    }
    return false;
}

static gboolean
next_block(StoreRam *ram, StoreRamPut put, void *opaque, gboolean *done, GError **error)
{
    const RamMember *m;

    *done = !look_for_block(ram);
    if (*done)
        return TRUE;
    m = g_ptr_array_index(ram->disks, ram->at_disk);
    return put_record_of(ram, STORERAM_DISK(ram->at_disk),
                         g_array_index(m->blocks, uint64_t, ram->at_block), UINT64_MAX, put, opaque,
                         error);
}

gboolean
storeram_next(StoreRam *ram, StoreRamPut put, void *opaque, gboolean *done, GError **error)
{
    bool found;

    if (!look_for(ram, &found, error))
        return FALSE;
    if (!found)
        return next_block(ram, put, opaque, done, error);
    *done = FALSE;
    const RamMember *m = &ram->members[ram->at_member];
    if (is_record(m->where[ram->at_page]))
        return put_record_of(ram, ram->at_member, ram->at_page, UINT64_MAX, put, opaque, error);
    return put_window(ram, ram->at_member, ram->at_page,
                      MIN(WINDOW_PAGES, m->n_pages - ram->at_page), put, opaque, error);
}

void
storeram_progress(const StoreRam *ram, uint64_t *done, uint64_t *total)
{
    *done = ram->passed + ram->at_page + ram->at_block;
    *total = 0;
    for (uint32_t i = 0; i < ram->n_members; i++)
        *total += ram->members[i].n_pages;
    for (uint32_t i = 0; i < ram->disks->len; i++)
        *total += ((const RamMember *)g_ptr_array_index(ram->disks, i))->blocks->len;
}
