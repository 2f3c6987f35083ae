/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The processes of a district: command lines, start, end, and the record of them in run.json.
 *
 * All sockets lie in RUNTIME/districts/NAME/: ckpt.sock, net.sock, standby.sock, and for each
 * member MEMBER.member.sock, MEMBER.net.sock and MEMBER.console (a link to its pty).
 */
#include "control/daemon.h"
#include "control/tap.h"
#include "control/units.h"
#include "common/fdmsg.h"
#include "ckpt.pb-c.h"
#include "standby.pb-c.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define QUIT_TIMEOUT_MS 5000
#define QUIT_DISKS_TIMEOUT_MS 40000
#define TERM_TIMEOUT_MS 2000
#define CONFIG_TIMEOUT_MS 10000
#define CONSOLE_LINK ".console"
/* What an engine leaves beside its member socket when its guest is off (district-vmm(8)). */
#define MEMBER_ENDED ".member.sock.ended"

Child *
processes_find(const District *d, const char *kind, const char *member)
{
    for (guint i = 0; i < d->children->len; i++) {
        const RunProcess *p = child_process(d->children->pdata[i]);
        if (strcmp(p->kind, kind) == 0 && g_strcmp0(p->member, member) == 0)
            return d->children->pdata[i];
    }
    return NULL;
}

gboolean
process_member_ended(const District *d, const char *member)
{
    g_autofree char *mark = district_member_path(d, member, MEMBER_ENDED);

    return access(mark, F_OK) == 0;
}

guint
processes_count(const District *d)
{
    return d->children->len - (processes_find(d, "standby", NULL) != NULL ? 1 : 0);
}

gboolean
processes_save(District *d, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    g_autofree char *path = district_run_path(d, "run.json");

    for (guint i = 0; i < d->children->len; i++)
        g_ptr_array_add(list, (gpointer)child_process(d->children->pdata[i]));
    return runfile_save(path, list, error);
}

void
processes_unlink_consoles(const District *d)
{
    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        g_autofree char *link = district_member_path(d, m->name, CONSOLE_LINK);
        unlink(link);
    }
}

static gboolean
make_dir(char *path, GError **error)
{
    g_autofree char *owned = path;

    if (g_mkdir_with_parents(owned, 0700) == 0)
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "%s: cannot create: %s", owned,
                g_strerror(errno));
    return FALSE;
}

static gboolean
make_dirs(const District *d, GError **error)
{
    return make_dir(district_run_path(d, NULL), error) &&
           make_dir(district_log_path(d, NULL), error) &&
           (district_is_clone(d) || district_make_lineage(d, error)) &&
           make_dir(district_overlay_dir(d), error);
}

/* ---- Command lines ---- */

/* A growing argv that owns its strings. */
static void
add(GPtrArray *argv, const char *option, char *value)
{
    g_ptr_array_add(argv, g_strdup(option));
    if (value != NULL)
        g_ptr_array_add(argv, value);
}

static GPtrArray *
argv_new(const District *d, const char *program, GError **error)
{
    char *path = child_find_program(d->daemon->config->libexec_dir, program, error);
    if (path == NULL)
        return NULL;
    GPtrArray *argv = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(argv, path);
    return argv;
}

static Child *
spawn(District *d, const char *kind, const char *member, GPtrArray *argv, int inherit_fd,
      GError **error)
{
    g_autofree char *file = g_strconcat(member != NULL ? member : kind, ".log", NULL);
    g_autofree char *log = district_log_path(d, file);

    g_ptr_array_add(argv, NULL);
    Child *child = child_spawn(kind, member, (const char *const *)argv->pdata, log, inherit_fd,
                               process_exited, d, error);
    if (child != NULL)
        g_ptr_array_add(d->children, child);
    return child;
}

static void
add_optional(GPtrArray *argv, const char *option, const char *value)
{
    if (value != NULL && value[0] != '\0')
        add(argv, option, g_strdup(value));
}

/* The disks, and where their overlays are made: in the store, whose file system has the room. Those of
 * a clone are its original's, which may run. */
static void
add_disks(const District *d, const DefinitionMember *m, GPtrArray *argv)
{
    for (guint i = 0; i < m->disks->len; i++) {
        const DefinitionDisk *disk = m->disks->pdata[i];
        gboolean moved = FALSE;
        g_autofree char *home = district_disk_home(d, m, i, &moved);
        add(argv, "--disk",
            g_strdup_printf("%s,format=%s%s", home, moved ? "raw" : disk->format,
                            disk->read_only        ? ",readonly=on"
                            : district_is_clone(d) ? ",shared=on"
                                                   : ""));
    }
    if (m->disks->len > 0)
        add(argv, "--overlay-dir", district_overlay_dir(d));
    if (m->journal != 0)
        add(argv, "--journal", district_journal_path(d, m));
}

static gboolean
spawn_vmm(District *d, const DefinitionMember *m, gboolean incoming, GError **error)
{
    g_autoptr(GPtrArray) argv = argv_new(d, "district-vmm", error);
    g_autofree char *log_file = g_strconcat(m->name, ".console.log", NULL);
    g_autofree char *link = district_member_path(d, m->name, CONSOLE_LINK);
    g_autofree char *ended = district_member_path(d, m->name, MEMBER_ENDED);

    if (argv == NULL)
        return FALSE;
    unlink(ended);
    add(argv, "--name", g_strdup_printf("%s/%s", d->name, m->name));
    add(argv, "--memory", units_format_size(m->memory));
    add(argv, "--cpus", g_strdup_printf("%u", m->cpus));
    /* A restored guest has its kernel in RAM; without the files it cannot be reset, only that. */
    if (!incoming || access(m->kernel, R_OK) == 0) {
        add(argv, "--kernel", g_strdup(m->kernel));
        add_optional(argv, "--initrd",
                     m->initrd != NULL && incoming && access(m->initrd, R_OK) != 0 ? NULL
                                                                                   : m->initrd);
        add_optional(argv, "--append", m->command_line);
    }
    add(argv, "--net", district_member_path(d, m->name, ".net.sock"));
    add(argv, "--mac", definition_member_mac(m));
    add(argv, "--serial", g_strconcat("pty:", link, NULL));
    add(argv, "--serial-log", district_log_path(d, log_file));
    add_optional(argv, "--console", m->console);
    add_disks(d, m, argv);
    if (m->rng)
        add(argv, "--rng", NULL);
    add_optional(argv, "--debugcon", m->debugcon);
    add(argv, "--member-socket", district_member_path(d, m->name, ".member.sock"));
    add(argv, "--dirty-source", g_strdup(m->dirty_source));
    add(argv, "--vmgenid", g_uuid_string_random());
    add(argv, incoming ? "--incoming" : "--paused", NULL);
    return spawn(d, "vmm", m->name, argv, -1, error) != NULL;
}

static int
open_outside(const District *d, GError **error)
{
    g_autofree char *name = tap_name(d->name);

    return tap_open(name, d->definition->bridge, error);
}

/* In place of one that died: with output commit its successor lets nothing out before it is told. */
static gboolean
net_must_hold(const District *d)
{
    return d->state == STATE_RUNNING && d->record.protect && d->record.output_commit;
}

static gboolean
spawn_net(District *d, GError **error)
{
    g_autoptr(GPtrArray) argv = argv_new(d, "district-net", error);
    int tap = -1;

    if (argv == NULL)
        return FALSE;
    if (d->definition->bridge != NULL && (tap = open_outside(d, error)) < 0)
        return FALSE;
    add(argv, "--name", g_strdup(d->name));
    add(argv, "--control", district_run_path(d, "net.sock"));
    add(argv, "--flows", district_run_path(d, "net.flows"));
    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        g_autofree char *socket = district_member_path(d, m->name, ".net.sock");
        add(argv, "--port", g_strdup_printf("%s=%s", m->name, socket));
    }
    if (tap >= 0)
        add(argv, "--tap-fd", g_strdup_printf("%d", tap));
    add(argv, "--incarnation", g_strdup_printf("%" G_GUINT64_FORMAT, d->incarnation));
    /* In place of one that may have held output: district-ckpt will say whether to go on so. */
    if (d->state == STATE_RUNNING && d->record.protect)
        add(argv, "--hold", NULL);
    if (net_must_hold(d))
        add(argv, "--hold", NULL);
    gboolean good = spawn(d, "net", NULL, argv, tap, error) != NULL;
    if (tap >= 0)
        close(tap);
    return good;
}

static void
connect_ckpt(District *d)
{
    g_autofree char *path = district_run_path(d, "ckpt.sock");
    g_autofree char *name = g_strconcat(d->name, ": district-ckpt", NULL);

    g_clear_pointer(&d->ckpt, rpc_free);
    d->ckpt = rpc_new(&rpc_ckpt_protocol, path, name, district_ckpt_event, d);
}

static void
add_store(const District *d, GPtrArray *argv)
{
    const Definition *definition = d->definition;
    const DefinitionKeep *keep = &definition->keep;
    uint64_t ms = definition->durable_every_us == DEFINITION_NEVER
                      ? 0
                      : MAX(definition->durable_every_us / 1000, 1);

    add(argv, "--store", district_store_dir(d));
    add(argv, "--load-rate", g_strdup_printf("%" G_GUINT64_FORMAT, definition->load_rate));
    if (district_is_clone(d)) {
        add(argv, "--clone-of", g_strdup(d->record.clone_of));
        add(argv, "--clone-id", g_strdup_printf("%" G_GUINT64_FORMAT, d->record.clone_id));
        add(argv, "--overlay-dir", district_overlay_dir(d));
        return;
    }
    add(argv, "--durable-every", g_strdup_printf("%" G_GUINT64_FORMAT, ms));
    add(argv, "--keep", g_strdup_printf("%u,%u,%u", keep->last, keep->hourly, keep->daily));
    add(argv, "--disk-sync-rate", g_strdup_printf("%" G_GUINT64_FORMAT, definition->sync_rate));
    add(argv, "--delta-cache", g_strdup_printf("%" G_GUINT64_FORMAT, definition->delta_cache));
}

static gboolean
spawn_ckpt(District *d, GError **error)
{
    g_autoptr(GPtrArray) argv = argv_new(d, "district-ckpt", error);
    const Config *config = d->daemon->config;
    g_autofree char *file = g_strconcat(d->name, ".district", NULL);

    if (argv == NULL)
        return FALSE;
    add(argv, "--name", g_strdup(d->name));
    add(argv, "--host", g_strdup(config->host_name));
    add(argv, "--control", district_run_path(d, "ckpt.sock"));
    add(argv, "--net", district_run_path(d, "net.sock"));
    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        gboolean off = g_hash_table_contains(d->members_off, m->name);
        g_autofree char *socket =
            off ? g_strdup("off") : district_member_path(d, m->name, ".member.sock");
        add(argv, "--member", g_strdup_printf("%s=%s", m->name, socket));
        if (off && m->journal != 0) {
            g_autofree char *journal = district_journal_path(d, m);
            add(argv, "--journal", g_strdup_printf("%s=%s", m->name, journal));
        }
    }
    add(argv, "--pki", g_strdup(config->pki_dir));
    add(argv, "--definition",
        g_build_filename(config->state_dir, "districts", d->name, file, NULL));
    add(argv, "--incarnation", g_strdup_printf("%" G_GUINT64_FORMAT, d->incarnation));
    add_store(d, argv);
    if (spawn(d, "ckpt", NULL, argv, -1, error) == NULL)
        return FALSE;
    connect_ckpt(d);
    return TRUE;
}

static gboolean
spawn_standby(District *d, GError **error)
{
    g_autoptr(GPtrArray) argv = argv_new(d, "district-standby", error);

    if (argv == NULL)
        return FALSE;
    add(argv, "--name", g_strdup(d->name));
    add(argv, "--control", district_run_path(d, "standby.sock"));
    add(argv, "--pki", g_strdup(d->daemon->config->pki_dir));
    add(argv, "--host", g_strdup(d->daemon->config->host_name));
    if (d->record.copy != 0)
        add(argv, "--disk-dir", district_disk_dir(d));
    return spawn(d, "standby", NULL, argv, -1, error) != NULL;
}

/* ---- Start ---- */

/* Write down who was started, then let them run; or undo. */
static gboolean
release_all(District *d, gboolean good, GError **error)
{
    good = good && processes_save(d, error);
    for (guint i = 0; good && i < d->children->len; i++)
        child_release(d->children->pdata[i]);
    return good;
}

static gboolean
spawn_missing(District *d, gboolean incoming, GError **error)
{
    if (processes_find(d, "net", NULL) == NULL && !spawn_net(d, error))
        return FALSE;
    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        if (processes_find(d, "vmm", m->name) == NULL && !spawn_vmm(d, m, incoming, error))
            return FALSE;
    }
    return processes_find(d, "ckpt", NULL) != NULL || spawn_ckpt(d, error);
}

gboolean
processes_start(District *d, gboolean incoming, GError **error)
{
    d->ending = FALSE;
    d->unit_failed = FALSE;
    g_hash_table_remove_all(d->members_off);
    if (release_all(d, make_dirs(d, error) && spawn_missing(d, incoming, error), error))
        return TRUE;
    processes_end(d, TRUE, NULL);
    return FALSE;
}

gboolean
processes_start_one(District *d, const char *kind, GError **error)
{
    gboolean good = strcmp(kind, "net") == 0 ? spawn_net(d, error) : spawn_ckpt(d, error);

    return release_all(d, good, error);
}

static void
on_configured(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    if (error != NULL)
        g_warning("%s", error->message);
}

static void
configure_standby(District *d)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyConfigRequest config = DISTRICT__STANDBY_CONFIG_REQUEST__INIT;

    config.min_incarnation = d->record.home_incarnation;
    config.silence_ms = d->definition->failover_after_ms;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_CONFIG;
    request.config = &config;
    rpc_call(d->standby, &request.base, NULL, 0, CONFIG_TIMEOUT_MS, on_configured, NULL);
}

/* Give a new process what its predecessor held. */
static void
adopt_standby(District *d)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyAdoptRequest adopt = DISTRICT__STANDBY_ADOPT_REQUEST__INIT;

    request.op_case = DISTRICT__STANDBY_REQUEST__OP_ADOPT;
    request.adopt = &adopt;
    rpc_call(d->standby, &request.base, d->hold_fds, d->n_hold_fds, CONFIG_TIMEOUT_MS,
             on_configured, NULL);
}

gboolean
processes_start_standby(District *d, GError **error)
{
    gboolean fresh = processes_find(d, "standby", NULL) == NULL;

    d->standby_ending = FALSE;
    if (fresh && !release_all(d, make_dirs(d, error) && spawn_standby(d, error), error))
        return FALSE;
    if (fresh || d->standby == NULL) {
        g_autofree char *path = district_run_path(d, "standby.sock");
        g_autofree char *name = g_strconcat(d->name, ": district-standby", NULL);
        g_clear_pointer(&d->standby, rpc_free);
        d->standby = rpc_new(&rpc_standby_protocol, path, name, district_standby_event, d);
    }
    configure_standby(d);
    if (fresh && d->n_hold_fds > 0)
        adopt_standby(d);
    return TRUE;
}

/* ---- End ---- */

static void
signal_all(District *d, int signal)
{
    for (guint i = 0; i < d->children->len; i++) {
        Child *child = d->children->pdata[i];
        if (strcmp(child_process(child)->kind, "standby") != 0)
            child_signal(child, signal);
    }
}

static gboolean
on_kill_timer(gpointer data)
{
    District *d = data;

    signal_all(d, d->kill_stage++ == 0 ? SIGTERM : SIGKILL);
    d->kill_timer = g_timeout_add(TERM_TIMEOUT_MS, on_kill_timer, d);
    return G_SOURCE_REMOVE;
}

static void
quit_ckpt(District *d, int timeout_ms)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptQuitRequest quit = DISTRICT__CKPT_QUIT_REQUEST__INIT;

    request.op_case = DISTRICT__CKPT_REQUEST__OP_QUIT;
    request.quit = &quit;
    rpc_call(d->ckpt, &request.base, NULL, 0, timeout_ms, NULL, NULL);
}

void
processes_end(District *d, gboolean at_once, Job *job)
{
    d->gone_job = job;
    if (processes_count(d) == 0) {
        d->gone_job = NULL;
        g_clear_pointer(&d->ckpt, rpc_free);
        if (job != NULL)
            job_next(job);
        return;
    }
    d->ending = TRUE;
    if (d->kill_timer != 0)
        g_source_remove(d->kill_timer);
    /* With disks, district-ckpt makes a last checkpoint before it ends. */
    int quit_ms = definition_has_disks(d->definition) ? QUIT_DISKS_TIMEOUT_MS : QUIT_TIMEOUT_MS;
    if (at_once)
        signal_all(d, SIGKILL);
    else if (d->ckpt != NULL)
        quit_ckpt(d, quit_ms);
    else
        signal_all(d, SIGTERM);
    d->kill_stage = at_once ? 1 : 0;
    d->kill_timer = g_timeout_add(at_once ? TERM_TIMEOUT_MS : (guint)quit_ms, on_kill_timer, d);
}

void
processes_end_standby(District *d)
{
    Child *child = processes_find(d, "standby", NULL);

    d->standby_ending = TRUE;
    d->has_commit = FALSE;
    d->stream_up = FALSE;
    d->exposure = (Exposure){0};
    g_clear_pointer(&d->standby, rpc_free);
    if (d->standby_status != NULL)
        json_object_unref(d->standby_status);
    d->standby_status = NULL;
    fdmsg_close_fds(d->hold_fds, d->n_hold_fds);
    g_clear_pointer(&d->hold_fds, g_free);
    d->n_hold_fds = 0;
    /* It holds nothing that is of use any more, so there is nothing to wait for. */
    if (child != NULL)
        child_signal(child, SIGKILL);
}
