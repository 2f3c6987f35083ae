/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk with an overlay against a model, with everything going on at once.
 *
 * Theory of operation: a sector's content is made from its number and the number of the request
 * that wrote it, its stamp; so whoever reads a sector can tell which request it is from, and that it
 * is whole. The model is the stamp of each sector, changed when a request ends.
 *
 * A read must give each sector as it was when the read began, or as a request left it that ended
 * meanwhile. The test is the client of the cuts, too: it keeps an image of its own, which it brings
 * from cut to cut by the index and the data file alone, late; which must equal the model as it was
 * at that cut, once more right before the cut is released; and brings the home up to it. When it has lost
 * what it knows and gets all blocks again, another client, which has not, may still bring the home up to
 * a cut from before that.
 */
#include "rig.h"

#include <string.h>

#define IN_FLIGHT_MAX 24
#define CUTS_KEPT_MAX 6
#define STAMP_HOME 1

typedef struct Sector {
    uint32_t stamp;
    uint32_t other; /* what else it may be: it was discarded; else as stamp */
} Sector;

/* A cut that the client has not released. */
typedef struct Cut {
    uint64_t number, begin, end; /* entries */
    Sector *model;
    uint8_t *blocks; /* data of the entries as first read; NULL: not read yet */
    uint8_t *image;  /* the client's after this cut */
} Cut;

typedef struct World {
    Rig *rig;
    GRand *rand;
    uint64_t size, n_sectors;
    Sector *model;
    uint32_t next_stamp;
    GQueue requests; /* of Request */
    unsigned ended;

    GQueue cuts; /* of Cut, oldest first */
    uint8_t *image;
    uint64_t seen;     /* entries of cuts before the running one */
    uint64_t released; /* released_below */
    /* What the other client brings the home up to; NULL: nothing. */
    uint8_t *other_image;
    uint64_t other_cut;
    unsigned resends, merges, late_merges, lives;
} World;

typedef enum RequestKind {
    REQUEST_READ,
    REQUEST_WRITE,
    REQUEST_ZERO,
    REQUEST_DISCARD,
} RequestKind;

typedef struct Request {
    World *world;
    RequestKind kind;
    uint64_t sector, count;
    uint8_t *buf;
    uint32_t stamp;
    Sector *before;    /* of a read: the model when it began */
    GArray *meanwhile; /* of a read: requests (kind, sector, count, stamp) that ended since */
} Request;

typedef struct Ended {
    uint64_t sector, count;
    uint32_t stamp;
} Ended;

/* ---- Sectors ---- */

static void
sector_make(uint8_t *buf, uint64_t sector, uint32_t stamp)
{
    uint64_t words[SECTOR_BYTES / 8];

    if (stamp == 0) {
        memset(buf, 0, SECTOR_BYTES);
        return;
    }
    words[0] = stamp;
    for (unsigned i = 1; i < G_N_ELEMENTS(words); i++)
        words[i] = (words[i - 1] + sector) * UINT64_C(6364136223846793005) + 1;
    memcpy(buf, words, sizeof words);
}

/* The stamp of a sector, which must be whole. */
static uint32_t
sector_stamp(const uint8_t *buf, uint64_t sector)
{
    uint64_t stamp;
    uint8_t whole[SECTOR_BYTES];

    memcpy(&stamp, buf, sizeof stamp);
    sector_make(whole, sector, (uint32_t)stamp);
    g_assert_cmpmem(buf, SECTOR_BYTES, whole, SECTOR_BYTES);
    return (uint32_t)stamp;
}

static bool
sector_may_be(const Sector *sector, uint32_t stamp)
{
    return stamp == sector->stamp || stamp == sector->other;
}

static void
check_image(const World *w, const uint8_t *image, const Sector *model)
{
    for (uint64_t i = 0; i < w->n_sectors; i++)
        g_assert_true(sector_may_be(&model[i], sector_stamp(image + i * SECTOR_BYTES, i)));
}

/* ---- Requests ---- */

static void
request_free(Request *request)
{
    g_clear_pointer(&request->meanwhile, g_array_unref);
    g_free(request->before);
    g_free(request->buf);
    g_free(request);
}

static void
read_check(const Request *read)
{
    for (uint64_t i = 0; i < read->count; i++) {
        uint32_t stamp = sector_stamp(read->buf + i * SECTOR_BYTES, read->sector + i);
        bool good = sector_may_be(&read->before[read->sector + i], stamp);

        for (guint k = 0; !good && k < read->meanwhile->len; k++) {
            const Ended *ended = &g_array_index(read->meanwhile, Ended, k);
            good = ended->stamp == stamp && read->sector + i - ended->sector < ended->count;
        }
        g_assert_true(good);
    }
}

static bool
block_covered(const Request *request, uint64_t sector, uint64_t n_sectors)
{
    uint64_t start = sector / 8 * 8, end = MIN(start + 8, n_sectors);

    return request->sector <= start && end <= request->sector + request->count;
}

static void
request_apply(Request *request)
{
    World *w = request->world;
    Ended ended = {request->sector, request->count, request->stamp};

    for (uint64_t i = request->sector; i < request->sector + request->count; i++) {
        if (request->kind != REQUEST_DISCARD)
            w->model[i] = (Sector){request->stamp, request->stamp};
        else if (block_covered(request, i, w->n_sectors) && w->model[i].stamp != 0)
            w->model[i] = (Sector){0, w->model[i].stamp};
    }
    for (GList *link = w->requests.head; link != NULL; link = link->next) {
        Request *other = link->data;
        if (other->kind == REQUEST_READ)
            g_array_append_val(other->meanwhile, ended);
    }
}

static void
on_request(void *opaque, int error)
{
    Request *request = opaque;
    World *w = request->world;

    g_assert_cmpint(error, ==, 0);
    g_assert_true(g_queue_remove(&w->requests, request));
    w->ended++;
    if (request->kind == REQUEST_READ)
        read_check(request);
    else
        request_apply(request);
    request_free(request);
}

/* Of all lengths, more often short than long; some of whole blocks. */
static void
request_range(World *w, Request *request)
{
    uint64_t most = g_rand_boolean(w->rand) ? 16 : MIN(w->n_sectors, 700);

    request->sector = (uint64_t)g_rand_int_range(w->rand, 0, (gint)w->n_sectors);
    request->count = (uint64_t)g_rand_int_range(w->rand, 1, (gint)most + 1);
    if (g_rand_boolean(w->rand)) {
        request->sector = request->sector / 8 * 8;
        request->count = (request->count + 7) / 8 * 8;
    }
    request->count = MIN(request->count, w->n_sectors - request->sector);
}

static void
world_request(World *w)
{
    Request *r = g_new0(Request, 1);
    int dice = g_rand_int_range(w->rand, 0, 100);
    Disk *disk = w->rig->disk;

    r->world = w;
    request_range(w, r);
    r->kind = dice < 40   ? REQUEST_READ
              : dice < 88 ? REQUEST_WRITE
              : dice < 95 ? REQUEST_ZERO
                          : REQUEST_DISCARD;
    r->buf = g_malloc(r->count * SECTOR_BYTES);
    g_queue_push_tail(&w->requests, r);
    if (r->kind == REQUEST_WRITE && g_rand_int_range(w->rand, 0, 10) > 0)
        r->stamp = w->next_stamp++;
    for (uint64_t i = 0; r->kind == REQUEST_WRITE && i < r->count; i++)
        sector_make(r->buf + i * SECTOR_BYTES, r->sector + i, r->stamp);
    switch (r->kind) {
    case REQUEST_READ:
        r->before = g_memdup2(w->model, w->n_sectors * sizeof *w->model);
        r->meanwhile = g_array_new(FALSE, FALSE, sizeof(Ended));
        disk_read(disk, r->sector * SECTOR_BYTES, r->buf, r->count * SECTOR_BYTES, on_request, r);
        break;
    case REQUEST_WRITE:
        disk_write(disk, r->sector * SECTOR_BYTES, r->buf, r->count * SECTOR_BYTES, on_request, r);
        break;
    case REQUEST_ZERO:
        disk_zero(disk, r->sector * SECTOR_BYTES, r->count * SECTOR_BYTES, true, on_request, r);
        break;
    case REQUEST_DISCARD:
        disk_discard(disk, r->sector * SECTOR_BYTES, r->count * SECTOR_BYTES, on_request, r);
        break;
    }
}

/* ---- The client ---- */

static void
cut_free(Cut *cut)
{
    g_free(cut->model);
    g_free(cut->blocks);
    g_free(cut->image);
    g_free(cut);
}

static void
client_cut(World *w)
{
    Cut *cut;

    if (w->cuts.length == CUTS_KEPT_MAX)
        return;
    cut = g_new0(Cut, 1);
    cut->number = disk_cut(w->rig->disk, &cut->end);
    cut->begin = w->seen;
    w->seen = cut->end;
    cut->model = g_memdup2(w->model, w->n_sectors * sizeof *w->model);
    g_queue_push_tail(&w->cuts, cut);
}

static uint8_t *
cut_read(World *w, const Cut *cut)
{
    uint8_t *blocks = g_malloc((cut->end - cut->begin) * PAGE_BYTES + 1);

    for (uint64_t i = cut->begin; i < cut->end; i++) {
        DiskIndexEntry entry = rig_entry(w->rig, i);
        rig_entry_data(w->rig, &entry, blocks + (i - cut->begin) * PAGE_BYTES);
    }
    return blocks;
}

/* Bring the client's image to the oldest cut that it has not read. */
static void
client_read(World *w)
{
    Cut *cut = NULL;

    for (GList *link = w->cuts.head; link != NULL && cut == NULL; link = link->next)
        cut = ((Cut *)link->data)->blocks == NULL ? link->data : NULL;
    if (cut == NULL)
        return;
    cut->blocks = cut_read(w, cut);
    for (uint64_t i = cut->begin; i < cut->end; i++) {
        DiskIndexEntry entry = rig_entry(w->rig, i);
        uint64_t at = entry.block * PAGE_BYTES;

        g_assert_cmpuint(at, <, w->size);
        memcpy(w->image + at, cut->blocks + (i - cut->begin) * PAGE_BYTES,
               MIN(PAGE_BYTES, w->size - at));
    }
    check_image(w, w->image, cut->model);
    cut->image = g_memdup2(w->image, w->size);
}

/* Entries of cut that no later one of the same cut replaces: their data must not have changed. */
static void
cut_check_frozen(World *w, const Cut *cut)
{
    g_autofree uint8_t *again = cut_read(w, cut);
    g_autofree uint64_t *last = g_new0(uint64_t, disk_blocks(w->size));

    for (uint64_t i = cut->begin; i < cut->end; i++)
        last[rig_entry(w->rig, i).block] = i;
    for (uint64_t i = cut->begin; i < cut->end; i++) {
        if (last[rig_entry(w->rig, i).block] == i)
            g_assert_cmpmem(again + (i - cut->begin) * PAGE_BYTES, PAGE_BYTES,
                            cut->blocks + (i - cut->begin) * PAGE_BYTES, PAGE_BYTES);
    }
}

/* Release the oldest cut, and perhaps bring the home up to it. */
static void
client_release(World *w)
{
    Cut *cut = g_queue_peek_head(&w->cuts);

    if (cut == NULL || cut->blocks == NULL)
        return;
    cut_check_frozen(w, cut);
    g_queue_pop_head(&w->cuts);
    w->released = cut->number + 1;
    disk_released_below(w->rig->disk, w->released);
    if (g_rand_boolean(w->rand)) {
        memcpy(w->rig->home_bytes, cut->image, w->size);
        disk_home_below(w->rig->disk, cut->number + 1);
        w->merges++;
        g_clear_pointer(&w->other_image, g_free);
    }
    cut_free(cut);
}

/* The other client knows the newest cut that has been read. */
static void
other_learn(World *w)
{
    for (GList *link = w->cuts.tail; link != NULL; link = link->prev) {
        Cut *cut = link->data;
        if (cut->image == NULL)
            continue;
        g_free(w->other_image);
        w->other_image = g_steal_pointer(&cut->image);
        w->other_cut = cut->number;
        return;
    }
}

static void
other_merge(World *w)
{
    if (w->other_image == NULL)
        return;
    memcpy(w->rig->home_bytes, w->other_image, w->size);
    disk_home_below(w->rig->disk, w->other_cut + 1);
    g_clear_pointer(&w->other_image, g_free);
    w->late_merges++;
}

/* The client has lost all that it knew but the home. */
static void
client_lose(World *w)
{
    g_autoptr(GError) error = NULL;
    uint64_t end;

    other_learn(w);
    g_queue_clear_full(&w->cuts, (GDestroyNotify)cut_free);
    memcpy(w->image, w->rig->home_bytes, w->size);
    /* What is in the index so far is of no use to it. */
    w->released = disk_cut(w->rig->disk, &end) + 1;
    disk_released_below(w->rig->disk, w->released);
    w->seen = end;
    disk_resend(w->rig->disk, &error);
    g_assert_no_error(error);
    w->resends++;
}

/* ---- The world ---- */

static World *
world_new(uint64_t size, guint32 seed)
{
    World *w = g_new0(World, 1);

    w->size = size;
    w->n_sectors = size / SECTOR_BYTES;
    w->rand = g_rand_new_with_seed(seed);
    w->rig = rig_new(size, g_get_tmp_dir());
    w->model = g_new(Sector, w->n_sectors);
    for (uint64_t i = 0; i < w->n_sectors; i++) {
        w->model[i] = (Sector){STAMP_HOME, STAMP_HOME};
        sector_make(w->rig->home_bytes + i * SECTOR_BYTES, i, STAMP_HOME);
    }
    w->image = g_memdup2(w->rig->home_bytes, size);
    w->next_stamp = STAMP_HOME + 1;
    return w;
}

static void
world_free(World *w)
{
    g_queue_clear_full(&w->cuts, (GDestroyNotify)cut_free);
    rig_free(w->rig);
    g_rand_free(w->rand);
    g_free(w->model);
    g_free(w->image);
    g_free(w->other_image);
    g_free(w);
}

static void
world_home_ends(World *w)
{
    unsigned n = fake_home_waiting(w->rig->home);

    if (n > 0)
        fake_home_end(w->rig->home, (unsigned)g_rand_int_range(w->rand, 0, (gint)n));
}

/* Until no request is under way. */
static void
world_settle(World *w)
{
    gint64 end = g_get_monotonic_time() + 20 * G_TIME_SPAN_SECOND;

    while (w->requests.length > 0) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        world_home_ends(w);
        g_main_context_iteration(NULL, FALSE);
    }
}

static void
world_check_all(World *w)
{
    g_autofree uint8_t *all = g_malloc(w->size);

    world_settle(w);
    fake_home_hold(w->rig->home, false);
    g_assert_cmpint(rig_read(w->rig, 0, all, w->size), ==, 0);
    fake_home_hold(w->rig->home, true);
    check_image(w, all, w->model);
}

static void
world_next_life(World *w)
{
    world_settle(w);
    rig_hand_on(w->rig);
    fake_home_hold(w->rig->home, true);
    w->lives++;
}

static void
world_step(World *w)
{
    int dice = g_rand_int_range(w->rand, 0, 1000);

    if (dice < 450 && w->requests.length < IN_FLIGHT_MAX)
        world_request(w);
    else if (dice < 600)
        world_home_ends(w);
    else if (dice < 870)
        g_main_context_iteration(NULL, FALSE);
    else if (dice < 880)
        other_merge(w);
    else if (dice < 920)
        client_cut(w);
    else if (dice < 955)
        client_read(w);
    else if (dice < 990)
        client_release(w);
    else if (dice < 994)
        client_lose(w);
    else if (dice < 996)
        world_check_all(w);
    else if (dice < 998)
        world_next_life(w);
}

static void
run_world(uint64_t size, guint32 seed, unsigned steps)
{
    World *w = world_new(size, seed);

    fake_home_hold(w->rig->home, true);
    for (unsigned i = 0; i < steps; i++)
        world_step(w);
    world_check_all(w);
    client_cut(w);
    while (w->cuts.length > 0) {
        client_read(w);
        client_release(w);
    }
    g_test_message("%u requests ended, %u resends, %u merges, %u late merges, %u lives", w->ended,
                   w->resends, w->merges, w->late_merges, w->lives);
    g_assert_cmpuint(w->ended, >, steps / 8);
    world_check_all(w);
    world_free(w);
}

static void
test_tiny(void)
{
    for (guint32 seed = 1; seed <= 6; seed++)
        run_world((uint64_t)37 * SECTOR_BYTES, seed, 6000);
}

static void
test_small(void)
{
    for (guint32 seed = 11; seed <= 14; seed++)
        run_world((uint64_t)40 * PAGE_BYTES - SECTOR_BYTES, seed, 8000);
}

static void
test_larger(void)
{
    for (guint32 seed = 21; seed <= 23; seed++)
        run_world((uint64_t)1000 * PAGE_BYTES + 3 * SECTOR_BYTES, seed, 8000);
}

static void
test_whole_blocks(void)
{
    run_world((uint64_t)64 * PAGE_BYTES, 31, 10000);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/random/a disk of few sectors is as its model", test_tiny);
    g_test_add_func("/random/a disk with a short last block is as its model", test_small);
    g_test_add_func("/random/a disk of many blocks is as its model", test_larger);
    g_test_add_func("/random/a disk of whole blocks is as its model", test_whole_blocks);
    return g_test_run();
}
