/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs on a store: check, verify, describe, pin, export, import; and copying a journal. */
#include "ckpt/store-job.h"

#include "ckpt/export.h"
#include "ckpt/import-journal.h"
#include "ckpt/journal-file.h"
#include "ckpt/layout.h"

#include <stdio.h>
#include <string.h>

#define USAGE 2

bool
store_job_wanted(const StoreJob *job)
{
    return job->check || job->verify != NULL || job->describe != NULL || job->pin != NULL ||
           job->unpin != NULL || job->export != NULL || job->import || job->copy_journal != NULL;
}

/* ---- Check ---- */

static void
check_report(void *opaque, const char *object, const char *text)
{
    g_autofree char *line = g_strdelimit(g_strdup(text), "\n", ' '); /* SQLite says some in two */

    g_print("fault %s %s\n", object, line);
}

/* A line for each fault, then how many checkpoints there are. */
static gboolean
job_check(CkptStore *store, GError **error)
{
    g_autoptr(GPtrArray) entries = NULL;

    if (ckpt_store_check(store, check_report, NULL, error) < 0)
        return FALSE;
    entries = ckpt_store_list(store, error);
    if (entries == NULL)
        return FALSE;
    g_print("checkpoints %u\n", entries->len);
    return TRUE;
}

/* ---- Verify ---- */

static void
print_cut(const District__CutState *cut)
{
    g_print("incarnation %" G_GUINT64_FORMAT "\n", cut->incarnation);
    for (size_t i = 0; i < cut->n_members; i++)
        g_print("member %s %" G_GUINT64_FORMAT "\n", cut->members[i]->name,
                cut->members[i]->ram_size);
}

/* One thing a line: of which district, incarnation and members the checkpoint is. */
static gboolean
job_verify(const StoreJob *job, CkptStore *store, GError **error)
{
    g_autoptr(Image) image = NULL;
    uint64_t id;

    if (ckpt_store_find(store, job->verify, &id, error))
        image = ckpt_store_load(store, id, job->store, error);
    if (image == NULL)
        return FALSE;
    g_print("district %s\n", image->cut->district);
    print_cut(image->cut);
    return TRUE;
}

/* ---- Describe ---- */

/* The incarnation in a line, then the text of the definition. */
static gboolean
job_describe(const StoreJob *job, CkptStore *store, GError **error)
{
    District__CutState *cut = NULL;
    uint64_t id;

    if (ckpt_store_find(store, job->describe, &id, error))
        cut = ckpt_store_state(store, id, error);
    if (cut == NULL)
        return FALSE;
    /* Not by g_print, which would say it in the charset of the locale. */
    printf("%" G_GUINT64_FORMAT "\n%s", cut->incarnation, cut->definition);
    district__cut_state__free_unpacked(cut, NULL);
    return TRUE;
}

/* ---- Pin ---- */

static gboolean
job_pin(const StoreJob *job, GError **error)
{
    const char *what = job->pin != NULL ? job->pin : job->unpin;
    uint64_t id = g_ascii_strtoull(what, NULL, 10);
    g_autoptr(CkptStore) store = ckpt_store_open(job->store, job->name, CKPT_STORE_WRITE, error);

    if (store == NULL)
        return FALSE;
    return job->pin != NULL ? ckpt_store_pin(store, id, job->owner, error)
                            : ckpt_store_unpin(store, id, job->owner, error);
}

/* ---- Export ---- */

static gboolean
parse_home(const char *text, ExportHome *home, GError **error)
{
    const char *slash = strchr(text, '/'), *equals = slash != NULL ? strchr(slash, '=') : NULL;
    guint64 disk = 0;
    g_autofree char *number =
        equals != NULL ? g_strndup(slash + 1, (gsize)(equals - slash - 1)) : g_strdup("");

    if (!g_ascii_string_to_unsigned(number, 10, 0, DISKS_MAX - 1, &disk, NULL)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--home wants MEMBER/K=HOME, not %s", text);
        return FALSE;
    }
    *home = (ExportHome){g_strndup(text, (gsize)(slash - text)), (uint32_t)disk, equals + 1};
    return TRUE;
}

static void
home_clear(gpointer data)
{
    g_free((char *)((ExportHome *)data)->member);
}

/* MEMBER=PATH; the text is cut in two. */
static gboolean
parse_journal(char *text, ExportJournal *journal, GError **error)
{
    char *equals = strchr(text, '=');

    if (equals == NULL) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--journal wants MEMBER=PATH, not %s", text);
        return FALSE;
    }
    *equals = '\0';
    *journal = (ExportJournal){text, equals + 1};
    return TRUE;
}

static gboolean
parse_files(const StoreJob *job, GArray *homes, GArray *journals, GError **error)
{
    for (char **text = job->homes; text != NULL && *text != NULL; text++) {
        ExportHome home;
        if (!parse_home(*text, &home, error))
            return FALSE;
        g_array_append_val(homes, home);
    }
    for (char **text = job->journals; text != NULL && *text != NULL; text++) {
        ExportJournal journal;
        if (!parse_journal(*text, &journal, error))
            return FALSE;
        g_array_append_val(journals, journal);
    }
    return TRUE;
}

static gboolean
job_export(const StoreJob *job, CkptStore *store, Progress *progress, GError **error)
{
    g_autoptr(GArray) homes = g_array_new(FALSE, FALSE, sizeof(ExportHome));
    g_autoptr(GArray) journals = g_array_new(FALSE, FALSE, sizeof(ExportJournal));
    ExportConfig config = {.host = job->host != NULL ? job->host : "",
                           .overlay_dir = job->store,
                           .socket_dir = job->socket_dir,
                           .progress = progress};
    ExportResult result;
    uint64_t id;

    g_array_set_clear_func(homes, home_clear);
    if (!parse_files(job, homes, journals, error))
        return FALSE;
    config.journals = (const ExportJournal *)journals->data;
    config.n_journals = journals->len;
    config.homes = (const ExportHome *)homes->data;
    config.n_homes = homes->len;
    if (!ckpt_store_find(store, job->export, &id, error) ||
        !export_checkpoint(store, id, &config, job->file_fd, &result, error))
        return FALSE;
    g_print("checkpoint %" G_GUINT64_FORMAT "\nepoch %" G_GUINT64_FORMAT
            "\nincarnation %" G_GUINT64_FORMAT "\nbytes %" G_GUINT64_FORMAT
            "\nram_pages %" G_GUINT64_FORMAT "\ndisk_blocks %" G_GUINT64_FORMAT "\n",
            id, result.epoch, result.incarnation, result.bytes, result.ram_pages,
            result.disk_blocks);
    return TRUE;
}

/* ---- Import ---- */

/* What of it is what, then the definition to the end. */
static void
print_imported(const StoreJob *job, const ImportResult *result)
{
    const District__CutState *cut = result->cut;

    g_print("district %s\nname %s\nepoch %" G_GUINT64_FORMAT "\n", result->district,
            job->as != NULL ? job->as : result->district, cut->epoch);
    print_cut(cut);
    for (size_t i = 0; i < cut->n_members; i++)
        g_print("disks %s %zu\n", cut->members[i]->name, cut->members[i]->n_disks);
    for (guint i = 0; i < import_journals_count(result->journals); i++) {
        uint64_t bytes;
        const char *member = import_journals_member(result->journals, i, &bytes);
        g_print("journal %s %" G_GUINT64_FORMAT "\n", member, bytes);
    }
    /* Not by g_print, which would say it in the charset of the locale. */
    printf("definition\n%s", cut->definition);
}

static gboolean
job_import(const StoreJob *job, Progress *progress, GError **error)
{
    ImportConfig config = {.store_dir = job->store,
                           .disk_dir = job->disk_dir,
                           .name = job->as,
                           .beside = job->beside,
                           .progress = progress};
    ImportResult result;
    gboolean good = import_checkpoint(job->file_fd, &config, &result, error);

    if (good)
        print_imported(job, &result);
    import_result_clear(&result);
    return good;
}

/* ---- All ---- */

static const char *
what_is_missing(const StoreJob *job)
{
    if ((job->export != NULL || job->import || job->copy_journal != NULL) && job->file_fd < 0)
        return "--export, --import and --copy-journal need --file-fd";
    if (job->store == NULL && job->copy_journal == NULL)
        return "what is done with a store needs --store";
    if ((job->pin != NULL || job->unpin != NULL) && (job->name == NULL || job->owner == NULL))
        return "--pin and --unpin need --name and --owner";
    if (job->import && job->disk_dir == NULL)
        return "--import needs --disk-dir";
    if (job->as != NULL && !layout_name_good(job->as))
        return "--as is not the name of a district";
    return NULL;
}

static gboolean
job_do(const StoreJob *job, Progress *progress, GError **error)
{
    g_autoptr(CkptStore) store = NULL;

    if (job->copy_journal != NULL)
        return journal_file_copy_unused(job->copy_journal, job->file_fd, error);
    if (job->import)
        return job_import(job, progress, error);
    if (job->pin != NULL || job->unpin != NULL)
        return job_pin(job, error);
    store = ckpt_store_open(job->store, NULL, CKPT_STORE_READ, error);
    if (store == NULL)
        return FALSE;
    if (job->check)
        return job_check(store, error);
    if (job->describe != NULL)
        return job_describe(job, store, error);
    return job->verify != NULL ? job_verify(job, store, error)
                               : job_export(job, store, progress, error);
}

int
store_job_run(const StoreJob *job)
{
    g_autoptr(Progress) progress = NULL;
    g_autoptr(GError) error = NULL;
    const char *missing = what_is_missing(job);

    if (missing != NULL) {
        g_printerr("district-ckpt: %s\n", missing);
        return USAGE;
    }
    if (job->progress_fd >= 0)
        progress = progress_new(job->progress_fd);
    if (job_do(job, progress, &error))
        return 0;
    g_printerr("%s\n", error->message);
    return 1;
}
