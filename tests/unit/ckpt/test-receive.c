/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The order of records, and everything that breaks it. */
#include "writer.h"

#include "ckpt/receive.h"

#include <string.h>

/* What the receiver has passed on. */
typedef struct Seen {
    unsigned hellos, begins, pages, states, ends, journals;
    uint32_t last_image;
    uint64_t last_end;
} Seen;

static gboolean
seen_hello(void *opaque, const District__StreamHello *hello, GError **error)
{
    ((Seen *)opaque)->hellos++;
    return TRUE;
}

static gboolean
seen_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    ((Seen *)opaque)->begins++;
    return TRUE;
}

static gboolean
seen_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    ((Seen *)opaque)->last_image = image;
    ((Seen *)opaque)->pages += count;
    return TRUE;
}

static gboolean
seen_state(void *opaque, const uint8_t *packed, size_t len, const District__CutState *state,
           GError **error)
{
    ((Seen *)opaque)->states++;
    return TRUE;
}

static gboolean
seen_end(void *opaque, uint64_t epoch, GError **error)
{
    ((Seen *)opaque)->ends++;
    ((Seen *)opaque)->last_end = epoch;
    return TRUE;
}

static gboolean
seen_journal(void *opaque, const District__StreamJournal *record, GError **error)
{
    ((Seen *)opaque)->journals++;
    return TRUE;
}

static const ReceiverOps ops = {seen_hello, seen_begin,   seen_pages, seen_state,
                                seen_end,   seen_journal, NULL};

/* Feed len bytes as a reader of a stream would; TRUE if all were taken. */
static gboolean
feed(const uint8_t *data, size_t len, Seen *seen, GError **error)
{
    Receiver *receiver = receiver_new(&ops, seen);
    gboolean good = TRUE;
    size_t at = 0;

    *seen = (Seen){0};
    while (good && at < len) {
        RecordHeader header;

        if (len - at < RECORD_HEADER_BYTES)
            break;
        good = record_header_decode(data + at, &header, error);
        if (!good || len - at - RECORD_HEADER_BYTES < header.length)
            break;
        good = receiver_record(receiver, data + at, data + at + RECORD_HEADER_BYTES, error);
        at += RECORD_HEADER_BYTES + header.length;
    }
    good = good && at == len && !receiver_in_epoch(receiver);
    receiver_free(receiver);
    return good;
}

static void
assert_refused(Writer *writer, unsigned ends)
{
    g_autoptr(GError) error = NULL;
    Seen seen;

    g_assert_false(feed(writer->out->data, writer->out->len, &seen, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED);
    g_assert_cmpuint(seen.ends, ==, ends);
}

static void
test_good_stream(void)
{
    g_autoptr(GError) error = NULL;
    Writer writer;
    Seen seen;

    writer_init(&writer, 2, 16);
    writer_hello(&writer);
    writer_epoch(&writer, 5, 0, 0, 16, 1);
    writer_record(&writer, RECORD_HEARTBEAT, 0, NULL, 0, 0);
    writer_epoch(&writer, 6, 5, 3, 2, 2);
    writer_record(&writer, RECORD_BYE, 0, NULL, 0, 0);
    g_assert_true(feed(writer.out->data, writer.out->len, &seen, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(seen.hellos, ==, 1);
    g_assert_cmpuint(seen.begins, ==, 2);
    g_assert_cmpuint(seen.pages, ==, 2 * 16 + 2 * 2);
    g_assert_cmpuint(seen.states, ==, 2);
    g_assert_cmpuint(seen.last_end, ==, 6);
    writer_clear(&writer);
}

static void
test_every_bit(void)
{
    Writer writer;
    Seen seen;

    writer_init(&writer, 1, 4);
    writer_hello(&writer);
    writer_epoch(&writer, 1, 0, 0, 2, 7);
    for (size_t bit = 0; bit < (size_t)writer.out->len * 8; bit++) {
        g_autoptr(GError) error = NULL;

        writer.out->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        g_assert_false(feed(writer.out->data, writer.out->len, &seen, &error));
        g_assert_cmpuint(seen.ends, ==, 0);
        writer.out->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    writer_clear(&writer);
}

static void
test_every_length(void)
{
    Writer writer;
    Seen seen;

    writer_init(&writer, 1, 4);
    writer_hello(&writer);
    writer_epoch(&writer, 1, 0, 0, 2, 7);
    for (size_t len = 0; len < writer.out->len; len++) {
        g_autofree uint8_t *cut = g_memdup2(writer.out->data, len);

        feed(cut, len, &seen, NULL);
        g_assert_cmpuint(seen.ends, ==, 0);
    }
    writer_clear(&writer);
}

/* Drop, repeat or swap whole records, renumbered so that only order and tally can tell. */
static void
test_records_moved(void)
{
    Writer writer;

    /* A PAGES record counted in the tally but not sent. */
    writer_init(&writer, 1, 8);
    writer_hello(&writer);
    writer_begin(&writer, 1, 0);
    writer_page(&writer, 0, 0, 1);
    g_byte_array_set_size(writer.out, (guint)g_array_index(writer.starts, size_t, 2));
    writer.sequence--;
    writer_state(&writer);
    writer_end(&writer);
    assert_refused(&writer, 0);
    writer_clear(&writer);

    /* One sent but not counted. */
    writer_init(&writer, 1, 8);
    writer_hello(&writer);
    writer_begin(&writer, 1, 0);
    writer.tallying = false;
    writer_page(&writer, 0, 0, 1);
    writer.tallying = true;
    writer_state(&writer);
    writer_end(&writer);
    assert_refused(&writer, 0);
    writer_clear(&writer);
}

typedef void (*Deed)(Writer *writer);

static void
deed_begin_first(Writer *w)
{
    writer_begin(w, 1, 0);
}

static void
deed_pages_first(Writer *w)
{
    writer_hello(w);
    writer_page(w, 0, 0, 1);
}

static void
deed_two_hellos(Writer *w)
{
    writer_hello(w);
    writer_hello(w);
}

static void
deed_two_begins(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    writer_begin(w, 1, 0);
}

static void
deed_two_states(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    writer_state(w);
    writer_state(w);
}

static void
deed_pages_after_state(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    writer_state(w);
    writer_page(w, 0, 0, 1);
}

static void
deed_end_without_state(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    writer_end(w);
}

static void
deed_ack(Writer *w)
{
    writer_hello(w);
    writer_record(w, RECORD_ACK, 0, NULL, 0, 0);
}

static void
deed_epoch_zero(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 0, 0);
}

static void
deed_epoch_too_big(Writer *w)
{
    writer_hello(w);
    writer_begin(w, EPOCH_NUMBER_MAX + 1, 0);
}

static void
deed_base_in_future(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 4, 4);
}

static void
deed_other_epochs_pages(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    w->epoch = 2;
    writer_page(w, 0, 0, 1);
}

static void
deed_other_epochs_state(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    w->n_members = 2;
    writer_state(w);
}

static void
deed_other_incarnations_state(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    w->incarnation++;
    writer_state(w);
}

static void
deed_other_districts_state(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    w->district = "other";
    writer_state(w);
}

static void
deed_other_layout(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    w->ram_pages++;
    writer_state(w);
}

static void
deed_page_out_of_range(Writer *w)
{
    writer_hello(w);
    writer_begin(w, 1, 0);
    writer_page(w, 0, w->ram_pages, 1);
}

static void
deed_block_out_of_range(Writer *w)
{
    writer_add_disk(w, 0, 9 * PAGE_BYTES + SECTOR_BYTES);
    writer_hello(w);
    writer_begin(w, 1, 0);
    writer_page(w, writer_disk_image(w, 0, 0), 10, 0);
}

static void
deed_no_such_image(Writer *w)
{
    writer_add_disk(w, 0, 9 * PAGE_BYTES);
    writer_hello(w);
    writer_begin(w, 1, 0);
    writer_page(w, 2, 0, 1);
}

static void
deed_data_beyond_disk(Writer *w)
{
    writer_add_disk(w, 0, 9 * PAGE_BYTES + SECTOR_BYTES);
    writer_hello(w);
    writer_begin(w, 1, 0);
    writer_page(w, writer_disk_image(w, 0, 0), 9, 1);
}

static void
deed_disk_too_big(Writer *w)
{
    writer_add_disk(w, 0, DISK_BYTES_MAX + SECTOR_BYTES);
    writer_hello(w);
    writer_begin(w, 1, 0);
}

static void
deed_fewer_disks_in_state(Writer *w)
{
    writer_add_disk(w, 0, PAGE_BYTES);
    writer_hello(w);
    writer_begin(w, 1, 0);
    w->n_disks[0]--;
    writer_state(w);
}

static void
deed_other_disk_in_state(Writer *w)
{
    writer_add_disk(w, 0, PAGE_BYTES);
    writer_hello(w);
    writer_begin(w, 1, 0);
    w->disk_bytes[0][0] += SECTOR_BYTES;
    writer_state(w);
}

static void
deed_sequence_gap(Writer *w)
{
    writer_hello(w);
    w->sequence++;
    writer_begin(w, 1, 0);
}

static void
deed_bad_name(Writer *w)
{
    w->district = "../etc";
    writer_hello(w);
}

static void
deed_ram_too_big(Writer *w)
{
    w->ram_pages = RAM_BYTES_MAX / PAGE_BYTES + 1;
    writer_hello(w);
    writer_begin(w, 1, 0);
}

static void
deed_after_bye(Writer *w)
{
    writer_hello(w);
    writer_record(w, RECORD_BYE, 0, NULL, 0, 0);
    writer_record(w, RECORD_HEARTBEAT, 0, NULL, 0, 0);
}

static void
test_deed(gconstpointer data)
{
    Writer writer;

    writer_init(&writer, 1, 8);
    (*(const Deed *)data)(&writer);
    assert_refused(&writer, 0);
    writer_clear(&writer);
}

static void
test_epochs_only_grow(void)
{
    Writer writer;

    writer_init(&writer, 1, 8);
    writer_hello(&writer);
    writer_epoch(&writer, 7, 0, 0, 1, 1);
    writer_epoch(&writer, 7, 0, 0, 1, 1);
    assert_refused(&writer, 1);
    writer_clear(&writer);

    writer_init(&writer, 1, 8);
    writer_hello(&writer);
    writer_epoch(&writer, 7, 0, 0, 1, 1);
    writer_epoch(&writer, 9, 6, 0, 1, 1);
    assert_refused(&writer, 1);
    writer_clear(&writer);
}

static void
test_version(void)
{
    g_autoptr(GError) error = NULL;
    Writer writer;
    Seen seen;

    writer_init(&writer, 1, 8);
    writer.version = FILE_VERSION + 1;
    writer_hello(&writer);
    g_assert_false(feed(writer.out->data, writer.out->len, &seen, &error));
    g_assert_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN);
    g_assert_nonnull(strstr(error->message, "version 3"));
    writer_clear(&writer);
}

/* A JOURNAL record of one sector of member db. */
static void
write_journal(Writer *writer, uint64_t seq, uint64_t offset)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;
    uint8_t sector[SECTOR_BYTES] = {7};

    record.seq = seq;
    record.kind = DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA;
    record.member = (char *)"db";
    record.offset = offset;
    record.data.data = sector;
    record.data.len = sizeof sector;
    writer_message(writer, RECORD_JOURNAL, 0, &record.base);
}

static void
test_journal_anywhere(void)
{
    g_autoptr(GError) error = NULL;
    Writer writer;
    Seen seen;

    writer_init(&writer, 1, 8);
    writer.version = FILE_VERSION_JOURNALS;
    writer_hello(&writer);
    write_journal(&writer, 1, 0);
    writer_begin(&writer, 1, 0);
    write_journal(&writer, 2, 512);
    writer_page(&writer, 0, 3, 1);
    write_journal(&writer, 3, 0);
    writer_state(&writer);
    write_journal(&writer, 4, 0);
    writer_end(&writer);
    write_journal(&writer, 5, 0);
    g_assert_true(feed(writer.out->data, writer.out->len, &seen, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(seen.journals, ==, 5);
    g_assert_cmpuint(seen.ends, ==, 1);
    writer_clear(&writer);
}

static void
test_journal_order(void)
{
    static const uint64_t seqs[][2] = {{2, 3}, {1, 3}, {1, 1}, {0, 1}};

    for (size_t i = 0; i < G_N_ELEMENTS(seqs); i++) {
        Writer writer;

        writer_init(&writer, 1, 8);
        writer.version = FILE_VERSION_JOURNALS;
        writer_hello(&writer);
        write_journal(&writer, seqs[i][0], 0);
        write_journal(&writer, seqs[i][1], 0);
        assert_refused(&writer, 0);
        writer_clear(&writer);
    }
}

static void
test_journal_before_hello(void)
{
    Writer writer;

    writer_init(&writer, 1, 8);
    write_journal(&writer, 1, 0);
    assert_refused(&writer, 0);
    writer_clear(&writer);
}

/* Two members; the first has disks of one and of three and a half blocks, the second one of two. */
static void
test_image_order(void)
{
    static const uint64_t pages[] = {8, 8, 1, 4, 2};

    for (uint32_t image = 0; image < G_N_ELEMENTS(pages); image++) {
        for (uint64_t beyond = 0; beyond < 2; beyond++) {
            g_autoptr(GError) error = NULL;
            Writer writer;
            Seen seen;

            writer_init(&writer, 2, 8);
            writer_add_disk(&writer, 0, PAGE_BYTES);
            writer_add_disk(&writer, 0, 3 * PAGE_BYTES + 4 * SECTOR_BYTES);
            writer_add_disk(&writer, 1, 2 * PAGE_BYTES);
            writer_hello(&writer);
            writer_begin(&writer, 1, 0);
            writer_page(&writer, image, pages[image] - 1 + beyond, 0);
            writer_state(&writer);
            writer_end(&writer);
            g_assert_cmpint(feed(writer.out->data, writer.out->len, &seen, &error), ==, !beyond);
            g_assert_cmpuint(seen.ends, ==, !beyond);
            if (!beyond)
                g_assert_cmpuint(seen.last_image, ==, image);
            writer_clear(&writer);
        }
    }
}

static void
test_last_block(void)
{
    uint8_t block[PAGE_BYTES] = {0};
    PageRef ref = {2, block};
    g_autoptr(GError) error = NULL;
    Writer writer;
    Seen seen;

    memset(block, 0x11, SECTOR_BYTES);
    writer_init(&writer, 1, 8);
    writer_add_disk(&writer, 0, 2 * PAGE_BYTES + SECTOR_BYTES);
    writer_hello(&writer);
    writer_begin(&writer, 1, 0);
    writer_pages(&writer, 1, &ref, 1);
    writer_state(&writer);
    writer_end(&writer);
    g_assert_true(feed(writer.out->data, writer.out->len, &seen, &error));
    g_assert_no_error(error);
    writer_clear(&writer);
}

static void
test_peer_error_is_told(void)
{
    District__StreamError said = DISTRICT__STREAM_ERROR__INIT;
    g_autoptr(GError) error = NULL;
    Writer writer;
    Seen seen;

    writer_init(&writer, 1, 8);
    writer_hello(&writer);
    said.text = (char *)"no more disk\n";
    writer_message(&writer, RECORD_ERROR, 0, &said.base);
    g_assert_false(feed(writer.out->data, writer.out->len, &seen, &error));
    g_assert_nonnull(strstr(error->message, "no more disk\\n"));
    writer_clear(&writer);
}

/* A few bytes must not make a lot of memory: 300,000 empty members in one small record. */
static void
test_many_empty_members(void)
{
    g_autofree uint8_t *payload = g_malloc(600000);
    g_autoptr(GError) error = NULL;
    Writer writer;
    Seen seen;

    for (size_t i = 0; i < 600000; i += 2) {
        payload[i] = 4 << 3 | 2; /* field 4, length-delimited */
        payload[i + 1] = 0;
    }
    writer_init(&writer, 1, 8);
    writer_hello(&writer);
    writer_record(&writer, RECORD_EPOCH_BEGIN, 1, payload, 600000, 0);
    g_assert_false(feed(writer.out->data, writer.out->len, &seen, &error));
    g_assert_nonnull(error);
    writer_clear(&writer);
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *path;
        Deed deed;
    } deeds[] = {
        {"/receiver/refuses an epoch before HELLO", deed_begin_first},
        {"/receiver/refuses pages outside an epoch", deed_pages_first},
        {"/receiver/refuses a second HELLO", deed_two_hellos},
        {"/receiver/refuses an epoch within an epoch", deed_two_begins},
        {"/receiver/refuses a second STATE", deed_two_states},
        {"/receiver/refuses pages after STATE", deed_pages_after_state},
        {"/receiver/refuses an epoch without STATE", deed_end_without_state},
        {"/receiver/refuses an ACK from the primary", deed_ack},
        {"/receiver/refuses epoch 0", deed_epoch_zero},
        {"/receiver/refuses an epoch number that cannot be shifted", deed_epoch_too_big},
        {"/receiver/refuses an epoch that builds on itself", deed_base_in_future},
        {"/receiver/refuses another epoch's pages", deed_other_epochs_pages},
        {"/receiver/refuses a STATE of other members", deed_other_epochs_state},
        {"/receiver/refuses another incarnation's STATE", deed_other_incarnations_state},
        {"/receiver/refuses another district's STATE", deed_other_districts_state},
        {"/receiver/refuses a STATE of another RAM size", deed_other_layout},
        {"/receiver/refuses a page beyond the RAM", deed_page_out_of_range},
        {"/receiver/refuses a block beyond the disk", deed_block_out_of_range},
        {"/receiver/refuses an image that does not exist", deed_no_such_image},
        {"/receiver/refuses data beyond the end of a disk", deed_data_beyond_disk},
        {"/receiver/refuses a disk of an impossible size", deed_disk_too_big},
        {"/receiver/refuses a STATE that lacks a disk", deed_fewer_disks_in_state},
        {"/receiver/refuses a STATE of another disk size", deed_other_disk_in_state},
        {"/receiver/refuses a gap in the sequence", deed_sequence_gap},
        {"/receiver/refuses a district name that is a path", deed_bad_name},
        {"/receiver/refuses more RAM than allowed", deed_ram_too_big},
        {"/receiver/refuses anything after BYE", deed_after_bye},
    };

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/receiver/takes a good stream", test_good_stream);
    g_test_add_func("/receiver/one flipped bit anywhere and nothing commits", test_every_bit);
    g_test_add_func("/receiver/cut off anywhere and nothing commits", test_every_length);
    g_test_add_func("/receiver/missing and added records are noticed", test_records_moved);
    g_test_add_func("/receiver/epochs only grow and build on the last", test_epochs_only_grow);
    g_test_add_func("/receiver/another version is refused by name", test_version);
    g_test_add_func("/receiver/a JOURNAL record may be between any two", test_journal_anywhere);
    g_test_add_func("/receiver/JOURNAL records out of order are refused", test_journal_order);
    g_test_add_func("/receiver/a JOURNAL record before HELLO is refused",
                    test_journal_before_hello);
    g_test_add_func("/receiver/images are all RAM, then the disks of each member",
                    test_image_order);
    g_test_add_func("/receiver/the last block of a disk may be partly used", test_last_block);
    g_test_add_func("/receiver/the peer's own error is passed on in one line",
                    test_peer_error_is_told);
    g_test_add_func("/receiver/a small message cannot take much memory", test_many_empty_members);
    for (size_t i = 0; i < G_N_ELEMENTS(deeds); i++)
        g_test_add_data_func(deeds[i].path, &deeds[i].deed, test_deed);
    return g_test_run();
}
