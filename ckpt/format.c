/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Record framing of the checkpoint format: header, checksum and the tally of an epoch.
 *
 * Theory of operation. A record is trusted in three steps, and no step uses what a later one
 * checks: the header's fixed fields and its length against the limit of its type (so that nothing
 * is allocated for a nonsense length), the checksum over header and payload, and then, in
 * receive.c, its place in the order of records. The tally chains the checksums of an epoch's
 * records, so that a record lost, repeated or moved as a whole is noticed at EPOCH_END even though
 * each is intact.
 */
#include "ckpt/format.h"

#include "common/xxh.h"

#include <assert.h>
#include <string.h>

G_DEFINE_QUARK(district - format - error, format_error)

gboolean
format_damaged(GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED, "%s", text);
    return FALSE;
}

/* Offsets in the header. */
enum {
    AT_MAGIC = 0,
    AT_TYPE = 4,
    AT_FLAGS = 6,
    AT_LENGTH = 8,
    AT_RESERVED = 12,
    AT_SEQUENCE = 16,
    AT_EPOCH = 24,
    AT_CHECKSUM = 32,
};
static_assert(AT_CHECKSUM + sizeof(uint64_t) == RECORD_HEADER_BYTES, "header layout");

/* Longest payload of each record type, bytes; -1: no such type. */
static const int64_t length_max[] = {
    [0] = -1,
    [RECORD_HELLO] = 16 * 1024,
    [RECORD_EPOCH_BEGIN] = 4 * 1024 * 1024,
    [RECORD_PAGES] = 2 * 1024 * 1024,
    [RECORD_STATE] = RECORD_LENGTH_MAX,
    [RECORD_EPOCH_END] = 1024,
    [RECORD_HEARTBEAT] = 0,
    [RECORD_ACK] = 1024,
    [RECORD_ERROR] = 64 * 1024,
    [RECORD_BYE] = 0,
    [RECORD_JOURNAL] = JOURNAL_DATA_MAX + 1024,
    [RECORD_JOURNAL_ACK] = 1024,
};

static const char *const type_names[] = {
    [0] = "no",
    [RECORD_HELLO] = "HELLO",
    [RECORD_EPOCH_BEGIN] = "EPOCH_BEGIN",
    [RECORD_PAGES] = "PAGES",
    [RECORD_STATE] = "STATE",
    [RECORD_EPOCH_END] = "EPOCH_END",
    [RECORD_HEARTBEAT] = "HEARTBEAT",
    [RECORD_ACK] = "ACK",
    [RECORD_ERROR] = "ERROR",
    [RECORD_BYE] = "BYE",
    [RECORD_JOURNAL] = "JOURNAL",
    [RECORD_JOURNAL_ACK] = "JOURNAL_ACK",
};
static_assert(G_N_ELEMENTS(type_names) == RECORD_JOURNAL_ACK + 1, "a name per record type");
static_assert(G_N_ELEMENTS(length_max) == G_N_ELEMENTS(type_names), "a limit per record type");

const char *
record_type_name(uint16_t type)
{
    return type < G_N_ELEMENTS(type_names) ? type_names[type] : "unknown";
}

static void
put16(uint8_t *p, uint16_t v)
{
    v = GUINT16_TO_LE(v);
    memcpy(p, &v, sizeof v);
}

static void
put32(uint8_t *p, uint32_t v)
{
    v = GUINT32_TO_LE(v);
    memcpy(p, &v, sizeof v);
}

static void
put64(uint8_t *p, uint64_t v)
{
    v = GUINT64_TO_LE(v);
    memcpy(p, &v, sizeof v);
}

static uint16_t
get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return GUINT16_FROM_LE(v);
}

static uint32_t
get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return GUINT32_FROM_LE(v);
}

static uint64_t
get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return GUINT64_FROM_LE(v);
}

/* XXH3-64 of the header with its checksum field 0, then the payload. */
static uint64_t
record_checksum(const uint8_t raw[RECORD_HEADER_BYTES], const void *payload, uint32_t length)
{
    static const uint8_t no_checksum[sizeof(uint64_t)];
    XXH3_state_t state;

    XXH3_INITSTATE(&state);
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, raw, AT_CHECKSUM);
    XXH3_64bits_update(&state, no_checksum, sizeof no_checksum);
    if (length > 0)
        XXH3_64bits_update(&state, payload, length);
    return XXH3_64bits_digest(&state);
}

uint64_t
record_header_encode(uint8_t out[RECORD_HEADER_BYTES], RecordType type, uint64_t sequence,
                     uint64_t epoch, const void *payload, uint32_t length)
{
    uint64_t checksum;

    put32(out + AT_MAGIC, RECORD_MAGIC);
    put16(out + AT_TYPE, (uint16_t)type);
    put16(out + AT_FLAGS, 0);
    put32(out + AT_LENGTH, length);
    put32(out + AT_RESERVED, 0);
    put64(out + AT_SEQUENCE, sequence);
    put64(out + AT_EPOCH, epoch);
    checksum = record_checksum(out, payload, length);
    put64(out + AT_CHECKSUM, checksum);
    return checksum;
}

gboolean
record_header_decode(const uint8_t in[RECORD_HEADER_BYTES], RecordHeader *header, GError **error)
{
    uint16_t type = get16(in + AT_TYPE);
    uint32_t length = get32(in + AT_LENGTH);

    if (get32(in + AT_MAGIC) != RECORD_MAGIC) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN,
                    "not District's checkpoint format: no record starts here");
        return FALSE;
    }
    if (get16(in + AT_FLAGS) != 0 || get32(in + AT_RESERVED) != 0) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "damaged record: reserved header fields are not zero");
        return FALSE;
    }
    if (type >= G_N_ELEMENTS(length_max) || length_max[type] < 0) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "damaged record: there is no record type %u", type);
        return FALSE;
    }
    if (length > length_max[type]) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                    "%s record of %u bytes: at most %" G_GINT64_FORMAT " are allowed",
                    record_type_name(type), length, length_max[type]);
        return FALSE;
    }
    *header = (RecordHeader){
        .type = type,
        .length = length,
        .sequence = get64(in + AT_SEQUENCE),
        .epoch = get64(in + AT_EPOCH),
        .checksum = get64(in + AT_CHECKSUM),
    };
    return TRUE;
}

gboolean
record_verify(const uint8_t in[RECORD_HEADER_BYTES], const void *payload, GError **error)
{
    if (record_checksum(in, payload, get32(in + AT_LENGTH)) == get64(in + AT_CHECKSUM))
        return TRUE;
    g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                "damaged %s record %" G_GUINT64_FORMAT ": its checksum is wrong",
                record_type_name(get16(in + AT_TYPE)), get64(in + AT_SEQUENCE));
    return FALSE;
}

void
epoch_tally_start(EpochTally *tally)
{
    *tally = (EpochTally){.hash = XXH3_createState()};
    if (tally->hash == NULL)
        g_error("out of memory for an epoch tally");
    XXH3_64bits_reset(tally->hash);
}

void
epoch_tally_add(EpochTally *tally, const RecordHeader *header, uint32_t pages)
{
    uint64_t checksum = GUINT64_TO_LE(header->checksum);

    XXH3_64bits_update(tally->hash, &checksum, sizeof checksum);
    if (header->type == RECORD_PAGES) {
        tally->pages_records++;
        tally->pages += pages;
    }
    if (header->type == RECORD_PAGES || header->type == RECORD_STATE)
        tally->payload_bytes += header->length;
}

uint64_t
epoch_tally_checksum(const EpochTally *tally)
{
    return XXH3_64bits_digest(tally->hash);
}

void
epoch_tally_clear(EpochTally *tally)
{
    XXH3_freeState(tally->hash);
    *tally = (EpochTally){0};
}
