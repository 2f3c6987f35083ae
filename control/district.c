/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A district's state: what is on disk, what state it is in, and how it is described. */
#include "control/daemon.h"
#include "control/rpc.h"
#include "control/statusjson.h"
#include "control/tap.h"
#include "common/clock.h"
#include "common/fdmsg.h"

#include <string.h>
#include <sys/un.h>

#define STATUS_TIMEOUT_MS 1000
#define REST_POLLS 8

static const char *const state_names[] = {
    [STATE_STOPPED] = "stopped",       [STATE_STARTING] = "starting",
    [STATE_RUNNING] = "running",       [STATE_STOPPING] = "stopping",
    [STATE_FAILED] = "failed",         [STATE_HANDED_OVER] = "handed-over",
    [STATE_STANDBY] = "standby",       [STATE_ACTIVATING] = "activating",
    [STATE_SUPERSEDED] = "superseded",
};
G_STATIC_ASSERT(G_N_ELEMENTS(state_names) == STATE_COUNT);

#define TO(state) (1u << STATE_##state)

/* Which state may follow which. Every state may become SUPERSEDED: the other host has the word. */
static const guint state_moves[STATE_COUNT] = {
    [STATE_STOPPED] = TO(STARTING) | TO(STANDBY) | TO(RUNNING) | TO(HANDED_OVER) | TO(FAILED),
    [STATE_STARTING] = TO(RUNNING) | TO(STOPPED) | TO(FAILED) | TO(STOPPING),
    [STATE_RUNNING] = TO(STOPPING) | TO(FAILED) | TO(HANDED_OVER) | TO(STOPPED),
    [STATE_STOPPING] = TO(STOPPED) | TO(FAILED),
    [STATE_FAILED] = TO(STARTING) | TO(STOPPING) | TO(STANDBY) | TO(STOPPED),
    [STATE_HANDED_OVER] = TO(RUNNING) | TO(STOPPING) | TO(STOPPED) | TO(STANDBY) | TO(FAILED),
    [STATE_STANDBY] = TO(ACTIVATING) | TO(RUNNING) | TO(STOPPED),
    [STATE_ACTIVATING] = TO(RUNNING) | TO(STANDBY) | TO(FAILED),
    [STATE_SUPERSEDED] = TO(STANDBY) | TO(STARTING) | TO(STOPPED),
};

District *
district_new(Daemon *daemon, Definition *definition)
{
    District *d = g_new0(District, 1);

    d->daemon = daemon;
    d->name = g_strdup(definition->name);
    d->definition = definition;
    d->children = g_ptr_array_new_with_free_func((GDestroyNotify)child_free);
    d->members_off = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return d;
}

void
district_free(District *d)
{
    if (d == NULL)
        return;
    g_clear_pointer(&d->ckpt, rpc_free);
    g_clear_pointer(&d->standby, rpc_free);
    if (d->kill_timer != 0)
        g_source_remove(d->kill_timer);
    g_ptr_array_unref(d->children);
    g_hash_table_unref(d->members_off);
    fdmsg_close_fds(d->hold_fds, d->n_hold_fds);
    g_free(d->hold_fds);
    if (d->ckpt_status != NULL)
        json_object_unref(d->ckpt_status);
    if (d->standby_status != NULL)
        json_object_unref(d->standby_status);
    record_clear(&d->record);
    definition_free(d->definition);
    g_free(d->namesake);
    g_free(d->standby_reason);
    g_free(d->reason);
    g_free(d->name);
    g_free(d);
}

gboolean
district_is_clone(const District *d)
{
    return d->record.clone_of != NULL;
}

static gint
compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

GPtrArray *
district_clones(const District *d)
{
    GPtrArray *names = g_ptr_array_new();
    GHashTableIter iter;
    gpointer value = NULL;

    g_hash_table_iter_init(&iter, d->daemon->districts);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const District *other = value;
        if (g_strcmp0(other->record.clone_of, d->name) == 0)
            g_ptr_array_add(names, other->name);
    }
    g_ptr_array_sort(names, compare_names);
    return names;
}

const char *
district_state_name(DistrictState state)
{
    return state_names[state];
}

void
district_set_state(District *d, DistrictState state, const char *reason)
{
    g_autofree char *kept = g_strdup(reason);
    gboolean told = state == d->state && g_strcmp0(reason, d->reason) == 0;

    if (state != d->state && state != STATE_SUPERSEDED && !(state_moves[d->state] & (1u << state)))
        g_warning("%s: unexpected change from %s to %s", d->name, state_names[d->state],
                  state_names[state]);
    g_free(d->reason);
    d->reason = g_steal_pointer(&kept);
    if (state != d->state) {
        d->state = state;
        daemon_event(d->daemon, "state", d->name, "%s%s%s", state_names[state],
                     d->reason ? ": " : "", d->reason ? d->reason : "");
    }
    if (!told)
        exchange_announce(d->daemon);
}

gboolean
district_is_active(const District *d)
{
    return d->state == STATE_STARTING || d->state == STATE_RUNNING || d->state == STATE_STOPPING ||
           d->state == STATE_ACTIVATING;
}

gboolean
district_save_record(District *d, GError **error)
{
    return store_save_record(d->daemon->config->state_dir, d->name, &d->record, error);
}

gboolean
district_save_incarnation(District *d, uint64_t number, GError **error)
{
    if (!store_save_incarnation(d->daemon->config->state_dir, d->name, number, error))
        return FALSE;
    d->incarnation = number;
    return TRUE;
}

uint64_t
district_next_incarnation(const District *d)
{
    return incarnation_next(d->incarnation, MAX(d->seen, d->record.superseded_incarnation));
}

Claim
district_claim(const District *d)
{
    return (Claim){
        .incarnation = d->incarnation,
        .home = d->record.role == ROLE_HOME && d->record.ended_incarnation == 0,
        .active = district_is_active(d),
    };
}

char *
district_run_path(const District *d, const char *file)
{
    return g_build_filename(d->daemon->config->runtime_dir, "districts", d->name, file, NULL);
}

char *
district_log_path(const District *d, const char *file)
{
    return g_build_filename(d->daemon->config->log_dir, d->name, file, NULL);
}

char *
district_member_path(const District *d, const char *member, const char *suffix)
{
    g_autofree char *file = g_strconcat(member, suffix, NULL);

    return district_run_path(d, file);
}

gboolean
district_check_sockets(const District *d, GError **error)
{
    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        g_autofree char *path = district_member_path(d, m->name, ".member.sock");
        if (strlen(path) < sizeof(((struct sockaddr_un *)NULL)->sun_path))
            continue;
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s: too long for a socket: shorten the name of the district or of member %s",
                    path, m->name);
        return FALSE;
    }
    return TRUE;
}

static gboolean
have_same_mac(const Definition *a, const Definition *b)
{
    for (guint i = 0; i < a->members->len; i++) {
        const DefinitionMember *x = a->members->pdata[i];
        for (guint k = 0; k < b->members->len; k++) {
            const DefinitionMember *y = b->members->pdata[k];
            if (memcmp(x->mac, y->mac, sizeof(x->mac)) == 0)
                return TRUE;
        }
    }
    return FALSE;
}

gboolean
district_check_bridge(const District *d, GError **error)
{
    const char *bridge = d->definition->bridge;
    GHashTableIter iter;
    gpointer value = NULL;

    g_hash_table_iter_init(&iter, d->daemon->districts);
    while (bridge != NULL && g_hash_table_iter_next(&iter, NULL, &value)) {
        const District *other = value;
        if (other == d || !district_is_active(other) ||
            g_strcmp0(other->definition->bridge, bridge) != 0 ||
            !have_same_mac(d->definition, other->definition))
            continue;
        g_set_error(
            error, CONTROL_ERROR, CONTROL_ERROR_STATE,
            "%s: district %s is on bridge %s with the same MAC addresses: stop that one, or "
            "import this one --isolated",
            d->name, other->name, bridge);
        return FALSE;
    }
    return TRUE;
}

/*
 * A life that came from another host brings its disks along, and no checkpoints: neither can be
 * mixed with those of a life that this host had before, and so each has a lineage of its own.
 */
static char *
lineage_dir(const District *d, unsigned lineage, const char *name)
{
    const char *owner = district_is_clone(d) ? d->record.clone_of : d->name;
    g_autofree char *dir = store_district_dir(d->daemon->config->state_dir, owner);
    g_autofree char *number = g_strdup_printf("lineage-%u", lineage);

    return lineage == 0 ? g_build_filename(dir, name, NULL)
                        : g_build_filename(dir, number, name, NULL);
}

unsigned
district_lineage(const District *d)
{
    return d->record.role == ROLE_STANDBY && d->record.copy != 0 ? d->record.copy
                                                                 : d->record.lineage;
}

char *
district_store_dir(const District *d)
{
    return lineage_dir(d, district_lineage(d), "store");
}

char *
district_lineage_store(const District *d, unsigned lineage)
{
    return lineage_dir(d, lineage, "store");
}

char *
district_overlay_dir(const District *d)
{
    g_autofree char *dir = store_district_dir(d->daemon->config->state_dir, d->name);

    return district_is_clone(d) ? g_build_filename(dir, "overlays", NULL) : district_store_dir(d);
}

GArray *
district_lineages(const District *d)
{
    g_autofree char *path = lineage_dir(d, 0, NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    GArray *lineages = g_array_new(FALSE, TRUE, sizeof(unsigned));
    const char *name;

    g_array_set_size(lineages, 1); /* number 0 */
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        guint64 number = 0;
        if (!g_str_has_prefix(name, "lineage-") ||
            !g_ascii_string_to_unsigned(name + strlen("lineage-"), 10, 1, G_MAXUINT, &number, NULL))
            continue;
        unsigned lineage = (unsigned)number;
        g_array_append_val(lineages, lineage);
    }
    return lineages;
}

char *
district_disk_dir(const District *d)
{
    unsigned lineage = district_lineage(d);

    return lineage != 0 ? lineage_dir(d, lineage, "disks") : NULL;
}

/* The files are those of standby/diskset.h, which counts the disks that are written to. */
char *
district_disk_home(const District *d, const DefinitionMember *m, guint i, gboolean *moved)
{
    g_autofree char *dir = district_disk_dir(d);
    const DefinitionDisk *disk = m->disks->pdata[i];
    guint k = 0;

    *moved = dir != NULL && !disk->read_only;
    if (!*moved)
        return g_strdup(disk->path);
    for (guint before = 0; before < i; before++)
        k += ((const DefinitionDisk *)m->disks->pdata[before])->read_only ? 0 : 1;
    g_autofree char *file = g_strdup_printf("%s-%u.raw", m->name, k);
    return g_build_filename(dir, file, NULL);
}

/* Beside the copies of disks where they came from another host (standby/journals.h); a clone's are its
 * own. */
char *
district_journal_path(const District *d, const DefinitionMember *m)
{
    g_autofree char *dir = district_is_clone(d) ? NULL : district_disk_dir(d);
    g_autofree char *file = g_strdup_printf("journal-%s.img", m->name);

    if (dir == NULL)
        dir = store_district_dir(d->daemon->config->state_dir, d->name);
    return g_build_filename(dir, file, NULL);
}

gboolean
district_make_lineage(const District *d, GError **error)
{
    g_autofree char *dir = lineage_dir(d, district_lineage(d), NULL);
    g_autofree char *store = district_store_dir(d);
    g_autofree char *disks = district_disk_dir(d);

    return disks == NULL || (store_add_dir(dir, error) && store_add_dir(store, error) &&
                             store_add_dir(disks, error));
}

void
district_remove_lineage(const District *d, unsigned lineage, StoreRemoved done, gpointer data)
{
    g_return_if_fail(lineage != 0 && lineage != district_lineage(d));
    store_remove_later(lineage_dir(d, lineage, NULL), done, data);
}

unsigned
district_new_lineage(const District *d)
{
    unsigned n = d->record.lineage + 1;

    for (;; n++) {
        g_autofree char *dir = lineage_dir(d, n, NULL);
        if (!g_file_test(dir, G_FILE_TEST_EXISTS))
            return n;
    }
}

/* ---- Status of the processes ---- */

static void
replace_status(JsonObject **status, JsonObject *fresh)
{
    if (*status != NULL)
        json_object_unref(*status);
    *status = fresh;
}

/* data: the district. Its Rpc is freed before it is, so the pointer holds. */
static void
on_ckpt_status(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error, gpointer data)
{
    District *d = data;
    const District__CkptMessage *m = (const District__CkptMessage *)message;

    if (error != NULL || m->reply->status == NULL)
        return;
    replace_status(&d->ckpt_status, ckpt_status_to_json(m->reply->status));
    d->ckpt_rests = m->reply->status->resting || d->record.role == ROLE_STANDBY;
    district_reconcile(d, m->reply->status->state, m->reply->status->protection_error);
}

static void
note_standby_status(District *d, const District__StandbyStatusReply *s)
{
    int64_t now = clock_monotonic_ns();

    d->has_commit = s->committed_epoch > 0;
    d->stream_up = s->connected;
    if (s->connected || s->heard_ms_ago > 0)
        d->stream_heard_ns = now - (int64_t)s->heard_ms_ago * NS_PER_MS;
    exposure_look(&d->exposure, s->connected, s->epochs, now);
}

static void
on_standby_status(ProtobufCMessage *message, int *fds, guint n_fds, const GError *error,
                  gpointer data)
{
    District *d = data;
    const District__StandbyMessage *m = (const District__StandbyMessage *)message;

    if (error != NULL || m->reply->status == NULL)
        return;
    replace_status(&d->standby_status, standby_status_to_json(m->reply->status));
    note_standby_status(d, m->reply->status);
}

void
district_poll_status(District *d)
{
    /* One that only waits is woken less often. */
    gboolean rests = d->ckpt_rests && d->job == NULL && ++d->rest_polls % REST_POLLS != 0;

    if (d->ckpt != NULL && !rests) {
        District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
        District__CkptStatusRequest status = DISTRICT__CKPT_STATUS_REQUEST__INIT;
        request.op_case = DISTRICT__CKPT_REQUEST__OP_STATUS;
        request.status = &status;
        rpc_call(d->ckpt, &request.base, NULL, 0, STATUS_TIMEOUT_MS, on_ckpt_status, d);
    }
    if (d->standby != NULL) {
        District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
        District__StandbyStatusRequest status = DISTRICT__STANDBY_STATUS_REQUEST__INIT;
        request.op_case = DISTRICT__STANDBY_REQUEST__OP_STATUS;
        request.status = &status;
        rpc_call(d->standby, &request.base, NULL, 0, STATUS_TIMEOUT_MS, on_standby_status, d);
    }
}

/* ---- Description ---- */

static void
set_string(JsonObject *object, const char *key, const char *value)
{
    if (value != NULL)
        json_object_set_string_member(object, key, value);
}

/* Of pauses lately, or of all if there have been none. */
static gint64
pause_median(JsonObject *status)
{
    JsonObject *lately = json_get_object(json_get_object(status, "recent"), "pause_ns");

    if (json_get_int(lately, "count", 0) == 0)
        lately = json_get_object(status, "pause_ns");
    return json_get_int(lately, "p50", 0);
}

JsonObject *
district_summary(District *d)
{
    JsonObject *object = json_object_new();
    const char *protection =
        d->record.role == ROLE_STANDBY ? (d->stream_up ? "receiving" : "no stream")
        : d->record.protect            ? json_get_string(d->ckpt_status, "protection", "off")
                                       : "off";

    json_object_set_string_member(object, "name", d->name);
    json_object_set_string_member(object, "state", state_names[d->state]);
    json_object_set_string_member(object, "role", role_name(d->record.role));
    json_object_set_int_member(object, "incarnation", (gint64)d->incarnation);
    json_object_set_string_member(object, "protection", protection);
    set_string(object, "reason",
               d->reason == NULL && d->record.resume ? "imported; start goes on from its checkpoint"
                                                     : d->reason);
    set_string(object, "peer", d->record.peer);
    set_string(object, "standby_reason", d->record.protect ? d->standby_reason : NULL);
    set_string(object, "superseded_by", d->record.superseded_by);
    if (d->record.superseded_by != NULL)
        json_object_set_int_member(object, "superseded_incarnation",
                                   (gint64)d->record.superseded_incarnation);
    if (d->job != NULL)
        json_object_set_string_member(object, "operation", d->job->verb);
    set_string(object, "clone_of", d->record.clone_of);
    if (district_is_clone(d))
        json_object_set_int_member(object, "clone_checkpoint", (gint64)d->record.clone_id);
    /* On a standby district-ckpt only waits, warm. */
    if (d->ckpt_status != NULL && d->record.role != ROLE_STANDBY) {
        json_object_set_int_member(object, "epoch", json_get_int(d->ckpt_status, "epoch", 0));
        json_object_set_int_member(object, "lag_ns", json_get_int(d->ckpt_status, "lag_ns", 0));
        json_object_set_int_member(object, "pause_p50_ns", pause_median(d->ckpt_status));
    } else if (d->standby_status != NULL) {
        json_object_set_int_member(object, "epoch",
                                   json_get_int(d->standby_status, "committed_epoch", 0));
    }
    return object;
}

static JsonArray *
disks_describe(const District *d, const DefinitionMember *member)
{
    JsonArray *disks = json_array_new();

    for (guint i = 0; i < member->disks->len; i++) {
        const DefinitionDisk *disk = member->disks->pdata[i];
        gboolean moved = FALSE;
        g_autofree char *home = district_disk_home(d, member, i, &moved);
        JsonObject *item = json_object_new();
        json_object_set_string_member(item, "home", home);
        json_object_set_string_member(item, "format", moved ? "raw" : disk->format);
        json_object_set_boolean_member(item, "read_only", disk->read_only);
        json_array_add_object_element(disks, item);
    }
    return disks;
}

static JsonObject *
member_describe(District *d, const DefinitionMember *member)
{
    JsonObject *item = json_object_new();
    g_autofree char *mac = definition_member_mac(member);
    g_autofree char *console = district_member_path(d, member->name, ".console");
    g_autofree char *log_file = g_strconcat(member->name, ".console.log", NULL);
    g_autofree char *log = district_log_path(d, log_file);
    Child *child = processes_find(d, "vmm", member->name);

    json_object_set_string_member(item, "name", member->name);
    json_object_set_int_member(item, "memory", (gint64)member->memory);
    json_object_set_int_member(item, "cpus", member->cpus);
    json_object_set_string_member(item, "mac", mac);
    json_object_set_string_member(item, "console", console);
    json_object_set_string_member(item, "console_log", log);
    json_object_set_array_member(item, "disks", disks_describe(d, member));
    if (member->journal != 0) {
        g_autofree char *journal = district_journal_path(d, member);
        json_object_set_string_member(item, "journal", journal);
        json_object_set_int_member(item, "journal_size", (gint64)member->journal);
    }
    json_object_set_boolean_member(item, "off",
                                   g_hash_table_contains(d->members_off, member->name));
    if (child != NULL)
        json_object_set_int_member(item, "pid", child_process(child)->pid);
    return item;
}

static void
set_process(JsonObject *object, District *d, const char *kind)
{
    Child *child = processes_find(d, kind, NULL);

    if (child != NULL)
        json_object_set_int_member(object, kind, child_process(child)->pid);
}

static JsonArray *
clones_describe(const District *d)
{
    g_autoptr(GPtrArray) names = district_clones(d);
    JsonArray *array = json_array_new();

    for (guint i = 0; i < names->len; i++)
        json_array_add_string_element(array, names->pdata[i]);
    return array;
}

/* Its way out. */
static void
set_outside(JsonObject *object, const District *d)
{
    g_autofree char *tap = tap_name(d->name);

    set_string(object, "bridge", d->definition->bridge);
    set_string(object, "tap", d->definition->bridge != NULL ? tap : NULL);
}

JsonObject *
district_describe(District *d)
{
    JsonObject *object = district_summary(d);
    JsonArray *members = json_array_new();
    JsonObject *processes = json_object_new();

    for (guint i = 0; i < d->definition->members->len; i++)
        json_array_add_object_element(members,
                                      member_describe(d, d->definition->members->pdata[i]));
    set_process(processes, d, "net");
    set_process(processes, d, "ckpt");
    set_process(processes, d, "standby");
    json_object_set_array_member(object, "members", members);
    json_object_set_array_member(object, "clones", clones_describe(d));
    json_object_set_object_member(object, "processes", processes);
    json_object_set_string_member(object, "host", d->daemon->config->host_name);
    set_outside(object, d);
    json_object_set_boolean_member(object, "protect", d->record.protect);
    json_object_set_boolean_member(object, "output_commit", d->record.output_commit);
    json_object_set_boolean_member(object, "auto_failover", d->definition->auto_failover);
    pacing_to_json(&d->record.pacing, object);
    if (d->ckpt_status != NULL && d->record.role != ROLE_STANDBY)
        json_object_set_object_member(object, "checkpointing", json_object_ref(d->ckpt_status));
    if (d->standby_status != NULL)
        json_object_set_object_member(object, "standby", json_object_ref(d->standby_status));
    return object;
}
