/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The district of the stress test. */
#include "stress-shop.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_BYTES (32 << 20)
#define POLL_US 10000
#define OUTPUT_TAIL 200
/* Further than what was on its way when a guest was left, with a window of frames at its largest. */
/* Ticks of the TSC that db takes for a page. */
#define PERIOD_MIN 100000
#define PERIOD_MAX 1000000
#define STEPS_SEEN 20
#define FRAMES_SEEN 30
#define DISK_WRITES_SEEN 10

enum { DB, LEFT, RIGHT };

static const char *const names[SHOP_MEMBERS] = {"db", "left", "right"};

/* ---- Failure ---- */

/* A guest that stops says why. */
static void
tell_output(const Host *host)
{
    for (int i = 0; i < SHOP_MEMBERS; i++) {
        g_autofree char *path = g_build_filename(host->out, names[i], NULL), *text = NULL;
        gsize len;
        if (g_file_get_contents(path, &text, &len, NULL) && len > 0)
            g_printerr("# %s: %s\n", path, text + (len > OUTPUT_TAIL ? len - OUTPUT_TAIL : 0));
    }
}

void
shop_fail(Pair *pair, const char *format, ...)
{
    va_list args;

    for (int i = 0; i < 2; i++)
        tell_output(&pair->hosts[i]);
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    rig_fail(pair->dir, "%s", message);
}

/* ---- The definition ---- */

/* A pattern of db, of all that the guest has. Not faster than a model of it can be run beside. In
 * ring 0, where a KVM may emulate each instruction, it gets little to do. */
static char *
db_command(GRand *rand)
{
    static const char *const orders[] = {"seq", "random", "hot"};
    static const char *const fills[] = {"words", "zero", "text", "incompressible"};
    static const int sizes[] = {64, 512, 2048, 6144};
    static const int writes[] = {1, 8, 64};
    static const int verifies[] = {0, 16, 128};
    int dirty = writes[g_rand_int_range(rand, 0, G_N_ELEMENTS(writes))];
    int ring = g_rand_int_range(rand, 0, 3) != 0 ? 3 : 0;

    return g_strdup_printf(
        "cpus=2 base=0x400000 init=1 report=0 vwords=2 pages=%d dirty=%d verify=%d ring=%d seed=%d "
        "pattern=%s,%s period=%d",
        sizes[g_rand_int_range(rand, 0, ring == 0 ? 2 : G_N_ELEMENTS(sizes))], dirty,
        verifies[g_rand_int_range(rand, 0, G_N_ELEMENTS(verifies))], ring,
        g_rand_int_range(rand, 1, 1000), orders[g_rand_int_range(rand, 0, G_N_ELEMENTS(orders))],
        fills[g_rand_int_range(rand, 0, G_N_ELEMENTS(fills))],
        dirty * g_rand_int_range(rand, PERIOD_MIN, PERIOD_MAX));
}

static char *
left_command(GRand *rand, gboolean net_kills)
{
    /* Not more at once than the receive buffers of the other one hold. */
    int window = net_kills ? 0 : g_rand_int_range(rand, 1, 13);

    return g_strdup_printf(
        "op=devices net=send peer=52:54:00:00:00:03 window=%d report=%d bytes=%d "
        "base=0x400000 pages=1 delay=%d",
        window, g_rand_int_range(rand, 1, 5), g_rand_int_range(rand, 46, 1501),
        net_kills ? 2000 : 200);
}

static void
define(Shop *shop)
{
    Pair *pair = shop->pair;
    g_autoptr(GString) text =
        g_string_new("[District]\nName=shop\nInterval=1ms\nAutoFailover=no\n");
    g_autofree char *disk = g_build_filename(pair->dir, "left.raw", NULL);
    g_autoptr(GError) error = NULL;

    g_string_append(text, SHOP_FRESH);
    for (int i = 0; i < SHOP_MEMBERS; i++) {
        g_string_append_printf(text,
                               "[Member %s]\nKernel=%s\nCommandLine=%s\nMemory=32M\nCPUs=%d\n"
                               "MAC=52:54:00:00:00:%02x\nDebugcon=%s/out/%s\n",
                               names[i], g_getenv("TINY_GUEST"), shop->commands[i], i == DB ? 2 : 1,
                               i + 1, pair->dir, names[i]);
        if (i == LEFT)
            g_string_append_printf(text, "Disk=%s\n", disk);
        g_test_message("%s: %s", names[i], shop->commands[i]);
    }
    unlink(disk);
    pair_make_disk(disk, "raw");
    g_free(pair->definition);
    pair->definition = g_build_filename(pair->dir, "shop.district", NULL);
    g_file_set_contents(pair->definition, text->str, -1, &error);
    g_assert_no_error(error);
}

Shop *
shop_new(Pair *pair, GRand *rand, gboolean net_kills)
{
    Shop *shop = g_new0(Shop, 1);
    g_autoptr(GError) error = NULL;

    shop->pair = pair;
    shop->net_kills = net_kills;
    shop->commands[DB] = db_command(rand);
    shop->commands[LEFT] = left_command(rand, net_kills);
    shop->commands[RIGHT] = g_strdup_printf("op=devices net=%s report=64 base=0x400000 pages=1",
                                            net_kills ? "recv" : "echo");
    shop->checker = guest_checker_new(shop->commands[DB], &error);
    g_assert_no_error(error);
    define(shop);
    const char *create[] = {"create", pair->definition, NULL}, *start[] = {"start", "shop", NULL};
    const char *protect[] = {"protect", "shop", "--standby", pair_standby(pair)->name,
                             "--wait",  NULL};
    pair_must(pair, pair_home(pair), create);
    pair_must(pair, pair_home(pair), start);
    pair_must(pair, pair_home(pair), protect);
    return shop;
}

/* What is printed is kept for the case of a failure; a district ends, and so does its file. */
static void
forget_output(const Host *host)
{
    for (int i = 0; i < SHOP_MEMBERS; i++) {
        g_autofree char *path = g_build_filename(host->out, names[i], NULL);
        unlink(path);
    }
}

void
shop_free(Shop *shop)
{
    Pair *pair = shop->pair;
    const char *unprotect[] = {"unprotect", "shop", NULL};
    const char *stop[] = {"stop", "shop", "--force", NULL};
    const char *destroy[] = {"destroy", "shop", "--force", NULL};

    pair_must(pair, pair_home(pair), unprotect);
    pair_must(pair, pair_home(pair), stop);
    pair_must(pair, pair_home(pair), destroy);
    /* It is there from an earlier life, or not at all. */
    g_clear_pointer(&(JsonNode *){pair_command(pair, pair_standby(pair), NULL, destroy)},
                    json_node_unref);
    for (int i = 0; i < 2; i++)
        forget_output(&pair->hosts[i]);
    for (int i = 0; i < SHOP_MEMBERS; i++)
        g_free(shop->commands[i]);
    guest_checker_free(shop->checker);
    g_free(shop);
}

/* ---- The guests' memory ---- */

void
shop_guests(Shop *shop, const char *district, GPid guests[SHOP_MEMBERS])
{
    g_autoptr(JsonNode) show = pair_show(shop->pair, pair_home(shop->pair), district);

    for (int i = 0; i < SHOP_MEMBERS; i++) {
        g_autofree char *path = g_strdup_printf("members.%d.pid", i);
        guests[i] = (GPid)pair_shown_number(show, path);
        if (guests[i] <= 1)
            shop_fail(shop->pair, "%s: %s/%s does not run", pair_home(shop->pair)->name, district,
                      names[i]);
    }
}

/* A guest's RAM, by way of its process; -1: there is none. Not to be mapped: a read of a page that is
 * still to be loaded must not make it. */
static int
open_ram(GPid guest)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", guest);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);

    for (const char *name; dir && (name = g_dir_read_name(dir));) {
        g_autofree char *link = g_build_filename(path, name, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);
        struct stat st;
        if (target && g_str_has_prefix(target, "/memfd:") && stat(link, &st) == 0 &&
            st.st_size == RAM_BYTES)
            return open(link, O_RDONLY | O_CLOEXEC);
    }
    return -1;
}

static gboolean
read_header(GPid guest, GuestHeader *header)
{
    int fd = open_ram(guest);

    if (fd < 0)
        return FALSE;
    ssize_t n = pread(fd, header, sizeof(*header), GUEST_HEADER_GPA);
    close(fd);
    return n == sizeof(*header) && header->magic == GUEST_MAGIC;
}

gboolean
shop_marks(const GPid guests[SHOP_MEMBERS], ShopMarks *marks)
{
    GuestHeader h[SHOP_MEMBERS];

    for (int i = 0; i < SHOP_MEMBERS; i++) {
        if (!read_header(guests[i], &h[i]))
            return FALSE;
    }
    for (int i = 0; i < 2; i++)
        marks->at[MARK_DB_FIRST + i] = h[DB].cpu[i].seq;
    marks->at[MARK_LEFT_SENT] = h[LEFT].devices.net_tx;
    marks->at[MARK_LEFT_DISK] = h[LEFT].devices.disk_writes;
    marks->at[MARK_RIGHT_SEEN] = h[RIGHT].devices.net_rx;
    return TRUE;
}

static const char *const mark_names[SHOP_MARKS] = {
    "rounds of db's first CPU", "rounds of db's second CPU", "frames that left sent",
    "left's disk writes", "frames that right saw"};

void
shop_check_marks(Shop *shop, const char *who, const ShopMarks *now, const ShopMarks *floor)
{
    for (int i = 0; i < SHOP_MARKS; i++) {
        if (now->at[i] < floor->at[i])
            shop_fail(shop->pair,
                      "%s: %" G_GUINT64_FORMAT " %s, but there were %" G_GUINT64_FORMAT
                      " before its cut",
                      who, now->at[i], mark_names[i], floor->at[i]);
    }
}

void
shop_wait_progress(Shop *shop, const char *district)
{
    static const guint64 further[SHOP_MARKS] = {STEPS_SEEN, STEPS_SEEN, FRAMES_SEEN,
                                                DISK_WRITES_SEEN, FRAMES_SEEN};
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * G_TIME_SPAN_MILLISECOND;
    GPid guests[SHOP_MEMBERS];
    ShopMarks first, now = {0};
    gboolean begun = FALSE;

    shop_guests(shop, district, guests);
    for (int i = 0; i < SHOP_MARKS;) {
        if (shop_marks(guests, &now)) {
            first = begun ? first : now;
            begun = TRUE;
            if (now.at[i] >= first.at[i] + further[i]) {
                i++;
                continue;
            }
        }
        if (g_get_monotonic_time() > limit)
            shop_fail(shop->pair, "%s: %" G_GUINT64_FORMAT " %s, and hardly more after %d ms",
                      district, now.at[i], mark_names[i], RIG_LIMIT_MS);
        g_usleep(POLL_US);
    }
}

/* ---- A whole guest at an instant ---- */

/* The threads of a process that do not stand still; G_MAXUINT: it is not there. */
static guint
threads_running(GPid pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    guint n = dir ? 0 : G_MAXUINT;

    for (const char *name; dir && (name = g_dir_read_name(dir));) {
        g_autofree char *stat = g_build_filename(path, name, "stat", NULL);
        g_autofree char *text = NULL;
        const char *end = g_file_get_contents(stat, &text, NULL, NULL) ? strrchr(text, ')') : NULL;
        n += end && end[1] == ' ' && end[2] != 'T';
    }
    return n;
}

/* Its RAM, while it stands still. */
static void
read_guest(Shop *shop, int member, GPid guest, uint8_t *ram)
{
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * G_TIME_SPAN_MILLISECOND;
    int fd = open_ram(guest);
    gssize n = 0;

    kill(guest, SIGSTOP);
    while (threads_running(guest) != 0) {
        if (g_get_monotonic_time() > limit)
            shop_fail(shop->pair, "%s cannot be stopped", names[member]);
        g_usleep(1000);
    }
    for (gsize at = 0; at < RAM_BYTES; at += (gsize)n) {
        n = pread(fd, ram + at, RAM_BYTES - at, (off_t)at);
        if (n <= 0)
            break;
    }
    kill(guest, SIGCONT);
    if (fd < 0 || n <= 0)
        shop_fail(shop->pair, "the memory of %s cannot be read", names[member]);
    close(fd);
}

static void
check_devices(Shop *shop, const char *district, int member, const GuestImage *image)
{
    g_autoptr(GError) error = NULL;
    GuestHeader header;

    if (!guest_image_header(image, &header, &error))
        shop_fail(shop->pair, "%s/%s: %s", district, names[member], error->message);
    const GuestDeviceState *s = &header.devices;
    if (s->net_dup == 0 && s->net_bad == 0 && s->disk_bad == 0 && s->disk_errors == 0 &&
        (s->net_lost == 0 || shop->net_kills))
        return;
    shop_fail(shop->pair,
              "%s/%s: frames lost %" G_GUINT64_FORMAT ", doubled %" G_GUINT64_FORMAT
              ", damaged %" G_GUINT64_FORMAT "; places of the disk wrong %" G_GUINT64_FORMAT
              ", requests failed %" G_GUINT64_FORMAT,
              district, names[member], s->net_lost, s->net_dup, s->net_bad, s->disk_bad,
              s->disk_errors);
}

void
shop_check_guests(Shop *shop, const char *district)
{
    g_autofree uint8_t *ram = g_malloc(RAM_BYTES);
    const GuestImage image = {.low = ram, .low_bytes = RAM_BYTES};
    GPid guests[SHOP_MEMBERS];

    shop_guests(shop, district, guests);
    for (int i = 0; i < SHOP_MEMBERS; i++) {
        g_autoptr(GError) error = NULL;
        read_guest(shop, i, guests[i], ram);
        if (i == DB && !guest_checker_image(shop->checker, &image, &error))
            shop_fail(shop->pair, "%s/db: %s", district, error->message);
        if (i != DB)
            check_devices(shop, district, i, &image);
    }
}
