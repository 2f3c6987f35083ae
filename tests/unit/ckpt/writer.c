/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes valid checkpoint streams into memory. */
#include "writer.h"

#include <string.h>

static char *const member_names[WRITER_MEMBERS_MAX] = {
    (char *)"db",
    (char *)"web",
    (char *)"cache",
    (char *)"log",
};

void
writer_init(Writer *writer, uint32_t n_members, uint64_t ram_pages)
{
    g_assert_cmpuint(n_members, <=, WRITER_MEMBERS_MAX);
    *writer = (Writer){
        .district = "shop",
        .incarnation = 3,
        .n_members = n_members,
        .ram_pages = ram_pages,
        .version = FILE_VERSION,
        .out = g_byte_array_new(),
        .starts = g_array_new(FALSE, FALSE, sizeof(size_t)),
        .encoder = encoder_new(1),
    };
}

void
writer_clear(Writer *writer)
{
    if (writer->tallying)
        epoch_tally_clear(&writer->tally);
    g_byte_array_unref(writer->out);
    g_array_unref(writer->starts);
    encoder_free(writer->encoder);
    for (uint32_t i = 0; i < writer->n_members; i++)
        page_hashes_free(writer->hashes[i]);
    page_cache_free(writer->memory.cache);
    dedup_free(writer->memory.dedup);
}

void
writer_remember(Writer *writer)
{
    writer->version = STREAM_VERSION;
    for (uint32_t i = 0; i < writer->n_members; i++)
        writer->hashes[i] = page_hashes_new(writer->ram_pages);
    writer->memory.cache = page_cache_new(writer->n_members * writer->ram_pages * PAGE_BYTES);
    writer->memory.dedup = dedup_new();
}

void
writer_add_disk(Writer *writer, uint32_t member, uint64_t bytes)
{
    g_assert_cmpuint(writer->n_disks[member], <=, DISKS_MAX);
    writer->disk_bytes[member][writer->n_disks[member]++] = bytes;
}

uint32_t
writer_disk_image(const Writer *writer, uint32_t member, uint32_t disk)
{
    uint32_t image = writer->n_members + disk;

    for (uint32_t i = 0; i < member; i++)
        image += writer->n_disks[i];
    return image;
}

/* The disks of a member for a message; what is in it lives until the writer's next call. */
typedef struct DiskList {
    District__StreamDisk disks[DISKS_MAX + 1], *list[DISKS_MAX + 1];
} DiskList;

static District__StreamDisk **
disk_list(const Writer *writer, uint32_t member, uint64_t data, DiskList *l)
{
    for (uint32_t i = 0; i < writer->n_disks[member]; i++) {
        l->disks[i] = (District__StreamDisk)DISTRICT__STREAM_DISK__INIT;
        l->disks[i].size = writer->disk_bytes[member][i];
        l->disks[i].data = data;
        l->list[i] = &l->disks[i];
    }
    return l->list;
}

void
writer_drain(Writer *writer)
{
    g_byte_array_set_size(writer->out, 0);
    g_array_set_size(writer->starts, 0);
}

void
writer_record(Writer *writer, RecordType type, uint64_t epoch, const void *payload, uint32_t length,
              uint32_t pages)
{
    uint8_t raw[RECORD_HEADER_BYTES];
    RecordHeader header = {.type = (uint16_t)type, .length = length, .epoch = epoch};
    size_t start = writer->out->len;

    header.checksum = record_header_encode(raw, type, writer->sequence++, epoch, payload, length);
    if (writer->tallying &&
        (type == RECORD_EPOCH_BEGIN || type == RECORD_PAGES || type == RECORD_STATE))
        epoch_tally_add(&writer->tally, &header, pages);
    g_array_append_val(writer->starts, start);
    g_byte_array_append(writer->out, raw, sizeof raw);
    if (length > 0)
        g_byte_array_append(writer->out, payload, length);
}

void
writer_message(Writer *writer, RecordType type, uint64_t epoch, const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    g_autofree uint8_t *packed = g_malloc(len + 1);

    protobuf_c_message_pack(message, packed);
    writer_record(writer, type, epoch, packed, (uint32_t)len, 0);
}

void
writer_hello(Writer *writer)
{
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;

    hello.version = writer->version;
    hello.software = (char *)"test";
    hello.district = (char *)writer->district;
    hello.incarnation = writer->incarnation;
    hello.host = (char *)"home";
    writer_message(writer, RECORD_HELLO, 0, &hello.base);
}

void
writer_begin(Writer *writer, uint64_t epoch, uint64_t base)
{
    District__StreamEpochBegin begin = DISTRICT__STREAM_EPOCH_BEGIN__INIT;
    District__StreamMember members[WRITER_MEMBERS_MAX], *list[WRITER_MEMBERS_MAX];
    DiskList disks[WRITER_MEMBERS_MAX];
    District__RamRegion region = DISTRICT__RAM_REGION__INIT, *regions = &region;

    region.size = writer->ram_pages * PAGE_BYTES;
    for (uint32_t i = 0; i < writer->n_members; i++) {
        members[i] = (District__StreamMember)DISTRICT__STREAM_MEMBER__INIT;
        members[i].name = member_names[writer->first_member + i];
        members[i].ram_size = region.size;
        members[i].n_regions = 1;
        members[i].regions = &regions;
        members[i].n_disks = writer->n_disks[i];
        members[i].disks = disk_list(writer, i, base == 0 ? writer->disk_data : 0, &disks[i]);
        list[i] = &members[i];
    }
    begin.epoch = epoch;
    begin.full = base == 0;
    begin.base_epoch = base;
    begin.n_members = writer->n_members;
    begin.members = list;
    if (writer->tallying)
        epoch_tally_clear(&writer->tally);
    epoch_tally_start(&writer->tally);
    writer->tallying = true;
    writer->memory.now.scope++;
    writer->epoch = epoch;
    writer_message(writer, RECORD_EPOCH_BEGIN, epoch, &begin.base);
}

void
writer_pages(Writer *writer, uint32_t image, const PageRef *pages, uint32_t count)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();
    PageHashes *hashes = image < writer->n_members ? writer->hashes[image] : NULL;

    writer->memory.now.order++;
    uint32_t n = encoder_stream_pages(writer->encoder, image, pages, count, hashes, &writer->memory,
                                      false, payload, &writer->stats);
    if (n == 0)
        return;
    writer_record(writer, RECORD_PAGES, writer->epoch, payload->data, payload->len, n);
}

void
writer_page(Writer *writer, uint32_t image, uint64_t page, uint8_t fill)
{
    uint8_t data[PAGE_BYTES];
    PageRef ref = {page, data};

    memset(data, fill, sizeof data);
    writer_pages(writer, image, &ref, 1);
}

void
writer_state(Writer *writer)
{
    District__CutState cut = DISTRICT__CUT_STATE__INIT;
    District__CutMember members[WRITER_MEMBERS_MAX], *list[WRITER_MEMBERS_MAX];
    DiskList disks[WRITER_MEMBERS_MAX];
    District__RamRegion region = DISTRICT__RAM_REGION__INIT, *regions = &region;
    g_autofree uint8_t *packed = NULL;
    g_autoptr(GByteArray) compressed = NULL;
    size_t len;

    region.size = writer->ram_pages * PAGE_BYTES;
    for (uint32_t i = 0; i < writer->n_members; i++) {
        members[i] = (District__CutMember)DISTRICT__CUT_MEMBER__INIT;
        members[i].name = member_names[writer->first_member + i];
        members[i].ram_size = region.size;
        members[i].n_regions = 1;
        members[i].regions = &regions;
        members[i].n_disks = writer->n_disks[i];
        members[i].disks = disk_list(writer, i, 0, &disks[i]);
        members[i].engine = (char *)"kvm";
        members[i].state.data = (uint8_t *)members[i].name;
        members[i].state.len = strlen(members[i].name);
        list[i] = &members[i];
    }
    cut.version = CUT_STATE_VERSION;
    cut.district = (char *)writer->district;
    cut.epoch = writer->epoch;
    cut.incarnation = writer->incarnation;
    cut.n_members = writer->n_members;
    cut.members = list;
    cut.realtime_ns = (int64_t)writer->epoch * 1000;
    cut.definition = (char *)"[District]\nName=shop\n";
    len = protobuf_c_message_get_packed_size(&cut.base);
    packed = g_malloc(len);
    protobuf_c_message_pack(&cut.base, packed);
    compressed = state_compress(packed, len);
    writer_record(writer, RECORD_STATE, writer->epoch, compressed->data, compressed->len, 0);
}

void
writer_end(Writer *writer)
{
    District__StreamEpochEnd end = DISTRICT__STREAM_EPOCH_END__INIT;

    end.epoch = writer->epoch;
    end.pages_records = writer->tally.pages_records;
    end.pages = writer->tally.pages;
    end.payload_bytes = writer->tally.payload_bytes;
    end.checksum = epoch_tally_checksum(&writer->tally);
    epoch_tally_clear(&writer->tally);
    writer->tallying = false;
    writer_message(writer, RECORD_EPOCH_END, writer->epoch, &end.base);
}

static void
write_fill(Writer *writer, uint32_t image, uint64_t first, uint64_t count, const uint8_t *data)
{
    while (count > 0) {
        PageRef refs[PAGES_PER_RECORD_MAX];
        uint32_t n = (uint32_t)MIN(count, PAGES_PER_RECORD_MAX);

        for (uint32_t i = 0; i < n; i++)
            refs[i] = (PageRef){first + i, data};
        writer_pages(writer, image, refs, n);
        first += n;
        count -= n;
    }
}

/* The blocks of a disk that are in the range; the last one as full as the disk is. */
static void
write_disk(Writer *writer, uint32_t member, uint32_t disk, uint64_t first, uint64_t count,
           const uint8_t *data)
{
    uint64_t bytes = writer->disk_bytes[member][disk], whole = bytes / PAGE_BYTES;
    uint32_t image = writer_disk_image(writer, member, disk);
    uint8_t last[PAGE_BYTES] = {0};
    PageRef ref = {whole, last};

    if (first < whole)
        write_fill(writer, image, first, MIN(count, whole - first), data);
    if (bytes % PAGE_BYTES == 0 || first > whole || first + count <= whole)
        return;
    memcpy(last, data, bytes % PAGE_BYTES);
    writer_pages(writer, image, &ref, 1);
}

void
writer_epoch(Writer *writer, uint64_t epoch, uint64_t base, uint64_t first, uint64_t count,
             uint8_t fill)
{
    uint8_t data[PAGE_BYTES];

    memset(data, fill, sizeof data);
    writer_begin(writer, epoch, base);
    for (uint32_t i = 0; i < writer->n_members; i++)
        write_fill(writer, i, first, count, data);
    for (uint32_t i = 0; i < writer->n_members; i++) {
        for (uint32_t k = 0; k < writer->n_disks[i]; k++)
            write_disk(writer, i, k, first, count, data);
    }
    writer_state(writer);
    writer_end(writer);
}
