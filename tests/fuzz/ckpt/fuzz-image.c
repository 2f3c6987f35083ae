/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes as a checkpoint file, with the checksums of its records put right; and as a CutState. */
#include "ckpt/image.h"
#include "common/memfd.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Give every record of the file, as far as one follows another, the checksum it should have. */
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
load(const uint8_t *data, size_t size)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    g_autoptr(GError) error = NULL;
    g_autoptr(Image) image = NULL;

    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        g_error("no scratch file");
    image = image_load_file(fd, "fuzz", &error);
    if ((image == NULL) != (error != NULL))
        g_error("a result and an error do not agree");
    close(fd);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *fixed = size > 0 ? g_memdup2(data, size) : g_malloc(1);
    int state_fd = memfd_from_data("state", data, size, NULL);
    Image *image = image_from_fds(state_fd, size, NULL, 0, NULL);

    g_clear_pointer(&image, image_free);
    close(state_fd);
    load(data, size);
    fix_checksums(fixed, size);
    load(fixed, size);
    return 0;
}
