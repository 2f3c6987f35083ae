/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a district-ckpt does that was started for one job on a store, beside the one that may write to
 * it: the result on stdout in lines, or an error in one line on stderr. */
#ifndef DISTRICT_CKPT_STORE_JOB_H
#define DISTRICT_CKPT_STORE_JOB_H

#include <glib.h>
#include <stdbool.h>

/* From the options of the same names. */
typedef struct StoreJob {
    char *store;
    char *host;
    char *name;
    gboolean check;
    char *verify;   /* ID */
    char *describe; /* ID */
    char *pin;      /* ID */
    char *unpin;    /* ID */
    char *owner;
    char *export;       /* ID */
    char *copy_journal; /* path of its image; no store is needed */
    char **journals;    /* MEMBER=PATH: with export, copies of them */
    gboolean import;
    char **homes; /* MEMBER/K=HOME */
    char *socket_dir;
    char *disk_dir;
    char *as;
    char *beside;
    int file_fd;     /* -1: none */
    int progress_fd; /* -1: none */
} StoreJob;

bool store_job_wanted(const StoreJob *job);
/* The process's exit status. */
int store_job_run(const StoreJob *job);

#endif
