/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks of a district-vmm process: the tiny guest writes to them and reads back what it wrote. */
#include "check.h"
#include "diskwork.h"
#include "member-rig.h"

#include "common/diskindex.h"
#include "common/memfd.h"
#include "common/page.h"
#include "common/pbmsg.h"
#include "disk/home.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DISK_BYTES (4 << 20)
#define GUEST_LINE "op=devices report=1"
#define POWEROFF "poweroff=0x604:0x3400"

static const char *program, *guest;

/* A directory with an image, and what a member needs to use it. */
typedef struct Image {
    char *dir;
    char *path;
    const char *format;
} Image;

static void
image_make(Image *image, gconstpointer format)
{
    g_autofree char *name = g_strconcat("image.", format, NULL);
    g_autoptr(GError) error = NULL;

    image->dir = g_dir_make_tmp("test-disk-XXXXXX", NULL);
    image->path = g_build_filename(image->dir, name, NULL);
    image->format = format;
    const char *argv[] = {"qemu-img", "create", "-q", "-f", format, image->path, "4M", NULL};
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
                 &error);
    g_assert_no_error(error);
}

static void
image_remove(Image *image, gconstpointer format)
{
    g_assert_cmpint(g_unlink(image->path), ==, 0);
    g_assert_cmpint(g_rmdir(image->dir), ==, 0);
    g_free(image->path);
    g_free(image->dir);
}

static Rig *
rig_start_with(const Image *image, const char *line, const char *const *more)
{
    g_autoptr(GPtrArray) extra = g_ptr_array_new();

    for (const char *const *arg = (const char *const[]){"--kernel", guest, "--append", line,
                                                        "--disk", image->path, NULL};
         *arg != NULL; arg++)
        g_ptr_array_add(extra, (char *)*arg);
    for (; more != NULL && *more != NULL; more++)
        g_ptr_array_add(extra, (char *)*more);
    g_ptr_array_add(extra, NULL);
    return rig_start(program, (const char *const *)extra->pdata);
}

/* Numbers of the last whole "disk" line of the guest. */
typedef struct DiskLine {
    unsigned long writes, reads, bad, errors;
} DiskLine;

static DiskLine
rig_disk_line(Rig *rig)
{
    g_autofree char *text = rig_debugcon(rig);
    DiskLine line = {0};
    char *end = strrchr(text, '\n'), *at;

    if (end == NULL)
        return line;
    *end = '\0';
    at = g_strrstr(text, "disk writes=");
    if (at != NULL)
        g_assert_cmpint(sscanf(at, "disk writes=%lu reads=%lu bad=%lu errors=%lu", &line.writes,
                               &line.reads, &line.bad, &line.errors),
                        ==, 4);
    return line;
}

static void
rig_wait_writes(Rig *rig, unsigned long n)
{
    gint64 limit = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;

    while (rig_disk_line(rig).writes < n) {
        if (g_get_monotonic_time() > limit)
            g_error("the guest has made %lu writes and no more", rig_disk_line(rig).writes);
        g_usleep(2000);
    }
}

static void
check_good(Rig *rig, unsigned long writes)
{
    DiskLine line = rig_disk_line(rig);

    g_assert_cmpuint(line.writes, >=, writes);
    g_assert_cmpuint(line.reads, >, 0);
    g_assert_cmpuint(line.bad, ==, 0);
    g_assert_cmpuint(line.errors, ==, 0);
}

/* ---- What is on the disk ---- */

static uint8_t *
home_content(const char *home, uint64_t size)
{
    g_autoptr(GError) error = NULL;
    uint8_t *content = g_malloc(size);
    Home *h = home_open(home, size, false, &error);

    g_assert_no_error(error);
    home_read(h, 0, content, size, &error);
    g_assert_no_error(error);
    home_close(h);
    return content;
}

/* Put entries [from, end) of an overlay over it. */
static void
overlay_apply(uint8_t *content, int data_fd, int index_fd, uint64_t from, uint64_t end)
{
    for (uint64_t i = from; i < end; i++) {
        DiskIndexEntry entry;
        uint8_t *block;

        g_assert_cmpint(pread(index_fd, &entry, sizeof entry, (off_t)(i * sizeof entry)), ==,
                        sizeof entry);
        g_assert_cmpuint(entry.block, <, DISK_BYTES / PAGE_BYTES);
        block = content + entry.block * PAGE_BYTES;
        if (entry.offset == DISK_INDEX_ZERO)
            memset(block, 0, PAGE_BYTES);
        else
            g_assert_cmpint(pread(data_fd, block, PAGE_BYTES, (off_t)entry.offset), ==, PAGE_BYTES);
    }
}

static void
check_content(int ram_fd, const uint8_t *content)
{
    g_autoptr(GError) error = NULL;
    const uint8_t *ram = memfd_map(ram_fd, RIG_RAM, FALSE, NULL);
    GuestImage image = {.low = ram, .low_bytes = RIG_RAM};
    GuestHeader header;

    guest_image_header(&image, &header, &error);
    g_assert_no_error(error);
    guest_disk_check(&header, content, DISK_BYTES, &error);
    g_assert_no_error(error);
    munmap((void *)ram, RIG_RAM);
}

static void
rig_note(Rig *rig, uint64_t released_below, uint64_t home_below, gboolean resend)
{
    g_autofree char *error = rig_disks(rig, 1, released_below, home_below, resend);

    g_assert_cmpstr(error, ==, "");
}

/* ---- Tests ---- */

static void
guest_reads_back(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_with(image, GUEST_LINE, NULL);
    g_autofree uint8_t *content = NULL;

    rig_connect(rig);
    g_assert_cmpuint(rig->n_disks, ==, 1);
    g_assert_cmpuint(rig->disk_size[0], ==, DISK_BYTES);
    g_assert_cmpuint(rig->n_disk_fds, ==, 0);
    rig_wait_writes(rig, 200);
    rig_pause(rig, TRUE);
    g_usleep(100000); /* the request in flight is on its way still */
    content = home_content(rig->home[0], DISK_BYTES);
    check_content(rig->ram_fd, content);
    rig_resume(rig);
    rig_wait_writes(rig, 300);
    check_good(rig, 300);
    rig_free(rig);
}

static void
contents_outlive_the_process(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_with(image, GUEST_LINE " rounds=130 " POWEROFF,
                              (const char *const[]){"--paused", NULL});
    g_autofree uint8_t *content = NULL;
    int ram_fd;

    rig_connect(rig);
    ram_fd = dup(rig->ram_fd);
    rig_resume(rig);
    rig_wait_writes(rig, 130);
    rig_disconnect(rig);
    g_assert_cmpint(rig_wait_exit(rig), ==, 0);
    check_good(rig, 130);
    rig_free(rig);
    rig = rig_start_with(image, "op=halt", NULL);
    rig_connect(rig);
    content = home_content(rig->home[0], DISK_BYTES);
    check_content(ram_fd, content);
    close(ram_fd);
    rig_free(rig);
}

static void
pauses_lose_nothing(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_with(image, GUEST_LINE, NULL);

    rig_connect(rig);
    for (unsigned i = 1; i <= 100; i++) {
        rig_wait_writes(rig, 2 * i);
        rig_pause(rig, i % 2);
        rig_resume(rig);
    }
    check_good(rig, 200);
    rig_free(rig);
}

/* No overlay: the disk is the process's, and goes on with a restored guest. */
static void
restored_guest_goes_on(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_with(image, GUEST_LINE, NULL), *to;
    g_autofree uint8_t *state = NULL;
    uint64_t len;
    int ram_fd;

    rig_connect(rig);
    rig_wait_writes(rig, 150);
    len = rig_pause_held(rig, TRUE, TRUE);
    state = g_memdup2(rig->state, len);
    ram_fd = dup(rig->ram_fd);
    rig_free(rig);
    to = rig_start_with(image, GUEST_LINE, (const char *const[]){"--incoming", NULL});
    rig_connect(to);
    memcpy(to->state, state, len);
    rig_restore_disks(to, ram_fd, len, NULL, 0, NULL);
    close(ram_fd);
    rig_resume(to);
    rig_wait_writes(to, 300);
    check_good(to, 300);
    rig_free(to);
}

static void
reset_keeps_the_disk(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_with(image, GUEST_LINE " rounds=80 end=reset", NULL);
    g_autofree char *text = NULL;
    gint64 limit = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;
    char *second = NULL;

    rig_connect(rig);
    while (second == NULL) {
        char *first;

        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_usleep(5000);
        g_free(text);
        text = rig_debugcon(rig);
        first = strstr(text, "done");
        second = first == NULL ? NULL : strstr(first + 1, "done");
    }
    check_good(rig, 1);
    rig_free(rig);
}

static void
killed_server_gives_the_guest_errors(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_with(image, GUEST_LINE, NULL);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred peer;
    socklen_t len = sizeof peer;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unsigned long seen;

    rig_connect(rig);
    rig_wait_writes(rig, 100);
    g_strlcpy(address.sun_path, rig->home[0] + strlen("nbd:"), sizeof address.sun_path);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len), ==, 0);
    close(fd);
    kill(peer.pid, SIGKILL);
    seen = rig_disk_line(rig).writes;
    rig_wait_writes(rig, seen + 50);
    g_assert_cmpuint(rig_disk_line(rig).errors, >, 0);
    rig_pause(rig, TRUE);
    rig_resume(rig);
    rig_free(rig);
}

static void
read_only_disk_refuses(Image *image, gconstpointer format)
{
    g_autofree char *path = g_strconcat(image->path, ",readonly=on,id=cd", NULL);
    Image as_read_only = {.dir = image->dir, .path = path, .format = image->format};
    Rig *rig = rig_start_with(&as_read_only, GUEST_LINE, NULL);
    DiskLine line;

    rig_connect(rig);
    rig_wait_writes(rig, 10);
    line = rig_disk_line(rig);
    g_assert_cmpuint(line.errors, >=, line.writes);
    rig_free(rig);
}

static void
image_in_use_is_named(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_with(image, "op=halt", NULL);
    g_autofree char *said = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    rig_connect(rig);
    const char *argv[] = {program, "--kernel", guest, "--disk", image->path, NULL};
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, &said, &status,
                 &error);
    g_assert_no_error(error);
    g_test_message("%s", said);
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    g_assert_nonnull(strstr(said, image->path));
    rig_free(rig);
}

/* ---- With an overlay ---- */

static Rig *
rig_start_overlay(const Image *image, const char *line, const char *more)
{
    return rig_start_with(image, line,
                          (const char *const[]){"--overlay-dir", image->dir, more, NULL});
}

/* As district-ckpt does it: at each cut what is new is taken, and then released. */
static void
every_cut_is_consistent(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_overlay(image, GUEST_LINE, NULL);
    g_autofree uint8_t *content = NULL, *home = NULL;
    uint64_t taken = 0;

    rig_connect(rig);
    g_assert_cmpuint(rig->n_disk_fds, ==, 2);
    home = home_content(rig->home[0], DISK_BYTES);
    content = g_memdup2(home, DISK_BYTES);
    for (unsigned i = 1; i <= 60; i++) {
        rig_wait_writes(rig, 4 * i);
        rig_pause(rig, TRUE);
        g_assert_cmpuint(rig->cut[0], ==, i);
        g_usleep(i % 4 * 1000); /* what was in flight comes into the index, behind the cut */
        overlay_apply(content, rig->disk_fds[0], rig->disk_fds[1], taken, rig->index_end[0]);
        check_content(rig->ram_fd, content);
        taken = rig->index_end[0];
        rig_note(rig, i + 1, 0, FALSE);
        rig_resume(rig);
    }
    check_good(rig, 240);
    g_free(content);
    content = home_content(rig->home[0], DISK_BYTES);
    g_assert_cmpmem(content, DISK_BYTES, home, DISK_BYTES); /* nobody wrote to the home */
    rig_free(rig);
}

/* What was frozen stays, however long the guest goes on before it is read. */
static void
frozen_cut_stays(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_overlay(image, GUEST_LINE, NULL);
    g_autofree uint8_t *content = NULL;
    g_autofree void *ram = g_malloc(RIG_RAM);
    uint64_t end;
    int ram_fd;

    rig_connect(rig);
    content = home_content(rig->home[0], DISK_BYTES);
    rig_wait_writes(rig, 100);
    rig_pause(rig, TRUE);
    g_assert_cmpint(pread(rig->ram_fd, ram, RIG_RAM, 0), ==, RIG_RAM);
    ram_fd = memfd_from_data("copy", ram, RIG_RAM, NULL);
    end = rig->index_end[0];
    rig_resume(rig);
    rig_wait_writes(rig, 400);
    overlay_apply(content, rig->disk_fds[0], rig->disk_fds[1], 0, end);
    check_content(ram_fd, content);
    close(ram_fd);
    rig_free(rig);
}

/* The home is brought up to cuts while the guest goes on; the overlay forgets what it has. */
static void
home_is_brought_up(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_overlay(image, GUEST_LINE, NULL);
    g_autofree uint8_t *content = NULL;
    uint64_t taken = 0;

    rig_connect(rig);
    content = home_content(rig->home[0], DISK_BYTES);
    for (unsigned i = 1; i <= 20; i++) {
        g_autoptr(GError) error = NULL;
        Home *home = home_open(rig->home[0], DISK_BYTES, true, &error);

        g_assert_no_error(error);
        rig_wait_writes(rig, 10 * i);
        rig_pause(rig, TRUE);
        rig_resume(rig);
        overlay_apply(content, rig->disk_fds[0], rig->disk_fds[1], taken, rig->index_end[0]);
        taken = rig->index_end[0];
        home_write(home, 0, content, DISK_BYTES, &error);
        home_flush(home, &error);
        g_assert_no_error(error);
        home_close(home);
        rig_note(rig, i + 1, i + 1, FALSE);
    }
    rig_wait_writes(rig, 400);
    check_good(rig, 400);
    rig_free(rig);
}

static void
overlay_goes_with_a_restored_guest(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_overlay(image, GUEST_LINE, NULL);

    rig_connect(rig);
    for (unsigned life = 1; life <= 3; life++) {
        g_autofree uint8_t *state = NULL;
        int fds[2], ram_fd;
        uint64_t end, len;
        Rig *to;

        rig_wait_writes(rig, 150);
        len = rig_pause_held(rig, TRUE, TRUE);
        state = g_memdup2(rig->state, len);
        ram_fd = dup(rig->ram_fd);
        fds[0] = dup(rig->disk_fds[0]);
        fds[1] = dup(rig->disk_fds[1]);
        end = rig->index_end[0];
        check_good(rig, 150);
        rig_free(rig);
        to = rig_start_overlay(image, GUEST_LINE, "--incoming");
        rig_connect(to);
        memcpy(to->state, state, len);
        rig_restore_disks(to, ram_fd, len, fds, 2, &end);
        close(ram_fd);
        close(fds[0]);
        close(fds[1]);
        /* A later client is given the files that it has now. */
        rig_disconnect(to);
        rig_connect(to);
        rig_resume(to);
        rig = to;
    }
    rig_wait_writes(rig, 150);
    check_good(rig, 150);
    rig_free(rig);
}

static void
overlay_outlives_a_reset(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_overlay(image, GUEST_LINE " rounds=70 end=reset", NULL);
    g_autofree uint8_t *content = NULL;
    uint64_t cut = 0, taken = 0;

    rig_connect(rig);
    content = home_content(rig->home[0], DISK_BYTES);
    for (unsigned i = 0; i < 30; i++) {
        g_usleep(50000);
        rig_pause(rig, TRUE);
        g_assert_cmpuint(rig->cut[0], ==, ++cut); /* they go on counting */
        overlay_apply(content, rig->disk_fds[0], rig->disk_fds[1], taken, rig->index_end[0]);
        taken = rig->index_end[0];
        rig_note(rig, cut + 1, 0, FALSE);
        rig_resume(rig);
    }
    g_autofree char *text = rig_debugcon(rig);
    g_assert_nonnull(strstr(text, "done")); /* there was a reset */
    g_assert_cmpuint(rig_disk_line(rig).errors, ==, 0);
    /* Of both lives, each place has something whole. */
    for (unsigned unit = 0; unit < GUEST_DISK_UNITS; unit++) {
        const uint64_t *words = (const uint64_t *)(content + guest_disk_offset(unit));

        g_assert_true(words[0] == 0 || guest_disk_unit(words[0]) == unit);
        g_assert_true(words[0] == 0 || guest_disk_is(words, unit, words[0]));
    }
    rig_free(rig);
}

static void
wrong_notes_are_refused(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_overlay(image, GUEST_LINE, NULL);
    g_autofree char *none = NULL, *two = NULL;

    rig_connect(rig);
    rig_wait_writes(rig, 20);
    none = rig_disks(rig, 0, 1, 1, FALSE);
    two = rig_disks(rig, 2, 1, 1, FALSE);
    g_test_message("%s", two);
    g_assert_nonnull(strstr(none, "with an overlay: 1"));
    g_assert_nonnull(strstr(two, "with an overlay: 1"));
    rig_pause(rig, TRUE);
    rig_note(rig, UINT64_MAX, 0, FALSE); /* of cuts that are still to come */
    rig_note(rig, 0, 0, TRUE);
    rig_resume(rig);
    rig_wait_writes(rig, 100);
    check_good(rig, 100);
    rig_free(rig);
}

/* ---- A guest reset that waits for room ---- */

/* Its only write is under way when it resets itself. */
#define STUCK_LINE "op=devices report=0 rounds=1 end=reset-writing"
#define BOOTS_LIMIT_S 60

/* A file system of a MiB that this program and what it starts see; NULL: there is no right to have one. */
static char *
small_new(void)
{
    g_autofree char *dir = g_dir_make_tmp("test-disk-XXXXXX", NULL);

    if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount("test-disk", dir, "tmpfs", 0, "size=1m") == 0)
        return g_steal_pointer(&dir);
    g_rmdir(dir);
    g_test_skip("no right to mount a tmpfs");
    return NULL;
}

static void
small_fill(const char *dir)
{
    static const uint8_t page[PAGE_BYTES];
    g_autofree char *path = g_build_filename(dir, "filler", NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    while (write(fd, page, sizeof page) > 0)
        ;
    close(fd);
}

static void
small_make_room(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, "filler", NULL);

    g_assert_cmpint(g_unlink(path), ==, 0);
}

static void
small_free(char *dir)
{
    g_assert_cmpint(umount(dir), ==, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
    g_free(dir);
}

/* Wait until the guest has said word n times. */
static void
rig_wait_said(Rig *rig, const char *word, unsigned n)
{
    gint64 limit = g_get_monotonic_time() + BOOTS_LIMIT_S * G_USEC_PER_SEC;

    for (unsigned said = 0; said < n; g_usleep(5000)) {
        g_autofree char *text = rig_debugcon(rig);
        const char *at = text;

        for (said = 0; (at = strstr(at, word)) != NULL; at++)
            said++;
        if (g_get_monotonic_time() > limit)
            g_error("the guest has said %s %u times, not %u", word, said, n);
    }
}

/* A guest with its overlay in dir, which is full, that has reset itself. */
static Rig *
rig_start_stuck(const Image *image, const char *dir)
{
    Rig *rig = rig_start_with(
        image, STUCK_LINE, (const char *const[]){"--overlay-dir", dir, "--rng", "--paused", NULL});

    rig_connect(rig);
    small_fill(dir);
    rig_resume(rig);
    rig_wait_said(rig, "done", 1);
    g_usleep(200000); /* the reset comes next */
    return rig;
}

static void
rig_send_pause(Rig *rig)
{
    District__MemberPauseRequest pause = DISTRICT__MEMBER_PAUSE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    g_autoptr(GError) error = NULL;

    request.id = ++rig->next_id;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_PAUSE;
    request.pause = &pause;
    pbmsg_send(rig->client, &request.base, NULL, 0, 1000, &error);
    g_assert_no_error(error);
}

/* The error of a PAUSE, "" if there is none, and that it does not take long. */
static char *
rig_try_pause(Rig *rig)
{
    District__MemberPauseRequest pause = DISTRICT__MEMBER_PAUSE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    gint64 begun = g_get_monotonic_time();
    District__MemberReply *reply;
    char *error;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_PAUSE;
    request.pause = &pause;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpint(g_get_monotonic_time() - begun, <, 3 * G_USEC_PER_SEC);
    error = g_strdup(reply->error);
    district__member_reply__free_unpacked(reply, NULL);
    return error;
}

static void
pause_does_not_wait_for_room(Image *image, gconstpointer format)
{
    char *dir = small_new();

    if (dir == NULL)
        return;
    Rig *rig = rig_start_stuck(image, dir);
    for (int i = 0; i < 2; i++) {
        g_autofree char *refused = rig_try_pause(rig);
        g_assert_nonnull(strstr(refused, "ask again"));
    }
    small_make_room(dir);
    rig_wait_said(rig, "ready", 2);
    rig_pause(rig, TRUE);
    rig_resume(rig);
    rig_free(rig);
    small_free(dir);
}

static void
pause_goes_with_its_client(Image *image, gconstpointer format)
{
    char *dir = small_new();
    struct pollfd unasked = {.events = POLLIN};

    if (dir == NULL)
        return;
    Rig *rig = rig_start_stuck(image, dir);
    rig_send_pause(rig);
    rig_disconnect(rig);
    rig_connect(rig);
    small_make_room(dir);
    rig_wait_said(rig, "ready", 3);
    unasked.fd = rig->client;
    g_assert_cmpint(poll(&unasked, 1, 0), ==, 0);
    g_assert_cmpint(rig_state(rig), ==, DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING);
    rig_free(rig);
    small_free(dir);
}

/* ---- RAM that is filled in ---- */

#define STUCK_LIMIT_S 30

/* A thread that puts pages of RAM in place, as district-ckpt does, until it is killed. */
typedef struct Filler {
    int uffd; /* owned */
    uint64_t address;
    const uint8_t *ram; /* what it is to be */
    char *wchan;        /* of the engine's main thread */
    gint die;           /* atomic; at the next page that the main thread waits for */
    gint end;           /* atomic */
    GThread *thread;
} Filler;

static bool
main_thread_waits(const Filler *f)
{
    g_autofree char *where = NULL;

    return g_file_get_contents(f->wchan, &where, NULL, NULL) &&
           strstr(where, "handle_userfault") != NULL;
}

static void
fill_page(const Filler *f, uint64_t page)
{
    struct uffdio_copy copy = {.dst = f->address + page * PAGE_BYTES,
                               .src = (uint64_t)(uintptr_t)(f->ram + page * PAGE_BYTES),
                               .len = PAGE_BYTES};
    struct uffdio_range range = {.start = copy.dst, .len = PAGE_BYTES};

    if (ioctl(f->uffd, UFFDIO_COPY, &copy) != 0)
        ioctl(f->uffd, UFFDIO_WAKE, &range); /* it is there */
}

static gpointer
filler_run(gpointer data)
{
    Filler *f = data;
    struct uffdio_range all = {.start = f->address, .len = RIG_RAM};
    struct pollfd p = {.fd = f->uffd, .events = POLLIN};
    struct uffd_msg fault;

    ioctl(f->uffd, UFFDIO_WAKE, &all); /* whom another one has left waiting */
    while (g_atomic_int_get(&f->end) == 0) {
        if (poll(&p, 1, 10) != 1 || read(f->uffd, &fault, sizeof fault) != sizeof fault)
            continue;
        g_assert_cmpint(fault.event, ==, UFFD_EVENT_PAGEFAULT);
        if (g_atomic_int_get(&f->die) != 0 && main_thread_waits(f))
            break;
        fill_page(f, (fault.arg.pagefault.address - f->address) / PAGE_BYTES);
    }
    close(f->uffd);
    g_atomic_int_set(&f->end, 1);
    return NULL;
}

static void
filler_start(Filler *f, const Rig *rig, int uffd, uint64_t address, const uint8_t *ram)
{
    *f = (Filler){.uffd = uffd, .address = address, .ram = ram};
    f->wchan = g_strdup_printf("/proc/%d/wchan", (int)rig->pid);
    f->thread = g_thread_new("filler", filler_run, f);
}

static void
filler_join(Filler *f)
{
    g_thread_join(f->thread);
    g_free(f->wchan);
}

/* The main thread of the engine is left waiting. */
static void
filler_die(Filler *f)
{
    gint64 limit = g_get_monotonic_time() + STUCK_LIMIT_S * G_USEC_PER_SEC;

    g_atomic_int_set(&f->die, 1);
    while (g_atomic_int_get(&f->end) == 0) {
        if (g_get_monotonic_time() > limit)
            g_error("the main thread waits for no page");
        g_usleep(1000);
    }
    filler_join(f);
}

/* FALSE: it cannot be on this host. */
static bool
rig_lazy(Rig *rig)
{
    District__MemberLazyRequest lazy = DISTRICT__MEMBER_LAZY_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    int ram_fd = memfd_create_sealed("ram", RIG_RAM, NULL);

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_LAZY;
    request.lazy = &lazy;
    district__member_reply__free_unpacked(rig_call(rig, &request, &ram_fd, 1), NULL);
    close(ram_fd);
    if (rig->lazy_fd < 0)
        g_test_skip("no right to have a userfaultfd");
    return rig->lazy_fd >= 0;
}

static void
rig_restore_lazily(Rig *rig, uint64_t state_len)
{
    District__MemberRestoreRequest restore = DISTRICT__MEMBER_RESTORE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;

    restore.state_len = state_len;
    restore.lazy = TRUE;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESTORE;
    request.restore = &restore;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    district__member_reply__free_unpacked(reply, NULL);
}

/* What the engine passes to one that has not said HELLO. */
static int
rig_ask_lazy(const Rig *rig, uint64_t *address)
{
    g_autofree char *path = g_strconcat(rig->socket, ".lazy", NULL);
    g_autoptr(GError) error = NULL;
    int fd = fdmsg_connect(path, 5000, &error), uffd = -1;
    guint n_fds = 1;
    District__MemberLazyReply *reply;

    g_assert_no_error(error);
    reply = (District__MemberLazyReply *)pbmsg_recv(fd, &district__member_lazy_reply__descriptor,
                                                    &uffd, &n_fds, 5000, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(n_fds, ==, 1);
    *address = reply->ram_address;
    district__member_lazy_reply__free_unpacked(reply, NULL);
    close(fd);
    return uffd;
}

/* Nobody but the main thread answers HELLO. */
static void
killed_client_hangs_no_main_thread(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_with(image, GUEST_LINE, NULL), *to;
    g_autofree uint8_t *state = NULL, *ram = g_malloc(RIG_RAM);
    uint64_t len, address;
    Filler first, next;

    rig_connect(rig);
    rig_wait_writes(rig, GUEST_DISK_UNITS + 1);
    len = rig_pause_held(rig, TRUE, TRUE);
    state = g_memdup2(rig->state, len);
    g_assert_cmpint(pread(rig->ram_fd, ram, RIG_RAM, 0), ==, RIG_RAM);
    rig_free(rig);
    to = rig_start_with(image, GUEST_LINE, (const char *const[]){"--incoming", NULL});
    rig_connect(to);
    memcpy(to->state, state, len);
    if (rig_lazy(to)) {
        filler_start(&first, to, dup(to->lazy_fd), to->lazy_address, ram);
        rig_restore_lazily(to, len);
        rig_resume(to);
        filler_die(&first);
        rig_disconnect(to);
        int uffd = rig_ask_lazy(to, &address);
        filler_start(&next, to, uffd, address, ram);
        rig_connect(to);
        rig_wait_writes(to, 2 * GUEST_DISK_UNITS);
        check_good(to, 2 * GUEST_DISK_UNITS);
        rig_free(to);
        g_atomic_int_set(&next.end, 1);
        filler_join(&next);
    } else {
        rig_free(to);
    }
}

/* ---- op=disk, which measures ---- */

#define MEASURE_LINE "op=disk pages=1024 rounds=1 time=30 " POWEROFF " io="
#define MEASURE_JOBS                                                                               \
    "id:4096:16,randwrite:8192:16,sync:4096:1,randread:4096:16,read:65536:4,write:131072:1"
#define MEASURE_JOBS_N 6

typedef struct MeasureJob {
    char mode[16];
    unsigned long bytes, requests, errors;
} MeasureJob;

static MeasureJob
measure_job(const char *text, unsigned number)
{
    g_autofree char *start = g_strdup_printf("io round=1 job=%u mode=", number);
    const char *at = strstr(text, start);
    MeasureJob job;

    g_assert_nonnull(at);
    g_assert_cmpint(sscanf(at + strlen(start),
                           "%15s bytes=%lu depth=%*u requests=%lu us=%*u p50=%*u p99=%*u "
                           "worst=%*u errors=%lu",
                           job.mode, &job.bytes, &job.requests, &job.errors),
                    ==, 4);
    g_assert_cmpuint(job.requests, >, 0);
    g_assert_cmpuint(job.errors, ==, 0);
    return job;
}

/* Each block begins with its number among all that were written: those of the last job, which goes
 * through the disk in order, follow on those of the others. */
static void
check_stamps(const uint8_t *content, uint64_t before, uint64_t n)
{
    uint64_t blocks = DISK_BYTES / PAGE_BYTES;

    for (uint64_t block = 0; block < MIN(blocks, n); block++) {
        uint64_t last = block + (n - 1 - block) / blocks * blocks, stamp;

        memcpy(&stamp, content + block * PAGE_BYTES, sizeof stamp);
        g_assert_cmpuint(stamp, ==, before + last + 1);
    }
}

static void
measuring_guest_writes(Image *image, gconstpointer format)
{
    Rig *rig = rig_start_with(image, MEASURE_LINE MEASURE_JOBS, NULL);
    g_autofree char *text = NULL, *content = NULL;
    uint64_t before = 0, n = 0;
    gsize len;

    g_assert_cmpint(rig_wait_exit(rig), ==, 0);
    text = rig_debugcon(rig);
    for (unsigned i = 0; i < MEASURE_JOBS_N; i++) {
        MeasureJob job = measure_job(text, i);

        before += n;
        n = strstr(job.mode, "write") || g_str_equal(job.mode, "sync")
                ? job.requests * job.bytes / PAGE_BYTES
                : 0;
    }
    g_assert_true(g_file_get_contents(image->path, &content, &len, NULL));
    g_assert_cmpuint(len, ==, DISK_BYTES);
    check_stamps((const uint8_t *)content, before, n);
    rig_free(rig);
}

#define RAW(name, function)                                                                        \
    g_test_add("/raw/" name, Image, "raw", image_make, function, image_remove)
#define QCOW2(name, function)                                                                      \
    g_test_add("/qcow2/" name, Image, "qcow2", image_make, function, image_remove)
#define BOTH(name, function)                                                                       \
    RAW(name, function);                                                                           \
    QCOW2(name, function)

int
main(int argc, char **argv)
{
    if (access("/dev/kvm", R_OK | W_OK) != 0) {
        g_print("1..0 # SKIP /dev/kvm is not there: load the kvm module for this processor\n");
        return 77;
    }
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(argc, ==, 3);
    program = argv[1];
    guest = argv[2];
    BOTH("a guest reads back what it wrote, and it is in the image", guest_reads_back);
    BOTH("contents outlive the process", contents_outlive_the_process);
    BOTH("a hundred pauses lose nothing", pauses_lose_nothing);
    BOTH("a restored guest goes on with its disk", restored_guest_goes_on);
    BOTH("a guest reset keeps the disk", reset_keeps_the_disk);
    BOTH("an image in use is named", image_in_use_is_named);
    RAW("a read-only disk refuses writes", read_only_disk_refuses);
    QCOW2("a killed qemu-nbd gives the guest errors, not silence",
          killed_server_gives_the_guest_errors);
    BOTH("every cut of an overlay is what memory says", every_cut_is_consistent);
    RAW("a frozen cut stays as it was", frozen_cut_stays);
    BOTH("a home is brought up to cuts while the guest goes on", home_is_brought_up);
    BOTH("an overlay goes with a restored guest", overlay_goes_with_a_restored_guest);
    BOTH("an overlay outlives a guest reset", overlay_outlives_a_reset);
    RAW("notes that cannot be are refused", wrong_notes_are_refused);
    RAW("a pause that waits for a guest reset goes with its client", pause_goes_with_its_client);
    RAW("a pause that a guest reset without room holds up is refused in time",
        pause_does_not_wait_for_room);
    RAW("a client that is killed leaves no main thread waiting for memory",
        killed_client_hangs_no_main_thread);
    RAW("what a guest that measures has written is in the image", measuring_guest_writes);
    return g_test_run();
}
