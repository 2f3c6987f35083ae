/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Record framing: headers, checksums, tallies. */
#include "ckpt/format.h"

#include <string.h>

static const char text[] = "payload";

static void
test_round_trip(void)
{
    uint8_t raw[RECORD_HEADER_BYTES];
    RecordHeader header;
    g_autoptr(GError) error = NULL;
    uint64_t checksum = record_header_encode(raw, RECORD_STATE, 7, 9, text, sizeof text);

    g_assert_true(record_header_decode(raw, &header, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(header.type, ==, RECORD_STATE);
    g_assert_cmpuint(header.length, ==, sizeof text);
    g_assert_cmpuint(header.sequence, ==, 7);
    g_assert_cmpuint(header.epoch, ==, 9);
    g_assert_cmpuint(header.checksum, ==, checksum);
    g_assert_true(record_verify(raw, text, &error));
}

static void
test_header_is_as_documented(void)
{
    static const uint8_t expected[32] = {
        'D',  'S',  'T', 'R', 3, 0, 0, 0, 2,    0,    0, 0, 0, 0, 0, 0,
        0x08, 0x07, 0,   0,   0, 0, 0, 0, 0x0a, 0x09, 0, 0, 0, 0, 0, 0,
    };
    uint8_t raw[RECORD_HEADER_BYTES];

    record_header_encode(raw, RECORD_PAGES, 0x0708, 0x090a, "xy", 2);
    g_assert_cmpmem(raw, sizeof expected, expected, sizeof expected);
}

static void
test_every_bit_of_a_record_counts(void)
{
    uint8_t raw[RECORD_HEADER_BYTES + sizeof text];

    record_header_encode(raw, RECORD_STATE, 7, 9, text, sizeof text);
    memcpy(raw + RECORD_HEADER_BYTES, text, sizeof text);
    for (size_t bit = 0; bit < sizeof raw * 8; bit++) {
        g_autoptr(GError) error = NULL;
        RecordHeader header;

        raw[bit / 8] ^= (uint8_t)(1u << bit % 8);
        /* A changed length is followed by as much as there is: a reader would have read it. */
        if (record_header_decode(raw, &header, &error) && header.length == sizeof text)
            g_assert_false(record_verify(raw, raw + RECORD_HEADER_BYTES, &error));
        if (error == NULL)
            g_assert_cmpuint(header.length, !=, sizeof text);
        raw[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void
test_foreign_magic(void)
{
    static const uint8_t elf[RECORD_HEADER_BYTES] = "\177ELF";
    RecordHeader header;
    g_autoptr(GError) error = NULL;

    g_assert_false(record_header_decode(elf, &header, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN);
}

static void
test_limits(void)
{
    static const struct {
        RecordType type;
        uint32_t length;
    } cases[] = {
        {RECORD_STATE, RECORD_LENGTH_MAX + 1},
        {RECORD_STATE, UINT32_MAX},
        {RECORD_HEARTBEAT, 1},
        {RECORD_BYE, 1},
        {RECORD_PAGES, 2 * 1024 * 1024 + 1},
        {RECORD_ACK, 1025},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint8_t raw[RECORD_HEADER_BYTES];
        uint32_t length = GUINT32_TO_LE(cases[i].length);
        RecordHeader header;
        g_autoptr(GError) error = NULL;

        record_header_encode(raw, cases[i].type, 0, 0, NULL, 0);
        memcpy(raw + 8, &length, sizeof length);
        g_assert_false(record_header_decode(raw, &header, &error));
        g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT);
    }
}

static void
test_unknown_types(void)
{
    for (unsigned type = 0; type < 0x10000; type++) {
        uint8_t raw[RECORD_HEADER_BYTES];
        RecordHeader header;
        g_autoptr(GError) error = NULL;
        bool known = type >= RECORD_HELLO && type <= RECORD_JOURNAL_ACK;

        record_header_encode(raw, (RecordType)type, 0, 0, NULL, 0);
        g_assert_cmpint(record_header_decode(raw, &header, &error), ==, known);
        if (!known)
            g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    }
}

static uint64_t
tally_of(const uint64_t *checksums, size_t n)
{
    EpochTally tally;
    uint64_t result;

    epoch_tally_start(&tally);
    for (size_t i = 0; i < n; i++) {
        RecordHeader header = {.type = RECORD_PAGES, .length = 10, .checksum = checksums[i]};
        epoch_tally_add(&tally, &header, 3);
    }
    g_assert_cmpuint(tally.pages_records, ==, n);
    g_assert_cmpuint(tally.pages, ==, 3 * n);
    g_assert_cmpuint(tally.payload_bytes, ==, 10 * n);
    result = epoch_tally_checksum(&tally);
    epoch_tally_clear(&tally);
    return result;
}

static void
test_tally_knows_the_order(void)
{
    static const uint64_t there[] = {1, 2}, back[] = {2, 1};

    g_assert_cmpuint(tally_of(there, 2), ==, tally_of(there, 2));
    g_assert_cmpuint(tally_of(there, 2), !=, tally_of(back, 2));
    g_assert_cmpuint(tally_of(there, 2), !=, tally_of(there, 1));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/format/a record comes back as it was", test_round_trip);
    g_test_add_func("/format/a header has its documented bytes", test_header_is_as_documented);
    g_test_add_func("/format/every bit of a record is guarded", test_every_bit_of_a_record_counts);
    g_test_add_func("/format/another file's magic is foreign", test_foreign_magic);
    g_test_add_func("/format/a length above its type's limit is refused", test_limits);
    g_test_add_func("/format/only the known record types are accepted", test_unknown_types);
    g_test_add_func("/format/a tally knows the order of records", test_tally_knows_the_order);
    return g_test_run();
}
