/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A checkpoint of a store as one file, with its disks and journals, and back (docs/format.md, "Exported").
 *
 * Theory of operation. An export is the checkpoint format as it is on the wire: HELLO and one full
 * epoch, in which every page of RAM and every block of the disks is that is not zero. So it needs
 * nothing else to be read: neither a store nor homes. Journals, which are in no checkpoint, come first.
 * An import is the other way round: the blocks go to new raw images, the rest becomes the only
 * checkpoint of a new store, whose homes these are.
 *
 * Both go from the front to the end once, in bounded memory but for an export's RAM, which is loaded
 * first as for a restart. Both leave what is not complete to their caller to remove.
 *
 * Reading beside a writer: it is asked to neither merge nor prune meanwhile (ckpt_store_hold). What
 * it writes to homes none the less, at the step that it is at, are blocks of checkpoints that the
 * exported one builds on, or its own, and the overlay has those; unless the store's root goes past
 * the exported one, which is looked at in the end.
 */
#ifndef DISTRICT_CKPT_EXPORT_H
#define DISTRICT_CKPT_EXPORT_H

#include "ckpt/progress.h"
#include "ckpt/store.h"

/* Where the home of a disk is. */
typedef struct ExportHome {
    const char *member;
    uint32_t disk;    /* from 0, of the member's disks with an overlay */
    const char *home; /* as export_image_open takes it */
} ExportHome;

/* A copy of a member's journal (journals-copy.h), which nobody writes to. */
typedef struct ExportJournal {
    const char *member;
    const char *path;
} ExportJournal;

typedef struct ExportConfig {
    const char *host;        /* said in the file */
    const char *overlay_dir; /* for nameless files while it lasts: what homes do not have */
    const char *socket_dir;  /* for qemu-nbd */
    const ExportHome *homes;
    uint32_t n_homes;
    const ExportJournal *journals;
    uint32_t n_journals;
    Progress *progress; /* or NULL */
} ExportConfig;

typedef struct ExportResult {
    uint64_t epoch;
    uint64_t incarnation;
    uint64_t bytes; /* of the file */
    uint64_t ram_pages;
    uint64_t disk_blocks;
} ExportResult;

/* Write checkpoint id of store, which has been opened for reading, to fd: a file, synced then, or a
 * pipe. */
gboolean export_checkpoint(CkptStore *store, uint64_t id, const ExportConfig *config, int fd,
                           ExportResult *result, GError **error);

typedef struct ImportConfig {
    const char *store_dir; /* made here; the directory above is there */
    const char
        *disk_dir;      /* is there; files as standby/diskset.h and standby/journals.h name them */
    const char *name;   /* of the new district; NULL: that of the file's */
    const char *beside; /* or NULL: a directory in which nothing may have the district's name */
    Progress *progress; /* or NULL */
} ImportConfig;

typedef struct ImportResult {
    char *district;          /* in the file */
    District__CutState *cut; /* as in the file; in the new store it has the new name */
    struct ImportJournals *journals;
} ImportResult;

void import_result_clear(ImportResult *result);

/* From fd's position to its end, a file's or a pipe's. All is durable on success. */
gboolean import_checkpoint(int fd, const ImportConfig *config, ImportResult *result,
                           GError **error);

#endif
