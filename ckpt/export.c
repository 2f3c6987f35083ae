/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Exporting a checkpoint (export.h). */
#include "ckpt/export.h"

#include "ckpt/export-image.h"
#include "ckpt/export-journal.h"
#include "ckpt/record-out.h"

#include <string.h>
#include <unistd.h>

/* An image and what it is called; RAM of each member first, then the disks of each (format.md). */
typedef struct Source {
    ExportImage *image;
    uint64_t data; /* about so many bytes */
} Source;

typedef struct Export {
    CkptStore *store;
    const ExportConfig *config;
    uint64_t id;
    char *label; /* or NULL */
    Image *loaded;
    GArray *sources; /* of Source */
    RecordOut *out;
    ExportResult *result;
    uint32_t image; /* that is written */
} Export;

static void
source_clear(gpointer data)
{
    export_image_close(((Source *)data)->image);
}

static gboolean G_GNUC_PRINTF(2, 3) refuse(GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, CKPT_STORE_ERROR, CKPT_STORE_ERROR_REFUSED, text);
    return FALSE;
}

/* ---- Images ---- */

static gboolean
add_source(Export *e, const char *home, uint64_t bytes, const ImageDisk *overlay, GError **error)
{
    Source source = {export_image_open(home, bytes, overlay, e->config->socket_dir, error), 0};

    if (source.image == NULL)
        return FALSE;
    if (!export_image_data(source.image, &source.data, error)) {
        export_image_close(source.image);
        return FALSE;
    }
    g_array_append_val(e->sources, source);
    return TRUE;
}

static const char *
find_home(const ExportConfig *config, const char *member, size_t disk)
{
    for (uint32_t i = 0; i < config->n_homes; i++) {
        if (config->homes[i].disk == disk && strcmp(config->homes[i].member, member) == 0)
            return config->homes[i].home;
    }
    return NULL;
}

static gboolean
add_disk(Export *e, const District__CutMember *m, size_t k, const ImageDisk *overlay,
         GError **error)
{
    const char *home = find_home(e->config, m->name, k);

    if (home == NULL)
        return refuse(error,
                      "member %s had a disk %zu when the checkpoint was taken, and has not now: "
                      "give the definition back the disk",
                      m->name, k);
    if (add_source(e, home, m->disks[k]->size, overlay, error))
        return TRUE;
    g_prefix_error(error, "disk %zu of member %s: ", k, m->name);
    return FALSE;
}

static gboolean
add_sources(Export *e, GError **error)
{
    const District__CutState *cut = e->loaded->cut;
    uint32_t disk = 0;

    /* A memfd is a sparse file like others. */
    for (uint32_t i = 0; i < e->loaded->n_members; i++) {
        g_autofree char *home = g_strdup_printf("raw:/proc/self/fd/%d", e->loaded->ram_fds[i]);
        if (!add_source(e, home, cut->members[i]->ram_size, NULL, error))
            return FALSE;
    }
    for (size_t i = 0; i < cut->n_members; i++) {
        for (size_t k = 0; k < cut->members[i]->n_disks; k++) {
            if (!add_disk(e, cut->members[i], k, &e->loaded->disks[disk++], error))
                return FALSE;
        }
    }
    return TRUE;
}

static gboolean
write_pages(void *opaque, const PageRef *pages, uint32_t count, GError **error)
{
    Export *e = opaque;
    uint64_t *written =
        e->image < e->loaded->n_members ? &e->result->ram_pages : &e->result->disk_blocks;
    uint64_t before = *written;

    if (!record_out_pages(e->out, e->image, pages, count, true, written, error))
        return FALSE;
    progress_add(e->config->progress, (*written - before) * PAGE_BYTES);
    return TRUE;
}

static gboolean
write_images(Export *e, GError **error)
{
    for (e->image = 0; e->image < e->sources->len; e->image++) {
        const Source *source = &g_array_index(e->sources, Source, e->image);
        if (!export_image_read(source->image, write_pages, e, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- The rest ---- */

static gboolean
write_hello(Export *e, GError **error)
{
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;

    hello.version = e->config->n_journals > 0 ? FILE_VERSION_JOURNALS : FILE_VERSION;
    hello.software = (char *)"district-ckpt " DISTRICT_VERSION;
    hello.district = e->loaded->cut->district;
    hello.incarnation = e->loaded->cut->incarnation;
    hello.host = (char *)e->config->host;
    if (e->label != NULL)
        hello.label = e->label;
    return record_out_hello(e->out, &hello, error);
}

static gboolean
write_begin(Export *e, GError **error)
{
    const District__CutState *cut = e->loaded->cut;
    District__StreamEpochBegin begin = DISTRICT__STREAM_EPOCH_BEGIN__INIT;
    g_autofree District__StreamMember *members = g_new0(District__StreamMember, cut->n_members);
    g_autofree District__StreamMember **list = g_new0(District__StreamMember *, cut->n_members);
    guint image = (guint)cut->n_members;

    for (size_t i = 0; i < cut->n_members; i++) {
        const District__CutMember *m = cut->members[i];
        members[i] = (District__StreamMember)DISTRICT__STREAM_MEMBER__INIT;
        members[i].name = m->name;
        members[i].ram_size = m->ram_size;
        members[i].n_regions = m->n_regions;
        members[i].regions = m->regions;
        members[i].n_disks = m->n_disks;
        members[i].disks = m->disks;
        for (size_t k = 0; k < m->n_disks; k++)
            m->disks[k]->data = g_array_index(e->sources, Source, image++).data;
        list[i] = &members[i];
    }
    begin.epoch = cut->epoch;
    begin.full = TRUE;
    begin.n_members = cut->n_members;
    begin.members = list;
    return record_out_begin(e->out, &begin, error);
}

/* What has been read of homes was of the checkpoint only if it is still there (export.h). */
static gboolean
find_entry(const Export *e, char **label, GError **error)
{
    g_autoptr(GPtrArray) entries = ckpt_store_list(e->store, error);

    for (guint i = 0; entries != NULL && i < entries->len; i++) {
        const CkptStoreEntry *entry = entries->pdata[i];
        if (entry->id != e->id)
            continue;
        if (label != NULL)
            *label = g_strdup(entry->label);
        return TRUE;
    }
    return entries != NULL &&
           refuse(error,
                  "checkpoint %" G_GUINT64_FORMAT
                  " has gone meanwhile: export a newer one, or give it a label to keep it",
                  e->id);
}

static void
start_writing(Export *e)
{
    uint64_t total = 0;

    for (guint i = 0; i < e->sources->len; i++)
        total += g_array_index(e->sources, Source, i).data;
    progress_phase(e->config->progress, "write", total);
}

static gboolean
write_journals(Export *e, GError **error)
{
    return e->config->n_journals == 0 ||
           export_journals(e->out, e->config->journals, e->config->n_journals, e->config->progress,
                           error);
}

static gboolean
export_all(Export *e, GError **error)
{
    progress_phase(e->config->progress, "load", 0);
    if (!find_entry(e, &e->label, error))
        return FALSE;
    e->loaded = ckpt_store_load(e->store, e->id, e->config->overlay_dir, error);
    if (e->loaded == NULL || !add_sources(e, error))
        return FALSE;
    start_writing(e);
    if (!write_hello(e, error) || !write_journals(e, error) || !write_begin(e, error) ||
        !write_images(e, error) || !record_out_end(e->out, e->loaded->cut, error))
        return FALSE;
    progress_phase(e->config->progress, "sync", 0);
    e->result->epoch = e->loaded->cut->epoch;
    e->result->incarnation = e->loaded->cut->incarnation;
    e->result->bytes = record_out_bytes(e->out);
    return record_out_sync(e->out, error) && find_entry(e, NULL, error);
}

gboolean
export_checkpoint(CkptStore *store, uint64_t id, const ExportConfig *config, int fd,
                  ExportResult *result, GError **error)
{
    Export e = {.store = store, .config = config, .id = id, .result = result};
    int hold_fd = ckpt_store_hold(store);
    gboolean good;

    *result = (ExportResult){0};
    e.sources = g_array_new(FALSE, FALSE, sizeof(Source));
    g_array_set_clear_func(e.sources, source_clear);
    e.out = record_out_new(fd, "the file");
    good = export_all(&e, error);
    record_out_free(e.out);
    g_array_unref(e.sources);
    g_clear_pointer(&e.loaded, image_free);
    g_free(e.label);
    if (hold_fd >= 0)
        close(hold_fd);
    return good;
}
