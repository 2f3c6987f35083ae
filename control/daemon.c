/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* districtd's set-up: state from disk, hosts, the port, and the ticker. */
#include "control/daemon.h"
#include "control/hostlink.h"
#include "control/pki.h"
#include "control/units.h"
#include "common/clock.h"
#include "standby.pb-c.h"

#include <errno.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define JOINS_MAX 4
#define LOCK_WAIT_NS (2 * NS_PER_S)
#define STATUS_EVERY_TICKS 2 /* 400 ms */
#define STREAM_TIMEOUT_MS 5000
#define STALL_NS (2 * HOSTLINK_BEAT_MS * NS_PER_MS)

/* ---- Look-ups ---- */

District *
daemon_find_district(Daemon *daemon, const char *name, GError **error)
{
    District *d = name != NULL ? g_hash_table_lookup(daemon->districts, name) : NULL;

    if (d != NULL)
        return d;
    if (name != NULL && units_check_name(name, NULL) &&
        store_exists(daemon->config->state_dir, name))
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                    "%s: it is here, but was not loaded: look into districtd's log", name);
    else
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                    "%.60s: no such district here: see district list", name != NULL ? name : "");
    return NULL;
}

Host *
daemon_find_host(Daemon *daemon, const char *name, GError **error)
{
    for (guint i = 0; name != NULL && i < daemon->hosts->len; i++) {
        Host *host = daemon->hosts->pdata[i];
        if (strcmp(host->name, name) == 0)
            return host;
    }
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                "host %.60s: not known here: district host add %.60s --address ADDRESS",
                name != NULL ? name : "", name != NULL ? name : "NAME");
    return NULL;
}

gboolean
daemon_put_host(Daemon *daemon, Host *host, GError **error)
{
    Host *old = daemon_find_host(daemon, host->name, NULL);

    if (old != NULL)
        g_ptr_array_remove(daemon->hosts, old);
    g_ptr_array_add(daemon->hosts, host);
    if (!hosts_save(daemon->config->state_dir, daemon->hosts, error))
        return FALSE;
    /* Out of the table first: ending its requests may look for it. */
    Peer *peer = g_hash_table_lookup(daemon->peers, host->name);
    g_hash_table_steal(daemon->peers, host->name);
    peer_free(peer);
    peer = peer_new(daemon, host);
    g_hash_table_insert(daemon->peers, (gpointer)peer_name(peer), peer);
    return TRUE;
}

static const District *
district_of_host(Daemon *daemon, const char *host)
{
    GHashTableIter iter;
    gpointer value = NULL;

    g_hash_table_iter_init(&iter, daemon->districts);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const District *d = value;
        if ((d->record.protect || d->record.role == ROLE_STANDBY) &&
            g_strcmp0(d->record.peer, host) == 0)
            return d;
    }
    return NULL;
}

gboolean
daemon_remove_host(Daemon *daemon, const char *name, GError **error)
{
    Host *host = daemon_find_host(daemon, name, error);

    if (host == NULL)
        return FALSE;
    const District *d = district_of_host(daemon, name);
    if (d != NULL) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE,
                    "host %s: district %s is protected with it: district unprotect %s first", name,
                    d->name, d->name);
        return FALSE;
    }
    Peer *peer = g_hash_table_lookup(daemon->peers, name);
    g_hash_table_steal(daemon->peers, name);
    peer_free(peer);
    g_ptr_array_remove(daemon->hosts, host);
    return hosts_save(daemon->config->state_dir, daemon->hosts, error);
}

void
daemon_event(Daemon *daemon, const char *kind, const char *subject, const char *format, ...)
{
    g_autoptr(JsonObject) event = json_object_new();
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);

    g_message("%s: %s: %s", subject, kind, text);
    json_object_set_string_member(event, "event", kind);
    json_object_set_string_member(event, "subject", subject);
    json_object_set_string_member(event, "text", text);
    json_object_set_double_member(event, "time", (double)g_get_real_time() / 1e6);
    if (daemon->api != NULL)
        api_server_event(daemon->api, event);
}

/* ---- Connections from other hosts ---- */

static void
route_stream(Daemon *daemon, int fd, const char *name, const char *from)
{
    District *d = g_hash_table_lookup(daemon->districts, name);
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyStreamRequest stream = DISTRICT__STANDBY_STREAM_REQUEST__INIT;

    if (d == NULL || d->record.role != ROLE_STANDBY || d->standby == NULL) {
        daemon_event(daemon, "refused", "stream", "from %s: not a standby here for that district",
                     from);
        return;
    }
    stream.peer_name = d->record.peer;
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_STREAM;
    request.stream = &stream;
    rpc_call(d->standby, &request.base, &fd, 1, STREAM_TIMEOUT_MS, NULL, NULL);
}

typedef struct Join {
    Daemon *daemon;
    char *from;
    char *peer;
    GError *error;
    int fd;
} Join;

static gboolean
on_joined(gpointer data)
{
    Join *join = data;
    Daemon *daemon = join->daemon;
    g_autoptr(GError) error = NULL;

    daemon->joins--;
    if (join->error != NULL) {
        daemon_event(daemon, "refused", "join", "from %s: %s", join->from, join->error->message);
    } else if (daemon_find_host(daemon, join->peer, NULL) == NULL) {
        Host *host = g_new0(Host, 1);
        host->name = g_strdup(join->peer);
        host->address = g_strdup(join->from);
        host->port = daemon->config->port;
        host->learned = TRUE;
        if (!daemon_put_host(daemon, host, &error))
            g_warning("%s", error->message);
    }
    if (join->error == NULL)
        daemon_event(daemon, "host-joined", join->peer, "from %s", join->from);
    g_clear_error(&join->error);
    g_free(join->from);
    g_free(join->peer);
    g_free(join);
    return G_SOURCE_REMOVE;
}

static gpointer
join_thread(gpointer data)
{
    Join *join = data;

    pki_join_serve(join->daemon->config->pki_dir, join->fd, &join->peer, &join->error);
    g_main_context_invoke(NULL, on_joined, join);
    return NULL;
}

static void
route_join(Daemon *daemon, int fd, const char *from)
{
    if (daemon->joins >= JOINS_MAX) {
        close(fd);
        return;
    }
    Join *join = g_new0(Join, 1);
    join->daemon = daemon;
    join->from = g_strdup(from);
    join->fd = fd;
    daemon->joins++;
    g_thread_unref(g_thread_new("join", join_thread, join));
}

static void
route(int fd, const char *kind, const char *district, const char *from, gpointer data)
{
    Daemon *daemon = data;

    if (strcmp(kind, "control") == 0) {
        daemon_accept_control(daemon, fd);
        return;
    }
    if (strcmp(kind, "join") == 0) {
        route_join(daemon, fd, from);
        return;
    }
    if (strcmp(kind, "stream") == 0)
        route_stream(daemon, fd, district, from);
    else
        g_message("connection from %s closed: of no known kind", from);
    close(fd);
}

/* ---- Ticker ---- */

/* Stopped, starved, or in a machine that was: what came meanwhile has not been read yet. */
static void
note_stall(Daemon *daemon)
{
    int64_t now = clock_monotonic_ns();

    if (daemon->ticked_ns != 0 && now - daemon->ticked_ns > STALL_NS)
        daemon->stalled_ns = now;
    daemon->ticked_ns = now;
}

static gboolean
on_tick(gpointer data)
{
    Daemon *daemon = data;
    static guint ticks;
    gboolean poll = ++ticks % STATUS_EVERY_TICKS == 0;
    GHashTableIter iter;
    gpointer value = NULL;

    note_stall(daemon);
    g_hash_table_iter_init(&iter, daemon->districts);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        district_watch_home(value);
        district_ask_for_failover(value);
        if (poll)
            district_poll_status(value);
        if (ticks % 5 == 0) {
            district_stop_if_off(value);
            autostart_tick(value);
            clone_tick(value);
            protect_resume(value);
            migrate_go_on(value);
        }
    }
    return G_SOURCE_CONTINUE;
}

/* ---- Set-up ---- */

static gboolean
load_district(Daemon *daemon, const char *name, GError **error)
{
    const char *state_dir = daemon->config->state_dir;
    g_autofree char *file = g_strconcat(name, ".district", NULL);
    gsize len = 0;
    g_autofree char *text = store_load_definition(state_dir, name, &len, error);
    g_autoptr(Definition) definition =
        text != NULL ? definition_parse(text, len, file, error) : NULL;

    if (definition == NULL)
        return FALSE;
    if (strcmp(definition->name, name) != 0) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s: Name=%s does not match: correct it", file, definition->name);
        return FALSE;
    }
    District *d = district_new(daemon, g_steal_pointer(&definition));
    if (!store_load_record(state_dir, name, &d->record, error) ||
        !store_load_incarnation(state_dir, name, &d->incarnation, error)) {
        district_free(d);
        return FALSE;
    }
    g_hash_table_insert(daemon->districts, d->name, d);
    return TRUE;
}

/* One damaged district does not keep the others from being looked after. */
static void
load_districts(Daemon *daemon)
{
    g_auto(GStrv) names = store_list(daemon->config->state_dir);

    for (char **name = names; *name != NULL; name++) {
        g_autoptr(GError) error = NULL;
        if (!load_district(daemon, *name, &error))
            g_warning("%s: not loaded: %s", *name, error->message);
    }
}

static gboolean
make_dirs(const Config *config, GError **error)
{
    const char *const dirs[] = {config->state_dir, config->runtime_dir, config->log_dir};

    for (gsize i = 0; i < G_N_ELEMENTS(dirs); i++) {
        if (g_mkdir_with_parents(dirs[i], 0700) == 0)
            continue;
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "%s: cannot create: %s: run districtd as root or set other directories",
                    dirs[i], g_strerror(errno));
        return FALSE;
    }
    return TRUE;
}

/* A predecessor that was just killed may still be on its way out. */
static gboolean
lock_wait(int fd)
{
    int64_t deadline = clock_monotonic_ns() + LOCK_WAIT_NS;

    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK || clock_monotonic_ns() > deadline)
            return FALSE;
        g_usleep(2000);
    }
    return TRUE;
}

/* One districtd for one state directory. The lock is held until the process ends. */
static gboolean
lock_state(const Config *config, GError **error)
{
    g_autofree char *path = g_build_filename(config->state_dir, "lock", NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd >= 0 && lock_wait(fd))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE, "%s: %s", path,
                errno == EWOULDBLOCK ? "another districtd has this state directory: end it first"
                                     : g_strerror(errno));
    if (fd >= 0)
        close(fd);
    return FALSE;
}

static void
dial_hosts(Daemon *daemon)
{
    for (guint i = 0; i < daemon->hosts->len; i++) {
        Peer *peer = peer_new(daemon, daemon->hosts->pdata[i]);
        g_hash_table_insert(daemon->peers, (gpointer)peer_name(peer), peer);
    }
}

static void
adopt_districts(Daemon *daemon)
{
    GHashTableIter iter;
    gpointer value = NULL;

    g_hash_table_iter_init(&iter, daemon->districts);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        district_adopt(value);
}

Daemon *
daemon_new(Config *config, GError **error)
{
    if (!make_dirs(config, error) || !lock_state(config, error))
        return NULL;
    GPtrArray *hosts = hosts_load(config->state_dir, error);
    if (hosts == NULL)
        return NULL;
    Daemon *daemon = g_new0(Daemon, 1);
    daemon->config = config;
    daemon->hosts = hosts;
    daemon->districts =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)district_free);
    daemon->peers = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)peer_free);
    load_districts(daemon);
    daemon->api = api_server_new(daemon, error);
    if (daemon->api != NULL)
        daemon->listener = listener_new(config->listen, config->port, route, daemon, error);
    if (daemon->listener == NULL) {
        daemon_free(daemon);
        return NULL;
    }
    adopt_districts(daemon);
    autostart_begin(daemon);
    dial_hosts(daemon);
    daemon->ticker = g_timeout_add(HOSTLINK_BEAT_MS, on_tick, daemon);
    return daemon;
}

void
daemon_free(Daemon *daemon)
{
    daemon->closing = TRUE;
    if (daemon->ticker != 0)
        g_source_remove(daemon->ticker);
    listener_free(daemon->listener);
    api_server_free(daemon->api);
    daemon->api = NULL;
    g_hash_table_unref(daemon->peers);
    daemon->peers = NULL;
    g_hash_table_unref(daemon->districts);
    g_ptr_array_unref(daemon->hosts);
    g_free(daemon);
}
