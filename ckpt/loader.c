/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filling in RAM and overlays.
 *
 * Theory of operation. Everything but the counters belongs to the thread. A page that is put in place
 * wakes who waits for it. One that is there already (EEXIST: a predecessor of this process has put it
 * there, and was killed before the wake-up, or it is a second fault of the same page) is never
 * replaced, only its waiters are woken. A member whose address space has gone, or whose guest has
 * reset itself, does not want its pages any more.
 *
 * A block goes to the place in the data file that it was given before its guest ran. The engine gives
 * that to nobody else before all is there, so it does not matter whether the guest has written the
 * block anew meanwhile: then nobody reads the place.
 */
#include "ckpt/loader.h"

#include "common/clock.h"
#include "disk/home.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FAULTS_AT_ONCE 32

typedef struct Target {
    char *name;
    int uffd;
    uint64_t address;
    uint32_t member;
    uint64_t n_pages;
    bool over;
} Target;

typedef struct DiskTarget {
    char *name;
    uint32_t disk;
    uint64_t bytes;
    LazyDisk *shared;
    int data_fd;
    char *home_name;
    Home *home;        /* once it is needed */
    uint64_t at_place; /* places below are not at home, or have been read */
    uint64_t serving;  /* where to look on for places that are waited for */
    bool more;         /* there may be some */
} DiskTarget;

typedef enum {
    LOADER_READING,
    LOADER_LOADED, /* faults are still served: they are of zeros */
    LOADER_FAILED,
} LoaderState;

struct Loader {
    StoreRam *ram;
    Target *targets;
    uint32_t n;
    DiskTarget *disks;
    uint32_t n_disks;
    uint64_t rate;
    Inbox *inbox;
    GThread *thread;
    gint ended; /* atomic */
    int stop_fd;
    LoaderState state;
    int64_t begun_ns;
    int64_t next_ns; /* when to read on, if nobody waits */
    uint64_t placed;
    uint64_t waited_for;
    uint64_t done, total; /* atomic */
    char *failure;        /* atomic; set once */
};

/* ---- Putting pages in place ---- */

static void
target_wake(const Target *t, uint64_t page, uint64_t count)
{
    struct uffdio_range range = {.start = t->address + page * PAGE_BYTES,
                                 .len = count * PAGE_BYTES};

    ioctl(t->uffd, UFFDIO_WAKE, &range);
}

/* Pages from page on, at most count. Returns how many are there now; 0 with errno. */
static uint64_t
target_copy(const Target *t, uint64_t page, uint64_t count, const uint8_t *data)
{
    struct uffdio_copy copy = {.dst = t->address + page * PAGE_BYTES,
                               .src = (uint64_t)(uintptr_t)data,
                               .len = count * PAGE_BYTES};

    if (ioctl(t->uffd, UFFDIO_COPY, &copy) == 0)
        return count;
    if (copy.copy >= (int64_t)PAGE_BYTES)
        return (uint64_t)copy.copy / PAGE_BYTES;
    if (errno != EEXIST)
        return 0;
    target_wake(t, page, 1);
    return 1;
}

static gboolean
target_put(Target *t, uint64_t page, uint64_t count, const uint8_t *data, GError **error)
{
    while (count > 0 && !t->over) {
        uint64_t done = target_copy(t, page, count, data);

        if (done == 0 && errno == EAGAIN)
            continue; /* the address space is just being changed */
        if (done == 0 && (errno == ENOENT || errno == ESRCH)) {
            t->over = true;
        } else if (done == 0) {
            g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno),
                        "member %s: its memory cannot be filled in: %s", t->name,
                        g_strerror(errno));
            return FALSE;
        }
        page += done;
        data += done * PAGE_BYTES;
        count -= done;
    }
    return TRUE;
}

static Target *
loader_target(const Loader *l, uint32_t member)
{
    for (uint32_t i = 0; i < l->n; i++) {
        if (l->targets[i].member == member)
            return &l->targets[i];
    }
    return NULL;
}

/* Pages in a row, with their data in a row. */
static uint32_t
run_length(const DecodedPage *pages, uint32_t count)
{
    uint32_t n = 1;

    while (n < count && pages[0].data != NULL && pages[n].index == pages[0].index + n &&
           pages[n].data == pages[0].data + (size_t)n * PAGE_BYTES)
        n++;
    return n;
}

/* ---- Putting blocks in place ---- */

static gboolean
disk_fail(const DiskTarget *d, int err, GError **error)
{
    g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(err),
                "member %s: an overlay of its disks cannot be filled in: %s", d->name,
                g_strerror(err));
    return FALSE;
}

/* data NULL: zeros. */
static gboolean
disk_put(DiskTarget *d, uint64_t place, const uint8_t *data, GError **error)
{
    off_t at = (off_t)(place * PAGE_BYTES);

    if (lazydisk_has(d->shared, place, 1))
        return TRUE;
    /* Nothing has been written there: it is zeros already, and its room is not needed. */
    if (data == NULL &&
        fallocate(d->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, PAGE_BYTES) != 0)
        g_debug("member %s: room of zeros cannot be given back", d->name);
    for (size_t done = 0; data != NULL && done < PAGE_BYTES;) {
        ssize_t n = pwrite(d->data_fd, data + done, PAGE_BYTES - done, at + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return disk_fail(d, n < 0 ? errno : EIO, error);
        done += (size_t)n;
    }
    lazydisk_put(d->shared, place);
    return TRUE;
}

static DiskTarget *
loader_disk(const Loader *l, uint32_t disk)
{
    for (uint32_t i = 0; i < l->n_disks; i++) {
        if (l->disks[i].disk == disk)
            return &l->disks[i];
    }
    return NULL;
}

static gboolean
loader_put_blocks(Loader *l, uint32_t disk, const DecodedPage *pages, uint32_t count,
                  GError **error)
{
    DiskTarget *d = loader_disk(l, disk);

    for (uint32_t i = 0; d != NULL && i < count; i++) {
        uint64_t place = storeram_place(l->ram, disk, pages[i].index);
        if (place != UINT64_MAX && !disk_put(d, place, pages[i].data, error))
            return FALSE;
    }
    l->placed += count;
    return TRUE;
}

/* A block that no file has any more: it has been merged since. */
static gboolean
disk_put_home(DiskTarget *d, uint64_t place, uint64_t block, GError **error)
{
    uint8_t data[PAGE_BYTES] = {0};
    uint64_t at = block * PAGE_BYTES;

    if (d->home == NULL && d->home_name != NULL)
        d->home = home_open(d->home_name, d->bytes, false, error);
    if (d->home == NULL) {
        if (error != NULL && *error == NULL)
            disk_fail(d, ENODATA, error);
        return FALSE;
    }
    return home_read(d->home, at, data, MIN(PAGE_BYTES, d->bytes - at), error) &&
           disk_put(d, place, data, error);
}

static gboolean
loader_put(void *opaque, uint32_t member, const DecodedPage *pages, uint32_t count, GError **error)
{
    static const uint8_t zeroes[PAGE_BYTES];
    Loader *l = opaque;
    Target *t;

    if (member >= STORERAM_DISK(0))
        return loader_put_blocks(l, member, pages, count, error);
    t = loader_target(l, member);
    if (t == NULL)
        return TRUE;
    for (uint32_t i = 0, n = 0; i < count; i += n) {
        const uint8_t *data = pages[i].data;

        n = run_length(pages + i, count - i);
        if (!target_put(t, pages[i].index, n, data != NULL ? data : zeroes, error))
            return FALSE;
    }
    l->placed += count;
    return TRUE;
}

/* ---- The thread ---- */

static void
loader_post(Loader *l, InboxKind kind, GError *error)
{
    InboxMessage message = {.kind = kind, .error = error};

    inbox_post(l->inbox, &message);
}

static void
loader_failed(Loader *l, GError *error)
{
    l->state = LOADER_FAILED;
    __atomic_store_n(&l->failure, g_strdup(error->message), __ATOMIC_RELEASE);
    loader_post(l, INBOX_LOAD_FAILED, error);
}

static gboolean
loader_serve(Loader *l, Target *t, GError **error)
{
    struct uffd_msg faults[FAULTS_AT_ONCE];
    ssize_t bytes = read(t->uffd, faults, sizeof faults);

    for (ssize_t i = 0; bytes > 0 && i < bytes / (ssize_t)sizeof faults[0]; i++) {
        uint64_t page = (faults[i].arg.pagefault.address - t->address) / PAGE_BYTES;

        if (faults[i].event != UFFD_EVENT_PAGEFAULT ||
            faults[i].arg.pagefault.address < t->address || page >= t->n_pages)
            continue;
        l->waited_for++;
        if (!storeram_fetch(l->ram, t->member, page, loader_put, l, error))
            return FALSE;
        /* It may have been read between the fault and this. */
        target_wake(t, page, 1);
    }
    return TRUE;
}

/* Bring the block at a place that the engine waits for. */
static gboolean
loader_serve_place(Loader *l, DiskTarget *d, uint64_t place, GError **error)
{
    uint64_t block = lazydisk_block(d->shared, place);

    l->waited_for++;
    if (block < storeram_pages(l->ram, d->disk) &&
        storeram_place(l->ram, d->disk, block) == place) {
        if (storeram_at_home(l->ram, d->disk, block)
                ? !disk_put_home(d, place, block, error)
                : !storeram_fetch(l->ram, d->disk, block, loader_put, l, error))
            return FALSE;
        if (lazydisk_has(d->shared, place, 1))
            return TRUE;
    }
    g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                "member %s: what its engine waits for of a disk is not what it was given", d->name);
    return FALSE;
}

/* Some of what the engine waits for: it may be all that there is, and others wait too. */
static gboolean
loader_serve_disk(Loader *l, DiskTarget *d, GError **error)
{
    for (int n = 0; n < FAULTS_AT_ONCE; n++, d->serving++) {
        d->more = lazydisk_wanted(d->shared, &d->serving);
        if (!d->more)
            break;
        if (!loader_serve_place(l, d, d->serving, error))
            return FALSE;
    }
    /* From the front again, for what has been asked for behind our back. */
    if (!d->more && d->serving > 0) {
        d->serving = 0;
        d->more = lazydisk_wanted(d->shared, &d->serving);
    }
    return TRUE;
}

/* One more block that is at home. *done: of no disk there is one left. */
static gboolean
loader_next_home(Loader *l, gboolean *done, GError **error)
{
    for (uint32_t i = 0; i < l->n_disks; i++) {
        DiskTarget *d = &l->disks[i];

        while (d->at_place < lazydisk_places(d->shared)) {
            uint64_t place = d->at_place++, block = lazydisk_block(d->shared, place);
            if (lazydisk_has(d->shared, place, 1) || block >= storeram_pages(l->ram, d->disk) ||
                !storeram_at_home(l->ram, d->disk, block))
                continue;
            *done = FALSE;
            l->placed++;
            return disk_put_home(d, place, block, error);
        }
    }
    *done = TRUE;
    return TRUE;
}

/* Some more of what nobody waits for. */
static gboolean
loader_next(Loader *l, gboolean *done, GError **error)
{
    return storeram_next(l->ram, loader_put, l, done, error) &&
           (!*done || loader_next_home(l, done, error));
}

static void
loader_read_on(Loader *l)
{
    GError *error = NULL;
    gboolean done;
    uint64_t before = l->placed, at, total;
    int64_t now = clock_monotonic_ns();

    if (!loader_next(l, &done, &error)) {
        loader_failed(l, error);
        return;
    }
    storeram_progress(l->ram, &at, &total);
    __atomic_store_n(&l->done, at, __ATOMIC_RELAXED);
    if (l->rate != 0)
        l->next_ns = now + (int64_t)((double)((l->placed - before) * PAGE_BYTES) / (double)l->rate *
                                     NS_PER_S);
    if (!done)
        return;
    l->state = LOADER_LOADED;
    for (uint32_t i = 0; i < l->n_disks; i++)
        lazydisk_finish(l->disks[i].shared);
    g_message("memory has been read from the store: %" PRIu64 " MiB in %.3f s, %" PRIu64
              " times a page was waited for",
              l->placed * PAGE_BYTES >> 20, (double)(now - l->begun_ns) / NS_PER_S, l->waited_for);
    loader_post(l, INBOX_LOADED, NULL);
}

/* Sleep until there is a fault, or it is time to read on. FALSE: to the end. */
static bool
loader_wait(const Loader *l, struct pollfd *polls)
{
    int64_t wait =
        l->state == LOADER_READING ? MAX(l->next_ns - clock_monotonic_ns(), 0) : NS_PER_S;
    struct timespec ts = {.tv_sec = wait / NS_PER_S, .tv_nsec = wait % NS_PER_S};

    for (uint32_t i = 0; i < l->n_disks; i++) {
        if (l->disks[i].more && l->state != LOADER_FAILED)
            ts = (struct timespec){0};
    }
    for (uint32_t i = 0; i < l->n; i++) {
        bool serve = !l->targets[i].over && l->state != LOADER_FAILED;
        polls[i] = (struct pollfd){.fd = serve ? l->targets[i].uffd : -1, .events = POLLIN};
    }
    for (uint32_t i = 0; i < l->n_disks; i++)
        polls[l->n + i] = (struct pollfd){
            .fd = l->state != LOADER_FAILED ? lazydisk_fds(l->disks[i].shared)[1] : -1,
            .events = POLLIN};
    polls[l->n + l->n_disks] = (struct pollfd){.fd = l->stop_fd, .events = POLLIN};
    ppoll(polls, l->n + l->n_disks + 1, &ts, NULL);
    return (polls[l->n + l->n_disks].revents & POLLIN) == 0;
}

/* Whatever has been asked for since. */
static void
loader_serve_all(Loader *l, const struct pollfd *polls)
{
    GError *error = NULL;

    for (uint32_t i = 0; i < l->n && l->state != LOADER_FAILED; i++) {
        if (polls[i].revents & POLLIN && !loader_serve(l, &l->targets[i], &error))
            loader_failed(l, error);
        /* Its process has ended. */
        if (polls[i].revents & (POLLERR | POLLHUP) && !(polls[i].revents & POLLIN))
            l->targets[i].over = true;
    }
    for (uint32_t i = 0; i < l->n_disks && l->state != LOADER_FAILED; i++) {
        DiskTarget *d = &l->disks[i];
        if (polls[l->n + i].revents & POLLIN)
            lazydisk_woken(d->shared, false);
        if ((polls[l->n + i].revents & POLLIN || d->more) && !loader_serve_disk(l, d, &error))
            loader_failed(l, error);
    }
}

static gpointer
loader_run(gpointer data)
{
    Loader *l = data;
    g_autofree struct pollfd *polls = g_new0(struct pollfd, l->n + l->n_disks + 1);

    /* Who was left waiting by a predecessor asks again. */
    for (uint32_t i = 0; i < l->n; i++)
        target_wake(&l->targets[i], 0, l->targets[i].n_pages);
    for (uint32_t i = 0; i < l->n_disks; i++)
        l->disks[i].more = true;
    while (loader_wait(l, polls)) {
        loader_serve_all(l, polls);
        if (l->state == LOADER_READING && clock_monotonic_ns() >= l->next_ns)
            loader_read_on(l);
    }
    g_atomic_int_set(&l->ended, 1);
    return NULL;
}

/* ---- Creation ---- */

static void
loader_leave_out(Loader *l)
{
    for (uint32_t i = 0; i < storeram_members(l->ram); i++) {
        if (loader_target(l, i) == NULL)
            storeram_have(l->ram, i, 0, storeram_pages(l->ram, i));
    }
    for (uint32_t k = 0; k < storeram_disks(l->ram); k++) {
        if (loader_disk(l, STORERAM_DISK(k)) == NULL)
            storeram_skip_disk(l->ram, STORERAM_DISK(k));
    }
}

Loader *
loader_new(StoreRam *ram, const LoaderTarget *targets, uint32_t n, const LoaderDisk *disks,
           uint32_t n_disks, uint64_t rate, Inbox *inbox)
{
    Loader *l = g_new0(Loader, 1);

    l->ram = ram;
    l->n = n;
    l->rate = rate;
    l->inbox = inbox;
    l->stop_fd = eventfd(0, EFD_CLOEXEC);
    l->begun_ns = clock_monotonic_ns();
    l->targets = g_new0(Target, n);
    for (uint32_t i = 0; i < n; i++)
        l->targets[i] = (Target){.name = g_strdup(targets[i].name),
                                 .uffd = targets[i].uffd,
                                 .address = targets[i].address,
                                 .member = targets[i].member,
                                 .n_pages = storeram_pages(ram, targets[i].member)};
    l->n_disks = n_disks;
    l->disks = g_new0(DiskTarget, n_disks);
    for (uint32_t i = 0; i < n_disks; i++)
        l->disks[i] = (DiskTarget){.name = g_strdup(disks[i].name),
                                   .disk = disks[i].disk,
                                   .bytes = disks[i].bytes,
                                   .shared = disks[i].shared,
                                   .data_fd = disks[i].data_fd,
                                   .home_name = g_strdup(disks[i].home)};
    loader_leave_out(l);
    storeram_progress(ram, &l->done, &l->total);
    l->thread = g_thread_new("loader", loader_run, l);
    return l;
}

static void
disk_clear(DiskTarget *d)
{
    lazydisk_free(d->shared);
    close(d->data_fd);
    if (d->home != NULL)
        home_close(d->home);
    g_free(d->home_name);
    g_free(d->name);
}

static void
loader_tell_end(Loader *l)
{
    const uint64_t one = 1;

    while (write(l->stop_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

bool
loader_stop(Loader *l, int timeout_ms)
{
    if (l == NULL)
        return true;
    loader_tell_end(l);
    for (int i = 0; i < timeout_ms && !g_atomic_int_get(&l->ended); i++)
        g_usleep(1000);
    return g_atomic_int_get(&l->ended);
}

void
loader_free(Loader *l)
{
    if (l == NULL)
        return;
    loader_tell_end(l);
    g_thread_join(l->thread);
    for (uint32_t i = 0; i < l->n; i++) {
        close(l->targets[i].uffd);
        g_free(l->targets[i].name);
    }
    for (uint32_t i = 0; i < l->n_disks; i++)
        disk_clear(&l->disks[i]);
    g_free(l->targets);
    g_free(l->disks);
    close(l->stop_fd);
    g_free(l->failure);
    storeram_free(l->ram);
    g_free(l);
}

const char *
loader_failure(const Loader *l)
{
    return __atomic_load_n(&l->failure, __ATOMIC_ACQUIRE);
}

void
loader_progress(const Loader *l, uint64_t *done, uint64_t *total)
{
    *done = __atomic_load_n(&l->done, __ATOMIC_RELAXED);
    *total = l->total;
}

void
loader_skip_present(StoreRam *ram, uint32_t member, int ram_fd)
{
    off_t end = (off_t)(storeram_pages(ram, member) * PAGE_BYTES), data = 0, hole;

    while (data < end && (data = lseek(ram_fd, data, SEEK_DATA)) >= 0 && data < end) {
        hole = lseek(ram_fd, data, SEEK_HOLE);
        if (hole < 0 || hole > end)
            hole = end;
        storeram_have(ram, member, (uint64_t)data / PAGE_BYTES,
                      (uint64_t)(hole - data) / PAGE_BYTES);
        data = hole;
    }
}
