/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A stock QEMU with the tiny guest on KVM, and its QMP monitor. One thread. */
#ifndef DISTRICT_TESTS_BENCH_QMP_H
#define DISTRICT_TESTS_BENCH_QMP_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdint.h>

typedef struct Qemu Qemu;

typedef struct QemuConfig {
    const char *program;
    const char *guest;        /* ELF, booted by PVH */
    const char *command_line; /* its own */
    const char *output;       /* where what it prints goes */
    unsigned ram_mib;
} QemuConfig;

/* Start it, and wait until the guest has printed something. NULL with error set. */
Qemu *qemu_new(const QemuConfig *config, GError **error);
/* Ends QEMU. */
void qemu_free(Qemu *qemu);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qemu, qemu_free)

/* The guest's RAM, mapped read-only. */
const uint8_t *qemu_ram(const Qemu *qemu);

/*
 * Run one command, a JSON object; fd goes along unless it is -1. The answer's "return", or NULL with error
 * set; the caller unrefs. Waits 60 s at most.
 */
JsonNode *qemu_command(Qemu *qemu, const char *json, int fd, GError **error);
/* The same for commands that answer nothing. */
gboolean qemu_do(Qemu *qemu, const char *json, GError **error);

/* When the last event of this name was sent, ns since 1970 by QEMU's clock; 0: never. */
int64_t qemu_event_ns(const Qemu *qemu, const char *name);

/* Wait until a migration that was begun has completed, and return what query-migrate says of it. */
JsonNode *qemu_wait_migrated(Qemu *qemu, GError **error);

#endif
