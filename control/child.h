/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes of ours that must outlive us.
 *
 * A child is started in its own session with its output in a log file, and is first held at a gate:
 * it executes its program only when child_release is called, and ends by itself if we die before.
 * So a process that runs has always been written down in run.json first. Watching uses pidfds,
 * which work alike for children and for processes adopted from a predecessor. Main thread only.
 */
#ifndef DISTRICT_CONTROL_CHILD_H
#define DISTRICT_CONTROL_CHILD_H

#include "control/runfile.h"

#include <glib.h>

#define CHILD_STATUS_UNKNOWN (-1) /* adopted: only its parent could have learnt it */
#define CHILD_STATUS_NO_EXEC 127

typedef struct Child Child;

/* The process has ended. status: its exit status, 128 + signal, or CHILD_STATUS_UNKNOWN. */
typedef void (*ChildExited)(Child *child, int status, gpointer data);

/*
 * Find program name: $DISTRICT_LIBEXEC, libexec_dir (may be NULL), the directory of this
 * executable, then the build tree's ../vmm, ../ckpt, ../netproxy, ../standby. NULL with error set.
 */
char *child_find_program(const char *libexec_dir, const char *name, GError **error);

/*
 * Start argv (argv[0]: path) up to the gate. inherit_fd: a descriptor the program gets under the
 * same number, or -1. NULL with error set.
 */
Child *child_spawn(const char *kind, const char *member, const char *const *argv,
                   const char *log_path, int inherit_fd, ChildExited exited, gpointer data,
                   GError **error);
void child_release(Child *child);

/* Watch a process that an earlier districtd started. NULL if it has ended. */
Child *child_adopt(const RunProcess *process, ChildExited exited, gpointer data);

const RunProcess *child_process(const Child *child);
void child_signal(Child *child, int signal);

/* Stop watching; the process goes on (one still held at its gate ends). */
void child_free(Child *child);

#endif
