/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bench-encode: what the encoder makes of epochs, and how fast, on one core.
 *
 * Theory of operation. Epochs come from a source (epochs.h): a pattern, or files recorded from a guest.
 * Each epoch goes through all variants of the encoder in turn, the first one of them another one each
 * time, so that what else the machine does hits all alike. A variant has a writer, which keeps what a
 * sink keeps, and a reader, which keeps RAM as a standby does. The first epoch, the full copy, is not
 * counted. What the reader has is compared with the source after each epoch: a figure of what does not
 * come back as it was is none.
 *
 * The last two variants are no encoder of ours: zstd-stream.h.
 *
 * Figures. ratio: raw bytes of the pages given to the encoder for each byte of PAGES records, headers
 * included; of a zstd stream, for each of its bytes. encode, decode: raw bytes of those pages a second, one
 * thread, without TLS or network; decoding includes the copy to where the page belongs.
 */
#include "epochs.h"
#include "zstd-stream.h"

#include "common/clock.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Variant {
    const char *name;
    bool deltas;
    bool duplicates;
    bool zstd;      /* pages as they are, through a zstd stream */
    int window_log; /* of that; 0: the level's own */
} Variant;

static const Variant variants[] = {
    {.name = "plain"},
    {.name = "delta", .deltas = true},
    {.name = "delta+dup", .deltas = true, .duplicates = true},
    {.name = "zstd", .zstd = true},
    {.name = "zstd-long", .zstd = true, .window_log = 27},
};
#define N_VARIANTS G_N_ELEMENTS(variants)

typedef struct Result {
    uint64_t epochs;
    uint64_t pages;
    uint64_t wire_bytes;
    uint64_t encode_ns;
    uint64_t decode_ns;
    EncodeStats stats;
} Result;

/* A variant at work. */
typedef struct Side {
    const Variant *variant;
    Encoder *encoder;
    Decoder *decoder;
    ZstdStream *zstd; /* NULL: the encoder is used */
    uint32_t n_images;
    const uint64_t *n_pages_of;
    PageHashes **hashes;
    EncodeMemory memory;
    uint8_t **ram; /* of the reader */
    GPtrArray *records;
    Result result;
} Side;

static char *opt_trace, *opt_json, *opt_workload;
static gint opt_cache_mib = 64;
static gint opt_epochs = 20, opt_dirty = 4096, opt_ram_mib = 256, opt_members = 2, opt_level = 1;
static gboolean opt_quick;

static const GOptionEntry options[] = {
    {"workload", 0, 0, G_OPTION_ARG_STRING, &opt_workload,
     "Only this pattern: idle, sequential, random-words, hot-set, zero-heavy, text, "
     "incompressible, "
     "twins",
     "NAME"},
    {"trace", 0, 0, G_OPTION_ARG_FILENAME, &opt_trace,
     "Instead of patterns, the checkpoint files of a directory, each an epoch", "DIR"},
    {"epochs", 0, 0, G_OPTION_ARG_INT, &opt_epochs, "Epochs of a pattern (20)", "N"},
    {"dirty", 0, 0, G_OPTION_ARG_INT, &opt_dirty, "Pages written per epoch and member (4096)", "N"},
    {"ram", 0, 0, G_OPTION_ARG_INT, &opt_ram_mib, "RAM of a member (256)", "MIB"},
    {"members", 0, 0, G_OPTION_ARG_INT, &opt_members, "Members of a pattern (2)", "N"},
    {"cache", 0, 0, G_OPTION_ARG_INT, &opt_cache_mib, "Cache for deltas (64)", "MIB"},
    {"level", 0, 0, G_OPTION_ARG_INT, &opt_level, "Level of zstd (1)", "N"},
    {"json", 0, 0, G_OPTION_ARG_FILENAME, &opt_json, "Also write the figures to this file", "FILE"},
    {"quick", 0, 0, G_OPTION_ARG_NONE, &opt_quick, "Small and short: does it work at all?", NULL},
    G_OPTION_ENTRY_NULL,
};

/* ---- A variant ---- */

static gboolean
side_start(Side *side, const Variant *variant, const EpochSource *source, GError **error)
{
    *side = (Side){.variant = variant, .n_images = source->n_images};
    side->n_pages_of = source->n_pages_of;
    side->encoder = encoder_new(opt_level);
    side->decoder = decoder_new();
    if (variant->deltas)
        side->memory.cache = page_cache_new((size_t)opt_cache_mib << 20);
    if (variant->duplicates)
        side->memory.dedup = dedup_new();
    side->records = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    side->hashes = g_new(PageHashes *, side->n_images);
    side->ram = g_new(uint8_t *, side->n_images);
    for (uint32_t i = 0; i < side->n_images; i++) {
        side->hashes[i] = page_hashes_new(side->n_pages_of[i]);
        side->ram[i] = g_malloc0(side->n_pages_of[i] * PAGE_BYTES);
    }
    if (variant->zstd)
        side->zstd = zstd_stream_new(opt_level, variant->window_log, error);
    return !variant->zstd || side->zstd != NULL;
}

static void
side_end(Side *side)
{
    for (uint32_t i = 0; i < side->n_images; i++) {
        page_hashes_free(side->hashes[i]);
        g_free(side->ram[i]);
    }
    g_free(side->hashes);
    g_free(side->ram);
    page_cache_free(side->memory.cache);
    dedup_free(side->memory.dedup);
    encoder_free(side->encoder);
    decoder_free(side->decoder);
    zstd_stream_free(side->zstd);
    g_ptr_array_unref(side->records);
}

static void
side_encode_batch(Side *side, uint32_t image, const PageRef *refs, uint32_t n, bool full,
                  EncodeStats *stats)
{
    GByteArray *record = g_byte_array_new();

    side->memory.now.order++;
    if (encoder_stream_pages(side->encoder, image, refs, n, side->hashes[image], &side->memory,
                             full, record, stats) > 0)
        g_ptr_array_add(side->records, record);
    else
        g_byte_array_unref(record);
}

/* Pages to records, in batches of one image each. */
static void
side_encode(Side *side, const GArray *pages, bool full, EncodeStats *stats)
{
    PageRef refs[PAGES_PER_RECORD_MAX];
    uint32_t n = 0;

    for (guint i = 0; i < pages->len; i++) {
        const BenchPage *page = &g_array_index(pages, BenchPage, i);
        bool last = i + 1 == pages->len || page[1].image != page->image;

        refs[n++] = page->ref;
        if (!last && n < PAGES_PER_RECORD_MAX)
            continue;
        side_encode_batch(side, page->image, refs, n, full, stats);
        n = 0;
    }
}

static const uint8_t *
side_content(void *opaque, uint32_t image, uint64_t page)
{
    return ((Side *)opaque)->ram[image] + page * PAGE_BYTES;
}

static gboolean
side_decode(Side *side, GError **error)
{
    const DecodeInput input = {
        .n_pages_of = side->n_pages_of,
        .n_images = side->n_images,
        .n_ram = side->n_images,
        .content = side_content,
        .opaque = side,
    };

    for (guint i = 0; i < side->records->len; i++) {
        const GByteArray *record = g_ptr_array_index(side->records, i);
        uint32_t image, count;
        const DecodedPage *pages =
            decoder_pages(side->decoder, record->data, record->len, &input, &image, &count, error);

        if (pages == NULL)
            return FALSE;
        for (uint32_t k = 0; k < count; k++) {
            uint8_t *to = side->ram[image] + pages[k].index * PAGE_BYTES;
            if (pages[k].data != NULL)
                memcpy(to, pages[k].data, PAGE_BYTES);
            else
                memset(to, 0, PAGE_BYTES);
        }
    }
    return TRUE;
}

/* ---- A variant that is a zstd stream: one record for an epoch ---- */

static gboolean
side_encode_zstd(Side *side, const GArray *pages, GError **error)
{
    GByteArray *record = g_byte_array_new();

    g_ptr_array_add(side->records, record);
    return zstd_stream_encode(side->zstd, pages, record, error);
}

static uint8_t *
side_place(void *opaque, uint32_t image, uint64_t page)
{
    Side *side = opaque;

    if (image >= side->n_images || page >= side->n_pages_of[image])
        return NULL;
    return side->ram[image] + page * PAGE_BYTES;
}

static gboolean
side_decode_zstd(Side *side, GError **error)
{
    return zstd_stream_decode(side->zstd, g_ptr_array_index(side->records, 0), side_place, side,
                              error);
}

/* ---- One epoch ---- */

static gboolean
side_check(const Side *side, const GArray *pages, GError **error)
{
    for (guint i = 0; i < pages->len; i++) {
        const BenchPage *page = &g_array_index(pages, BenchPage, i);
        const uint8_t *got = side->ram[page->image] + page->ref.index * PAGE_BYTES;

        if (memcmp(got, page->ref.data, PAGE_BYTES) == 0)
            continue;
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "%s: page %" G_GUINT64_FORMAT " of image %u came back changed: a fault of the "
                    "encoder or the decoder",
                    side->variant->name, page->ref.index, page->image);
        return FALSE;
    }
    return TRUE;
}

static void
side_count(Side *side, const EncodeStats *stats)
{
    Result *r = &side->result;

    r->epochs++;
    for (guint i = 0; i < side->records->len; i++) {
        const GByteArray *record = g_ptr_array_index(side->records, i);
        r->wire_bytes += record->len + (side->zstd == NULL ? RECORD_HEADER_BYTES : 0);
    }
    encode_stats_add(&r->stats, stats);
}

/* One epoch there and back. full: what comes first; not counted. */
static gboolean
side_epoch(Side *side, const GArray *pages, bool full, GError **error)
{
    Result *r = &side->result;
    EncodeStats stats = {0};
    int64_t start, encoded, decoded;

    g_ptr_array_set_size(side->records, 0);
    side->memory.now.scope++;
    start = clock_monotonic_ns();
    if (side->zstd == NULL)
        side_encode(side, pages, full, &stats);
    else if (!side_encode_zstd(side, pages, error))
        return FALSE;
    encoded = clock_monotonic_ns();
    if (!(side->zstd == NULL ? side_decode(side, error) : side_decode_zstd(side, error)))
        return FALSE;
    decoded = clock_monotonic_ns();
    if (full)
        return side_check(side, pages, error);
    r->pages += pages->len;
    r->encode_ns += (uint64_t)(encoded - start);
    r->decode_ns += (uint64_t)(decoded - encoded);
    side_count(side, &stats);
    return side_check(side, pages, error);
}

/* ---- A workload ---- */

static gboolean
run_epochs(EpochSource *source, uint64_t epochs, Side sides[N_VARIANTS], GError **error)
{
    g_autoptr(GArray) pages = g_array_new(FALSE, FALSE, sizeof(BenchPage));
    GError *why = NULL;

    for (uint64_t epoch = 0; epoch <= epochs; epoch++) {
        g_array_set_size(pages, 0);
        if (!source->next(source, pages, &why))
            break;
        for (size_t i = 0; epoch == 0 && i < N_VARIANTS; i++) {
            if (!side_start(&sides[i], &variants[i], source, error))
                return FALSE;
        }
        for (size_t i = 0; i < N_VARIANTS; i++) {
            if (!side_epoch(&sides[(epoch + i) % N_VARIANTS], pages, epoch == 0, error))
                return FALSE;
        }
    }
    if (why == NULL)
        return TRUE;
    g_propagate_error(error, why);
    return FALSE;
}

static double
mb_per_second(uint64_t pages, uint64_t ns)
{
    return ns == 0 ? 0 : (double)(pages * PAGE_BYTES) * 1000.0 / (double)ns;
}

static double
ratio_of(const Result *r)
{
    return r->wire_bytes == 0 ? INFINITY : (double)(r->pages * PAGE_BYTES) / (double)r->wire_bytes;
}

static void
print_result(const char *workload, const Variant *variant, const Result *r, GString *json)
{
    const EncodeStats *s = &r->stats;
    double ratio = ratio_of(r), encode = mb_per_second(r->pages, r->encode_ns);
    double decode = mb_per_second(r->pages, r->decode_ns);

    g_print("%-16s %-10s %8.0f %8.1f %8.0f %8.0f %8" PRIu64 " %9" PRIu64 " %8" PRIu64 " %8" PRIu64
            " %8" PRIu64 "\n",
            workload, variant->name, (double)r->pages / (double)MAX(r->epochs, 1), ratio, encode,
            decode, s->zero, s->unchanged, s->delta, s->duplicate, s->raw);
    g_string_append_printf(json, "%s\n  {\"workload\": \"%s\", \"variant\": \"%s\", ",
                           json->len > 1 ? "," : "", workload, variant->name);
    g_string_append_printf(
        json,
        "\"epochs\": %" PRIu64 ", \"pages\": %" PRIu64 ", \"raw_bytes\": %" PRIu64
        ", \"wire_bytes\": %" PRIu64 ", \"encode_mb_s\": %.0f, \"decode_mb_s\": %.0f, ",
        r->epochs, r->pages, r->pages * PAGE_BYTES, r->wire_bytes, encode, decode);
    g_string_append_printf(json,
                           "\"zero\": %" PRIu64 ", \"unchanged\": %" PRIu64 ", \"delta\": %" PRIu64
                           ", \"duplicate\": %" PRIu64 ", \"raw\": %" PRIu64 "}",
                           s->zero, s->unchanged, s->delta, s->duplicate, s->raw);
}

static gboolean
run_workload(const char *name, EpochSource *source, GString *json, GError **error)
{
    Side sides[N_VARIANTS] = {0};
    uint64_t epochs = opt_trace != NULL ? UINT64_MAX - 1 : (uint64_t)opt_epochs;
    gboolean good = run_epochs(source, epochs, sides, error);

    for (size_t i = 0; i < N_VARIANTS && sides[i].encoder != NULL; i++) {
        if (good)
            print_result(name, sides[i].variant, &sides[i].result, json);
        side_end(&sides[i]);
    }
    source->free(source);
    return good;
}

static gboolean
run_pattern(const char *name, GString *json, GError **error)
{
    EpochSource *source =
        pattern_source_new(name, (uint32_t)opt_members,
                           (uint64_t)opt_ram_mib << (20 - PAGE_SHIFT_4K), (uint64_t)opt_dirty);

    if (source != NULL)
        return run_workload(name, source, json, error);
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                "there is no workload '%s': see --help", name);
    return FALSE;
}

static gboolean
run_trace(GString *json, GError **error)
{
    g_autofree char *name = g_path_get_basename(opt_trace);
    EpochSource *source = trace_source_new(opt_trace, error);

    return source != NULL && run_workload(name, source, json, error);
}

static gboolean
run_all(GString *json, GError **error)
{
    if (opt_trace != NULL)
        return run_trace(json, error);
    if (opt_workload != NULL)
        return run_pattern(opt_workload, json, error);
    for (size_t i = 0; pattern_names[i] != NULL; i++) {
        if (!run_pattern(pattern_names[i], json, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
read_options(int *argc, char ***argv, GError **error)
{
    g_autoptr(GOptionContext) context = g_option_context_new("- measure the encoder of epochs");

    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, argc, argv, error))
        return FALSE;
    if (opt_quick) {
        opt_epochs = 3;
        opt_dirty = 300;
        opt_ram_mib = 4;
    }
    if (opt_epochs > 0 && opt_cache_mib > 0 && opt_dirty > 0 && opt_ram_mib > 0 &&
        opt_ram_mib <= 4096 && opt_members > 0 && opt_members <= MEMBERS_MAX)
        return TRUE;
    g_set_error(
        error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
        "--epochs, --dirty, --ram, --cache and --members are to be positive, --ram at most 4096, "
        "--members at most %d",
        MEMBERS_MAX);
    return FALSE;
}

int
main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GString) json = g_string_new("[");

    if (read_options(&argc, &argv, &error)) {
        g_print("%-16s %-10s %8s %8s %8s %8s %8s %9s %8s %8s %8s\n", "workload", "variant",
                "pages/ep", "ratio", "enc MB/s", "dec MB/s", "zero", "unchanged", "delta", "dup",
                "raw");
        if (run_all(json, &error) && opt_json != NULL) {
            g_string_append(json, "\n]\n");
            g_file_set_contents(opt_json, json->str, -1, &error);
        }
    }
    if (error == NULL)
        return 0;
    g_printerr("bench-encode: %s\n", error->message);
    return 1;
}
