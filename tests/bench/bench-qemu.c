/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a stock QEMU can do: the tiny guest on the same KVM, stopped for a checkpoint in the two ways that QEMU has.
 *
 * cut      QMP stop; migrate with x-ignore-shared (the state of devices alone) into a socket; compare RAM, a
 *          shared memfd, with a shadow copy and copy what differs, as QEMU tells nobody outside what is dirty;
 *          cont. The pause is from before stop to after cont.
 * migrate  live migration to a file, and cont: QEMU's own pre-copy, a whole one for each checkpoint. The
 *          pause is from the event STOP to the event RESUME.
 *
 * Prints one JSON object.
 */
#include "common/clock.h"
#include "tests/bench/figures.h"
#include "tests/bench/qmp.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGE 4096UL
#define CUTS_MAX 9999
#define RESUME_LIMIT_NS (5 * NS_PER_S)

static struct {
    char *guest, *append, *output, *mode, *program, *file;
    gint ram_mib, cuts, warm_up;
    gdouble interval_ms;
} options = {.ram_mib = 1024, .cuts = 20, .warm_up = 2, .interval_ms = 500};

static const GOptionEntry entries[] = {
    {"mode", 0, 0, G_OPTION_ARG_STRING, &options.mode, "cut or migrate", "MODE"},
    {"qemu", 0, 0, G_OPTION_ARG_FILENAME, &options.program, "(qemu-system-x86_64)", "PROGRAM"},
    {"guest", 0, 0, G_OPTION_ARG_FILENAME, &options.guest, "the tiny guest", "ELF"},
    {"append", 0, 0, G_OPTION_ARG_STRING, &options.append, "its command line", "TEXT"},
    {"output", 0, 0, G_OPTION_ARG_FILENAME, &options.output, "what the guest prints goes there",
     "FILE"},
    {"file", 0, 0, G_OPTION_ARG_FILENAME, &options.file, "where migrations go", "FILE"},
    {"ram", 0, 0, G_OPTION_ARG_INT, &options.ram_mib, "MiB, 64 to 3072", "N"},
    {"cuts", 0, 0, G_OPTION_ARG_INT, &options.cuts, "that are measured, up to 9999", "N"},
    {"warm-up", 0, 0, G_OPTION_ARG_INT, &options.warm_up, "cuts before these", "N"},
    {"interval", 0, 0, G_OPTION_ARG_DOUBLE, &options.interval_ms, "between cuts", "MS"},
    {0},
};

typedef struct Bench {
    Qemu *qemu;
    uint8_t *shadow;
    Histogram pause, stop, state, state_bytes, compare, dirty, whole, sent_bytes;
} Bench;

static uint64_t
since(int64_t begun)
{
    return (uint64_t)(clock_monotonic_ns() - begun);
}

/* ---- cut ---- */

/* The other end of a migration, to its end of file: bytes. */
static uint64_t
drain(int fd)
{
    static uint8_t buffer[1 << 16];
    uint64_t bytes = 0;

    for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;)
        bytes += (uint64_t)n;
    return bytes;
}

static gboolean
save_state(Bench *b, uint64_t *bytes, GError **error)
{
    struct timeval limit = {.tv_sec = 10};
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "socketpair: %s", g_strerror(errno));
        return FALSE;
    }
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    g_autoptr(JsonNode) given = qemu_command(
        b->qemu, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"}}", pair[1], error);
    close(pair[1]);
    gboolean good =
        given &&
        qemu_do(b->qemu, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:state\"}}", error);
    *bytes = good ? drain(pair[0]) : 0;
    close(pair[0]);
    g_autoptr(JsonNode) done = good ? qemu_wait_migrated(b->qemu, error) : NULL;
    return done != NULL;
}

/* Pages of RAM that differ from the shadow are copied into it. */
static uint64_t
compare_ram(Bench *b)
{
    const uint8_t *ram = qemu_ram(b->qemu);
    size_t bytes = (size_t)options.ram_mib << 20;
    uint64_t pages = 0;

    for (size_t at = 0; at < bytes; at += PAGE) {
        if (memcmp(b->shadow + at, ram + at, PAGE) == 0)
            continue;
        memcpy(b->shadow + at, ram + at, PAGE);
        pages++;
    }
    return pages;
}

static gboolean
cut(Bench *b, bool measured, GError **error)
{
    uint64_t bytes = 0;
    int64_t begun = clock_monotonic_ns(), at = begun;

    if (!qemu_do(b->qemu, "{\"execute\":\"stop\"}", error))
        return FALSE;
    uint64_t stop = since(at);
    at = clock_monotonic_ns();
    if (!save_state(b, &bytes, error))
        return FALSE;
    uint64_t state = since(at);
    at = clock_monotonic_ns();
    uint64_t dirty = compare_ram(b);
    uint64_t compare = since(at);
    if (!qemu_do(b->qemu, "{\"execute\":\"cont\"}", error))
        return FALSE;
    if (!measured)
        return TRUE;
    histogram_add(&b->pause, since(begun));
    histogram_add(&b->stop, stop);
    histogram_add(&b->state, state);
    histogram_add(&b->state_bytes, bytes);
    histogram_add(&b->compare, compare);
    histogram_add(&b->dirty, dirty);
    return TRUE;
}

/* ---- migrate ---- */

/* Until QEMU has told that guests run again. */
static gboolean
wait_resumed(Bench *b, GError **error)
{
    int64_t deadline = clock_monotonic_ns() + RESUME_LIMIT_NS;

    while (qemu_event_ns(b->qemu, "RESUME") < qemu_event_ns(b->qemu, "STOP")) {
        if (clock_monotonic_ns() > deadline) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "QEMU does not go on");
            return FALSE;
        }
        if (!qemu_do(b->qemu, "{\"execute\":\"query-status\"}", error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
migrate(Bench *b, bool measured, GError **error)
{
    g_autofree char *quoted = g_shell_quote(options.file);
    g_autofree char *uri = g_strdup_printf("exec:cat >%s", quoted);
    g_autofree char *escaped = g_strescape(uri, NULL);
    g_autofree char *command =
        g_strdup_printf("{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"%s\"}}", escaped);
    int64_t begun = clock_monotonic_ns();

    if (!qemu_do(b->qemu, command, error))
        return FALSE;
    g_autoptr(JsonNode) info = qemu_wait_migrated(b->qemu, error);
    if (!info || !qemu_do(b->qemu, "{\"execute\":\"cont\"}", error) || !wait_resumed(b, error))
        return FALSE;
    if (!measured)
        return TRUE;
    JsonObject *ram = json_object_get_object_member(json_node_get_object(info), "ram");
    histogram_add(&b->pause,
                  (uint64_t)(qemu_event_ns(b->qemu, "RESUME") - qemu_event_ns(b->qemu, "STOP")));
    histogram_add(&b->whole, since(begun));
    histogram_add(&b->sent_bytes,
                  (uint64_t)json_object_get_int_member_with_default(ram, "transferred", 0));
    return TRUE;
}

/* ---- Both ---- */

static gboolean
prepare(Bench *b, bool cuts, GError **error)
{
    /* As fast as it goes, and no longer than must be: the defaults are 128 MiB/s and 300 ms. */
    return qemu_do(b->qemu,
                   "{\"execute\":\"migrate-set-parameters\",\"arguments\":"
                   "{\"max-bandwidth\":17179869184,\"downtime-limit\":1}}",
                   error) &&
           (!cuts || qemu_do(b->qemu,
                             "{\"execute\":\"migrate-set-capabilities\",\"arguments\":"
                             "{\"capabilities\":[{\"capability\":\"x-ignore-shared\","
                             "\"state\":true}]}}",
                             error));
}

static gboolean
run(Bench *b, bool cuts, GError **error)
{
    int64_t interval = (int64_t)(options.interval_ms * NS_PER_MS);

    if (!prepare(b, cuts, error))
        return FALSE;
    for (int i = 0; i < options.warm_up + options.cuts; i++) {
        int64_t begun = clock_monotonic_ns();
        bool measured = i >= options.warm_up;
        if (!(cuts ? cut(b, measured, error) : migrate(b, measured, error)))
            return FALSE;
        int64_t left = begun + interval - clock_monotonic_ns();
        if (left > 0)
            g_usleep((gulong)(left / NS_PER_US));
    }
    return TRUE;
}

static void
print(const Bench *b, bool cuts)
{
    JsonObject *object = json_object_new();

    figures_add(object, "pause_ns", &b->pause);
    if (cuts) {
        figures_add(object, "stop_ns", &b->stop);
        figures_add(object, "state_ns", &b->state);
        figures_add(object, "state_bytes", &b->state_bytes);
        figures_add(object, "compare_ns", &b->compare);
        figures_add(object, "dirty_pages", &b->dirty);
    } else {
        figures_add(object, "whole_ns", &b->whole);
        figures_add(object, "sent_bytes", &b->sent_bytes);
    }
    figures_print(object);
}

static int
fail(const char *what)
{
    fprintf(stderr, "bench-qemu: %s\n", what);
    return 1;
}

/* The guest's RAM is one stretch of its memfd up to 3 GiB, below QEMU's q35 hole. */
static bool
options_good(void)
{
    return options.guest && options.append && options.output && options.mode &&
           (strcmp(options.mode, "cut") == 0 ||
            (strcmp(options.mode, "migrate") == 0 && options.file)) &&
           options.ram_mib >= 64 && options.ram_mib <= 3072 && options.cuts > 0 &&
           options.cuts <= CUTS_MAX && options.warm_up >= 0 && options.interval_ms >= 0;
}

int
main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    Bench *b = g_new0(Bench, 1);

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error))
        return fail(error->message);
    if (!options_good())
        return fail("give --mode, --guest, --append, --output, with migrate also --file: see "
                    "--help");
    size_t bytes = (size_t)options.ram_mib << 20;
    bool cuts = strcmp(options.mode, "cut") == 0;
    b->shadow = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->shadow == MAP_FAILED)
        return fail(g_strerror(errno));
    const QemuConfig config = {.program = options.program ? options.program : "qemu-system-x86_64",
                               .guest = options.guest,
                               .command_line = options.append,
                               .output = options.output,
                               .ram_mib = (unsigned)options.ram_mib};
    b->qemu = qemu_new(&config, &error);
    gboolean good = b->qemu && run(b, cuts, &error);
    qemu_free(b->qemu);
    if (!good)
        return fail(error->message);
    print(b, cuts);
    munmap(b->shadow, bytes);
    g_free(b);
    return 0;
}
