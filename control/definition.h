/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The description of a district, NAME.district (district(5)). */
#ifndef DISTRICT_CONTROL_DEFINITION_H
#define DISTRICT_CONTROL_DEFINITION_H

#include "control/pacing.h"

#include <glib.h>
#include <stdint.h>

#define DEFINITION_BYTES_MAX (64 * 1024)
#define DEFINITION_CPUS_MAX 64

/* DurableEvery=never. */
#define DEFINITION_NEVER UINT64_MAX

typedef struct DefinitionDisk {
    char *path;   /* absolute */
    char *format; /* "raw", "qcow2" ...: given, or by the end of the name */
    gboolean read_only;
} DefinitionDisk;

/* Which durable checkpoints are kept, beside labelled ones. */
typedef struct DefinitionKeep {
    unsigned last; /* at least 1 */
    unsigned hourly;
    unsigned daily;
} DefinitionKeep;

typedef struct DefinitionMember {
    char *name;
    char *kernel;       /* absolute path */
    char *initrd;       /* or NULL */
    char *command_line; /* never NULL */
    uint64_t memory;    /* bytes, a multiple of 4 KiB */
    unsigned cpus;
    uint8_t mac[6];
    char *dirty_source; /* "auto", "bitmap", "ring" */
    char *console;      /* virtio-console, as district-vmm --console; NULL: none */
    char *debugcon;     /* file for port 0xE9, or NULL */
    gboolean rng;
    GPtrArray *disks; /* of DefinitionDisk, at most DISKS_MAX */
    uint64_t journal; /* size of the journal disk, bytes; 0: none */
} DefinitionMember;

/* Bytes. */
#define DELTA_CACHE_DEFAULT ((uint64_t)64 << 20)
#define DELTA_CACHE_MIN ((uint64_t)1 << 20)
#define DELTA_CACHE_MAX ((uint64_t)16 << 30)

typedef struct Definition {
    char *name;
    Pacing pacing;
    uint32_t failover_after_ms;
    uint32_t detach_after_ms;
    char *bridge; /* or NULL: no way out of the district */
    gboolean output_commit;
    gboolean auto_failover;
    gboolean autostart;        /* when the host boots */
    uint64_t durable_every_us; /* or DEFINITION_NEVER; 0 while the file has not been read */
    DefinitionKeep keep;
    uint64_t delta_cache; /* bytes, of what has been sent to the standby; 0: none */
    uint64_t sync_rate;   /* of disks to a standby, bytes per second; 0: no limit */
    uint64_t load_rate;   /* of memory from the store, the same */
    GPtrArray *members;   /* of DefinitionMember, at least one, in the order of the file */
    char *text;           /* the file itself */
} Definition;

/*
 * Parse len bytes of text. file is for messages only. NULL with a CONTROL_ERROR whose message names
 * file, section and key and says what to do. The text may come from a peer: nothing is trusted.
 */
Definition *definition_parse(const char *text, gsize len, const char *file, GError **error);
void definition_free(Definition *definition);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Definition, definition_free)

/*
 * The same as definition for a clone called name (clonetext.c). log_dir: for what its members print to
 * port 0xE9. Caller frees; NULL with error set.
 */
char *definition_clone_text(const Definition *definition, const char *name, const char *log_dir,
                            GError **error);
/* The same for one that is imported. isolated: without Bridge=. */
char *definition_import_text(const Definition *definition, const char *name, gboolean isolated,
                             const char *log_dir, GError **error);

/* What need not be there. */
typedef enum {
    DEFINITION_DISKS_MOVED = 1 << 0, /* disks written to: their homes are in district_disk_dir */
    DEFINITION_NO_BOOT = 1 << 1, /* kernels and initrds: what they loaded is in the checkpoint */
} DefinitionLess;

/* Are the files named there and readable on this host? less: a set of DefinitionLess. */
gboolean definition_check_files(const Definition *definition, unsigned less, GError **error);

/*
 * The text for another district of the same members, as their guests have known them: with MAC=
 * written out, which would else follow from the name. isolated: without Bridge=. NULL with error set;
 * caller frees.
 */
char *definition_renamed(const Definition *definition, const char *name, gboolean isolated,
                         GError **error);

gboolean definition_has_disks(const Definition *definition);
gboolean definition_has_journals(const Definition *definition);

/* Index of the member called name, or -1. */
int definition_find_member(const Definition *definition, const char *name);

/* "52:54:00:..." as text; caller frees. */
char *definition_member_mac(const DefinitionMember *member);

#endif
