/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Importing a checkpoint (export.h): one pass over the file, which goes through the same Receiver as
 * a stream, so every byte of it is verified. Until its end has come none of it counts.
 */
#include "ckpt/export.h"

#include "ckpt/import-journal.h"
#include "ckpt/layout.h"
#include "ckpt/record-file.h"
#include "ckpt/record-out.h"
#include "disk/home.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Longest text of a definition, bytes. */
#define DEFINITION_MAX ((size_t)64 * 1024)

typedef struct Import {
    const ImportConfig *config;
    ImportResult *result;
    CkptStore *store;
    char *name; /* of the new district */
    char *label;
    uint64_t id;
    int fd; /* of the checkpoint's file in the new store */
    RecordOut *out;
    uint32_t n_members;
    GPtrArray *disks; /* of Home */
    GArray *bytes_of; /* of uint64_t: of disks */
    uint64_t ram_pages;
    bool has_journals; /* by its version */
    bool begun;
    bool ended;
} Import;

static gboolean G_GNUC_PRINTF(3, 4)
    refuse(FormatError code, GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, FORMAT_ERROR, (gint)code, text);
    return FALSE;
}

static gboolean
fail_errno(const char *object, const char *doing, int err, GError **error)
{
    g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(err), "%s: %s: %s%s", object,
                doing, g_strerror(err),
                err == ENOSPC || err == EDQUOT ? ": free some space there and try again" : "");
    return FALSE;
}

/* ---- HELLO ---- */

static gboolean
check_hello(const Import *import, const District__StreamHello *hello, GError **error)
{
    if (hello->checkpoint_id != 0)
        return refuse(FORMAT_ERROR_FOREIGN, error,
                      "it is a part of the store of district %s, and needs the rest: make a file "
                      "of a checkpoint by district export",
                      hello->district);
    if (hello->incarnation == 0 || hello->incarnation > EPOCH_NUMBER_MAX)
        return refuse(FORMAT_ERROR_DAMAGED, error,
                      "damaged HELLO: %" G_GUINT64_FORMAT " is no incarnation", hello->incarnation);
    return TRUE;
}

static gboolean
check_name(const Import *import, GError **error)
{
    g_autofree char *path = NULL;
    struct stat st;

    if (import->config->beside == NULL)
        return TRUE;
    path = g_build_filename(import->config->beside, import->name, NULL);
    if (lstat(path, &st) != 0)
        return TRUE;
    g_set_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_REFUSED,
                "there is a district %s here already: import it --as another one", import->name);
    return FALSE;
}

static gboolean
open_store(Import *import, GError **error)
{
    g_autofree char *path = NULL;

    import->store =
        ckpt_store_open(import->config->store_dir, import->name, CKPT_STORE_CREATE, error);
    if (import->store == NULL ||
        !ckpt_store_prepare(import->store, &import->id, &import->fd, error))
        return FALSE;
    path = ckpt_store_new_path(import->store, import->id);
    import->out = record_out_new(import->fd, path);
    return TRUE;
}

static gboolean
import_hello(void *opaque, const District__StreamHello *hello, GError **error)
{
    Import *import = opaque;
    District__StreamHello own = *hello;

    if (!check_hello(import, hello, error))
        return FALSE;
    import->name = g_strdup(import->config->name != NULL ? import->config->name : hello->district);
    import->result->district = g_strdup(hello->district);
    import->label = g_strdup(ckpt_store_label_good(hello->label) ? hello->label : "");
    if (!check_name(import, error) || !open_store(import, error))
        return FALSE;
    import->has_journals = hello->version == FILE_VERSION_JOURNALS;
    own.version = FILE_VERSION;
    own.software = (char *)"district-ckpt " DISTRICT_VERSION;
    own.district = import->name;
    own.checkpoint_id = import->id;
    own.parent_id = 0;
    own.committed_epoch = 0;
    own.label = import->label;
    return record_out_hello(import->out, &own, error);
}

/* ---- JOURNAL ---- */

static gboolean
import_journal(void *opaque, const District__StreamJournal *record, GError **error)
{
    const Import *import = opaque;

    if (import->begun)
        return format_damaged(error, "JOURNAL record after EPOCH_BEGIN: out of order");
    return import_journals_take(import->result->journals, record, error);
}

/* ---- EPOCH_BEGIN ---- */

/* Refuse at once what cannot fit. What is said of the data is about right, and only that. */
static gboolean
check_room(const Import *import, const District__StreamEpochBegin *begin, GError **error)
{
    struct statvfs vfs;
    uint64_t data = 0;

    for (size_t i = 0; i < begin->n_members; i++) {
        for (size_t k = 0; k < begin->members[i]->n_disks; k++) {
            const District__StreamDisk *disk = begin->members[i]->disks[k];
            data += MIN(disk->data, disk->size);
        }
    }
    if (statvfs(import->config->disk_dir, &vfs) != 0 ||
        data <= (uint64_t)vfs.f_bavail * vfs.f_frsize)
        return TRUE;
    g_set_error(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_FULL,
                "its disks have about %" G_GUINT64_FORMAT " MiB of data, and %s has room for "
                "%" G_GUINT64_FORMAT ": free some space there and try again",
                data >> 20, import->config->disk_dir,
                ((uint64_t)vfs.f_bavail * vfs.f_frsize) >> 20);
    return FALSE;
}

/* A raw file, all of it a hole. */
static gboolean
make_disk(Import *import, const char *member, size_t k, uint64_t bytes, GError **error)
{
    g_autofree char *file = g_strdup_printf("%s-%zu.raw", member, k);
    g_autofree char *path = g_build_filename(import->config->disk_dir, file, NULL);
    g_autofree char *home = g_strconcat("raw:", path, NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    int err = fd < 0 || ftruncate(fd, (off_t)bytes) != 0 ? errno : 0;
    Home *opened;

    if (fd >= 0)
        close(fd);
    if (err != 0)
        return fail_errno(path, "making it", err, error);
    opened = home_open(home, bytes, true, error);
    if (opened == NULL)
        return FALSE;
    g_ptr_array_add(import->disks, opened);
    g_array_append_val(import->bytes_of, bytes);
    return TRUE;
}

static gboolean
make_disks(Import *import, const District__StreamEpochBegin *begin, GError **error)
{
    for (size_t i = 0; i < begin->n_members; i++) {
        const District__StreamMember *m = begin->members[i];
        for (size_t k = 0; k < m->n_disks; k++) {
            if (!make_disk(import, m->name, k, m->disks[k]->size, error))
                return FALSE;
        }
    }
    return TRUE;
}

static gboolean
import_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    Import *import = opaque;

    if (import->begun || !begin->full)
        return refuse(FORMAT_ERROR_FOREIGN, error,
                      "it is not one whole checkpoint: make a file of one by district export");
    if (import->has_journals && !import_journals_complete(import->result->journals))
        return format_damaged(error, "its journals are not complete");
    import->begun = true;
    import->n_members = (uint32_t)begin->n_members;
    return check_room(import, begin, error) && make_disks(import, begin, error) &&
           record_out_begin(import->out, begin, error);
}

/* ---- PAGES ---- */

static gboolean
import_ram(Import *import, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    static const uint8_t zeros[PAGE_BYTES];
    PageRef refs[PAGES_PER_RECORD_MAX];

    for (uint32_t i = 0; i < count; i++)
        refs[i] = (PageRef){pages[i].index, pages[i].data != NULL ? pages[i].data : zeros};
    /* A later page of the same number may be zero. */
    return record_out_pages(import->out, image, refs, count, false, &import->ram_pages, error);
}

static gboolean
import_blocks(Import *import, uint32_t disk, const DecodedPage *pages, uint32_t count,
              GError **error)
{
    Home *home = import->disks->pdata[disk];
    uint64_t bytes = g_array_index(import->bytes_of, uint64_t, disk);

    for (uint32_t i = 0; i < count; i++) {
        uint64_t at = pages[i].index * PAGE_BYTES, len = MIN(PAGE_BYTES, bytes - at);
        if (pages[i].data != NULL ? !home_write(home, at, pages[i].data, len, error)
                                  : !home_zero(home, at, len, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
import_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    Import *import = opaque;

    return image < import->n_members
               ? import_ram(import, image, pages, count, error)
               : import_blocks(import, image - import->n_members, pages, count, error);
}

/* ---- STATE and the end ---- */

static gboolean
import_state(void *opaque, const uint8_t *packed, size_t len, const District__CutState *state,
             GError **error)
{
    Import *import = opaque;
    size_t definition = strlen(state->definition);

    if (definition == 0 || definition > DEFINITION_MAX ||
        !g_utf8_validate(state->definition, -1, NULL))
        return refuse(FORMAT_ERROR_DAMAGED, error,
                      "it has no definition of the district: use one of a district of districtd");
    import->result->cut = (District__CutState *)layout_unpack(&district__cut_state__descriptor,
                                                              packed, len, "STATE record", error);
    return import->result->cut != NULL;
}

/* A copy of the cut with the new name. */
static gboolean
import_end(void *opaque, uint64_t epoch, GError **error)
{
    Import *import = opaque;
    District__CutState *cut = import->result->cut;
    District__CutState own = *cut;

    own.district = import->name;
    import->ended = true;
    return record_out_end(import->out, &own, error);
}

static const ReceiverOps import_ops = {
    .hello = import_hello,
    .begin = import_begin,
    .pages = import_pages,
    .state = import_state,
    .end = import_end,
    .journal = import_journal,
};

static gboolean
sync_disks(const Import *import, GError **error)
{
    int fd;
    gboolean good;

    for (guint i = 0; i < import->disks->len; i++) {
        if (!home_flush(import->disks->pdata[i], error))
            return FALSE;
    }
    if (!import_journals_sync(import->result->journals, error))
        return FALSE;
    fd = open(import->config->disk_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    good = (fd >= 0 && fsync(fd) == 0) ||
           fail_errno(import->config->disk_dir, "syncing it", errno, error);
    if (fd >= 0)
        close(fd);
    return good;
}

static gboolean
commit(const Import *import, GError **error)
{
    const District__CutState *cut = import->result->cut;
    CkptStoreCommit commit = {
        .full = true,
        .epoch = cut->epoch,
        .incarnation = cut->incarnation,
        .realtime_ns = cut->realtime_ns,
        .label = import->label,
        .ram_pages = import->ram_pages,
    };

    /* The head is the same then; but the catalog is on the disk, for readers that come first. */
    return record_out_sync(import->out, error) && sync_disks(import, error) &&
           ckpt_store_commit(import->store, import->id, &commit, error) &&
           ckpt_store_set_head(import->store, import->id, error);
}

static gboolean
read_file(Import *import, int fd, GError **error)
{
    g_autoptr(RecordFile) file = record_file_new(fd);
    Receiver *receiver = receiver_new(&import_ops, import);
    gboolean more = TRUE, good = TRUE;

    while (good && more) {
        good = record_file_feed(file, receiver, &more, error);
        progress_set(import->config->progress, record_file_bytes(file));
    }
    receiver_free(receiver);
    if (good && !import->ended)
        return refuse(FORMAT_ERROR_TRUNCATED, error,
                      "truncated: there is no whole epoch in it: use an intact copy");
    return good;
}

/* Its size, if it is a file. */
static uint64_t
file_bytes(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
}

static gboolean
import_all(Import *import, int fd, GError **error)
{
    progress_phase(import->config->progress, "read", file_bytes(fd));
    if (!read_file(import, fd, error))
        return FALSE;
    progress_phase(import->config->progress, "sync", 0);
    return commit(import, error);
}

static void
import_clear(Import *import)
{
    record_out_free(import->out);
    if (import->fd >= 0)
        close(import->fd);
    ckpt_store_close(import->store);
    g_ptr_array_unref(import->disks);
    g_array_unref(import->bytes_of);
    g_free(import->name);
    g_free(import->label);
}

gboolean
import_checkpoint(int fd, const ImportConfig *config, ImportResult *result, GError **error)
{
    Import import = {.config = config, .result = result, .fd = -1};
    gboolean good;

    *result = (ImportResult){.journals = import_journals_new(config->disk_dir)};
    import.disks = g_ptr_array_new_with_free_func((GDestroyNotify)home_close);
    import.bytes_of = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    good = import_all(&import, fd, error);
    import_clear(&import);
    return good;
}

void
import_result_clear(ImportResult *result)
{
    if (result->cut != NULL)
        district__cut_state__free_unpacked(result->cut, NULL);
    g_free(result->district);
    import_journals_free(result->journals);
    *result = (ImportResult){0};
}
