/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clones: districts that run an old checkpoint of another one, the original, beside it.
 *
 * Theory of operation. All that a clone has on disk is a definition, made from the one in the checkpoint
 * (clonetext.c), a record that says what it is a clone of, and journals of its own: copies of those that
 * the original has when the clone is made (journalcopy.c), which then go their own way. RAM and disks are loaded from the
 * original's store at each start; the disks have the original's homes below overlays of their own, which
 * are gone with the engines. The store is only read. What keeps it as the clone needs it, and the homes
 * as well, is a pin in it, whose owner is its name (ckpt_store_pin): the checkpoint is not pruned, and
 * nothing is merged. The original may be started, stopped, rolled back and moved away meanwhile: what a clone
 * reads is of the lineage that was there when it was made, and stays.
 *
 * The pin is set before the clone's directory is there, and released when that has gone; so whoever is
 * killed in between leaves a pin without a clone, and never the other way round. Such pins are looked
 * for when districtd starts, when anything went wrong, and now and then (clone_tick).
 *
 * The one who pins is the district-ckpt that has the store open to write, or, where none has, one that is
 * started for that alone; in an operation on the original, so that none is started or ended meanwhile.
 */
#include "control/daemon.h"
#include "control/units.h"
#include "ckpt/store.h"
#include "common/clock.h"
#include "ckpt.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define PIN_MS 60000
#define RETRY_NS (5 * NS_PER_S)
/* A qemu-nbd whose engine was killed is still closing its image. */
#define HOMES_WAIT_MS 3000
#define HOMES_POLL_MS 20
/* The byte that QEMU locks of an image that it writes to (raw_perm in its block/file-posix.c); our
 * engines lock all of them. */
#define QEMU_WRITE_BYTE 101

/* ---- Pins ---- */

/* Does the district's own district-ckpt have that store open to write? */
static gboolean
writes_store(const District *d, const char *dir)
{
    g_autofree char *own = district_store_dir(d);

    return processes_find(d, "ckpt", NULL) != NULL && strcmp(own, dir) == 0;
}

/* data: the job. */
static void
on_queried(const char *out, const GError *error, gpointer data)
{
    Job *job = data;

    if (error != NULL)
        job_fail(job, error);
    else
        job_next(job);
    job_unref(job);
}

/* The store is job->path, the checkpoint job->id, the clone job->host. */
static void
change_pin(Job *job, gboolean release)
{
    District *d = job->district;
    g_autofree char *id = g_strdup_printf("%" G_GUINT64_FORMAT, job->id);
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptPinRequest pin = DISTRICT__CKPT_PIN_REQUEST__INIT;

    if (!writes_store(d, job->path)) {
        const char *options[] = {
            release ? "--unpin" : "--pin", id, "--owner", job->host, "--name", d->name, NULL};
        store_query_in(d, job->path, options, PIN_MS / 1000, on_queried, job_ref(job));
        return;
    }
    pin.checkpoint_id = job->id;
    pin.owner = job->host;
    pin.release = release;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_PIN;
    request.pin = &pin;
    job_call(job, d->ckpt, &request.base, NULL, 0, PIN_MS, NULL);
}

static void
step_pin(Job *job)
{
    change_pin(job, FALSE);
}

static void
step_release(Job *job)
{
    change_pin(job, TRUE);
}

/* ---- Making one ---- */

static gboolean
check_name(const District *original, const char *name, GError **error)
{
    Daemon *daemon = original->daemon;

    if (!units_check_name(name, error))
        return FALSE;
    if (!g_hash_table_contains(daemon->districts, name) &&
        !store_exists(daemon->config->state_dir, name))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_EXISTS,
                "%s: exists already: destroy it first, or choose another name", name);
    return FALSE;
}

/* What district-ckpt --describe has said: the incarnation in a line, and the definition. */
static Definition *
parse_description(const Job *job, const char *out, uint64_t *incarnation, GError **error)
{
    const District *d = job->district;
    const char *text = strchr(out, '\n');
    g_autofree char *logs = g_build_filename(d->daemon->config->log_dir, job->host, NULL);
    g_autofree char *what = g_strdup_printf(
        "the definition in checkpoint %" G_GUINT64_FORMAT " of %s", job->id, d->name);
    char *end = NULL;

    *incarnation = g_ascii_strtoull(out, &end, 10);
    if (text == NULL || end != text || *incarnation == 0 || *incarnation >= G_MAXINT64) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                    "%s: district-ckpt does not say what checkpoint %" G_GUINT64_FORMAT
                    " is: use the same release",
                    d->name, job->id);
        return NULL;
    }
    g_autoptr(Definition) saved = definition_parse(text + 1, strlen(text + 1), what, error);
    g_autofree char *changed =
        saved != NULL ? definition_clone_text(saved, job->host, logs, error) : NULL;
    return changed != NULL ? definition_parse(changed, strlen(changed), what, error) : NULL;
}

/* The definition of job is taken over. */
static gboolean
make_clone(Job *job, GError **error)
{
    District *original = job->district;
    Daemon *daemon = original->daemon;
    District *clone = district_new(daemon, g_steal_pointer(&job->definition));

    clone->incarnation = job->incarnation;
    clone->record = (Record){
        .role = ROLE_HOME,
        .uuid = g_uuid_string_random(),
        .pacing = clone->definition->pacing,
        .lineage = district_lineage(original),
        .clone_of = g_strdup(original->name),
        .clone_id = job->id,
    };
    if (!check_name(original, clone->name, error) || !district_check_sockets(clone, error) ||
        !store_create_finish(daemon->config->state_dir, job->made, clone->name,
                             clone->definition->text, &clone->record, job->incarnation, error)) {
        district_free(clone);
        return FALSE;
    }
    g_clear_pointer(&job->made, g_free);
    g_hash_table_insert(daemon->districts, clone->name, clone);
    daemon_event(daemon, "cloned", original->name, "checkpoint %" G_GUINT64_FORMAT " as %s",
                 job->id, clone->name);
    return TRUE;
}

static void
on_described(const char *out, const GError *why, gpointer data)
{
    Job *job = data;
    g_autoptr(GError) error = why != NULL ? g_error_copy(why) : NULL;

    if (out != NULL && !job->finished)
        job->definition = parse_description(job, out, &job->incarnation, &error);
    if (error != NULL)
        job_fail(job, error);
    else
        job_next(job);
    job_unref(job);
}

static void
step_describe(Job *job)
{
    g_autofree char *id = g_strdup_printf("%" G_GUINT64_FORMAT, job->id);

    store_query(job->district, "--describe", id, on_described, job_ref(job));
}

/* Where it is made, with files for its journals. */
static void
step_prepare(Job *job)
{
    const District *d = job->district;
    g_autoptr(GError) error = NULL;

    job->made = store_create_begin(d->daemon->config->state_dir, &error);
    if (job->made != NULL)
        job->copies = journal_copies_new(d, job->definition, job->made, &error);
    if (job->copies != NULL)
        job_next(job);
    else
        job_fail(job, error);
}

static void
step_make(Job *job)
{
    g_autoptr(GError) error = NULL;

    if (make_clone(job, &error))
        job_next(job);
    else
        job_fail(job, error);
}

/* Whether the pin is there is not known: look soon. */
static void
undo_clone(Job *job)
{
    g_autoptr(GError) error = NULL;

    job->district->pins_ns = 0;
    if (job->made != NULL && !store_remove_tree(job->made, &error))
        g_warning("%s: of the clone that was not made something is left: %s", job->host,
                  error->message);
}

static const JobStep clone_steps[] = {step_pin,           step_describe, step_prepare,
                                      step_copy_journals, step_make,     NULL};

/* ---- Making and starting one ---- */

typedef struct Cloning {
    Daemon *daemon;
    char *name;
    GError *error;
    JobDone done;
    gpointer data;
} Cloning;

static void
cloning_end(Cloning *cloning, JsonObject *result, const GError *error)
{
    cloning->done(result, error, cloning->data);
    g_clear_error(&cloning->error);
    g_free(cloning->name);
    g_free(cloning);
}

/* JobDone */
static void
on_removed(JsonObject *result, const GError *error, gpointer data)
{
    Cloning *cloning = data;

    if (error != NULL)
        g_warning("%s", error->message);
    cloning_end(cloning, NULL, cloning->error);
}

/* JobDone: one that does not start is not left behind. */
static void
on_started(JsonObject *result, const GError *error, gpointer data)
{
    Cloning *cloning = data;
    District *clone = g_hash_table_lookup(cloning->daemon->districts, cloning->name);

    if (error == NULL || clone == NULL) {
        cloning_end(cloning, result, error);
        return;
    }
    cloning->error = g_error_copy(error);
    operation_remove(clone, TRUE, on_removed, cloning);
}

/* JobDone */
static void
on_made(JsonObject *result, const GError *error, gpointer data)
{
    Cloning *cloning = data;
    District *clone = g_hash_table_lookup(cloning->daemon->districts, cloning->name);

    if (error != NULL)
        cloning_end(cloning, NULL, error);
    else
        operation_start(clone, FALSE, on_started, cloning);
}

void
operation_clone(District *original, const char *at, const char *name, JobDone done, gpointer data)
{
    g_autoptr(GError) error = NULL;
    uint64_t id = check_name(original, name, &error) ? checkpoint_find(original, at, &error) : 0;

    if (id == 0) {
        done(NULL, error, data);
        return;
    }
    Cloning *cloning = g_new0(Cloning, 1);
    *cloning = (Cloning){original->daemon, g_strdup(name), NULL, done, data};
    Job *job = job_new(original, "clone", clone_steps, on_made, cloning);
    if (job == NULL)
        return;
    job->undo = undo_clone;
    job->id = id;
    job->host = g_strdup(name);
    job->path = district_store_dir(original);
    job_next(job);
}

/* ---- Before a start ---- */

static gboolean
is_written(const char *path)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = QEMU_WRITE_BYTE, .l_len = 1};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    gboolean written = fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;

    if (fd >= 0)
        close(fd);
    return written;
}

/* Home of a disk of the clone that is open to write; NULL: none is. */
static char *
written_home(const District *d)
{
    for (guint i = 0; i < d->definition->members->len; i++) {
        const DefinitionMember *m = d->definition->members->pdata[i];
        for (guint k = 0; k < m->disks->len; k++) {
            gboolean moved = FALSE;
            g_autofree char *home = district_disk_home(d, m, k, &moved);
            if (!((const DefinitionDisk *)m->disks->pdata[k])->read_only && is_written(home))
                return g_steal_pointer(&home);
        }
    }
    return NULL;
}

/* Its engines have the homes open to write, and do not as long as there is a pin. */
static gboolean
original_runs(const District *d)
{
    const District *original = g_hash_table_lookup(d->daemon->districts, d->record.clone_of);

    return original != NULL && processes_count(original) > 0;
}

static gboolean
look_at_homes(gpointer data)
{
    Job *job = data;
    g_autofree char *home = original_runs(job->district) ? NULL : written_home(job->district);

    if (home != NULL && clock_monotonic_ns() < job->deadline_ns)
        return G_SOURCE_CONTINUE;
    job->poll = 0;
    if (home != NULL)
        job_fail_new(job, CONTROL_ERROR_STATE,
                     "%s: %s is open to write by a program that is not %s: end that first (lslocks "
                     "and fuser -v say which it is)",
                     job->district->name, home, job->district->record.clone_of);
    else
        job_next(job);
    return G_SOURCE_REMOVE;
}

void
clone_step_homes(Job *job)
{
    job->deadline_ns = clock_monotonic_ns() + HOMES_WAIT_MS * NS_PER_MS;
    job->poll = g_timeout_add(HOMES_POLL_MS, look_at_homes, job);
}

/* ---- Pins without a clone ---- */

/* A clone that is there and was not loaded keeps its pin. */
static gboolean
is_stray(const District *d, unsigned lineage, const CkptStorePin *pin)
{
    const District *clone = g_hash_table_lookup(d->daemon->districts, pin->owner);

    if (clone == NULL)
        return !units_check_name(pin->owner, NULL) ||
               !store_exists(d->daemon->config->state_dir, pin->owner);
    return g_strcmp0(clone->record.clone_of, d->name) != 0 || clone->record.clone_id != pin->id ||
           clone->record.lineage != lineage;
}

/* Pins of a store; without error NULL: there is none. */
static GPtrArray *
read_pins(const District *d, const char *dir, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(CkptStore) store = g_file_test(dir, G_FILE_TEST_IS_DIR)
                                     ? ckpt_store_open(dir, d->name, CKPT_STORE_READ, &why)
                                     : NULL;
    GPtrArray *pins = store != NULL ? ckpt_store_pins(store, &why) : NULL;

    if (why != NULL && !g_error_matches(why, CKPT_STORE_ERROR, CKPT_STORE_ERROR_NOT_FOUND))
        g_propagate_error(error, g_steal_pointer(&why));
    return pins;
}

typedef struct Stray {
    uint64_t id; /* 0: none */
    char *name;  /* of the clone that was */
    char *dir;   /* of the store */
} Stray;

static void
stray_clear(Stray *stray)
{
    g_free(stray->name);
    g_free(stray->dir);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Stray, stray_clear)

/* The first one of a store. */
static gboolean
find_in_store(const District *d, unsigned lineage, Stray *stray, GError **error)
{
    g_autofree char *dir = district_lineage_store(d, lineage);
    GError *why = NULL;
    g_autoptr(GPtrArray) pins = read_pins(d, dir, &why);

    for (guint i = 0; pins != NULL && i < pins->len && stray->id == 0; i++) {
        const CkptStorePin *pin = pins->pdata[i];
        if (is_stray(d, lineage, pin))
            *stray = (Stray){pin->id, g_strdup(pin->owner), g_strdup(dir)};
    }
    if (why != NULL)
        g_propagate_error(error, why);
    return why == NULL;
}

static gboolean
find_stray(const District *d, Stray *stray, GError **error)
{
    g_autoptr(GArray) lineages = district_lineages(d);

    for (guint i = 0; i < lineages->len && stray->id == 0; i++) {
        if (!find_in_store(d, g_array_index(lineages, unsigned, i), stray, error))
            return FALSE;
    }
    return TRUE;
}

static const JobStep release_steps[] = {step_release, NULL};

typedef struct Release {
    District *original;
    JobDone done;
    gpointer data;
} Release;

static void
release_end(Release *release, int64_t again_ns)
{
    release->original->pins_ns = clock_monotonic_ns() + again_ns;
    release->done(NULL, NULL, release->data);
    g_free(release);
}

static void release_next(Release *release);

/* JobDone */
static void
on_released(JsonObject *result, const GError *error, gpointer data)
{
    if (error == NULL)
        release_next(data);
    else
        release_end(data, RETRY_NS);
}

static void
release_next(Release *release)
{
    District *d = release->original;
    g_autoptr(GError) error = NULL;
    g_auto(Stray) stray = {0};

    if (!find_stray(d, &stray, &error))
        g_warning("%s: pins of clones: %s", d->name, error->message);
    if (stray.id == 0) {
        release_end(release, PINS_LOOK_S * NS_PER_S);
        return;
    }
    Job *job = job_new(d, "release", release_steps, on_released, release);
    if (job == NULL)
        return;
    job->id = stray.id;
    job->host = g_steal_pointer(&stray.name);
    job->path = g_steal_pointer(&stray.dir);
    job_next(job);
}

void
clone_release(District *original, JobDone done, gpointer data)
{
    Release *release = g_new0(Release, 1);

    *release = (Release){original, done, data};
    release_next(release);
}

void
clone_tick(District *d)
{
    if (!district_is_clone(d) && d->job == NULL && clock_monotonic_ns() >= d->pins_ns)
        clone_release(d, operation_done_log, NULL);
}
