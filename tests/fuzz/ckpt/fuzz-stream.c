/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes as the records of a stream. Checksums, sequence, epoch numbers and tally are put right on
 * the way, or the fuzzer would never get beyond them: what is left is what a hostile primary could
 * send.
 *
 *   input = (type byte | length 2 bytes | payload)*
 */
#include "ckpt/layout.h"
#include "ckpt/receive.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Taken {
    uint32_t n_images; /* of the last epoch begun */
    uint64_t *n_pages_of;
    uint8_t sum;
} Taken;

static gboolean
take_hello(void *opaque, const District__StreamHello *hello, GError **error)
{
    return TRUE;
}

/* More RAM than the test machine has is the owner's business, not the receiver's. */
static gboolean
take_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    Taken *taken = opaque;

    g_free(taken->n_pages_of);
    taken->n_images = layout_image_count(begin);
    taken->n_pages_of = layout_image_pages(begin);
    for (uint32_t i = 0; i <= taken->n_images; i++)
        g_free(layout_image_name(begin, i));
    return TRUE;
}

static gboolean
take_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    Taken *taken = opaque;
    uint8_t *sum = &taken->sum;

    if (image >= taken->n_images)
        g_error("an image that does not exist was let through");
    for (uint32_t i = 0; i < count; i++) {
        if (pages[i].index >= taken->n_pages_of[image])
            g_error("a page out of range was let through");
        for (size_t at = 0; pages[i].data != NULL && at < PAGE_BYTES; at += 64)
            *sum ^= pages[i].data[at];
    }
    return TRUE;
}

static gboolean
take_state(void *opaque, const uint8_t *packed, size_t len, const District__CutState *state,
           GError **error)
{
    ((Taken *)opaque)->sum ^= packed[len - 1];
    return layout_check_cut(state, error);
}

static gboolean
take_end(void *opaque, uint64_t epoch, GError **error)
{
    return TRUE;
}

static gboolean
take_journal(void *opaque, const District__StreamJournal *record, GError **error)
{
    Taken *taken = opaque;

    if (record->offset > JOURNAL_BYTES_MAX - record->data.len)
        g_error("a range beyond every journal was let through");
    for (size_t at = 0; at < record->data.len; at += 64)
        taken->sum ^= record->data.data[at];
    return TRUE;
}

/* Every page is held with the same content. */
static const uint8_t *
take_content(void *opaque, uint32_t image, uint64_t page)
{
    static const uint8_t held[PAGE_BYTES];
    Taken *taken = opaque;

    if (image >= taken->n_images || page >= taken->n_pages_of[image])
        g_error("a page is asked for that there is not");
    return held;
}

static const ReceiverOps ops = {take_hello, take_begin,   take_pages,  take_state,
                                take_end,   take_journal, take_content};

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Taken taken = {0};
    Receiver *receiver = receiver_new(&ops, &taken);
    uint64_t sequence = 0, epoch = 0;
    gboolean good = TRUE;

    while (good && size >= 3) {
        RecordType type = (RecordType)(data[0] % (RECORD_BYE + 2));
        uint32_t length = (uint32_t)MIN((size_t)data[1] | (size_t)data[2] << 8, size - 3);
        g_autofree uint8_t *payload = length > 0 ? g_memdup2(data + 3, length) : g_malloc(1);
        uint8_t raw[RECORD_HEADER_BYTES];
        g_autoptr(GError) error = NULL;

        if (type == RECORD_EPOCH_BEGIN)
            epoch = length > 1 ? payload[1] : 0; /* what "epoch = n" as first field packs to */
        record_header_encode(raw, type, sequence++, epoch, payload, length);
        good = receiver_record(receiver, raw, payload, &error);
        if (good == (error != NULL))
            g_error("a result and an error do not agree");
        data += 3 + length;
        size -= 3 + length;
    }
    receiver_free(receiver);
    g_free(taken.n_pages_of);
    return 0;
}
