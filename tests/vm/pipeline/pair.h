/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two hosts on one machine: two districtd with directories, ports and mount namespaces of their
 * own, and a district "shop" of two tiny guests that is at home on one and protected by the other.
 * What a guest prints on a host is in that host's own file. Every wait has a time limit and fails
 * the test.
 */
#ifndef DISTRICT_TESTS_VM_PIPELINE_PAIR_H
#define DISTRICT_TESTS_VM_PIPELINE_PAIR_H

#include "rig.h"
#include "tests/guest/check.h"

#include <json-glib/json-glib.h>

#define PAIR_MEMBERS 2
#define PAIR_FAILOVER_AFTER "10s"
#define PAIR_MEMBER_BYTES (32 << 20)
#define PAIR_DISK_BYTES (4 << 20)

typedef struct Host {
    char *name;
    char *conf;
    char *out; /* directory of what guests print on this host */
    Proc daemon;
} Host;

typedef struct Pair {
    char *dir;
    char *definition; /* path of shop.district */
    Host hosts[2];
    guint ports[2];
    int home; /* index of the host that is home; the other one is standby */
    GuestChecker *checkers[PAIR_MEMBERS];
} Pair;

/*
 * What districtd starts outlives it, and so would outlive a test that fails. So the tests run in a
 * child, and what they leave behind comes to this process, which ends it. Called first; -1: this is
 * the child, else the status to exit with: so also if they cannot be run here, which has been said.
 */
int pair_guard(void);

/* Directories of two hosts, with nothing on them yet: something may be mounted at DIR/HOST/state
 * (StateDir=), and districtd started on one. pair_on: on both, which know each other then. */
Pair *pair_new_off(void);
void pair_on(Pair *pair);
/* Both districtd run and know each other; there is no district. The definition has this
 * FailoverAfter=. */
Pair *pair_new_empty(const char *failover_after);
/* shop runs on the first host, protected by the second. */
Pair *pair_new_failover_after(const char *failover_after);
/* The same for tests in which nobody is meant to be silent, on machines that stand still at times. */
Pair *pair_new(void);
/* The same with lines of its own in the definition's [District] instead of AutoFailover=yes, and
 * more options for the guest app. */
Pair *pair_new_with(const char *options, const char *app);
/* The same, and app has a disk instead of a chain: it reads each place before it writes to it, and
 * compares it with what its memory says. */
Pair *pair_new_disk(void);
/* The same with lines for [District], an image of this format ("raw", "qcow2"; DIR/app.FORMAT), and
 * more options for app. */
Pair *pair_new_disk_with(const char *options, const char *format, const char *app);
/* An image of PAIR_DISK_BYTES in this format. */
void pair_make_disk(const char *path, const char *format);
/* The same with a journal in place of the disk (op=journal), and lines of its own in the definition's
 * [District]. */
Pair *pair_new_journal(const char *options);
/* The same, but app powers itself off after so many records. */
Pair *pair_new_journal_off(unsigned records);
/* The last number that app has told on a host, 0: none. */
guint64 pair_journal_told(const Host *host);
/* Does app's journal on a host have all that app has told up to this number? Its last number. */
guint64 pair_check_journal(Pair *pair, const Host *host, guint64 told);
/* What a guest has printed on a host; caller frees. */
char *pair_output(const Host *host, int member);
/* All that app has printed of its disk on a host is right; the number of such lines. */
guint pair_check_disk(Pair *pair, const Host *host);
/* The same of something else that a guest with such a disk has printed. who: for messages. */
guint pair_check_disk_text(Pair *pair, const char *who, const char *text);
/* Stops everything. */
void pair_free(Pair *pair);

Host *pair_home(Pair *pair);
Host *pair_standby(Pair *pair);
/* The standby has become the home. Forgets what was printed on the new standby. */
void pair_swap(Pair *pair);

/* Start a host's districtd and wait until it answers. */
void pair_daemon_start(Pair *pair, Host *host);

/*
 * `district ARGS...` on a host; NULL-terminated. Its JSON answer, or NULL if the command failed, of
 * which *error_text, if not NULL, then says why. Caller frees with json_node_unref, g_free.
 */
JsonNode *pair_command(Pair *pair, const Host *host, char **error_text, const char *const *args);
/* The same for a command that must succeed; the answer is dropped. */
void pair_must(Pair *pair, const Host *host, const char *const *args);

/* The same without waiting for it: reap proc by proc_wait. What it says goes to DIR/VERB.log. */
void pair_command_start(Pair *pair, const Host *host, Proc *proc, const char *const *args);

/*
 * One value of `district show shop --json` by its path ("state", "processes.ckpt",
 * "members.0.pid"): a string or number as text, NULL if there is none or districtd does not answer.
 */
char *pair_field(Pair *pair, const Host *host, const char *path);
/* For several values of one moment: what it shows of a district, NULL if it does not answer (free with
 * json_node_unref), and values in that; 0 for a number that is not there. */
JsonNode *pair_show(Pair *pair, const Host *host, const char *district);
char *pair_shown(JsonNode *show, const char *path);
gint64 pair_shown_number(JsonNode *show, const char *path);
/* The same of another district. */
char *pair_field_of(Pair *pair, const Host *host, const char *district, const char *path);
gint64 pair_number(Pair *pair, const Host *host, const char *path);
/* The same for a process of the district that must be there. */
GPid pair_process(Pair *pair, const Host *host, const char *path);
/* The paths of all that a home runs. */
#define PAIR_HOME_PROCESSES 4
extern const char *const pair_home_paths[PAIR_HOME_PROCESSES];
/* Wait until a field has this value. */
void pair_wait(Pair *pair, const Host *host, const char *path, const char *value);
/* Wait until a number is above what is given. */
void pair_wait_above(Pair *pair, const Host *host, const char *path, gint64 value);
/* Wait until a host knows that the other one is there. */
void pair_wait_link(Pair *pair, const Host *host);
/* The epoch that the district has been run from on a host; it has taken over or restarted. */
gint64 pair_started_epoch(Pair *pair, const Host *host);
/* Wait until the home protects the district and says so. */
void pair_wait_protected(Pair *pair);
/* TRUE if a host has had an event of this kind about shop. */
gboolean pair_had_event(Pair *pair, const Host *host, const char *kind);
/* What the last event of this kind on a host said; NULL if there was none. Caller frees. */
char *pair_event_text(Pair *pair, const Host *host, const char *kind);

/* kill -9 of all that the home runs for shop; its districtd stays. */
void pair_kill_district(Pair *pair);
/* The home loses its power: nothing of it is left but what is on disk. */
void pair_lose_power(Pair *pair);

/* Wait until both guests have printed more whole chain lines on the home host than by now. */
void pair_wait_progress(Pair *pair);
/* All that the guests have printed on a host is right. */
void pair_check_output(Pair *pair, const Host *host);

#endif
