/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any JSON object given to the user API's verbs, and to the methods for other hosts.
 *
 * One line is one request: with "method" it comes from host h2, else from a user. Verbs, exchange,
 * district and the store are the real ones, on a state directory in memory; here below is what
 * would start processes, talk to hosts or make keys, which says yes or no in turn. Each request of a
 * user must be answered once.
 */
#include "control/apiparse.h"
#include "control/daemon.h"
#include "control/pki.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UUID "0b2d3c4e-5f60-4718-8293-a4b5c6d7e8f9"
#define DEFINITION "[District]\nName=%s\n[Member a]\nKernel=/dev/null\nMemory=2M\n"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct ApiRequest {
    Daemon *daemon;
};

struct Peer {
    Daemon *daemon;
    char *name;
};

static guint answered;
static gboolean says_no;

/* ---- The user API's answers ---- */

static void
request_end(ApiRequest *request)
{
    answered++;
    g_free(request);
}

void
api_reply(ApiRequest *request, JsonObject *result)
{
    if (result != NULL)
        json_object_unref(result);
    request_end(request);
}

void
api_fail(ApiRequest *request, const GError *error)
{
    if (error == NULL || error->message[0] == '\0')
        __builtin_trap();
    request_end(request);
}

void
api_job_done(JsonObject *result, const GError *error, gpointer data)
{
    if (error != NULL)
        api_fail(data, error);
    else
        api_reply(data, NULL);
}

Daemon *
api_request_daemon(const ApiRequest *request)
{
    return request->daemon;
}

/* With every other request. */
int
api_request_take_fd(ApiRequest *request, guint i)
{
    says_no = !says_no;
    return says_no ? -1 : open("/dev/null", O_RDWR | O_CLOEXEC);
}

void
api_subscribe(ApiRequest *request)
{
}

JsonArray *
api_server_recent(ApiServer *server)
{
    return json_array_new();
}

/* ---- Operations ---- */

static void
finish(JobDone done, gpointer data)
{
    g_autoptr(GError) error = g_error_new(CONTROL_ERROR, CONTROL_ERROR_FAILED, "no");
    g_autoptr(JsonObject) result = json_object_new();

    says_no = !says_no;
    done(says_no ? NULL : result, says_no ? error : NULL, data);
}

void
operation_start(District *d, gboolean force, JobDone done, gpointer data)
{
    finish(done, data);
}

void
operation_restart(District *d, const char *from, gboolean force, JobDone done, gpointer data)
{
    finish(done, data);
}

void
operation_stop(District *d, gboolean force, JobDone done, gpointer data)
{
    finish(done, data);
}

void
operation_checkpoint(District *d, const char *label, JobDone done, gpointer data)
{
    finish(done, data);
}

void
operation_clone(District *d, const char *at, const char *name, JobDone done, gpointer data)
{
    finish(done, data);
}

void
operation_check_store(District *d, JobDone done, gpointer data)
{
    finish(done, data);
}

void
operation_export(District *d, const char *at, const char *file, const int fds[2], JobDone done,
                 gpointer data)
{
    close(fds[0]);
    close(fds[1]);
    finish(done, data);
}

void
operation_import(Daemon *daemon, const char *as, const char *file, gboolean isolated,
                 const int fds[2], JobDone done, gpointer data)
{
    close(fds[0]);
    close(fds[1]);
    finish(done, data);
}

void
operation_shut_down(District *d, uint64_t timeout_us, JobDone done, gpointer data)
{
    finish(done, data);
}

JsonArray *
checkpoint_list(District *d, GError **error)
{
    says_no = !says_no;
    if (!says_no)
        return json_array_new();
    g_set_error_literal(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "no");
    return NULL;
}

uint64_t
checkpoint_find(District *d, const char *what, GError **error)
{
    says_no = !says_no;
    if (!says_no)
        return 1;
    g_set_error_literal(error, CONTROL_ERROR, CONTROL_ERROR_FAILED, "no");
    return 0;
}

void
operation_protect(District *d, const char *host, const Pacing *pacing, gboolean output_commit,
                  JobDone done, gpointer data)
{
    finish(done, data);
}

void
operation_unprotect(District *d, gboolean force, JobDone done, gpointer data)
{
    finish(done, data);
}

void
operation_takeover(District *d, uint64_t incarnation, gboolean planned, JobDone done, gpointer data)
{
    finish(done, data);
}

gboolean
takeover_is_under_way(const District *d)
{
    return FALSE;
}

gboolean
takeover_is_unclear(const District *d)
{
    return FALSE;
}

void
operation_migrate(District *d, const char *host, JobDone done, gpointer data)
{
    finish(done, data);
}

void
operation_remove(District *d, gboolean checkpoints_too, JobDone done, gpointer data)
{
    finish(done, data);
}

void
migrate_resolve(District *d, const Claim *target)
{
}

void
protect_resume(District *d)
{
}

void
district_supersede(District *d, const char *host, uint64_t incarnation)
{
    d->record.role = ROLE_NONE;
}

void
district_reconcile(District *d, const char *ckpt_state, const char *why)
{
}

/* ---- Processes ---- */

Child *
processes_find(const District *d, const char *kind, const char *member)
{
    return NULL;
}

guint
processes_count(const District *d)
{
    return 0;
}

gboolean
processes_start_standby(District *d, GError **error)
{
    return TRUE;
}

/* ---- Hosts ---- */

const char *
peer_name(const Peer *peer)
{
    return peer->name;
}

Daemon *
peer_daemon(const Peer *peer)
{
    return peer->daemon;
}

gboolean
peer_reachable(const Peer *peer)
{
    return TRUE;
}

int64_t
peer_heard_ns(const Peer *peer)
{
    return 1;
}

guint
peer_links_up(const Peer *peer)
{
    return 1;
}

void
peer_note(Peer *peer, const char *method, JsonObject *arguments)
{
    json_object_unref(arguments);
}

void
peer_answer(Daemon *daemon, const char *host, gint64 id, JsonObject *result, const GError *error)
{
}

gboolean
pki_present(const char *pki_dir)
{
    return TRUE;
}

gboolean
pki_init(const char *pki_dir, const char *host, GError **error)
{
    return TRUE;
}

char *
pki_invite(const char *pki_dir, const char *peer, GError **error)
{
    return g_strdup("token");
}

gboolean
pki_join(const char *pki_dir, const char *host, const char *peer, const char *address,
         uint16_t port, const char *token, GError **error)
{
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_UNREACHABLE, "no");
    return FALSE;
}

/* ---- daemon.c ---- */

District *
daemon_find_district(Daemon *daemon, const char *name, GError **error)
{
    District *d = name != NULL ? g_hash_table_lookup(daemon->districts, name) : NULL;

    if (d == NULL)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND, "no such district");
    return d;
}

Host *
daemon_find_host(Daemon *daemon, const char *name, GError **error)
{
    for (guint i = 0; name != NULL && i < daemon->hosts->len; i++) {
        Host *host = daemon->hosts->pdata[i];
        if (strcmp(host->name, name) == 0)
            return host;
    }
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND, "no such host");
    return NULL;
}

gboolean
daemon_put_host(Daemon *daemon, Host *host, GError **error)
{
    g_ptr_array_add(daemon->hosts, host);
    return TRUE;
}

gboolean
daemon_remove_host(Daemon *daemon, const char *name, GError **error)
{
    Host *host = daemon_find_host(daemon, name, error);

    return host != NULL && g_ptr_array_remove(daemon->hosts, host);
}

void
daemon_event(Daemon *daemon, const char *kind, const char *subject, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_free(g_strdup_vprintf(format, args));
    va_end(args);
}

/* ---- One host, which is home to "shop" and keeps "copy" for h2 ---- */

static Config config = {.host_name = (char *)"h1", .port = 7117};

static void
remove_state(void)
{
    const char *argv[] = {"rm", "-rf", config.state_dir, NULL};

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
                 NULL);
}

static void
log_nothing(const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
}

static void
set_up_once(void)
{
    if (config.state_dir != NULL)
        return;
    g_log_set_default_handler(log_nothing, NULL);
    char *dir = g_strdup("/dev/shm/district-fuzz-XXXXXX");
    if (g_mkdtemp(dir) == NULL)
        abort();
    config.state_dir = config.runtime_dir = config.log_dir = config.pki_dir = dir;
    atexit(remove_state);
}

static void
add_district(Daemon *daemon, const char *name, Role role)
{
    g_autofree char *text = g_strdup_printf(DEFINITION, name);
    District *d = district_new(daemon, definition_parse(text, strlen(text), "seed", NULL));

    d->record.role = role;
    d->record.uuid = g_strdup(UUID);
    d->record.peer = g_strdup(role == ROLE_STANDBY ? "h2" : NULL);
    d->incarnation = 3;
    d->state = role == ROLE_STANDBY ? STATE_STANDBY : STATE_STOPPED;
    if (!store_create(config.state_dir, name, text, &d->record, 3, NULL))
        abort();
    g_hash_table_insert(daemon->districts, d->name, d);
}

static void
set_up(Daemon *daemon, Peer *peer)
{
    Host *host = g_new0(Host, 1);

    set_up_once();
    *daemon = (Daemon){.config = &config};
    *peer = (Peer){daemon, (char *)"h2"};
    daemon->districts =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)district_free);
    daemon->peers = g_hash_table_new(g_str_hash, g_str_equal);
    daemon->hosts = g_ptr_array_new_with_free_func((GDestroyNotify)host_free);
    host->name = g_strdup("h2");
    host->address = g_strdup("192.0.2.2");
    host->learned = TRUE;
    g_ptr_array_add(daemon->hosts, host);
    g_hash_table_insert(daemon->peers, peer->name, peer);
    add_district(daemon, "shop", ROLE_HOME);
    add_district(daemon, "copy", ROLE_STANDBY);
}

static void
tear_down(Daemon *daemon)
{
    g_auto(GStrv) names = store_list(config.state_dir);

    for (char **name = names; *name != NULL; name++) {
        g_autofree char *left = store_destroy(config.state_dir, *name, NULL);
        if (left != NULL)
            store_remove_tree(left, NULL);
    }
    g_hash_table_unref(daemon->districts);
    g_hash_table_unref(daemon->peers);
    g_ptr_array_unref(daemon->hosts);
}

/* What is answered later, by a timer. */
static void
run_timers(void)
{
    GMainContext *context = g_main_context_default();
    GPollFD fds[8];
    gint timeout = 0, priority = 0;

    if (!g_main_context_acquire(context))
        return;
    do {
        g_main_context_prepare(context, &priority);
        g_main_context_query(context, priority, &timeout, fds, G_N_ELEMENTS(fds));
        if (timeout >= 0)
            g_main_context_iteration(context, TRUE);
    } while (timeout >= 0);
    g_main_context_release(context);
}

static void
ask_verb(Daemon *daemon, const char *text, size_t size)
{
    g_autoptr(ApiCall) call = api_call_parse(text, size, NULL);

    if (call == NULL)
        return;
    ApiRequest *request = g_new0(ApiRequest, 1);
    request->daemon = daemon;
    answered = 0;
    verb_execute(request, call->execute, call->arguments);
    while (answered == 0)
        g_main_context_iteration(NULL, TRUE);
    if (answered != 1)
        __builtin_trap();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Daemon daemon;
    Peer peer;
    g_autoptr(JsonObject) message = json_parse_object((const char *)data, size, NULL);
    const char *method = json_get_string(message, "method", NULL);
    JsonObject *arguments = json_get_object(message, "arguments");

    says_no = FALSE;
    if (message == NULL)
        return 0;
    set_up(&daemon, &peer);
    if (method == NULL)
        ask_verb(&daemon, (const char *)data, size);
    else if (arguments != NULL)
        exchange_handle(&peer, method, arguments, json_get_int(message, "id", 0));
    run_timers();
    tear_down(&daemon);
    return 0;
}
