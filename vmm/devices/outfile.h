/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file that takes what a guest prints, and that the guest cannot grow without bound: at
 * OUTFILE_BYTES_MAX it is renamed to PATH.1, in place of an older one, and begun anew. What is no
 * regular file (a pipe, a terminal) is only written to.
 *
 * Writing never blocks and never fails as far as the guest can tell: what the disk or a pipe does
 * not take is lost, and so is all output after a rename that fails.
 */
#ifndef DISTRICT_VMM_DEVICES_OUTFILE_H
#define DISTRICT_VMM_DEVICES_OUTFILE_H

#include <glib.h>
#include <stdint.h>

#define OUTFILE_BYTES_MAX (16 * 1024 * 1024)

typedef struct OutFile OutFile;

/* Open path to append to, or make it (mode 0600). An error has code DEVICE_ERROR_SYSTEM. */
OutFile *outfile_open(const char *path, GError **error);
void outfile_free(OutFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(OutFile, outfile_free)

void outfile_write(OutFile *file, const uint8_t *data, size_t len);

#endif
