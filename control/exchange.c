/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the districtd of two hosts say to each other (docs/protocol.md, "Between hosts"): who runs
 * what, and the requests by which one prepares, activates or ends a district at the other.
 */
#include "control/daemon.h"
#include "control/units.h"
#include "common/clock.h"

#include <string.h>

typedef struct Asked {
    Daemon *daemon;
    char *host;
    char *district;
    gint64 id;
} Asked;

static Asked *
asked_new(Peer *peer, gint64 id, const char *district)
{
    Asked *asked = g_new0(Asked, 1);

    asked->daemon = peer_daemon(peer);
    asked->host = g_strdup(peer_name(peer));
    asked->district = g_strdup(district);
    asked->id = id;
    return asked;
}

static void
asked_free(Asked *asked)
{
    g_free(asked->host);
    g_free(asked->district);
    g_free(asked);
}

/* JobDone: answer the peer. */
static void
asked_done(JsonObject *result, const GError *error, gpointer data)
{
    Asked *asked = data;

    peer_answer(asked->daemon, asked->host, asked->id, result, error);
    asked_free(asked);
}

static void
refuse(Peer *peer, gint64 id, ControlError code, const char *district, const char *why)
{
    g_autoptr(GError) error = g_error_new(CONTROL_ERROR, (gint)code, "%s: %s", district, why);

    g_message("%s: request of host %s refused: %s", district, peer_name(peer), why);
    peer_answer(peer_daemon(peer), peer_name(peer), id, NULL, error);
}

/* ---- Which district: hosts may give one name to two ---- */

JsonObject *
exchange_arguments(const District *d)
{
    JsonObject *arguments = json_object_new();

    json_object_set_string_member(arguments, "district", d->name);
    json_object_set_string_member(arguments, "uuid", d->record.uuid);
    return arguments;
}

static gboolean
is_of(const District *d, JsonObject *object)
{
    return g_strcmp0(json_get_string(object, "uuid", NULL), d->record.uuid) == 0;
}

/* A peer has another district of d's name: nothing that it says of it is about d. Said once. */
static void
note_namesake(District *d, const Peer *peer)
{
    if (g_strcmp0(d->namesake, peer_name(peer)) == 0)
        return;
    g_free(d->namesake);
    d->namesake = g_strdup(peer_name(peer));
    daemon_event(d->daemon, "namesake", d->name,
                 "host %s has another district of this name: one cannot protect the other",
                 peer_name(peer));
}

/* ---- Who runs what ---- */

static JsonObject *
claim_to_json(const District *d)
{
    Claim claim = district_claim(d);
    JsonObject *item = json_object_new();

    json_object_set_string_member(item, "district", d->name);
    json_object_set_string_member(item, "uuid", d->record.uuid);
    json_object_set_int_member(item, "incarnation", (gint64)claim.incarnation);
    json_object_set_boolean_member(item, "home", claim.home);
    json_object_set_boolean_member(item, "active", claim.active);
    json_object_set_string_member(item, "state", district_state_name(d->state));
    if (d->record.role == ROLE_STANDBY && d->reason != NULL)
        json_object_set_string_member(item, "reason", d->reason);
    return item;
}

gboolean
claim_from_json(JsonObject *item, Claim *claim)
{
    if (!incarnation_take(json_get_int(item, "incarnation", -1), &claim->incarnation))
        return FALSE;
    claim->home = json_get_bool(item, "home", FALSE);
    claim->active = json_get_bool(item, "active", FALSE);
    return TRUE;
}

static JsonObject *
all_claims(Daemon *daemon)
{
    JsonObject *arguments = json_object_new();
    JsonArray *array = json_array_new();
    GHashTableIter iter;
    gpointer value = NULL;

    g_hash_table_iter_init(&iter, daemon->districts);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        /* Said to be active it would end its home, which has the same number; said not to be, it
         * would be started there. It is told when it is known. */
        if (!takeover_is_unclear(value))
            json_array_add_object_element(array, claim_to_json(value));
    }
    json_object_set_array_member(arguments, "districts", array);
    return arguments;
}

void
exchange_announce(Daemon *daemon)
{
    GHashTableIter iter;
    gpointer value = NULL;

    if (daemon->peers == NULL)
        return;
    g_hash_table_iter_init(&iter, daemon->peers);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        peer_note(value, "claims", all_claims(daemon));
}

static void
set_home_stopped(District *d, gboolean stopped)
{
    g_autoptr(GError) error = NULL;

    if (d->record.home_stopped == stopped)
        return;
    d->record.home_stopped = stopped;
    if (!district_save_record(d, &error))
        g_warning("%s", error->message);
}

/* What our standby says of itself; NULL: nothing is wrong. */
static void
note_standby(District *d, const char *host, const char *reason)
{
    g_autofree char *text = reason != NULL ? g_strdup_printf("%.200s", reason) : NULL;

    if (g_strcmp0(text, d->standby_reason) == 0)
        return;
    g_free(d->standby_reason);
    d->standby_reason = g_steal_pointer(&text);
    if (d->standby_reason != NULL)
        daemon_event(d->daemon, "standby-unfit", d->name, "host %s: %s", host, d->standby_reason);
}

static void
judge_claim(Peer *peer, District *d, const Claim *claim, JsonObject *item)
{
    const char *state = json_get_string(item, "state", "");
    Claim own = district_claim(d);
    const char *host = peer_daemon(peer)->config->host_name;
    gboolean is_peer = g_strcmp0(d->record.peer, peer_name(peer)) == 0;

    d->seen = MAX(d->seen, claim->incarnation);
    if (takeover_is_unclear(d))
        return; /* what we say when it is clear is answered */
    if (d->state == STATE_HANDED_OVER) {
        if (g_strcmp0(d->record.handing_to, peer_name(peer)) == 0)
            migrate_resolve(d, claim);
    } else if (incarnation_judge(&own, host, claim, peer_name(peer)) == VERDICT_SUPERSEDED) {
        district_supersede(d, peer_name(peer), claim->incarnation);
    } else if (d->record.role == ROLE_STANDBY && is_peer && claim->home) {
        set_home_stopped(d, strcmp(state, "stopped") == 0 || strcmp(state, "stopping") == 0);
    } else if (d->record.role == ROLE_HOME && is_peer) {
        note_standby(d, peer_name(peer), json_get_string(item, "reason", NULL));
    }
    if (incarnation_must_answer(&own, claim))
        peer_note(peer, "claims", all_claims(peer_daemon(peer)));
}

static void
handle_claims(Peer *peer, JsonObject *arguments, gint64 id)
{
    JsonArray *array = json_get_array(arguments, "districts");

    for (guint i = 0; array != NULL && i < json_array_get_length(array); i++) {
        JsonNode *node = json_array_get_element(array, i);
        JsonObject *item = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
        const char *name = json_get_string(item, "district", "");
        District *d = g_hash_table_lookup(peer_daemon(peer)->districts, name);
        Claim claim = {0};
        if (d != NULL && !is_of(d, item))
            note_namesake(d, peer);
        else if (d != NULL && claim_from_json(item, &claim))
            judge_claim(peer, d, &claim, item);
    }
}

static void
handle_who_runs(Peer *peer, District *d, JsonObject *arguments, gint64 id)
{
    g_autoptr(JsonObject) answer = claim_to_json(d);

    /* Its home is not to be ended before that is ready to run, but nor is it to be started there. */
    if (takeover_is_under_way(d))
        json_object_set_boolean_member(answer, "active", TRUE);
    peer_answer(peer_daemon(peer), peer_name(peer), id, answer, NULL);
}

/* ---- Hello: under which address a host that joined is to be dialled ---- */

static void
handle_hello(Peer *peer, JsonObject *arguments, gint64 id)
{
    Daemon *daemon = peer_daemon(peer);
    Host *host = daemon_find_host(daemon, peer_name(peer), NULL);
    gint64 port = json_get_int(arguments, "port", 0);
    g_autoptr(GError) error = NULL;

    if (host == NULL || !host->learned || port < 1 || port > 65535 || host->port == port)
        return;
    Host *corrected = g_new0(Host, 1);
    corrected->name = g_strdup(host->name);
    corrected->address = g_strdup(host->address);
    corrected->second_address = g_strdup(host->second_address);
    corrected->port = (uint16_t)port;
    corrected->learned = TRUE;
    g_message("host %s: listens on port %d", host->name, (int)port);
    if (!daemon_put_host(daemon, corrected, &error))
        g_warning("%s", error->message);
}

void
exchange_peer_up(Peer *peer, const char *remote_address)
{
    Daemon *daemon = peer_daemon(peer);
    JsonObject *hello = json_object_new();
    GHashTableIter iter;
    gpointer value = NULL;

    json_object_set_int_member(hello, "port", daemon->config->port);
    peer_note(peer, "hello", hello);
    peer_note(peer, "claims", all_claims(daemon));
    g_hash_table_iter_init(&iter, daemon->districts);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        District *d = value;
        if (d->record.protect && g_strcmp0(d->record.peer, peer_name(peer)) == 0)
            protect_resume(d);
    }
}

/* ---- Answers that wait until a life has ended ---- */

typedef struct Ending {
    Asked *asked;
    char *district;
    GError *error; /* the answer once nothing runs any more; NULL: success */
    guint tries;
} Ending;

static gboolean
on_ending(gpointer data)
{
    Ending *ending = data;
    District *d = g_hash_table_lookup(ending->asked->daemon->districts, ending->district);

    if (d != NULL && processes_count(d) > 0) {
        if (++ending->tries < 1000)
            return G_SOURCE_CONTINUE;
        /* No answer at all: then nobody concludes that it has ended. */
        g_warning("%s: processes do not end: kill them by hand", d->name);
        asked_free(ending->asked);
    } else {
        asked_done(NULL, ending->error, ending->asked);
    }
    g_clear_error(&ending->error);
    g_free(ending->district);
    g_free(ending);
    return G_SOURCE_REMOVE;
}

static void
answer_when_ended(Asked *asked, const District *d, const GError *error)
{
    Ending *ending = g_new0(Ending, 1);

    ending->asked = asked;
    ending->district = g_strdup(d->name);
    ending->error = error != NULL ? g_error_copy(error) : NULL;
    g_timeout_add(5, on_ending, ending);
}

/* JobDone of an activation: on failure the home may take back, so nothing must run here then. */
static void
activation_done(JsonObject *result, const GError *error, gpointer data)
{
    Asked *asked = data;
    District *d = g_hash_table_lookup(asked->daemon->districts, asked->district);

    /* Nothing was activated, nor is being ended or activated: what is kept warm does not run. */
    gboolean quiet = d != NULL && d->state == STATE_STANDBY && d->job == NULL && !d->ending;

    if (error != NULL && d != NULL && !quiet)
        answer_when_ended(asked, d, error);
    else
        asked_done(result, error, asked);
}

/* ---- Requests of a home to its standby ---- */

static District *
create_standby(Daemon *daemon, Definition *definition, const Record *record, uint64_t incarnation,
               GError **error)
{
    if (!store_create(daemon->config->state_dir, definition->name, definition->text, record,
                      incarnation, error)) {
        definition_free(definition);
        return NULL;
    }
    District *d = district_new(daemon, definition);
    g_hash_table_insert(daemon->districts, d->name, d);
    d->incarnation = incarnation;
    return d;
}

static gboolean
update_standby(District *d, Definition *definition, uint64_t incarnation, GError **error)
{
    g_autoptr(Definition) fresh = definition;

    if (!store_save_definition(d->daemon->config->state_dir, d->name, fresh->text, error) ||
        !district_save_incarnation(d, MAX(d->incarnation, incarnation), error))
        return FALSE;
    definition_free(d->definition);
    d->definition = g_steal_pointer(&fresh);
    return TRUE;
}

static gboolean
become_standby(District *d, Peer *peer, JsonObject *arguments, const Pacing *pacing,
               uint64_t incarnation, GError **error)
{
    unsigned lineage = d->record.lineage;
    unsigned copy = d->record.role == ROLE_STANDBY ? d->record.copy : 0;

    if (copy == 0 &&
        (definition_has_disks(d->definition) || definition_has_journals(d->definition)))
        copy = district_new_lineage(d);
    record_clear(&d->record);
    d->record.lineage = lineage;
    d->record.copy = copy;
    d->record.role = ROLE_STANDBY;
    d->record.uuid = g_strdup(json_get_string(arguments, "uuid", NULL));
    d->record.peer = g_strdup(peer_name(peer));
    d->record.home_incarnation = incarnation;
    d->record.output_commit = json_get_bool(arguments, "output_commit", TRUE);
    d->record.pacing = *pacing;
    if (!district_save_record(d, error))
        return FALSE;
    district_set_state(d, STATE_STANDBY, NULL);
    return processes_start_standby(d, error);
}

/* Is d, which exists here, the district that peer means? */
static gboolean
check_same(const District *d, JsonObject *arguments, GError **error)
{
    if (is_of(d, arguments))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_EXISTS,
                "%s: host %s has another district of this name: destroy that one there (district "
                "destroy %s%s), or create this one under another Name=",
                d->name, d->daemon->config->host_name,
                d->record.role == ROLE_STANDBY ? "--force " : "", d->name);
    return FALSE;
}

/* May d, which exists here, become the standby of peer's incarnation? */
static gboolean
check_may_stand_by(const District *d, Peer *peer, uint64_t incarnation, GError **error)
{
    const char *why = NULL;

    if (district_is_active(d))
        why = "it runs here";
    else if (d->job != NULL || processes_count(d) > 0)
        why = "its processes here have not ended yet: try again";
    else if (d->record.role == ROLE_STANDBY && g_strcmp0(d->record.peer, peer_name(peer)) != 0)
        why = "it is the standby of another host already: drop that first";
    else if (d->record.role == ROLE_HOME && g_strcmp0(d->record.peer, peer_name(peer)) != 0)
        why = "its home is here, and its standby another host, or none: destroy it here first";
    else if (d->incarnation > incarnation && d->record.role == ROLE_HOME)
        why = "a newer incarnation has its home here";
    if (why != NULL)
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_STATE, "%s: %s", d->name, why);
    return why == NULL;
}

/* definition is taken over. NULL with error set: d is refused. */
static District *
take_definition(Daemon *daemon, Peer *peer, Definition *definition, JsonObject *arguments,
                uint64_t incarnation, GError **error)
{
    Record record = {.role = ROLE_STANDBY,
                     .uuid = (char *)json_get_string(arguments, "uuid", NULL),
                     .peer = (char *)peer_name(peer)};
    District *d = g_hash_table_lookup(daemon->districts, definition->name);

    if (d == NULL)
        return create_standby(daemon, definition, &record, incarnation, error);
    /* The same home again: its claims tell the rest. Warm processes may stay. */
    gboolean again = d->record.role == ROLE_STANDBY && d->state == STATE_STANDBY &&
                     g_strcmp0(d->record.peer, peer_name(peer)) == 0 && d->job == NULL;
    if (!check_same(d, arguments, error) ||
        (!again && !check_may_stand_by(d, peer, incarnation, error))) {
        definition_free(definition);
        return NULL;
    }
    return update_standby(d, definition, incarnation, error) ? d : NULL;
}

static gboolean
prepare_standby(Peer *peer, JsonObject *arguments, GError **error)
{
    const char *text = json_get_string(arguments, "definition", "");
    uint64_t incarnation = 0;
    Pacing pacing;

    if (!g_uuid_string_is_valid(json_get_string(arguments, "uuid", ""))) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "a district without a UUID: update the older host");
        return FALSE;
    }
    if (!incarnation_take(json_get_int(arguments, "incarnation", -1), &incarnation)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "a district of an incarnation that cannot be: update that host");
        return FALSE;
    }
    pacing_init(&pacing);
    if (!pacing_from_json(arguments, "prepare-standby", &pacing, error))
        return FALSE;
    Definition *definition = definition_parse(text, strlen(text), "definition", error);
    if (definition == NULL)
        return FALSE;
    District *d =
        take_definition(peer_daemon(peer), peer, definition, arguments, incarnation, error);
    return d != NULL && become_standby(d, peer, arguments, &pacing, incarnation, error);
}

static void
handle_prepare_standby(Peer *peer, JsonObject *arguments, gint64 id)
{
    g_autoptr(GError) error = NULL;

    prepare_standby(peer, arguments, &error);
    peer_answer(peer_daemon(peer), peer_name(peer), id, NULL, error);
}

/* JobDone */
static void
standby_dropped(JsonObject *result, const GError *error, gpointer data)
{
    Asked *asked = data;

    if (error == NULL)
        daemon_event(asked->daemon, "standby-dropped", asked->district,
                     "host %s protects it no more%s", asked->host,
                     json_get_bool(result, "kept", FALSE) ? "; its checkpoints here are kept" : "");
    asked_done(NULL, error, asked);
}

static void
handle_drop_standby(Peer *peer, District *d, JsonObject *arguments, gint64 id)
{
    if (d->job != NULL || d->state != STATE_STANDBY)
        refuse(peer, id, CONTROL_ERROR_STATE, d->name, "it is being taken over");
    else
        operation_remove(d, FALSE, standby_dropped, asked_new(peer, id, d->name));
}

static void
handle_activate(Peer *peer, District *d, JsonObject *arguments, gint64 id)
{
    uint64_t incarnation = 0;

    /* One that comes late is below what its home has gone on as since, which it has told. */
    if (!incarnation_take(json_get_int(arguments, "incarnation", 0), &incarnation) ||
        incarnation <= MAX(d->incarnation, d->seen))
        refuse(peer, id, CONTROL_ERROR_STATE, d->name, "that incarnation is not a new one here");
    else
        operation_takeover(d, incarnation, TRUE, activation_done, asked_new(peer, id, d->name));
}

static void
handle_home_failed(Peer *peer, District *d, JsonObject *arguments, gint64 id)
{
    daemon_event(peer_daemon(peer), "home-failed", d->name, "host %s: %.200s", peer_name(peer),
                 json_get_string(arguments, "reason", "?"));
    operation_takeover(d, 0, FALSE, asked_done, asked_new(peer, id, d->name));
}

/* ---- Requests of a standby to the home ---- */

/* The claim that the peer is activating it may have come first and ended it already. */
static gboolean
must_yield(const District *d, const Peer *peer, uint64_t incarnation)
{
    const char *host = d->daemon->config->host_name;
    Claim own = district_claim(d);

    if (d->record.role == ROLE_STANDBY || g_strcmp0(d->record.peer, peer_name(peer)) != 0)
        return FALSE;
    return (d->record.superseded_incarnation == incarnation &&
            g_strcmp0(d->record.superseded_by, peer_name(peer)) == 0) ||
           incarnation_judge_takeover(&own, host, incarnation, peer_name(peer)) ==
               VERDICT_SUPERSEDED;
}

static void
handle_take_over(Peer *peer, District *d, JsonObject *arguments, gint64 id)
{
    uint64_t incarnation = 0;

    if (!incarnation_take(json_get_int(arguments, "incarnation", 0), &incarnation) ||
        !must_yield(d, peer, incarnation)) {
        refuse(peer, id, CONTROL_ERROR_STATE, d->name,
               "a newer incarnation has its home here, or it is not protected by you");
        return;
    }
    district_supersede(d, peer_name(peer), incarnation);
    answer_when_ended(asked_new(peer, id, d->name), d, NULL);
}

/* ---- Dispatch ---- */

typedef struct HostMethod {
    const char *name;
    void (*handle)(Peer *peer, JsonObject *arguments, gint64 id);
} HostMethod;

static const HostMethod host_methods[] = {
    {"hello", handle_hello},
    {"claims", handle_claims},
    {"prepare-standby", handle_prepare_standby},
    {NULL, NULL},
};

typedef struct DistrictMethod {
    const char *name;
    Role role; /* that the district must have here, with the caller as its peer; NONE: any */
    void (*handle)(Peer *peer, District *d, JsonObject *arguments, gint64 id);
} DistrictMethod;

static const DistrictMethod district_methods[] = {
    {"who-runs", ROLE_NONE, handle_who_runs},
    {"drop-standby", ROLE_STANDBY, handle_drop_standby},
    {"activate", ROLE_STANDBY, handle_activate},
    {"home-failed", ROLE_STANDBY, handle_home_failed},
    {"take-over", ROLE_NONE, handle_take_over},
    {NULL, ROLE_NONE, NULL},
};

/* Of one that is not loaded, files or processes may be here: who knows nothing of it must not say so. */
static gboolean
may_be_here(const Daemon *daemon, const char *name)
{
    g_autofree char *run =
        g_build_filename(daemon->config->runtime_dir, "districts", name, "run.json", NULL);
    g_autoptr(GPtrArray) processes = runfile_load(run, NULL);

    return store_exists(daemon->config->state_dir, name) || processes == NULL ||
           run_processes_any_alive(processes);
}

static void
refuse_unknown(Peer *peer, gint64 id, const char *name)
{
    if (!units_check_name(name, NULL))
        refuse(peer, id, CONTROL_ERROR_NOT_FOUND, "?", "not known here");
    else if (may_be_here(peer_daemon(peer), name))
        refuse(peer, id, CONTROL_ERROR_FAILED, name,
               "it is here, but was not loaded: look into districtd's log there, or district "
               "destroy --force it there");
    else
        refuse(peer, id, CONTROL_ERROR_NOT_FOUND, name, "not known here");
}

static void
handle_for_district(const DistrictMethod *method, Peer *peer, JsonObject *arguments, gint64 id)
{
    const char *name = json_get_string(arguments, "district", "");
    District *d = g_hash_table_lookup(peer_daemon(peer)->districts, name);

    if (d == NULL)
        refuse_unknown(peer, id, name);
    else if (!is_of(d, arguments))
        refuse(peer, id, CONTROL_ERROR_NOT_FOUND, name, "another district has this name here");
    else if (method->role != ROLE_NONE &&
             (d->record.role != method->role || g_strcmp0(d->record.peer, peer_name(peer)) != 0))
        /* Only as a home it is something to the caller. */
        refuse(peer, id,
               d->record.role == ROLE_HOME ? CONTROL_ERROR_STATE : CONTROL_ERROR_NOT_FOUND, name,
               "that is not its role here, or not yours");
    else
        method->handle(peer, d, arguments, id);
}

void
exchange_handle(Peer *peer, const char *method, JsonObject *arguments, gint64 id)
{
    for (const HostMethod *m = host_methods; m->name != NULL; m++) {
        if (strcmp(m->name, method) == 0) {
            m->handle(peer, arguments, id);
            return;
        }
    }
    for (const DistrictMethod *m = district_methods; m->name != NULL; m++) {
        if (strcmp(m->name, method) == 0) {
            handle_for_district(m, peer, arguments, id);
            return;
        }
    }
    refuse(peer, id, CONTROL_ERROR_UNSUPPORTED, "request",
           "not known to this version: update the older host");
}
