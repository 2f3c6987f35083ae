/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images in a temporary directory, and waiting for requests to them, for tests. */
#ifndef DISTRICT_TESTS_DISK_IMAGE_H
#define DISTRICT_TESTS_DISK_IMAGE_H

#include "disk/block.h"

#include <sys/types.h>

typedef struct Image {
    char *dir;
    char *path;
    const char *format; /* "raw", "qcow2" */
} Image;

void image_make(Image *image, const char *format, uint64_t bytes);
/* Also checks that nothing but the image is left in the directory. */
void image_remove(Image *image);
BlockBackend *image_try_open(const Image *image, BlockMode mode, GError **error);
BlockBackend *image_open(const Image *image, BlockMode mode);
void image_close(BlockBackend *b);

/* One request, until it has ended; its error. */
int block_read(BlockBackend *b, uint64_t offset, void *buf, size_t len);
int block_write(BlockBackend *b, uint64_t offset, const void *buf, size_t len);
int block_flush(BlockBackend *b);
int block_zero(BlockBackend *b, uint64_t offset, uint64_t len, bool unmap);
int block_discard(BlockBackend *b, uint64_t offset, uint64_t len);

/* A completion that notes its error: -1 before. */
void block_note(void *opaque, int error);
void block_wait(const int *error);

/* The qemu-nbd behind b. */
pid_t image_server(const BlockBackend *b);
bool all_bytes(const uint8_t *buf, size_t len, uint8_t value);

#endif
