/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * run.json: the processes of a district that are running now, so that the next districtd finds them
 * again after this one was killed. A process is told from another one that got its pid later by its
 * start time and by the machine's boot id.
 */
#ifndef DISTRICT_CONTROL_RUNFILE_H
#define DISTRICT_CONTROL_RUNFILE_H

#include <glib.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct RunProcess {
    char *kind;   /* "vmm", "net", "ckpt", "standby" */
    char *member; /* of a "vmm", else NULL */
    pid_t pid;
    uint64_t start_time; /* proc(5) /proc/PID/stat (22), clock ticks since boot */
} RunProcess;

void run_process_free(RunProcess *process);

/* Start time of pid; FALSE if there is no such process. */
gboolean process_start_time(pid_t pid, uint64_t *ticks);

/* The same from the text of /proc/PID/stat, in which the name may hold anything. */
gboolean process_start_time_parse(const char *stat, uint64_t *ticks);

/* Is that very process still there (not a zombie)? */
gboolean run_process_alive(const RunProcess *process);

gboolean run_processes_any_alive(const GPtrArray *processes);

/* Save or load an array of RunProcess. Loading a file from before a reboot gives an empty array;
 * so does a missing one. A damaged file gives NULL with error set. */
gboolean runfile_save(const char *path, GPtrArray *processes, GError **error);
GPtrArray *runfile_load(const char *path, GError **error);

#endif
