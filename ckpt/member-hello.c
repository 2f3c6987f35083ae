/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* HELLO of the member protocol: take over memory from an engine that may be broken or hostile. */
#include "ckpt/member-hello.h"

#include "common/memfd.h"
#include "common/pagebits.h"
#include "common/fdmsg.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static gboolean
hello_fail(Member *member, GError **error, const char *what)
{
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_LOST, "member %s: HELLO refused: %s",
                member->name, what);
    return FALSE;
}

void
member_hello_clear(Member *member)
{
    if (member->ram)
        munmap((void *)member->ram, member->ram_size);
    if (member->bitmap)
        munmap(member->bitmap, pagebits_bytes(member->n_pages));
    if (member->state)
        munmap(member->state, member->state_capacity);
    if (member->ram_fd >= 0)
        close(member->ram_fd);
    if (member->lazy_fd >= 0)
        close(member->lazy_fd);
    if (member->stir_fd >= 0)
        close(member->stir_fd);
    member->lazy_fd = member->stir_fd = -1;
    member->ram = NULL;
    member->bitmap = NULL;
    member->state = NULL;
    member->ram_fd = -1;
    g_clear_pointer(&member->engine, g_free);
    g_clear_pointer(&member->dirty_source, g_free);
    g_clear_pointer(&member->regions, g_free);
    member->n_regions = 0;
    for (unsigned i = 0; i < member->n_disks; i++)
        member_disk_clear(&member->disks[i]);
    member->n_disks = 0;
    member_journal_clear(&member->journal);
}

unsigned
member_overlays(const Member *member)
{
    unsigned n = 0;

    for (unsigned i = 0; i < member->n_disks; i++)
        n += member->disks[i].overlay;
    return n;
}

gboolean
member_disks_replace(Member *member, const MemberImage *image, GError **error)
{
    unsigned k = 0;

    for (unsigned i = 0; image->n_disks > 0 && i < member->n_disks; i++) {
        MemberDisk *disk = &member->disks[i];
        const MemberRestoreDisk *from = &image->disks[k];

        if (!disk->overlay)
            continue;
        int data = fcntl(from->data_fd, F_DUPFD_CLOEXEC, 3);
        int index = fcntl(from->index_fd, F_DUPFD_CLOEXEC, 3);
        if (data < 0 || index < 0) {
            g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                        "member %s: disk %u: its overlay is no descriptor", member->name, i);
            if (data >= 0)
                close(data);
            return FALSE;
        }
        close(disk->data_fd);
        close(disk->index_fd);
        disk->data_fd = data;
        disk->index_fd = index;
        disk->index_end = from->entries;
        k++;
    }
    return TRUE;
}

gboolean
member_map_ram(Member *member, int ram_fd, GError **error)
{
    g_autofree char *what = g_strdup_printf("member %s: RAM memfd", member->name);

    if (!memfd_check(ram_fd, member->ram_size, what, error))
        return FALSE;
    const uint8_t *ram = memfd_map(ram_fd, member->ram_size, FALSE, error);
    if (!ram)
        return FALSE;
    if (member->ram)
        munmap((void *)member->ram, member->ram_size);
    if (member->ram_fd >= 0)
        close(member->ram_fd);
    member->ram = ram;
    member->ram_fd = fcntl(ram_fd, F_DUPFD_CLOEXEC, 3);
    return TRUE;
}

/* Regions: page aligned, inside the memfd, not overlapping in guest-physical space. */
static gboolean
hello_check_regions(Member *member, const District__MemberHelloReply *hello, GError **error)
{
    if (hello->n_regions == 0 || hello->n_regions > MEMBER_REGIONS_MAX)
        return hello_fail(member, error, "it has no RAM region, or too many");
    for (size_t i = 0; i < hello->n_regions; i++) {
        const District__RamRegion *r = hello->regions[i];
        if (r->size == 0 || (r->gpa | r->size | r->offset) % PAGE_BYTES != 0)
            return hello_fail(member, error, "a RAM region is not page aligned");
        if (r->offset > hello->ram_size || r->size > hello->ram_size - r->offset ||
            r->gpa > UINT64_MAX - r->size)
            return hello_fail(member, error, "a RAM region is not inside its memfd");
        for (size_t k = 0; k < i; k++) {
            const District__RamRegion *o = hello->regions[k];
            if (r->gpa < o->gpa + o->size && o->gpa < r->gpa + r->size)
                return hello_fail(member, error, "two RAM regions overlap");
        }
    }
    return TRUE;
}

static guint
hello_overlays(const District__MemberHelloReply *hello)
{
    guint n = 0;

    for (size_t i = 0; i < hello->n_disks; i++)
        n += hello->disks[i]->overlay != 0;
    return n;
}

static guint
hello_lazy_disks(const District__MemberHelloReply *hello)
{
    guint n = 0;

    for (size_t i = 0; i < hello->n_disks; i++)
        n += hello->disks[i]->overlay && hello->disks[i]->lazy;
    return n;
}

/* Descriptors of memory: bitmap, state and, if there, RAM. */
static guint
hello_maps(const District__MemberHelloReply *hello)
{
    bool awaiting = hello->state == DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE;

    return awaiting && !hello->lazy ? 2 : 3;
}

static gboolean
hello_check(Member *member, const District__MemberHelloReply *hello, guint n_fds, GError **error)
{
    if (hello->version != MEMBER_PROTOCOL_VERSION)
        return hello_fail(member, error, "it speaks another version of the member protocol");
    if (strcmp(hello->name, member->name) != 0)
        return hello_fail(member, error, "it is the engine of another member");
    if (hello->ram_size == 0 || hello->ram_size % PAGE_BYTES != 0 ||
        hello->ram_size > RAM_BYTES_MAX)
        return hello_fail(member, error, "its RAM size is out of range");
    if (hello->state_capacity == 0 || hello->state_capacity > MEMBER_STATE_BYTES_MAX)
        return hello_fail(member, error, "its state capacity is out of range");
    if (hello->n_disks > DISKS_MAX)
        return hello_fail(member, error, "it has too many disks");
    if (n_fds != hello_maps(hello) + 2 * hello_overlays(hello) + (hello->journal != NULL) +
                     LAZYDISK_FDS * hello_lazy_disks(hello) + (hello->can_stir ? 1 : 0) +
                     (hello->lazy ? 1 : 0))
        return hello_fail(member, error, "it passed the wrong number of descriptors");
    return hello_check_regions(member, hello, error);
}

void
member_copy_regions(Member *member, District__RamRegion *const *regions, size_t n)
{
    member->n_regions = n;
    member->regions = g_new0(District__RamRegion, n);
    for (size_t i = 0; i < n; i++) {
        district__ram_region__init(&member->regions[i]);
        member->regions[i].gpa = regions[i]->gpa;
        member->regions[i].size = regions[i]->size;
        member->regions[i].offset = regions[i]->offset;
    }
}

static void
hello_copy(Member *member, const District__MemberHelloReply *hello)
{
    member->engine = g_strdup(hello->engine);
    member->dirty_source = g_strdup(hello->dirty_source);
    member->vcpus = hello->vcpus;
    member->ram_size = hello->ram_size;
    member->n_pages = page_count(hello->ram_size);
    member->words = pagebits_words(member->n_pages);
    member->state_capacity = hello->state_capacity;
    member->run_state = hello->state;
    member->can_lazy = hello->can_lazy;
    member->can_lazy_disks = hello->can_lazy_disks;
    member_copy_regions(member, hello->regions, hello->n_regions);
}

/* fds: those of the overlays, in order. */
static gboolean
hello_disks(Member *member, const District__MemberHelloReply *hello, const int *fds, GError **error)
{
    for (size_t i = 0; i < hello->n_disks; i++) {
        MemberDisk *disk = &member->disks[member->n_disks++];

        if (!member_disk_init(disk, member->name, (unsigned)i, hello->disks[i], fds, error))
            return FALSE;
        if (disk->overlay)
            fds += 2;
    }
    return TRUE;
}

/* fds: that of the link, if there is a journal. */
static gboolean
hello_journal(Member *member, const District__MemberHelloReply *hello, const int *fds,
              GError **error)
{
    if (hello->journal == NULL ||
        member_journal_init(&member->journal, hello->journal, fds[0], error))
        return TRUE;
    g_prefix_error(error, "member %s: ", member->name);
    return FALSE;
}

/* fds: those of the overlays that are being filled in, in order. */
static gboolean
hello_lazy(Member *member, const District__MemberHelloReply *hello, const int *fds, GError **error)
{
    for (size_t i = 0; i < hello->n_disks; i++) {
        if (!hello->disks[i]->overlay || !hello->disks[i]->lazy)
            continue;
        member->disks[i].lazy = lazydisk_open(fds, error);
        if (!member->disks[i].lazy) {
            g_prefix_error(error, "member %s: disk %zu: ", member->name, i);
            return FALSE;
        }
        fds += LAZYDISK_FDS;
    }
    return TRUE;
}

/* Map bitmap, state and, if there, RAM. fds stay the caller's. */
static gboolean
hello_map(Member *member, const int *fds, bool has_ram, GError **error)
{
    g_autofree char *bitmap = g_strdup_printf("member %s: dirty bitmap memfd", member->name);
    g_autofree char *state = g_strdup_printf("member %s: state memfd", member->name);
    uint64_t bitmap_bytes = pagebits_bytes(member->n_pages);

    if (!memfd_check(fds[0], bitmap_bytes, bitmap, error) ||
        !memfd_check(fds[1], member->state_capacity, state, error))
        return FALSE;
    member->bitmap = memfd_map(fds[0], bitmap_bytes, TRUE, error);
    if (!member->bitmap)
        return FALSE;
    member->state = memfd_map(fds[1], member->state_capacity, TRUE, error);
    if (!member->state)
        return FALSE;
    return !has_ram || member_map_ram(member, fds[2], error);
}

static gboolean
member_hello(Member *member, GError **error)
{
    District__MemberHelloRequest hello = DISTRICT__MEMBER_HELLO_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    int fds[6 + (2 + LAZYDISK_FDS) * DISKS_MAX];
    guint n_fds = G_N_ELEMENTS(fds);

    hello.version = MEMBER_PROTOCOL_VERSION;
    hello.stir = TRUE;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_HELLO;
    request.hello = &hello;
    if (!member_send(member, &request, "HELLO", NULL, 0, error))
        return FALSE;
    District__MemberReply *reply = member_collect(member, DISTRICT__MEMBER_REPLY__OP_HELLO, "HELLO",
                                                  fds, &n_fds, MEMBER_CALL_TIMEOUT_MS, error);
    if (!reply)
        return FALSE;
    gboolean ok = hello_check(member, reply->hello, n_fds, error);
    if (ok) {
        hello_copy(member, reply->hello);
        guint overlays = hello_overlays(reply->hello);
        guint mapped = hello_maps(reply->hello);
        ok = hello_map(member, fds, mapped == 3, error) &&
             hello_disks(member, reply->hello, fds + mapped, error) &&
             hello_journal(member, reply->hello, fds + mapped + 2 * overlays, error) &&
             hello_lazy(member, reply->hello,
                        fds + mapped + 2 * overlays + (reply->hello->journal != NULL), error);
    }
    if (ok && reply->hello->lazy) {
        member->lazy_fd = fds[--n_fds];
        member->lazy_address = reply->hello->ram_address;
    }
    if (ok && reply->hello->can_stir)
        member->stir_fd = fds[--n_fds];
    fdmsg_close_fds(fds, n_fds);
    district__member_reply__free_unpacked(reply, NULL);
    return ok;
}

gboolean
member_connect(Member *member, int timeout_ms, GError **error)
{
    member_hello_clear(member);
    member->fd = fdmsg_connect(member->path, timeout_ms, error);
    if (member->fd < 0) {
        g_prefix_error(error, "member %s: ", member->name);
        return FALSE;
    }
    if (member_hello(member, error))
        return TRUE;
    member_hello_clear(member);
    member_disconnect(member);
    return FALSE;
}
