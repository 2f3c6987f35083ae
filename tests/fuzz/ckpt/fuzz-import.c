/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes as a file to be imported, as they are and with the checksums of its records put right: a new
 * store and disks in memory, which must load if the import says so. */
#include "ckpt/export.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
fix_checksums(uint8_t *file, size_t size)
{
    size_t at = 0;

    while (size - at >= RECORD_HEADER_BYTES) {
        RecordHeader header;

        if (!record_header_decode(file + at, &header, NULL) ||
            size - at - RECORD_HEADER_BYTES < header.length)
            return;
        record_header_encode(file + at, (RecordType)header.type, header.sequence, header.epoch,
                             file + at + RECORD_HEADER_BYTES, header.length);
        at += RECORD_HEADER_BYTES + header.length;
    }
}

static void
remove_tree(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *child = g_build_filename(path, name, NULL);
        remove_tree(child);
    }
    g_remove(path);
}

/* What has been imported can be gone on from. */
static void
must_load(const char *store_dir, const char *dir)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptStore) store = ckpt_store_open(store_dir, NULL, CKPT_STORE_READ, &error);
    g_autoptr(Image) image = store != NULL ? ckpt_store_load(store, 1, dir, &error) : NULL;

    if (image == NULL && !g_error_matches(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT))
        g_error("imported, but: %s", error->message);
}

static void
import(const char *dir, const uint8_t *data, size_t size)
{
    g_autofree char *store = g_build_filename(dir, "store", NULL);
    g_autofree char *disks = g_build_filename(dir, "disks", NULL);
    ImportConfig config = {.store_dir = store, .disk_dir = disks, .beside = dir};
    g_autoptr(GError) error = NULL;
    ImportResult result;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    if (fd < 0 || write(fd, data, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET) != 0 ||
        g_mkdir(disks, 0700) != 0)
        g_error("no scratch files");
    if (import_checkpoint(fd, &config, &result, &error) != (error == NULL))
        g_error("a result and an error do not agree");
    if (error == NULL)
        must_load(store, dir);
    import_result_clear(&result);
    close(fd);
    remove_tree(store);
    remove_tree(disks);
}

static char *scratch;

static void
scratch_remove(void)
{
    remove_tree(scratch);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *fixed = size > 0 ? g_memdup2(data, size) : g_malloc(1);

    if (scratch == NULL) {
        scratch = g_strdup("/dev/shm/district-fuzz-XXXXXX");
        if (g_mkdtemp(scratch) == NULL)
            g_error("no scratch directory");
        atexit(scratch_remove);
    }
    import(scratch, data, size);
    fix_checksums(fixed, size);
    import(scratch, fixed, size);
    return 0;
}
