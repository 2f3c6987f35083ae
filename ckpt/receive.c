/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The receiving side's state machine: which record may follow which.
 *
 * Theory of operation. Each record is checked on its own (checksum), then in its place: the
 * sequence grows by one, the type is allowed in the present state, the epoch is the one begun. Only
 * then is its payload unpacked, checked, and given to the owner's callback. Nothing is verified as
 * a whole before EPOCH_END, whose counts and chained checksum must agree with what was seen; so the
 * owner stages everything and commits in end(). The first failure is final: what follows a bad
 * record can not be trusted to be in step.
 */
#include "ckpt/receive.h"

#include "ckpt/layout.h"

#include <string.h>

typedef enum {
    RECEIVE_HELLO,   /* nothing yet */
    RECEIVE_BETWEEN, /* HELLO seen, no epoch open */
    RECEIVE_PAGES,   /* in an epoch, before its STATE */
    RECEIVE_END,     /* STATE seen */
    RECEIVE_OVER,    /* BYE seen */
    RECEIVE_FAILED,
    RECEIVE_N_STATES,
} ReceiveState;

#define BIT(type) (1u << (type))
/* Once HELLO has been seen. */
#define ANY_TIME (BIT(RECORD_HEARTBEAT) | BIT(RECORD_JOURNAL) | BIT(RECORD_BYE) | BIT(RECORD_ERROR))

/* Record types allowed in each state. ERROR may come at any time. */
static const uint32_t allowed[RECEIVE_N_STATES] = {
    [RECEIVE_HELLO] = BIT(RECORD_HELLO) | BIT(RECORD_ERROR),
    [RECEIVE_BETWEEN] = BIT(RECORD_EPOCH_BEGIN) | ANY_TIME,
    [RECEIVE_PAGES] = BIT(RECORD_PAGES) | BIT(RECORD_STATE) | ANY_TIME,
    [RECEIVE_END] = BIT(RECORD_EPOCH_END) | ANY_TIME,
    [RECEIVE_OVER] = 0,
    [RECEIVE_FAILED] = 0,
};

static const char *const state_names[RECEIVE_N_STATES] = {
    [RECEIVE_HELLO] = "at the start",     [RECEIVE_BETWEEN] = "between epochs",
    [RECEIVE_PAGES] = "in an epoch",      [RECEIVE_END] = "after an epoch's STATE",
    [RECEIVE_OVER] = "after the goodbye", [RECEIVE_FAILED] = "after a failure",
};

struct Receiver {
    const ReceiverOps *ops;
    void *opaque;
    ReceiveState state;
    uint64_t sequence; /* of the next record */
    uint64_t last_epoch;
    uint64_t last_journal; /* its seq */
    uint32_t version;
    char *district;
    uint64_t incarnation;
    District__StreamEpochBegin *begin; /* of the open epoch */
    uint32_t n_images;
    uint64_t *n_pages_of; /* of each image */
    uint64_t *bytes_of;
    EpochTally tally;
    Decoder *decoder;
};

Receiver *
receiver_new(const ReceiverOps *ops, void *opaque)
{
    Receiver *receiver = g_new0(Receiver, 1);

    receiver->ops = ops;
    receiver->opaque = opaque;
    receiver->decoder = decoder_new();
    return receiver;
}

/* Forget the open epoch, if any. */
static void
close_epoch(Receiver *receiver)
{
    if (receiver->begin == NULL)
        return;
    district__stream_epoch_begin__free_unpacked(receiver->begin, NULL);
    receiver->begin = NULL;
    g_clear_pointer(&receiver->n_pages_of, g_free);
    g_clear_pointer(&receiver->bytes_of, g_free);
    epoch_tally_clear(&receiver->tally);
}

void
receiver_free(Receiver *receiver)
{
    if (receiver == NULL)
        return;
    close_epoch(receiver);
    decoder_free(receiver->decoder);
    g_free(receiver->district);
    g_free(receiver);
}

bool
receiver_in_epoch(const Receiver *receiver)
{
    return receiver->begin != NULL;
}

bool
receiver_over(const Receiver *receiver)
{
    return receiver->state == RECEIVE_OVER;
}

/* ---- One function per record type. Each leaves the next state set. ---- */

static bool
version_good(const Receiver *receiver, uint32_t version)
{
    if (receiver->ops->content != NULL)
        return version == STREAM_VERSION;
    return version == FILE_VERSION ||
           (version == FILE_VERSION_JOURNALS && receiver->ops->journal != NULL);
}

static gboolean
check_hello(const Receiver *receiver, const District__StreamHello *hello, GError **error)
{
    if (!version_good(receiver, hello->version)) {
        g_autofree char *software = g_strescape(hello->software, NULL);
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_FOREIGN,
                    "format version %u (written by %.64s), this program reads version %u: use the "
                    "same release on both sides",
                    hello->version, *software ? software : "an unnamed program",
                    receiver->ops->content != NULL ? STREAM_VERSION : FILE_VERSION);
        return FALSE;
    }
    if (!layout_name_good(hello->district))
        return format_damaged(error, "damaged HELLO: its district name is not one");
    return TRUE;
}

static gboolean
take_hello(Receiver *receiver, const RecordHeader *header, const uint8_t *payload, GError **error)
{
    ProtobufCMessage *message = layout_unpack(&district__stream_hello__descriptor, payload,
                                              header->length, "HELLO record", error);
    District__StreamHello *hello = (District__StreamHello *)message;
    gboolean good;

    if (message == NULL)
        return FALSE;
    good =
        check_hello(receiver, hello, error) && receiver->ops->hello(receiver->opaque, hello, error);
    if (good) {
        receiver->district = g_strdup(hello->district);
        receiver->incarnation = hello->incarnation;
        receiver->version = hello->version;
        receiver->state = RECEIVE_BETWEEN;
    }
    protobuf_c_message_free_unpacked(message, NULL);
    return good;
}

static gboolean
check_begin(const Receiver *receiver, const RecordHeader *header,
            const District__StreamEpochBegin *begin, GError **error)
{
    if (begin->epoch != header->epoch || begin->epoch <= receiver->last_epoch ||
        begin->epoch > EPOCH_NUMBER_MAX)
        return format_damaged(error,
                              "epoch %" G_GUINT64_FORMAT " cannot follow epoch %" G_GUINT64_FORMAT,
                              begin->epoch, receiver->last_epoch);
    if (!begin->full && (begin->base_epoch == 0 || begin->base_epoch >= begin->epoch ||
                         (receiver->last_epoch != 0 && begin->base_epoch != receiver->last_epoch)))
        return format_damaged(error,
                              "epoch %" G_GUINT64_FORMAT " builds on epoch %" G_GUINT64_FORMAT
                              ", the last one is %" G_GUINT64_FORMAT,
                              begin->epoch, begin->base_epoch, receiver->last_epoch);
    return layout_check_begin(begin, error);
}

static gboolean
take_begin(Receiver *receiver, const RecordHeader *header, const uint8_t *payload, GError **error)
{
    ProtobufCMessage *message = layout_unpack(&district__stream_epoch_begin__descriptor, payload,
                                              header->length, "EPOCH_BEGIN record", error);
    District__StreamEpochBegin *begin = (District__StreamEpochBegin *)message;

    if (message == NULL)
        return FALSE;
    if (!check_begin(receiver, header, begin, error) ||
        !receiver->ops->begin(receiver->opaque, begin, error)) {
        protobuf_c_message_free_unpacked(message, NULL);
        return FALSE;
    }
    receiver->begin = begin;
    receiver->n_images = layout_image_count(begin);
    receiver->n_pages_of = layout_image_pages(begin);
    receiver->bytes_of = layout_image_bytes(begin);
    epoch_tally_start(&receiver->tally);
    epoch_tally_add(&receiver->tally, header, 0);
    receiver->state = RECEIVE_PAGES;
    return TRUE;
}

/* A disk's last block is filled up with zeros: nothing that is not the disk's may come with it. */
static gboolean
check_filling(const Receiver *receiver, uint32_t image, const DecodedPage *pages, uint32_t count,
              GError **error)
{
    static const uint8_t zeros[PAGE_BYTES];
    size_t used = receiver->bytes_of[image] % PAGE_BYTES;
    uint64_t last = receiver->n_pages_of[image] - 1;
    g_autofree char *name = NULL;

    for (uint32_t i = 0; used != 0 && i < count; i++) {
        if (pages[i].index != last || pages[i].data == NULL ||
            memcmp(pages[i].data + used, zeros, PAGE_BYTES - used) == 0)
            continue;
        name = layout_image_name(receiver->begin, image);
        return format_damaged(error, "damaged PAGES record: %s has data beyond its end", name);
    }
    return TRUE;
}

static gboolean
take_pages(Receiver *receiver, const RecordHeader *header, const uint8_t *payload, GError **error)
{
    const DecodeInput input = {
        .n_pages_of = receiver->n_pages_of,
        .n_images = receiver->n_images,
        .n_ram = (uint32_t)receiver->begin->n_members,
        .content = receiver->ops->content,
        .opaque = receiver->opaque,
    };
    uint32_t image, count;
    const DecodedPage *pages =
        decoder_pages(receiver->decoder, payload, header->length, &input, &image, &count, error);

    if (pages == NULL)
        return FALSE;
    epoch_tally_add(&receiver->tally, header, count);
    return check_filling(receiver, image, pages, count, error) &&
           receiver->ops->pages(receiver->opaque, image, pages, count, error);
}

static gboolean
check_cut(const Receiver *receiver, const District__CutState *cut, GError **error)
{
    if (!layout_check_cut(cut, error) || !layout_check_match(receiver->begin, cut, error))
        return FALSE;
    if (strcmp(cut->district, receiver->district) != 0)
        return format_damaged(error, "the cut is of district %s in a stream of district %s",
                              cut->district, receiver->district);
    if (cut->incarnation != receiver->incarnation)
        return format_damaged(error,
                              "the cut is of incarnation %" G_GUINT64_FORMAT
                              " in a stream of incarnation %" G_GUINT64_FORMAT,
                              cut->incarnation, receiver->incarnation);
    return TRUE;
}

static gboolean
take_state(Receiver *receiver, const RecordHeader *header, const uint8_t *payload, GError **error)
{
    g_autoptr(GByteArray) packed = state_decompress(payload, header->length, error);
    ProtobufCMessage *message;
    gboolean good;

    if (packed == NULL)
        return FALSE;
    message = layout_unpack(&district__cut_state__descriptor, packed->data, packed->len,
                            "STATE record", error);
    if (message == NULL)
        return FALSE;
    good = check_cut(receiver, (District__CutState *)message, error) &&
           receiver->ops->state(receiver->opaque, packed->data, packed->len,
                                (District__CutState *)message, error);
    protobuf_c_message_free_unpacked(message, NULL);
    epoch_tally_add(&receiver->tally, header, 0);
    receiver->state = RECEIVE_END;
    return good;
}

static gboolean
check_end(const Receiver *receiver, const District__StreamEpochEnd *end, GError **error)
{
    const EpochTally *tally = &receiver->tally;

    if (end->epoch != receiver->begin->epoch || end->pages_records != tally->pages_records ||
        end->pages != tally->pages || end->payload_bytes != tally->payload_bytes)
        return format_damaged(error,
                              "epoch %" G_GUINT64_FORMAT
                              " is not complete: its end counts %" G_GUINT64_FORMAT
                              " pages, %" G_GUINT64_FORMAT " arrived",
                              receiver->begin->epoch, end->pages, tally->pages);
    if (end->checksum != epoch_tally_checksum(tally))
        return format_damaged(error,
                              "epoch %" G_GUINT64_FORMAT ": the checksum over its records is wrong",
                              receiver->begin->epoch);
    return TRUE;
}

static gboolean
take_end(Receiver *receiver, const RecordHeader *header, const uint8_t *payload, GError **error)
{
    ProtobufCMessage *message = layout_unpack(&district__stream_epoch_end__descriptor, payload,
                                              header->length, "EPOCH_END record", error);
    uint64_t epoch = receiver->begin->epoch;
    gboolean good;

    if (message == NULL)
        return FALSE;
    good = check_end(receiver, (District__StreamEpochEnd *)message, error);
    protobuf_c_message_free_unpacked(message, NULL);
    if (!good)
        return FALSE;
    close_epoch(receiver);
    receiver->last_epoch = epoch;
    receiver->state = RECEIVE_BETWEEN;
    return receiver->ops->end(receiver->opaque, epoch, error);
}

static gboolean
take_journal(Receiver *receiver, const RecordHeader *header, const uint8_t *payload, GError **error)
{
    ProtobufCMessage *message = layout_unpack(&district__stream_journal__descriptor, payload,
                                              header->length, "JOURNAL record", error);
    District__StreamJournal *record = (District__StreamJournal *)message;
    gboolean good;

    if (message == NULL)
        return FALSE;
    if (receiver->ops->journal == NULL || receiver->version == FILE_VERSION)
        good = format_damaged(error, "JOURNAL record: a journal is in no file of this version");
    else if (record->seq != receiver->last_journal + 1 || header->epoch != 0)
        good = format_damaged(error,
                              "JOURNAL record number %" G_GUINT64_FORMAT
                              " cannot follow number %" G_GUINT64_FORMAT,
                              record->seq, receiver->last_journal);
    else
        good = layout_check_journal(record, error) &&
               receiver->ops->journal(receiver->opaque, record, error);
    receiver->last_journal++;
    protobuf_c_message_free_unpacked(message, NULL);
    return good;
}

static gboolean
take_error(const RecordHeader *header, const uint8_t *payload, GError **error)
{
    ProtobufCMessage *message = layout_unpack(&district__stream_error__descriptor, payload,
                                              header->length, "ERROR record", error);
    g_autofree char *text = NULL;

    if (message == NULL)
        return FALSE;
    text = g_strescape(((District__StreamError *)message)->text, NULL);
    protobuf_c_message_free_unpacked(message, NULL);
    return format_damaged(error, "the peer gave up: %.512s", text);
}

/* ---- All records ---- */

static gboolean
check_place(const Receiver *receiver, const RecordHeader *header, GError **error)
{
    if (header->sequence != receiver->sequence)
        return format_damaged(error,
                              "%s record %" G_GUINT64_FORMAT " where record %" G_GUINT64_FORMAT
                              " was due: records are lost or repeated",
                              record_type_name(header->type), header->sequence, receiver->sequence);
    if (!(allowed[receiver->state] & BIT(header->type)))
        return format_damaged(error, "%s record %s: out of order", record_type_name(header->type),
                              state_names[receiver->state]);
    if (receiver->begin != NULL && header->type <= RECORD_EPOCH_END &&
        header->epoch != receiver->begin->epoch)
        return format_damaged(
            error, "%s record of epoch %" G_GUINT64_FORMAT " inside epoch %" G_GUINT64_FORMAT,
            record_type_name(header->type), header->epoch, receiver->begin->epoch);
    return TRUE;
}

static gboolean
take_record(Receiver *receiver, const uint8_t raw_header[RECORD_HEADER_BYTES],
            const uint8_t *payload, GError **error)
{
    RecordHeader header;

    if (!record_header_decode(raw_header, &header, error) ||
        !record_verify(raw_header, payload, error) || !check_place(receiver, &header, error))
        return FALSE;
    receiver->sequence++;
    switch ((RecordType)header.type) {
    case RECORD_HELLO:
        return take_hello(receiver, &header, payload, error);
    case RECORD_EPOCH_BEGIN:
        return take_begin(receiver, &header, payload, error);
    case RECORD_PAGES:
        return take_pages(receiver, &header, payload, error);
    case RECORD_STATE:
        return take_state(receiver, &header, payload, error);
    case RECORD_EPOCH_END:
        return take_end(receiver, &header, payload, error);
    case RECORD_ERROR:
        return take_error(&header, payload, error);
    case RECORD_BYE:
        close_epoch(receiver);
        receiver->state = RECEIVE_OVER;
        return TRUE;
    case RECORD_HEARTBEAT:
        return TRUE;
    case RECORD_JOURNAL:
        return take_journal(receiver, &header, payload, error);
    case RECORD_ACK: /* never allowed in this direction: check_place has refused them */
    case RECORD_JOURNAL_ACK:
        break;
    }
    return format_damaged(error, "unexpected record type %u", header.type);
}

gboolean
receiver_record(Receiver *receiver, const uint8_t raw_header[RECORD_HEADER_BYTES],
                const uint8_t *payload, GError **error)
{
    if (receiver->state == RECEIVE_FAILED)
        return format_damaged(error, "an earlier record was refused");
    if (take_record(receiver, raw_header, payload, error))
        return TRUE;
    close_epoch(receiver);
    receiver->state = RECEIVE_FAILED;
    return FALSE;
}
