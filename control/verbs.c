/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The verbs of the user API: a table of names and functions. */
#include "control/daemon.h"
#include "control/pki.h"
#include "control/units.h"
#include "common/clock.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long guests may take to power themselves off. */
#define STOP_TIMEOUT_US (10 * G_USEC_PER_SEC)
#define STOP_TIMEOUT_MAX_US (86400 * (gint64)G_USEC_PER_SEC)

typedef struct Verb {
    const char *name;
    void (*execute)(ApiRequest *request, Daemon *daemon, JsonObject *arguments);
} Verb;

static void G_GNUC_PRINTF(3, 4)
    fail(ApiRequest *request, ControlError code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autoptr(GError) error = g_error_new_valist(CONTROL_ERROR, (gint)code, format, args);
    va_end(args);
    api_fail(request, error);
}

/* The district that argument "name" names; NULL: the request has been answered. */
static District *
district_argument(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    g_autoptr(GError) error = NULL;
    District *d = daemon_find_district(daemon, json_get_string(arguments, "name", NULL), &error);

    if (d == NULL)
        api_fail(request, error);
    return d;
}

/* The same for what cannot be done with a clone. */
static District *
original_argument(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = district_argument(request, daemon, arguments);

    if (d == NULL || !district_is_clone(d))
        return d;
    fail(request, CONTROL_ERROR_STATE,
         "%s: it is a clone of %s at checkpoint %" G_GUINT64_FORMAT
         ", without checkpoints of its own, and stays what it is: do that with %s",
         d->name, d->record.clone_of, d->record.clone_id, d->record.clone_of);
    return NULL;
}

/* ---- Districts ---- */

static gboolean
create_district(Daemon *daemon, District *d, GError **error)
{
    if (g_hash_table_contains(daemon->districts, d->name)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_EXISTS,
                    "%s: exists already: destroy it first, or choose another Name=", d->name);
        return FALSE;
    }
    if (!district_check_sockets(d, error) || !definition_check_files(d->definition, 0, error))
        return FALSE;
    d->record.role = ROLE_HOME;
    d->record.uuid = g_uuid_string_random();
    d->record.pacing = d->definition->pacing;
    d->record.output_commit = d->definition->output_commit;
    d->pins_ns = clock_monotonic_ns() + PINS_LOOK_S * NS_PER_S; /* there are none */
    return store_create(daemon->config->state_dir, d->name, d->definition->text, &d->record, 0,
                        error);
}

static void
verb_create(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    const char *text = json_get_string(arguments, "definition", "");
    const char *file = json_get_string(arguments, "file", "definition");
    g_autoptr(GError) error = NULL;
    Definition *definition = definition_parse(text, strlen(text), file, &error);

    if (definition == NULL) {
        api_fail(request, error);
        return;
    }
    District *d = district_new(daemon, definition);
    if (!create_district(daemon, d, &error)) {
        api_fail(request, error);
        district_free(d);
        return;
    }
    g_hash_table_insert(daemon->districts, d->name, d);
    daemon_event(daemon, "created", d->name, "%u members", definition->members->len);
    JsonObject *result = json_object_new();
    json_object_set_string_member(result, "name", d->name);
    api_reply(request, result);
}

/* Are there clones, which run a checkpoint of it? */
static gboolean
check_no_clones(const District *d, GError **error)
{
    g_autoptr(GPtrArray) clones = district_clones(d);

    if (clones->len == 0)
        return TRUE;
    g_ptr_array_add(clones, NULL);
    g_autofree char *names = g_strjoinv(", ", (char **)clones->pdata);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE,
                "%s: there are clones of it: destroy %s first", d->name, names);
    return FALSE;
}

static gboolean
check_destroyable(const District *d, gboolean force, GError **error)
{
    gboolean standby = d->record.role == ROLE_STANDBY;

    if (!check_no_clones(d, error))
        return FALSE;

    if (d->job != NULL || d->state == STATE_HANDED_OVER || (!standby && processes_count(d) > 0))
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE, "%s: it is %s: stop it first",
                    d->name, district_state_name(d->state));
    else if (standby && !force)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE,
                    "%s: it is protected: district unprotect %s at its home %s first, or destroy "
                    "--force if that home is gone for good",
                    d->name, d->name, d->record.peer);
    else if (d->record.protect)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE,
                    "%s: it is protected: district unprotect %s first", d->name, d->name);
    else if (d->record.role == ROLE_HOME && d->record.lineage != 0 && !district_is_clone(d) &&
             definition_has_disks(d->definition) && !force)
        g_set_error(
            error, CONTROL_ERROR, CONTROL_ERROR_STATE,
            "%s: its disks came from another host, or an import, and would go with it: copy "
            "those that district --json show %s names, then destroy --force",
            d->name, d->name);
    else
        return TRUE;
    return FALSE;
}

typedef struct Destruction {
    ApiRequest *request;
    Daemon *daemon;
    char *name;
} Destruction;

/* JobDone */
static void
destroyed(JsonObject *result, const GError *error, gpointer data)
{
    Destruction *destruction = data;

    if (error == NULL)
        daemon_event(destruction->daemon, "destroyed", destruction->name,
                     "definition and checkpoints removed");
    api_job_done(NULL, error, destruction->request);
    g_free(destruction->name);
    g_free(destruction);
}

/* One that could not be loaded: nobody looks after processes that it may have. Returns where its files
 * are now. */
static char *
destroy_unloaded(Daemon *daemon, const char *name, GError **error)
{
    g_autofree char *run =
        g_build_filename(daemon->config->runtime_dir, "districts", name, "run.json", NULL);
    g_autoptr(GPtrArray) processes = runfile_load(run, error);

    if (processes == NULL)
        return NULL;
    if (run_processes_any_alive(processes)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE,
                    "%s: processes of it run: end those that %s lists first", name, run);
        return NULL;
    }
    char *left = store_destroy(daemon->config->state_dir, name, error);
    if (left != NULL)
        daemon_event(daemon, "destroyed", name, "it had not been loaded");
    return left;
}

/* data: the request. */
static void
unloaded_removed(gpointer data)
{
    api_reply(data, NULL);
}

static gboolean
is_unloaded(Daemon *daemon, const char *name)
{
    return name != NULL && units_check_name(name, NULL) &&
           !g_hash_table_contains(daemon->districts, name) &&
           store_exists(daemon->config->state_dir, name);
}

static void
verb_destroy(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    const char *name = json_get_string(arguments, "name", NULL);
    gboolean force = json_get_bool(arguments, "force", FALSE);
    g_autoptr(GError) error = NULL;

    if (force && is_unloaded(daemon, name)) {
        char *left = destroy_unloaded(daemon, name, &error);
        if (left != NULL)
            store_remove_later(left, unloaded_removed, request);
        else
            api_fail(request, error);
        return;
    }
    District *d = district_argument(request, daemon, arguments);
    if (d == NULL)
        return;
    if (!check_destroyable(d, force, &error)) {
        api_fail(request, error);
        return;
    }
    Destruction *destruction = g_new0(Destruction, 1);
    destruction->request = request;
    destruction->daemon = daemon;
    destruction->name = g_strdup(d->name);
    operation_remove(d, TRUE, destroyed, destruction);
}

static void
verb_start(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = district_argument(request, daemon, arguments);

    if (d != NULL)
        operation_start(d, json_get_bool(arguments, "force", FALSE), api_job_done, request);
}

static void
verb_stop(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = district_argument(request, daemon, arguments);
    gint64 timeout_us = json_get_int(arguments, "timeout_us", STOP_TIMEOUT_US);
    gboolean force = json_get_bool(arguments, "force", FALSE);

    if (d == NULL)
        return;
    if (timeout_us < 0 || timeout_us > STOP_TIMEOUT_MAX_US)
        fail(request, CONTROL_ERROR_INVALID, "%s: timeout_us: 0 to a day", d->name);
    else if (force || district_is_clone(d)) /* nothing of a clone is kept */
        operation_stop(d, force, api_job_done, request);
    else
        operation_shut_down(d, (uint64_t)timeout_us, api_job_done, request);
}

static void
verb_restart(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    const char *from = json_get_string(arguments, "from", NULL);
    District *d = from != NULL ? original_argument(request, daemon, arguments)
                               : district_argument(request, daemon, arguments);

    if (d != NULL)
        operation_restart(d, from, json_get_bool(arguments, "force", FALSE), api_job_done, request);
}

static gint
compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(a, b);
}

static void
verb_list(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    JsonObject *result = json_object_new();
    JsonArray *districts = json_array_new();
    g_autoptr(GList) names = g_list_sort(g_hash_table_get_keys(daemon->districts), compare_names);

    for (GList *i = names; i != NULL; i = i->next)
        json_array_add_object_element(
            districts, district_summary(g_hash_table_lookup(daemon->districts, i->data)));
    json_object_set_array_member(result, "districts", districts);
    api_reply(request, result);
}

static void
verb_show(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = district_argument(request, daemon, arguments);

    if (d != NULL)
        api_reply(request, district_describe(d));
}

static void
verb_checkpoint(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = original_argument(request, daemon, arguments);

    if (d != NULL)
        operation_checkpoint(d, json_get_string(arguments, "label", NULL), api_job_done, request);
}

static void
verb_clone(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = original_argument(request, daemon, arguments);
    const char *at = json_get_string(arguments, "at", NULL);
    const char *as = json_get_string(arguments, "as", NULL);

    if (d == NULL)
        return;
    if (at == NULL || as == NULL)
        fail(request, CONTROL_ERROR_INVALID, "%s: say which checkpoint (at), and a name (as)",
             d->name);
    else
        operation_clone(d, at, as, api_job_done, request);
}

static void
verb_log(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = original_argument(request, daemon, arguments);

    g_autoptr(GError) error = NULL;

    if (d == NULL)
        return;
    JsonArray *checkpoints = checkpoint_list(d, &error);
    if (checkpoints == NULL) {
        api_fail(request, error);
        return;
    }
    JsonObject *result = json_object_new();
    json_object_set_array_member(result, "checkpoints", checkpoints);
    api_reply(request, result);
}

static void
verb_store_check(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = original_argument(request, daemon, arguments);

    if (d != NULL)
        operation_check_store(d, api_job_done, request);
}

/* ---- One file ---- */

/* The file and the pipe that came with the request. FALSE: it has been answered. */
static gboolean
take_files(ApiRequest *request, int fds[2])
{
    for (guint i = 0; i < 2; i++)
        fds[i] = api_request_take_fd(request, i);
    if (fds[0] >= 0 && fds[1] >= 0)
        return TRUE;
    if (fds[0] >= 0)
        close(fds[0]);
    fail(
        request, CONTROL_ERROR_INVALID,
        "pass two descriptors along, of the file and of a pipe for progress: see docs/protocol.md");
    return FALSE;
}

static void
verb_export(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = district_argument(request, daemon, arguments);
    int fds[2];

    if (d != NULL && take_files(request, fds))
        operation_export(d, json_get_string(arguments, "at", NULL),
                         json_get_string(arguments, "file", "the file"), fds, api_job_done,
                         request);
}

static void
verb_import(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    int fds[2];

    if (take_files(request, fds))
        operation_import(daemon, json_get_string(arguments, "as", NULL),
                         json_get_string(arguments, "file", "the file"),
                         json_get_bool(arguments, "isolated", FALSE), fds, api_job_done, request);
}

/* ---- Protection ---- */

/* The definition's, but for what is asked for. Limits that would bound nothing are refused. */
static gboolean
protect_pacing(const District *d, JsonObject *arguments, Pacing *pacing, GError **error)
{
    if (!pacing_from_json(arguments, d->name, pacing, error))
        return FALSE;
    if (pacing->interval_us == PACING_AUTO ||
        (!json_object_has_member(arguments, "max_slowdown_percent") &&
         !json_object_has_member(arguments, "max_lag_us")))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "%s: the interval is fixed, so nothing is bound by a most slowdown or lag: leave "
                "them out, or add --interval auto",
                d->name);
    return FALSE;
}

static void
verb_protect(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = original_argument(request, daemon, arguments);
    g_autoptr(GError) error = NULL;

    if (d == NULL)
        return;
    const char *standby = json_get_string(arguments, "standby", NULL);
    Pacing pacing = d->definition->pacing;
    if (!protect_pacing(d, arguments, &pacing, &error)) {
        api_fail(request, error);
        return;
    }
    if (daemon_find_host(daemon, standby, &error) == NULL &&
        g_strcmp0(standby, daemon->config->host_name) != 0) {
        api_fail(request, error);
        return;
    }
    operation_protect(d, standby, &pacing,
                      json_get_bool(arguments, "output_commit", d->definition->output_commit),
                      api_job_done, request);
}

static void
verb_unprotect(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = original_argument(request, daemon, arguments);

    if (d != NULL)
        operation_unprotect(d, json_get_bool(arguments, "force", FALSE), api_job_done, request);
}

static void
verb_failover(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = original_argument(request, daemon, arguments);

    if (d != NULL)
        operation_takeover(d, 0, FALSE, api_job_done, request);
}

static void
verb_migrate(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    District *d = original_argument(request, daemon, arguments);
    const char *to = json_get_string(arguments, "to", NULL);
    g_autoptr(GError) error = NULL;

    if (d == NULL)
        return;
    if (g_strcmp0(to, daemon->config->host_name) != 0 &&
        daemon_find_host(daemon, to, &error) == NULL)
        api_fail(request, error);
    else
        operation_migrate(d, to, api_job_done, request);
}

/* ---- Events ---- */

static void
verb_subscribe(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    api_subscribe(request);
    api_reply(request, NULL);
}

static void
verb_events(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    JsonObject *result = json_object_new();

    json_object_set_array_member(result, "events", api_server_recent(daemon->api));
    api_reply(request, result);
}

/* ---- Hosts ---- */

/* This host's address as host at address sees it: the source of a route there (no packet is sent).
 */
static char *
own_address(const Host *host)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(host->port)};
    struct sockaddr_in own = {0};
    socklen_t len = sizeof(own);
    char text[INET_ADDRSTRLEN] = "";
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && inet_pton(AF_INET, host->address, &to.sin_addr) == 1 &&
        connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 &&
        getsockname(fd, (struct sockaddr *)&own, &len) == 0)
        inet_ntop(AF_INET, &own.sin_addr, text, sizeof(text));
    if (fd >= 0)
        close(fd);
    return g_strdup(text[0] != '\0' ? text : g_get_host_name());
}

typedef struct HostAdd {
    ApiRequest *request;
    Host *host;
    char *pki_dir;
    char *own_name;
    char *token; /* given: join; NULL: invite */
    char *invitation;
    GError *error;
} HostAdd;

static gboolean
on_host_ready(gpointer data)
{
    HostAdd *add = data;
    Daemon *daemon = api_request_daemon(add->request);
    JsonObject *result = json_object_new();
    uint16_t port = daemon->config->port;
    g_autofree char *own = own_address(add->host);
    g_autofree char *name = g_strdup(add->host->name);

    json_object_set_string_member(result, "host", name);
    if (add->invitation != NULL) {
        g_autofree char *command =
            g_strdup_printf("district host add %s --address %s:%u --token %s", add->own_name, own,
                            port, add->invitation);
        json_object_set_string_member(result, "token", add->invitation);
        json_object_set_string_member(result, "command", command);
    }
    if (add->error == NULL)
        daemon_put_host(daemon, g_steal_pointer(&add->host), &add->error);
    if (add->error != NULL) {
        json_object_unref(result);
        api_fail(add->request, add->error);
    } else {
        daemon_event(daemon, "host-added", name, "%s",
                     add->invitation != NULL ? "invited" : "known to each other");
        api_reply(add->request, result);
    }
    g_clear_error(&add->error);
    host_free(add->host);
    g_free(add->pki_dir);
    g_free(add->own_name);
    g_free(add->token);
    g_free(add->invitation);
    g_free(add);
    return G_SOURCE_REMOVE;
}

/* Keys take time to make and peers to answer: on a thread of its own. */
static gpointer
host_add_thread(gpointer data)
{
    HostAdd *add = data;

    if (add->token != NULL && strcmp(add->token, "") == 0) {
        if (!pki_present(add->pki_dir))
            add->error = g_error_new(CONTROL_ERROR, CONTROL_ERROR_STATE,
                                     "host %s: this host has no certificate yet: join with a token",
                                     add->host->name);
    } else if (add->token != NULL) {
        pki_join(add->pki_dir, add->own_name, add->host->name, add->host->address, add->host->port,
                 add->token, &add->error);
    } else if (pki_init(add->pki_dir, add->own_name, &add->error)) {
        add->invitation = pki_invite(add->pki_dir, add->host->name, &add->error);
    }
    g_main_context_invoke(NULL, on_host_ready, add);
    return NULL;
}

static Host *
host_from_arguments(Daemon *daemon, JsonObject *arguments, GError **error)
{
    const char *name = json_get_string(arguments, "name", "");
    const char *address = json_get_string(arguments, "address", "");
    const char *second = json_get_string(arguments, "second_address", NULL);
    Host *host = g_new0(Host, 1);
    uint16_t second_port = daemon->config->port;

    host->port = daemon->config->port;
    host->name = g_strdup(name);
    if (units_check_name(name, error) &&
        host_parse_address(address, &host->address, &host->port, error) &&
        (second == NULL ||
         host_parse_address(second, &host->second_address, &second_port, error))) {
        if (strcmp(name, daemon->config->host_name) != 0)
            return host;
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "host %s: this host has that name: set HostName= in districtd.conf", name);
    }
    host_free(host);
    return NULL;
}

static void
verb_host_add(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    g_autoptr(GError) error = NULL;
    Host *host = host_from_arguments(daemon, arguments, &error);

    if (host == NULL) {
        api_fail(request, error);
        return;
    }
    HostAdd *add = g_new0(HostAdd, 1);
    add->request = request;
    add->host = host;
    add->pki_dir = g_strdup(daemon->config->pki_dir);
    add->own_name = g_strdup(daemon->config->host_name);
    add->token = g_strdup(json_get_string(arguments, "token", NULL));
    if (json_get_bool(arguments, "joined", FALSE) && add->token == NULL)
        add->token = g_strdup("");
    /* Until it has joined, what it says itself about its port counts. */
    host->learned = add->token == NULL;
    g_thread_unref(g_thread_new("host-add", host_add_thread, add));
}

static void
verb_host_list(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    JsonObject *result = json_object_new();
    JsonArray *hosts = json_array_new();

    for (guint i = 0; i < daemon->hosts->len; i++) {
        const Host *host = daemon->hosts->pdata[i];
        const Peer *peer = g_hash_table_lookup(daemon->peers, host->name);
        JsonObject *item = json_object_new();
        json_object_set_string_member(item, "name", host->name);
        json_object_set_string_member(item, "address", host->address);
        json_object_set_int_member(item, "port", host->port);
        if (host->second_address != NULL)
            json_object_set_string_member(item, "second_address", host->second_address);
        json_object_set_boolean_member(item, "reachable", peer != NULL && peer_reachable(peer));
        json_object_set_int_member(item, "connections", peer != NULL ? peer_links_up(peer) : 0);
        if (peer != NULL && peer_heard_ns(peer) != 0)
            json_object_set_int_member(item, "heard_ms_ago",
                                       (clock_monotonic_ns() - peer_heard_ns(peer)) / NS_PER_MS);
        json_array_add_object_element(hosts, item);
    }
    json_object_set_string_member(result, "host", daemon->config->host_name);
    json_object_set_array_member(result, "hosts", hosts);
    api_reply(request, result);
}

static void
verb_host_remove(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    const char *name = json_get_string(arguments, "name", "");
    g_autoptr(GError) error = NULL;

    if (daemon_remove_host(daemon, name, &error))
        api_reply(request, NULL);
    else
        api_fail(request, error);
}

/* ---- Not in this version ---- */

static void
verb_unavailable(ApiRequest *request, Daemon *daemon, JsonObject *arguments)
{
    fail(request, CONTROL_ERROR_UNSUPPORTED, "not available in this version");
}

static const Verb verbs[] = {
    {"create", verb_create},
    {"destroy", verb_destroy},
    {"start", verb_start},
    {"stop", verb_stop},
    {"restart", verb_restart},
    {"rollback", verb_restart},
    {"list", verb_list},
    {"show", verb_show},
    {"checkpoint", verb_checkpoint},
    {"clone", verb_clone},
    {"log", verb_log},
    {"store-check", verb_store_check},
    {"export", verb_export},
    {"import", verb_import},
    {"protect", verb_protect},
    {"unprotect", verb_unprotect},
    {"failover", verb_failover},
    {"migrate", verb_migrate},
    {"subscribe", verb_subscribe},
    {"events", verb_events},
    {"host-add", verb_host_add},
    {"host-list", verb_host_list},
    {"host-remove", verb_host_remove},
    {"evacuate", verb_unavailable},
    {NULL, NULL},
};

void
verb_execute(ApiRequest *request, const char *execute, JsonObject *arguments)
{
    for (const Verb *verb = verbs; verb->name != NULL; verb++) {
        if (strcmp(verb->name, execute) == 0) {
            verb->execute(request, api_request_daemon(request), arguments);
            return;
        }
    }
    fail(request, CONTROL_ERROR_UNSUPPORTED, "\"%s\" is not a verb: see docs/protocol.md", execute);
}
