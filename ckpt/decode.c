/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decoder of PAGES records and of the compressed CutState. All of it reads what a peer or a file
 * says: a size is checked before a buffer of that size exists, an index before it is used, and a
 * zstd frame must be exactly one frame of exactly the announced size.
 */
#include "ckpt/encode.h"

#include "ckpt/pagewords.h"
#include "common/xxh.h"

#include <zstd.h>

#include <string.h>

struct Decoder {
    ZSTD_DCtx *zstd;
    uint8_t *plain;
    uint8_t *made; /* PAGE_BYTES for each page of the record: what is made of others */
    DecodedPage *pages;
};

Decoder *
decoder_new(void)
{
    Decoder *decoder = g_new0(Decoder, 1);

    decoder->zstd = ZSTD_createDCtx();
    if (decoder->zstd == NULL)
        g_error("out of memory for a zstd context");
    decoder->plain = g_malloc(PAGES_RAW_MAX);
    decoder->made = g_malloc(PAGES_PER_RECORD_MAX * PAGE_BYTES);
    decoder->pages = g_new0(DecodedPage, PAGES_PER_RECORD_MAX);
    return decoder;
}

void
decoder_free(Decoder *decoder)
{
    if (decoder == NULL)
        return;
    ZSTD_freeDCtx(decoder->zstd);
    g_free(decoder->plain);
    g_free(decoder->made);
    g_free(decoder->pages);
    g_free(decoder);
}

/* Inflate exactly one frame of exactly plain_len bytes into plain. */
static gboolean
inflate_frame(ZSTD_DCtx *zstd, const uint8_t *frame, size_t frame_len, uint8_t *plain,
              size_t plain_len, const char *what, GError **error)
{
    size_t done;

    if (ZSTD_getFrameContentSize(frame, frame_len) != plain_len)
        return format_damaged(error, "damaged %s: its zstd frame is not of %zu bytes", what,
                              plain_len);
    if (ZSTD_findFrameCompressedSize(frame, frame_len) != frame_len)
        return format_damaged(error, "damaged %s: not exactly one zstd frame", what);
    done = ZSTD_decompressDCtx(zstd, plain, plain_len, frame, frame_len);
    if (ZSTD_isError(done))
        return format_damaged(error, "damaged %s: zstd: %s", what, ZSTD_getErrorName(done));
    if (done != plain_len)
        return format_damaged(error, "damaged %s: %zu bytes instead of %zu", what, done, plain_len);
    return TRUE;
}

/* Where the parts of a record lie in its plain bytes, and where reading has come to. */
typedef struct Parts {
    uint32_t count;
    uint32_t of_kind[PAGE_DELTA + 1];
    const uint8_t *raw;
    const uint8_t *refs;
    const uint8_t *groups;
    const uint8_t *masks;
    const uint8_t *words;
    uint64_t check;
} Parts;

static uint64_t
read64(const uint8_t *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof value);
    return GUINT64_FROM_LE(value);
}

/* Read the page table at the start of decoder->plain: indices and kinds. */
static gboolean
read_table(Decoder *decoder, uint64_t n_pages, Parts *parts, GError **error)
{
    for (uint32_t i = 0; i < parts->count; i++) {
        uint64_t entry = read64(decoder->plain + i * sizeof entry);
        unsigned kind = entry & 0xff;

        decoder->pages[i] = (DecodedPage){.index = entry >> 8};
        if (entry >> 8 >= n_pages)
            return format_damaged(error,
                                  "damaged PAGES record: page %" G_GUINT64_FORMAT
                                  " of an image that has %" G_GUINT64_FORMAT,
                                  (uint64_t)(entry >> 8), n_pages);
        if (kind > PAGE_DELTA)
            return format_damaged(error, "damaged PAGES record: there is no page kind %u", kind);
        parts->of_kind[kind]++;
    }
    return TRUE;
}

static bool
take_part(const uint8_t **at, size_t *left, size_t bytes, const uint8_t **part)
{
    if (*left < bytes)
        return false;
    *part = *at;
    *at += bytes;
    *left -= bytes;
    return true;
}

/* Count the groups of all deltas. */
static uint32_t
count_groups(const Parts *parts)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < parts->of_kind[PAGE_DELTA]; i++)
        n += (uint32_t)__builtin_popcountll(read64(parts->groups + i * sizeof(uint64_t)));
    return n;
}

/* Find the parts behind the table. They must be all there is. */
static gboolean
find_parts(const Decoder *decoder, size_t plain_len, Parts *parts, GError **error)
{
    size_t table = parts->count * sizeof(uint64_t), left = plain_len - table;
    const uint8_t *at = decoder->plain + table, *check = NULL;
    uint32_t n_refs = parts->of_kind[PAGE_DUPLICATE], n_deltas = parts->of_kind[PAGE_DELTA];
    uint32_t n_groups, n_words = 0;
    bool good = (n_refs + n_deltas == 0 || take_part(&at, &left, sizeof parts->check, &check)) &&
                take_part(&at, &left, parts->of_kind[PAGE_RAW] * PAGE_BYTES, &parts->raw) &&
                take_part(&at, &left, n_refs * sizeof(uint64_t), &parts->refs) &&
                take_part(&at, &left, n_deltas * sizeof(uint64_t), &parts->groups);

    if (good) {
        n_groups = count_groups(parts);
        good = take_part(&at, &left, n_groups, &parts->masks);
        for (uint32_t i = 0; good && i < n_groups; i++)
            n_words += (uint32_t)__builtin_popcount(parts->masks[i]);
        good = good && take_part(&at, &left, n_words * PAGE_WORD_BYTES, &parts->words);
    }
    if (!good)
        return format_damaged(error, "damaged PAGES record: page data is missing");
    if (left != 0)
        return format_damaged(error, "damaged PAGES record: data that belongs to no page");
    parts->check = check != NULL ? read64(check) : 0;
    return TRUE;
}

/* Put the words of the next delta into page. */
static void
apply_delta(Parts *parts, uint8_t *page)
{
    uint64_t groups = read64(parts->groups);

    parts->groups += sizeof groups;
    for (; groups != 0; groups &= groups - 1) {
        uint8_t *group = page + (size_t)__builtin_ctzll(groups) * PAGE_GROUP_BYTES;

        for (unsigned bits = *parts->masks++; bits != 0; bits &= bits - 1) {
            memcpy(group + (size_t)__builtin_ctz(bits) * PAGE_WORD_BYTES, parts->words,
                   PAGE_WORD_BYTES);
            parts->words += PAGE_WORD_BYTES;
        }
    }
}

/* Copy the page that the next reference names to made. */
static gboolean
follow_reference(Parts *parts, const DecodeInput *input, uint8_t *made, GError **error)
{
    uint64_t ref = read64(parts->refs), page = ref >> 16;
    uint32_t image = ref & 0xffff;

    parts->refs += sizeof ref;
    if (image >= input->n_ram || page >= input->n_pages_of[image])
        return format_damaged(error,
                              "damaged PAGES record: a duplicate of page %" G_GUINT64_FORMAT
                              " of image %u, which there is not",
                              page, image);
    memcpy(made, input->content(input->opaque, image, page), PAGE_BYTES);
    return TRUE;
}

/* The content of page i, by its kind. */
static gboolean
make_page(Decoder *decoder, uint32_t i, uint32_t image, Parts *parts, const DecodeInput *input,
          GError **error)
{
    DecodedPage *page = &decoder->pages[i];
    uint8_t *made = decoder->made + (size_t)i * PAGE_BYTES;

    switch (read64(decoder->plain + i * sizeof(uint64_t)) & 0xff) {
    case PAGE_RAW:
        page->data = parts->raw;
        parts->raw += PAGE_BYTES;
        break;
    case PAGE_DUPLICATE:
        page->data = made;
        return follow_reference(parts, input, made, error);
    case PAGE_DELTA:
        memcpy(made, input->content(input->opaque, image, page->index), PAGE_BYTES);
        apply_delta(parts, made);
        page->data = made;
        break;
    default: /* a zero page; there are no other kinds */
        break;
    }
    return TRUE;
}

/* Are pages made of others what the writer meant? */
static gboolean
verify_made(const Decoder *decoder, const Parts *parts, GError **error)
{
    uint64_t check = 0;

    for (uint32_t i = 0; i < parts->count; i++) {
        if ((read64(decoder->plain + i * sizeof(uint64_t)) & 0xff) >= PAGE_DUPLICATE)
            check = XXH3_64bits_withSeed(decoder->pages[i].data, PAGE_BYTES, check);
    }
    if (check == parts->check)
        return TRUE;
    return format_damaged(error, "deltas do not fit what is held here: the stream must begin anew");
}

static gboolean
read_pages(Decoder *decoder, size_t plain_len, uint32_t image, Parts *parts,
           const DecodeInput *input, GError **error)
{
    if (!read_table(decoder, input->n_pages_of[image], parts, error))
        return FALSE;
    bool derived = parts->of_kind[PAGE_DUPLICATE] + parts->of_kind[PAGE_DELTA] > 0;
    if (derived && (input->content == NULL || image >= input->n_ram))
        return format_damaged(error,
                              "damaged PAGES record: deltas and duplicates are of RAM in a stream, "
                              "not of a disk or in a file");
    if (!find_parts(decoder, plain_len, parts, error))
        return FALSE;
    for (uint32_t i = 0; i < parts->count; i++) {
        if (!make_page(decoder, i, image, parts, input, error))
            return FALSE;
    }
    return !derived || verify_made(decoder, parts, error);
}

const DecodedPage *
decoder_pages(Decoder *decoder, const uint8_t *payload, size_t len, const DecodeInput *input,
              uint32_t *image, uint32_t *count, GError **error)
{
    const uint8_t *plain = decoder->plain;
    /* A part that is not there yet is empty. */
    Parts parts = {.raw = plain, .refs = plain, .groups = plain, .masks = plain, .words = plain};
    uint32_t words[4];
    uint32_t plain_len;

    if (len < PAGES_HEADER_BYTES) {
        format_damaged(error, "damaged PAGES record: %zu bytes are too few", len);
        return NULL;
    }
    memcpy(words, payload, sizeof words);
    *image = GUINT32_FROM_LE(words[0]);
    *count = parts.count = GUINT32_FROM_LE(words[1]);
    plain_len = GUINT32_FROM_LE(words[2]);
    if (words[3] != 0 || *image >= input->n_images || *count == 0 ||
        *count > PAGES_PER_RECORD_MAX || plain_len < *count * sizeof(uint64_t) ||
        plain_len > sizeof parts.check + *count * (8 + PAGE_BYTES)) {
        format_damaged(error, "damaged PAGES record: image %u, %u pages, %u bytes is not possible",
                       *image, *count, plain_len);
        return NULL;
    }
    if (!inflate_frame(decoder->zstd, payload + PAGES_HEADER_BYTES, len - PAGES_HEADER_BYTES,
                       decoder->plain, plain_len, "PAGES record", error) ||
        !read_pages(decoder, plain_len, *image, &parts, input, error))
        return NULL;
    return decoder->pages;
}

GByteArray *
state_decompress(const void *data, size_t len, GError **error)
{
    unsigned long long plain_len = ZSTD_getFrameContentSize(data, len);
    g_autoptr(GByteArray) plain = NULL;
    ZSTD_DCtx *zstd;
    gboolean good;

    if (plain_len == ZSTD_CONTENTSIZE_ERROR || plain_len == ZSTD_CONTENTSIZE_UNKNOWN) {
        format_damaged(error, "damaged STATE record: not a zstd frame with its size");
        return NULL;
    }
    if (plain_len > CUT_STATE_BYTES_MAX) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                    "STATE record inflates to %llu bytes: at most %u are allowed", plain_len,
                    CUT_STATE_BYTES_MAX);
        return NULL;
    }
    plain = g_byte_array_new();
    g_byte_array_set_size(plain, (guint)plain_len);
    zstd = ZSTD_createDCtx();
    if (zstd == NULL)
        g_error("out of memory for a zstd context");
    good = inflate_frame(zstd, data, len, plain->data, plain_len, "STATE record", error);
    ZSTD_freeDCtx(zstd);
    return good ? g_steal_pointer(&plain) : NULL;
}
