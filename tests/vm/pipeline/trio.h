/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A district "shop" of three tiny guests on one host, whose StateDir= and homes are on a file system
 * that can lose its power (lossy.h). The guests notice whatever does not fit together:
 *
 *   db     folds all of its memory into a chain of which each value is known
 *   left   sends numbered frames and waits for their echoes, of which none may be lost or come twice;
 *          reads each place of its disk (raw) before it writes there, and compares it with its memory
 *   right  echoes; has a disk, too (qcow2)
 *
 * What they print is kept from life to life.
 */
#ifndef DISTRICT_TESTS_VM_PIPELINE_TRIO_H
#define DISTRICT_TESTS_VM_PIPELINE_TRIO_H

#include "lossy.h"
#include "pair.h"

#define TRIO_MEMBERS 3

typedef struct Trio {
    Pair *pair;
    Lossy *lossy;             /* of the first host, where the district is */
    Lossy *standby_lossy;     /* of the second one; NULL: that is off (trio_protect) */
    GuestChecker *checker;    /* of db */
    GArray *mounts;           /* of ino_t: the mount namespaces that processes of the host are in */
    gsize from[TRIO_MEMBERS]; /* where in its output the life of each guest began */
    gboolean booted;          /* this life is one from a boot */
    gboolean disk_errors;     /* guests may report requests that failed */
} Trio;

/* How far a guest is: rounds of db, writes of left and right; 0: it has printed nothing. */
typedef struct TrioPlace {
    guint64 first; /* in this life */
    guint64 last;
} TrioPlace;

/* The first host is on, the district created and started; more lines for [District]. NULL: not
 * possible here, *why says so (caller frees). */
Trio *trio_new(const char *options, guint mib, char **why);
/* Ends everything. */
void trio_free(Trio *trio);

/* Turn the second host on, with a file system of so many MiB, and have it keep the district. */
void trio_protect(Trio *trio, guint mib);

Host *trio_host(Trio *trio);
/* The path of something below StateDir=; caller frees. */
char *trio_path(Trio *trio, const char *name);

/* kill -9 of every process of the host, and wait until they have gone. */
void trio_kill_all(Trio *trio);
/* The same by loss of power: what was not synced is gone. */
void trio_lose_power(Trio *trio);
/* Boot it after either: mount (options: lossy_mount) if power was lost, start districtd. */
void trio_boot(Trio *trio, const char *options);
/* districtd alone, which was killed. */
void trio_start_daemon(Trio *trio);

/* Engines are about to be started, and no guest prints now. */
void trio_new_life(Trio *trio);
/* Check all that was printed in this life, and say how far each guest is. */
void trio_look(Trio *trio, TrioPlace places[TRIO_MEMBERS]);
/* Wait until each guest has got further. */
void trio_wait_progress(Trio *trio);

#endif
