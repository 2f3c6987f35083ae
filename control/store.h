/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What districtd keeps on disk about districts, below STATE/districts/NAME/:
 *     NAME.district     the definition
 *     state.json        the Record below
 *     incarnation       the highest number given out here, in decimal
 *     journal-MEMBER.img  the journal of a member
 *     store/            durable checkpoints (ckpt/store.h), which district-ckpt writes
 *     overlays/         instead of it in a clone: nameless files of its disks
 *     lineage-N/        the same, and the homes of its disks, of a life that came from another host
 *                       or a file: store/, and disks/, with its journals too, which is
 *                       district-standby's until it runs here
 * Every change is atomic and durable when the function returns: written to a temporary file,
 * synced, renamed, and the directory synced. A district is made as .new-*, or .import-* of a file, and
 * removed as .destroyed-NAME-N; nothing else is ever removed unasked, whatever cannot be read of it.
 */
#ifndef DISTRICT_CONTROL_STORE_H
#define DISTRICT_CONTROL_STORE_H

#include "control/pacing.h"

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdint.h>

typedef enum { ROLE_NONE, ROLE_HOME, ROLE_STANDBY } Role;

typedef struct Record {
    Role role;
    char *uuid;               /* made with the district; another one is another district */
    gboolean protect;         /* home: protection is wanted, to peer */
    gboolean output_commit;   /* of the protection */
    gboolean stopped;         /* home: on purpose; from before anything of it is ended */
    gboolean failover_wanted; /* home: members were lost, and the standby is to take over */
    gboolean resume;          /* home: imported and not run since: a start goes on, and boots not */
    gboolean home_stopped;    /* standby: the home ended its members on purpose */
    unsigned lineage;         /* whose homes and store are this host's; 0: the definition's */
    uint64_t clone_id;        /* a clone: checkpoint that it runs, of that lineage of clone_of */
    unsigned copy;            /* standby: lineage of the copy; 0: it has no disks, no journals */
    Pacing pacing;            /* of the protection */
    uint64_t home_incarnation;       /* standby: what the home runs; older streams are refused */
    uint64_t superseded_incarnation; /* the newer life elsewhere; 0: none */
    uint64_t
        ended_incarnation; /* home: handed over to handing_to, not to run again here; 0: none */
    char *peer;            /* home: the standby's host; standby: the home's host; or NULL */
    char *superseded_by;   /* host of the newer life, or NULL */
    char *clone_of;        /* the district that this is a clone of (clone.c); NULL: none */
    char *handing_to;      /* host, while ended_incarnation is set */
} Record;

void record_clear(Record *record);
const char *role_name(Role role);

/* Replace path by data (len bytes, -1: a string), mode 0600, atomically. durable: sync it too. */
gboolean store_write_file(const char *path, const char *data, gssize len, gboolean durable,
                          GError **error);

/* Make a directory, mode 0700, durably; its parent must be there. One that is there is success. */
gboolean store_add_dir(const char *path, GError **error);

/* Remove path and all below it; nothing there is success. Symbolic links are not followed. */
gboolean store_remove_tree(const char *path, GError **error);

/* The same on a thread, as large files take long; takes path over. What cannot be removed is told in the
 * log. done is called in the main loop. */
typedef void (*StoreRemoved)(gpointer data);
void store_remove_later(char *path, StoreRemoved done, gpointer data);

/* Rename within a directory, durably. */
gboolean store_rename(const char *from, const char *to, GError **error);

/* Directory of district name; caller frees. */
char *store_district_dir(const char *state_dir, const char *name);

/* Write a new district: the directory exists completely or not at all. */
gboolean store_create(const char *state_dir, const char *name, const char *definition,
                      const Record *record, uint64_t incarnation, GError **error);
/*
 * The same for a district that takes time to make: first a directory that nobody sees, empty, or for an
 * import with lineage-1/disks in it, for the caller to fill (NULL with error set; caller frees the
 * path); then its name. On failure the caller removes the directory, and else store_list does.
 */
char *store_create_begin(const char *state_dir, GError **error);
char *store_import_begin(const char *state_dir, GError **error);
gboolean store_create_finish(const char *state_dir, const char *made, const char *name,
                             const char *definition, const Record *record, uint64_t incarnation,
                             GError **error);
/* Is there a directory of that name, whole or damaged? */
gboolean store_exists(const char *state_dir, const char *name);
/* Take a district away: from here on it is not there, durably. Returns the path at which what was of
 * it is, to be removed; caller frees, NULL with error set. */
char *store_destroy(const char *state_dir, const char *name, GError **error);

/* Names of all districts, damaged ones too, removing half-made and half-removed ones. Never NULL;
 * free with g_strfreev. */
char **store_list(const char *state_dir);

gboolean store_save_definition(const char *state_dir, const char *name, const char *text,
                               GError **error);
char *store_load_definition(const char *state_dir, const char *name, gsize *len, GError **error);
gboolean store_save_record(const char *state_dir, const char *name, const Record *record,
                           GError **error);
gboolean store_load_record(const char *state_dir, const char *name, Record *record, GError **error);
gboolean store_save_incarnation(const char *state_dir, const char *name, uint64_t incarnation,
                                GError **error);
gboolean store_load_incarnation(const char *state_dir, const char *name, uint64_t *incarnation,
                                GError **error);

#endif
