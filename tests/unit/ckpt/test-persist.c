/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When cuts are made durable, and what is told to those who ask for it (ckpt/persist.c). */
#include "ckpt-rig.h"

#include "ckpt/image.h"
#include "ckpt/store.h"
#include "common/clock.h"
#include "common/diskindex.h"
#include "common/page.h"

#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define LIMIT_MS 60000
#define DURABLE DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_DURABLE
#define STORE_FAILED DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_STORE_FAILED
#define RAM (UINT64_C(4) << 20)
/* Less than what a checkpoint of busy members has, more than the catalog. */
#define FILE_LIMIT (128 << 10)

static const FakeMemberConfig busy = {.ram_size = RAM, .writes_per_ms = 20};
static const FakeMemberConfig with_disk = {.ram_size = RAM, .disk_blocks = 16};

/* It has a store. every_ms: 0: only when asked for. */
static Rig *
rig_new_store_of(const FakeMemberConfig *like, guint n_members, unsigned every_ms)
{
    Rig *rig = rig_new(n_members, like);

    rig->options = g_new0(char *, 4);
    rig->options[0] = g_strdup_printf("--store=%s/store", rig->dir);
    rig->options[1] = g_strdup_printf("--durable-every=%u", every_ms);
    rig->options[2] = g_strdup("--keep=100,0,0");
    rig_run(rig);
    return rig;
}

static Rig *
rig_new_store(guint n_members, unsigned every_ms)
{
    return rig_new_store_of(&busy, n_members, every_ms);
}

static Rig *
rig_started(guint n_members, unsigned every_ms)
{
    Rig *rig = rig_new_store(n_members, every_ms);

    rig_start(rig);
    return rig;
}

static void
persist_send(Rig *rig, const char *label)
{
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptPersistRequest persist = DISTRICT__CKPT_PERSIST_REQUEST__INIT;

    persist.label = (char *)label;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_PERSIST;
    request.persist = &persist;
    rig_send(rig, &request, NULL, 0);
}

/* The number of the checkpoint; 0, with its error in *error if wanted, if there is none. */
static uint64_t
persist_answer(Rig *rig, char **error)
{
    District__CkptReply *reply = rig_receive(rig, LIMIT_MS);
    uint64_t id = reply->error[0] == '\0' ? reply->checkpoint_id : 0;

    if (error != NULL)
        *error = g_strdup(reply->error);
    else
        g_assert_cmpstr(reply->error, ==, "");
    district__ckpt_reply__free_unpacked(reply, NULL);
    return id;
}

static uint64_t
persist(Rig *rig, const char *label)
{
    persist_send(rig, label);
    return persist_answer(rig, NULL);
}

static uint64_t
checkpoints(Rig *rig)
{
    District__CkptReply *hold;
    uint64_t n = rig_status(rig, &hold)->durable_checkpoints;

    district__ckpt_reply__free_unpacked(hold, NULL);
    return n;
}

static char *
durable_error(Rig *rig)
{
    District__CkptReply *hold;
    char *error = g_strdup(rig_status(rig, &hold)->durable_error);

    district__ckpt_reply__free_unpacked(hold, NULL);
    return error;
}

/* Until there are so many. */
static void
wait_checkpoints(Rig *rig, uint64_t n)
{
    int64_t until = clock_monotonic_ns() + LIMIT_MS * NS_PER_MS;

    while (checkpoints(rig) < n && clock_monotonic_ns() < until)
        g_usleep(5000);
    g_assert_cmpuint(checkpoints(rig), >=, n);
}

/* The store's entry of a checkpoint. */
static void
with_entry(Rig *rig, uint64_t id, void (*check)(const CkptStoreEntry *entry, void *opaque),
           void *opaque)
{
    g_autofree char *path = g_build_filename(rig->dir, "store", NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptStore) store = ckpt_store_open(path, "shop", CKPT_STORE_READ, &error);
    g_autoptr(GPtrArray) list = NULL;
    const CkptStoreEntry *found = NULL;

    g_assert_no_error(error);
    list = ckpt_store_list(store, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < list->len; i++) {
        const CkptStoreEntry *entry = g_ptr_array_index(list, i);
        if (entry->id == id)
            found = entry;
    }
    g_assert_nonnull(found);
    check(found, opaque);
}

static void
check_label(const CkptStoreEntry *entry, void *opaque)
{
    g_assert_cmpstr(entry->label, ==, opaque);
}

static void
check_full(const CkptStoreEntry *entry, void *opaque)
{
    g_assert_true(entry->flags & CKPT_STORE_IS_FULL);
}

static void
check_increment(const CkptStoreEntry *entry, void *opaque)
{
    g_assert_false(entry->flags & CKPT_STORE_IS_FULL);
    g_assert_cmpuint(entry->ram_pages, >, 0);
}

/* ---- When one is due ---- */

static void
test_due(void)
{
    const unsigned every_ms = 400;
    int64_t began = clock_monotonic_ns();
    Rig *rig = rig_started(2, every_ms);

    /* The first is due at once, each other one when its time has passed: none sooner, however many
     * cuts are made. */
    rig_protect(rig, 10000, LIMIT_MS);
    wait_checkpoints(rig, 4);
    uint64_t n = checkpoints(rig);
    g_assert_cmpint(clock_monotonic_ns() - began, >=, (int64_t)(n - 1) * every_ms * NS_PER_MS);
    rig_free(rig);
}

static void
test_only_when_asked(void)
{
    Rig *rig = rig_started(2, 0);

    g_usleep(300000);
    g_assert_cmpuint(checkpoints(rig), ==, 0);
    uint64_t id = persist(rig, "");
    g_assert_cmpuint(id, >, 0);
    /* And then guests run undisturbed. */
    uint64_t pauses = fake_member_pauses(rig->members[0]);
    g_usleep(300000);
    g_assert_cmpuint(checkpoints(rig), ==, 1);
    g_assert_cmpuint(fake_member_pauses(rig->members[0]), ==, pauses);
    rig_free(rig);
}

/* What has changed since cannot be known when nothing was gathered; else it can. */
static void
test_increments(void)
{
    Rig *rig = rig_started(2, 0);

    persist(rig, "");
    with_entry(rig, persist(rig, ""), check_full, NULL);
    rig_free(rig);
    rig = rig_started(2, 60000);
    wait_checkpoints(rig, 1);
    with_entry(rig, persist(rig, ""), check_increment, NULL);
    rig_free(rig);
}

/* ---- Labels ---- */

static void
test_labels(void)
{
    static const char *const labels[] = {"a", "b", "", "a"};
    uint64_t first = 0, ids[G_N_ELEMENTS(labels)];
    Rig *rig = rig_started(2, 60000);

    for (guint i = 0; i < G_N_ELEMENTS(labels); i++)
        persist_send(rig, labels[i]);
    first = rig->last_id - G_N_ELEMENTS(labels) + 1;
    for (guint i = 0; i < G_N_ELEMENTS(labels); i++) {
        District__CkptReply *reply = rig_receive_any(rig, LIMIT_MS);
        g_assert_cmpstr(reply->error, ==, "");
        g_assert_cmpuint(reply->id - first, <, G_N_ELEMENTS(labels));
        ids[reply->id - first] = reply->checkpoint_id;
        district__ckpt_reply__free_unpacked(reply, NULL);
    }
    g_assert_cmpuint(ids[0], !=, ids[1]);
    g_assert_true(ids[2] >= ids[0] || ids[2] >= ids[1]);
    with_entry(rig, ids[0], check_label, (char *)"a");
    with_entry(rig, ids[1], check_label, (char *)"b");
    with_entry(rig, ids[3], check_label, (char *)"a");
    rig_free(rig);
}

static void
test_bad_requests(void)
{
    g_autofree char *early = NULL, *label = NULL, *none = NULL;
    Rig *rig = rig_new_store(1, 0);

    persist_send(rig, "");
    g_assert_cmpuint(persist_answer(rig, &early), ==, 0);
    g_assert_nonnull(strstr(early, "shop"));
    g_assert_nonnull(strstr(early, "does not run"));
    rig_start(rig);
    persist_send(rig, "12");
    g_assert_cmpuint(persist_answer(rig, &label), ==, 0);
    g_assert_nonnull(strstr(label, "\"12\" is no label"));
    g_assert_cmpuint(persist(rig, "good"), >, 0);
    rig_free(rig);
    rig = rig_new(1, &busy);
    rig_run(rig);
    rig_start(rig);
    persist_send(rig, "");
    g_assert_cmpuint(persist_answer(rig, &none), ==, 0);
    g_assert_nonnull(strstr(none, "--store"));
    rig_free(rig);
}

/* ---- A store that refuses ---- */

static void
limit_files(Rig *rig, rlim_t bytes)
{
    struct rlimit limit = {bytes, RLIM_INFINITY};
    pid_t pid = (pid_t)g_ascii_strtoll(g_subprocess_get_identifier(rig->process), NULL, 10);

    g_assert_cmpint(prlimit(pid, RLIMIT_FSIZE, &limit, NULL), ==, 0);
}

/* Whether at last none is made for so long. */
static bool
cuts_end(Rig *rig, unsigned ms)
{
    uint64_t before;
    unsigned tries = 0;

    do {
        before = fake_member_pauses(rig->members[0]);
        g_usleep(ms * 1000);
    } while (fake_member_pauses(rig->members[0]) != before && ++tries < 10);
    return tries < 10;
}

static void
test_refused(void)
{
    const unsigned every_ms = 200;
    Rig *rig = rig_started(1, every_ms);
    g_autofree char *error = NULL;

    wait_checkpoints(rig, 1);
    limit_files(rig, FILE_LIMIT);
    rig_wait_event(rig, STORE_FAILED);
    error = durable_error(rig);
    g_assert_nonnull(strstr(error, "/store/"));
    g_assert_nonnull(strstr(error, "File too large"));
    /* One more cut may have been made. It is being written still, and none is due, not even for who
     * asks; guests go on. */
    g_assert_true(cuts_end(rig, 3 * every_ms));
    uint64_t n = checkpoints(rig);
    uint64_t writes = fake_member_writes(rig->members[0]);
    persist_send(rig, "later");
    g_assert_true(cuts_end(rig, 3 * every_ms));
    g_assert_cmpuint(fake_member_writes(rig->members[0]), >, writes);
    limit_files(rig, RLIM_INFINITY);
    uint64_t id = persist_answer(rig, NULL);
    g_assert_cmpuint(checkpoints(rig), >, n);
    with_entry(rig, id, check_label, (char *)"later");
    g_autofree char *none = durable_error(rig);
    g_assert_cmpstr(none, ==, "");
    rig_free(rig);
}

static void
test_refused_protected(void)
{
    Rig *rig = rig_started(1, 200);

    rig_protect(rig, 10000, LIMIT_MS);
    wait_checkpoints(rig, 1);
    limit_files(rig, FILE_LIMIT);
    rig_wait_event(rig, STORE_FAILED);
    rig_wait_good(rig, fake_standby_good(rig->standby) + 10);
    persist_send(rig, "later");
    rig_wait_good(rig, fake_standby_good(rig->standby) + 10);
    limit_files(rig, RLIM_INFINITY);
    with_entry(rig, persist_answer(rig, NULL), check_label, (char *)"later");
    rig_free(rig);
}

/* ---- A member that is in epochs no more ---- */

static void
test_powered_off(void)
{
    Rig *rig = rig_started(2, 60000);

    wait_checkpoints(rig, 1);
    with_entry(rig, persist(rig, ""), check_increment, NULL);
    fake_member_power_off(rig->members[1]);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_OFF);
    /* What was gathered does not fit. */
    with_entry(rig, persist(rig, ""), check_full, NULL);
    with_entry(rig, persist(rig, ""), check_increment, NULL);
    rig_free(rig);
}

/* ---- Disks ---- */

#define MEMBER_OFF DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_MEMBER_OFF

static void
wait_resends(Rig *rig, guint member, unsigned n)
{
    int64_t until = clock_monotonic_ns() + LIMIT_MS * NS_PER_MS;

    while (fake_member_resends(rig->members[member]) < n && clock_monotonic_ns() < until)
        g_usleep(2000);
    g_assert_cmpuint(fake_member_resends(rig->members[member]), ==, n);
}

static uint8_t
home_block(Rig *rig, guint member, uint64_t block)
{
    g_autofree char *path = g_strdup_printf("%s/m%u.home", rig->dir, member);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t byte;

    g_assert_cmpint(pread(fd, &byte, 1, (off_t)(block * PAGE_BYTES)), ==, 1);
    close(fd);
    return byte;
}

/* The byte that a block of member's disk has in a checkpoint, or, where that leaves it to the home, in
 * this. */
static uint8_t
stored_block(Rig *rig, uint64_t id, guint member, uint64_t block)
{
    g_autofree char *path = g_build_filename(rig->dir, "store", NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(CkptStore) store = ckpt_store_open(path, "shop", CKPT_STORE_READ, &error);
    g_autoptr(Image) image = NULL;
    DiskIndexEntry entry;
    uint8_t byte;

    g_assert_no_error(error);
    image = ckpt_store_load(store, id, rig->dir, &error);
    g_assert_no_error(error);
    const ImageDisk *disk = &image->disks[member];
    for (uint64_t i = 0; i < disk->entries; i++) {
        g_assert_cmpint(pread(disk->index_fd, &entry, sizeof entry, (off_t)(i * sizeof entry)), ==,
                        sizeof entry);
        if (entry.block != block)
            continue;
        g_assert_cmpint(pread(disk->data_fd, &byte, 1, (off_t)entry.offset), ==, 1);
        return byte;
    }
    return home_block(rig, member, block);
}

/* A district-ckpt that was killed had not stored it; the next one's first checkpoint is far off. */
static void
test_adopted_powers_off(void)
{
    Rig *rig = rig_new_store_of(&with_disk, 2, 60000);

    rig_start(rig);
    wait_checkpoints(rig, 1);
    fake_member_write_block(rig->members[0], 5, 0x55);
    rig_kill(rig);
    rig_run(rig);
    wait_resends(rig, 0, 1);
    fake_member_power_off(rig->members[0]);
    rig_wait_event(rig, MEMBER_OFF);
    uint64_t id = persist(rig, "");
    g_assert_cmpuint(stored_block(rig, id, 0, 5), ==, 0x55);
    rig_free(rig);
}

/* As of a boot: nothing else has the blocks. */
static void
test_full_fails_and_off(void)
{
    Rig *rig = rig_new_store_of(&with_disk, 2, 400);
    g_autofree char *error = NULL;

    limit_files(rig, FILE_LIMIT);
    rig_start(rig);
    fake_member_write_block(rig->members[0], 5, 0x55);
    persist_send(rig, "");
    g_assert_cmpuint(persist_answer(rig, &error), ==, 0);
    fake_member_power_off(rig->members[0]);
    rig_wait_event(rig, MEMBER_OFF);
    limit_files(rig, RLIM_INFINITY);
    uint64_t id = persist(rig, "");
    g_assert_cmpuint(stored_block(rig, id, 0, 5), ==, 0x55);
    rig_free(rig);
}

/* Each list takes room in the index. */
static void
test_adopted_refused(void)
{
    Rig *rig = rig_new_store_of(&with_disk, 2, 200);

    rig_start(rig);
    wait_checkpoints(rig, 1);
    rig_kill(rig);
    rig_run(rig);
    limit_files(rig, 0);
    wait_resends(rig, 0, 1);
    g_usleep(500000);
    g_assert_cmpuint(fake_member_resends(rig->members[0]), ==, 1);
    limit_files(rig, RLIM_INFINITY);
    wait_checkpoints(rig, 1);
    g_assert_cmpuint(fake_member_resends(rig->members[0]), ==, 1);
    rig_free(rig);
}

static void
wait_full(Rig *rig, unsigned n)
{
    int64_t until = clock_monotonic_ns() + LIMIT_MS * NS_PER_MS;

    while (fake_standby_full(rig->standby) < n && clock_monotonic_ns() < until)
        g_usleep(2000);
    g_assert_cmpuint(fake_standby_full(rig->standby), >=, n);
}

static void
write_home(Rig *rig, guint member, uint64_t block, uint8_t byte)
{
    g_autofree char *path = g_strdup_printf("%s/m%u.home", rig->dir, member);
    uint8_t data[PAGE_BYTES];
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    memset(data, byte, sizeof data);
    g_assert_cmpint(pwrite(fd, data, sizeof data, (off_t)(block * PAGE_BYTES)), ==, sizeof data);
    close(fd);
}

/* The others go on with a full copy: the standby is to have the disk of the one that is off. */
static void
test_standby_gets_disk_of_off(void)
{
    Rig *rig = rig_new_store_of(&with_disk, 2, 60000);

    write_home(rig, 1, 7, 0x77);
    rig_start(rig);
    wait_checkpoints(rig, 1);
    fake_member_write_block(rig->members[1], 5, 0x55);
    rig_protect(rig, 10000, LIMIT_MS);
    wait_full(rig, 1);
    fake_member_write_block(rig->members[1], 6, 0x66);
    fake_member_power_off(rig->members[1]);
    rig_wait_event(rig, MEMBER_OFF);
    wait_full(rig, 2);
    g_assert_cmpint(fake_standby_block(rig->standby, 1, 5), ==, 0x55);
    g_assert_cmpint(fake_standby_block(rig->standby, 1, 6), ==, 0x66);
    g_assert_cmpint(fake_standby_block(rig->standby, 1, 7), ==, 0x77);
    rig_free(rig);
}

/* The next district-ckpt hears of no engine. */
static void
test_was_off(void)
{
    Rig *rig = rig_new_store_of(&with_disk, 2, 60000);
    District__CkptReply *hold;

    rig_start(rig);
    wait_checkpoints(rig, 1);
    fake_member_write_block(rig->members[1], 5, 0x55);
    persist(rig, "");
    fake_member_power_off(rig->members[1]);
    rig_wait_event(rig, MEMBER_OFF);
    rig_kill(rig);
    rig->off[1] = true;
    rig_run(rig);
    uint64_t id = persist(rig, "");
    with_entry(rig, id, check_full, NULL);
    g_assert_cmpuint(stored_block(rig, id, 1, 5), ==, 0x55);
    /* Only the store has it: no full copy could. */
    rig_protect(rig, 10000, LIMIT_MS);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_REFUSED);
    g_assert_nonnull(strstr(rig_status(rig, &hold)->protection_error, "member m1 is off"));
    district__ckpt_reply__free_unpacked(hold, NULL);
    g_assert_cmpuint(fake_standby_full(rig->standby), ==, 0);
    rig_free(rig);
}

/* A disk of which not all is known does not replace the standby's, which is good. */
static void
test_standby_keeps_disk_of_off(void)
{
    Rig *rig = rig_new_store_of(&with_disk, 2, 60000);
    District__CkptReply *hold;

    rig_start(rig);
    wait_checkpoints(rig, 1);
    fake_member_write_block(rig->members[1], 5, 0x55);
    rig_protect(rig, 10000, LIMIT_MS);
    wait_full(rig, 1);
    fake_member_refuse_disks(rig->members[1], true);
    fake_member_power_off(rig->members[1]);
    rig_wait_event(rig, MEMBER_OFF);
    rig_wait_event(rig, DISTRICT__CKPT_EVENT_KIND__CKPT_EVENT_REFUSED);
    g_assert_nonnull(strstr(rig_status(rig, &hold)->protection_error, "member m1 is off"));
    district__ckpt_reply__free_unpacked(hold, NULL);
    g_assert_cmpuint(fake_standby_full(rig->standby), ==, 1);
    g_assert_cmpint(fake_standby_block(rig->standby, 1, 5), ==, 0x55);
    rig_free(rig);
}

/* ---- Members that are paused, and not freshly booted ---- */

/* Handed over, and taken back by a district-ckpt that knows nothing of that. */
static void
take_back(bool stored)
{
    Rig *rig = rig_new_store_of(&with_disk, 1, 0);

    rig_start(rig);
    fake_member_write_block(rig->members[0], 3, 0x33);
    if (stored)
        persist(rig, "");
    fake_member_write_block(rig->members[0], 5, 0x55);
    rig_kill(rig);
    fake_member_hold(rig->members[0]);
    rig_run(rig);
    rig_start(rig);
    g_assert_true(fake_member_running(rig->members[0]));
    uint64_t id = persist(rig, "");
    g_assert_cmpuint(stored_block(rig, id, 0, 3), ==, 0x33);
    g_assert_cmpuint(stored_block(rig, id, 0, 5), ==, 0x55);
    rig_free(rig);
}

static void
test_taken_back(void)
{
    take_back(true);
}

static void
test_taken_back_early(void)
{
    take_back(false);
}

static void
test_partial(void)
{
    FakeMemberConfig like = busy;
    District__CkptRequest request = DISTRICT__CKPT_REQUEST__INIT;
    District__CkptStartRequest start = DISTRICT__CKPT_START_REQUEST__INIT;

    like.partial = true;
    Rig *rig = rig_new(1, &like);
    rig_run(rig);
    start.incarnation = 1;
    request.op_case = DISTRICT__CKPT_REQUEST__OP_START;
    request.start = &start;
    District__CkptReply *reply = rig_call(rig, &request, NULL, 0);
    g_assert_nonnull(strstr(reply->error, "only in part there"));
    district__ckpt_reply__free_unpacked(reply, NULL);
    g_assert_false(fake_member_running(rig->members[0]));
    rig_free(rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/persist/one is due when its time has passed and not sooner", test_due);
    g_test_add_func("/persist/without a time there is one only for who asks", test_only_when_asked);
    g_test_add_func("/persist/one has all of memory unless changes were gathered", test_increments);
    g_test_add_func("/persist/another label gets a checkpoint of its own", test_labels);
    g_test_add_func("/persist/what cannot be asked for is refused by name", test_bad_requests);
    g_test_add_func("/persist/a store that refuses is named and none is due until it has taken it",
                    test_refused);
    g_test_add_func("/persist/a standby gets every epoch while the store refuses",
                    test_refused_protected);
    g_test_add_func("/persist/after a member has powered off one has all of memory again",
                    test_powered_off);
    g_test_add_func("/persist/what an adopted member wrote is stored after it has powered off",
                    test_adopted_powers_off);
    g_test_add_func("/persist/what a first checkpoint that failed had is stored after a power-off",
                    test_full_fails_and_off);
    g_test_add_func("/persist/an adopted member lists its disk once while the store refuses",
                    test_adopted_refused);
    g_test_add_func("/persist/checkpoints have the disk of a member that was off before",
                    test_was_off);
    g_test_add_func("/persist/a standby gets the disk of a member that has powered off",
                    test_standby_gets_disk_of_off);
    g_test_add_func("/persist/a standby keeps the disk of a member that did not list it",
                    test_standby_keeps_disk_of_off);
    g_test_add_func("/persist/a district that is taken back goes on with the disks it has",
                    test_taken_back);
    g_test_add_func("/persist/the first checkpoint has what was written before a take-back",
                    test_taken_back_early);
    g_test_add_func("/persist/members whose memory is in part there do not run without the rest",
                    test_partial);
    return g_test_run();
}
