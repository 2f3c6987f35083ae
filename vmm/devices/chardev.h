/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host's end of a guest console: a file, a pty or nothing, and beside it a log file.
 *
 * Promises: writing never blocks and never fails as far as the guest can tell. The log and "file:"
 * take everything in order, within the bounds of outfile.h. A pty keeps what its reader has not read yet, as much as the kernel
 * holds; beyond that the oldest output is dropped, so that who attaches late sees the latest. The
 * pty outlives its readers. Input is only read when the device has room, so a fast typist waits.
 *
 * All functions are called with the machine lock held.
 */
#ifndef DISTRICT_VMM_DEVICES_CHARDEV_H
#define DISTRICT_VMM_DEVICES_CHARDEV_H

#include "vmm/machine.h"

#include <glib.h>

typedef struct Chardev Chardev;

typedef struct ChardevOps {
    /* How many bytes of input the device can take now. */
    size_t (*room)(void *opaque);
    /* Input has come: 1 to room bytes. Main thread, lock held. */
    void (*input)(void *opaque, const uint8_t *data, size_t len);
} ChardevOps;

/*
 * Open what spec says: "none", "file:PATH" (append), "pty" or "pty:LINK" (LINK becomes a symbolic
 * link to the pty; an existing link is replaced, anything else is refused). log_path: may be NULL.
 * Input starts with chardev_start. Lives as long as the process; chardev_free is for tests and for
 * a device whose init fails.
 */
Chardev *chardev_open(Machine *m, const char *spec, const char *log_path, const ChardevOps *ops,
                      void *opaque, GError **error);
void chardev_free(Chardev *chardev);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Chardev, chardev_free)

/* Output of the guest; goes out within CHARDEV_FLUSH_MS. */
#define CHARDEV_FLUSH_MS 10
void chardev_write(Chardev *chardev, const uint8_t *data, size_t len);
void chardev_flush(Chardev *chardev);

/* There is room for input again after room() was 0. */
void chardev_input_resume(Chardev *chardev);

/* Flush and take no more input; go on. */
void chardev_stop(Chardev *chardev);
void chardev_start(Chardev *chardev);

/* Path of the pty, NULL if it is none. */
const char *chardev_pty_path(const Chardev *chardev);

#endif
