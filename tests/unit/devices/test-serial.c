/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The serial port: registers as Linux's 8250 driver probes them, and the host's end. */
#include "driver.h"

#include "vmm/devices/devices.h"
#include "vmm/devices/outfile.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PORT 0x3F8
enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR IIR

typedef struct Fixture {
    char *dir;
    char *out;
    char *log;
    char *aside; /* where a full log goes */
    char *link;
    Machine *m;
    int fd; /* the reader of the pty */
} Fixture;

static Machine *
make_machine(const char *spec, const char *log)
{
    Machine *m = fake_machine_new(1 << 16);
    g_autoptr(GError) error = NULL;

    serial_init(m, spec, log, &error);
    g_assert_no_error(error);
    return m;
}

static void
set_up_paths(Fixture *f)
{
    f->dir = g_dir_make_tmp("district-test-XXXXXX", NULL);
    f->out = g_build_filename(f->dir, "out", NULL);
    f->log = g_build_filename(f->dir, "log", NULL);
    f->aside = g_build_filename(f->dir, "log.1", NULL);
    f->link = g_build_filename(f->dir, "link", NULL);
    f->fd = -1;
}

static void
set_up_file(Fixture *f, gconstpointer data)
{
    g_autofree char *spec = NULL;

    set_up_paths(f);
    spec = g_strconcat("file:", f->out, NULL);
    f->m = make_machine(spec, f->log);
    fake_start(f->m);
}

static void
set_up_pty(Fixture *f, gconstpointer data)
{
    g_autofree char *spec = NULL;

    set_up_paths(f);
    spec = g_strconcat("pty:", f->link, NULL);
    f->m = make_machine(spec, f->log);
    fake_start(f->m);
    f->fd = open(f->link, O_RDWR | O_NOCTTY | O_NONBLOCK);
    g_assert_cmpint(f->fd, >=, 0);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    fake_stop(f->m);
    if (f->fd >= 0)
        close(f->fd);
    g_unlink(f->out);
    g_unlink(f->log);
    g_unlink(f->aside);
    g_unlink(f->link);
    g_rmdir(f->dir);
    g_free(f->out);
    g_free(f->log);
    g_free(f->aside);
    g_free(f->link);
    g_free(f->dir);
}

static uint8_t
in(Fixture *f, unsigned reg)
{
    return (uint8_t)fake_in(f->m, (uint16_t)(PORT + reg), 1);
}

static void
out(Fixture *f, unsigned reg, uint8_t value)
{
    fake_out(f->m, (uint16_t)(PORT + reg), value, 1);
}

static void
print(Fixture *f, const char *text)
{
    for (; *text; text++)
        out(f, DATA, (uint8_t)*text);
}

static void
assert_contents(const char *path, const char *want)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, want);
}

static bool
data_ready(void *opaque)
{
    return in(opaque, LSR) & 1;
}

/* The sequence of autoconfig() and autoconfig_16550a() in Linux. */
static void
probe_finds_a_16550a(Fixture *f, gconstpointer data)
{
    out(f, IER, 0);
    g_assert_cmphex(in(f, IER), ==, 0);
    out(f, IER, 0xFF);
    g_assert_cmphex(in(f, IER), ==, 0x0F);
    out(f, IER, 0);
    out(f, MCR, 0x1A);                            /* loopback, OUT2, RTS */
    g_assert_cmphex(in(f, MSR) & 0xF0, ==, 0x90); /* DCD, CTS */
    out(f, MCR, 0);
    out(f, LCR, 0x03);
    out(f, FCR, 0x01);
    g_assert_cmphex(in(f, IIR) >> 6, ==, 3);
    out(f, FCR, 0x21); /* a 16750 would show its 64-byte FIFO */
    g_assert_cmphex(in(f, IIR) & 0x20, ==, 0);
    out(f, FCR, 0);
    g_assert_cmphex(in(f, IIR) >> 6, ==, 0);
    out(f, SCR, 0x5A);
    g_assert_cmphex(in(f, SCR), ==, 0x5A);
}

static void
divisor_has_its_own_registers(Fixture *f, gconstpointer data)
{
    out(f, IER, 0x05);
    out(f, LCR, 0x83);
    out(f, DATA, 0x0C);
    out(f, IER, 0x01);
    g_assert_cmphex(in(f, DATA), ==, 0x0C);
    g_assert_cmphex(in(f, IER), ==, 0x01);
    out(f, LCR, 0x03);
    g_assert_cmphex(in(f, IER), ==, 0x05);
    assert_contents(f->log, "");
}

static void
transmitter_interrupt(Fixture *f, gconstpointer data)
{
    g_assert_cmphex(in(f, LSR), ==, 0x60);
    g_assert_false(fake_irq(f->m, GSI_SERIAL));
    out(f, IER, 0x02); /* empty already: raised at once */
    g_assert_true(fake_irq(f->m, GSI_SERIAL));
    g_assert_cmphex(in(f, IIR) & 0x0F, ==, 0x02); /* and acknowledged by this */
    g_assert_cmphex(in(f, IIR) & 0x0F, ==, 0x01);
    g_assert_false(fake_irq(f->m, GSI_SERIAL));
    out(f, DATA, 'x');
    g_assert_true(fake_irq(f->m, GSI_SERIAL));
    out(f, IER, 0);
    g_assert_false(fake_irq(f->m, GSI_SERIAL));
}

static void
loopback_receives(Fixture *f, gconstpointer data)
{
    out(f, FCR, 0x01);
    out(f, MCR, 0x10);
    out(f, IER, 0x01);
    out(f, DATA, 'a');
    out(f, DATA, 'b');
    g_assert_true(fake_irq(f->m, GSI_SERIAL));
    g_assert_cmphex(in(f, LSR), ==, 0x61);
    g_assert_cmphex(in(f, DATA), ==, 'a');
    g_assert_cmphex(in(f, DATA), ==, 'b');
    g_assert_false(fake_irq(f->m, GSI_SERIAL));
    assert_contents(f->log, "");
}

static void
overrun_is_told(Fixture *f, gconstpointer data)
{
    out(f, FCR, 0x01);
    out(f, MCR, 0x10);
    for (int i = 0; i < 17; i++)
        out(f, DATA, (uint8_t)i);
    out(f, IER, 0x04);
    g_assert_cmphex(in(f, IIR) & 0x0F, ==, 0x06);
    g_assert_cmphex(in(f, LSR), ==, 0x63);
    g_assert_cmphex(in(f, LSR), ==, 0x61); /* reading clears it */
    out(f, FCR, 0x03);                     /* clear the receive FIFO */
    g_assert_cmphex(in(f, LSR), ==, 0x60);
}

static void
modem_changes_interrupt(Fixture *f, gconstpointer data)
{
    in(f, MSR);
    out(f, IER, 0x08);
    out(f, MCR, 0x10); /* all lines drop */
    g_assert_cmphex(in(f, IIR) & 0x0F, ==, 0x00);
    g_assert_cmphex(in(f, MSR), ==, 0x0B);
    g_assert_cmphex(in(f, MSR), ==, 0x00);
    g_assert_false(fake_irq(f->m, GSI_SERIAL));
}

static void
file_and_log_get_everything(Fixture *f, gconstpointer data)
{
    g_autoptr(GString) want = g_string_new(NULL);

    for (int i = 0; i < 300; i++) {
        g_autofree char *line = g_strdup_printf("line %d\n", i);
        print(f, line);
        g_string_append(want, line);
    }
    print(f, "no newline");
    g_string_append(want, "no newline");
    fake_stop(f->m); /* flushes */
    assert_contents(f->out, want->str);
    assert_contents(f->log, want->str);
}

static bool
prompt_written(void *opaque)
{
    Fixture *f = opaque;
    struct stat st;

    return stat(f->out, &st) == 0 && st.st_size == 7;
}

static void
prompt_comes_without_newline(Fixture *f, gconstpointer data)
{
    print(f, "login: ");
    fake_wait(prompt_written, f);
}

static void
files_are_appended_to(Fixture *f, gconstpointer data)
{
    g_autofree char *spec = g_strconcat("file:", f->out, NULL);

    print(f, "first\n");
    f->m = make_machine(spec, f->log);
    print(f, "second\n");
    assert_contents(f->out, "first\nsecond\n");
    assert_contents(f->log, "first\nsecond\n");
}

static bool
pty_readable(void *opaque)
{
    Fixture *f = opaque;
    struct pollfd p = {.fd = f->fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static uint64_t
file_bytes(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return (uint64_t)st.st_size;
}

/* What was there before this process counts too. */
static void
full_log_is_put_aside(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(truncate(f->log, OUTFILE_BYTES_MAX - 3), ==, 0);
    f->m = make_machine("none", f->log);
    print(f, "\n\n\n");
    g_assert_cmpuint(file_bytes(f->log), ==, OUTFILE_BYTES_MAX);
    print(f, "more\n");
    assert_contents(f->log, "more\n");
    g_assert_cmpuint(file_bytes(f->aside), ==, OUTFILE_BYTES_MAX);
}

/* However much a guest prints: two files, neither above the limit. */
static void
output_is_bounded(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *chunk = g_malloc0(1 << 20);
    g_autoptr(GError) error = NULL;
    g_autoptr(OutFile) file = outfile_open(f->log, &error);

    g_assert_no_error(error);
    for (size_t at = 0; at < OUTFILE_BYTES_MAX; at += 1 << 20)
        outfile_write(file, chunk, 1 << 20);
    g_assert_false(g_file_test(f->aside, G_FILE_TEST_EXISTS));
    outfile_write(file, (const uint8_t *)"1", 1);
    assert_contents(f->log, "1");
    g_assert_cmpuint(file_bytes(f->aside), ==, OUTFILE_BYTES_MAX);
    for (size_t at = 0; at < 2 * OUTFILE_BYTES_MAX; at += 1 << 20)
        outfile_write(file, chunk, 1 << 20);
    g_assert_cmpuint(file_bytes(f->log), <=, OUTFILE_BYTES_MAX);
    g_assert_cmpuint(file_bytes(f->aside), <=, OUTFILE_BYTES_MAX);
}

static void
emptied_log_goes_on(Fixture *f, gconstpointer data)
{
    g_autoptr(OutFile) file = NULL;

    g_assert_cmpint(truncate(f->log, OUTFILE_BYTES_MAX), ==, 0);
    file = outfile_open(f->log, NULL);
    g_assert_cmpint(truncate(f->log, 0), ==, 0);
    outfile_write(file, (const uint8_t *)"on", 2);
    assert_contents(f->log, "on");
    g_assert_false(g_file_test(f->aside, G_FILE_TEST_EXISTS));
}

static void
log_that_cannot_be_put_aside_ends(Fixture *f, gconstpointer data)
{
    g_autofree char *in_the_way = g_build_filename(f->aside, "x", NULL);
    g_autoptr(OutFile) file = NULL;

    g_assert_cmpint(truncate(f->log, OUTFILE_BYTES_MAX), ==, 0);
    g_assert_cmpint(g_mkdir_with_parents(in_the_way, 0700), ==, 0);
    file = outfile_open(f->log, NULL);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*cannot be begun anew*");
    outfile_write(file, (const uint8_t *)"lost", 4);
    outfile_write(file, (const uint8_t *)"lost", 4);
    g_test_assert_expected_messages();
    g_assert_cmpuint(file_bytes(f->log), ==, OUTFILE_BYTES_MAX);
    g_rmdir(in_the_way);
    g_rmdir(f->aside);
}

static void
pty_goes_both_ways(Fixture *f, gconstpointer data)
{
    char text[16] = "";

    print(f, "hello\n");
    fake_wait(pty_readable, f);
    g_assert_cmpint(read(f->fd, text, sizeof text), ==, 6);
    g_assert_cmpstr(text, ==, "hello\n"); /* raw: no carriage return */
    g_assert_cmpint(write(f->fd, "\x03", 1), ==, 1);
    fake_wait(data_ready, f);
    g_assert_cmphex(in(f, DATA), ==, 0x03); /* raw: no signal, no echo */
    g_assert_false(pty_readable(f));
}

static void
pty_outlives_its_reader(Fixture *f, gconstpointer data)
{
    for (int i = 0; i < 3; i++) {
        close(f->fd);
        fake_pump();
        f->fd = open(f->link, O_RDWR | O_NOCTTY | O_NONBLOCK);
        g_assert_cmpint(write(f->fd, "k", 1), ==, 1);
        fake_wait(data_ready, f);
        g_assert_cmphex(in(f, DATA), ==, 'k');
    }
}

static void
unread_pty_drops_the_oldest(Fixture *f, gconstpointer data)
{
    char buf[65536];
    size_t total = 0;
    ssize_t n;

    for (int i = 0; i < 20000; i++) {
        g_autofree char *line = g_strdup_printf("line %06d\n", i);
        print(f, line); /* never blocks: this test would hang */
    }
    for (int tries = 0; tries < 50; tries++) {
        g_usleep(2000); /* the kernel moves it from master to slave in the background */
        while ((n = read(f->fd, buf + total % 32768, 32768)) > 0)
            total += (size_t)n;
    }
    g_assert_cmpuint(total, >, 0);
    g_assert_cmpuint(total, <, 20000 * 12);
    print(f, "the end\n");
    fake_wait(pty_readable, f);
    n = read(f->fd, buf, sizeof buf);
    g_assert_cmpmem(buf, n, "the end\n", 8);
    fake_stop(f->m);
    {
        g_autofree char *log = NULL;
        gsize len;
        g_assert_true(g_file_get_contents(f->log, &log, &len, NULL));
        g_assert_cmpuint(len, ==, 20000 * 12 + 8); /* the log has all of it */
    }
}

static void
input_waits_for_room(Fixture *f, gconstpointer data)
{
    char sent[300];

    out(f, FCR, 0x01);
    for (unsigned i = 0; i < sizeof sent; i++)
        sent[i] = (char)('A' + i % 26);
    g_assert_cmpint(write(f->fd, sent, sizeof sent), ==, sizeof sent);
    for (unsigned i = 0; i < sizeof sent; i++) {
        fake_wait(data_ready, f);
        g_assert_cmphex(in(f, DATA), ==, (uint8_t)sent[i]);
    }
    g_assert_cmphex(in(f, LSR) & 0x02, ==, 0);
}

static void
no_input_while_stopped(Fixture *f, gconstpointer data)
{
    fake_stop(f->m);
    g_assert_cmpint(write(f->fd, "x", 1), ==, 1);
    fake_pump();
    g_assert_false(data_ready(f));
    fake_start(f->m);
    fake_wait(data_ready, f);
}

static void
link_replaces_only_links(Fixture *f, gconstpointer data)
{
    g_autofree char *bad = g_strconcat("pty:", f->log, NULL);
    g_autofree char *good = g_strconcat("pty:", f->link, NULL);
    g_autofree char *target = NULL;
    g_autoptr(GError) error = NULL;
    Machine *m;

    g_assert_false(serial_init(fake_machine_new(1 << 16), bad, NULL, &error));
    g_assert_true(strstr(error->message, "not a symbolic link") != NULL);
    m = make_machine(good, NULL);
    target = g_file_read_link(f->link, NULL);
    g_assert_cmpstr(target, ==, serial_pty_path(m));
}

static void
bad_specs_are_refused(void)
{
    static const char *const bad[] = {"", "file:", "pty:", "tty", "file:/nonexistent/x"};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(serial_init(fake_machine_new(1 << 16), bad[i], NULL, &error));
        g_assert_nonnull(error);
    }
}

static void
state_goes_round(Fixture *f, gconstpointer data)
{
    Machine *other = make_machine("none", NULL);

    out(f, LCR, 0x83);
    out(f, DATA, 0x0C);
    out(f, LCR, 0x03);
    out(f, FCR, 0x81);
    out(f, MCR, 0x1B);
    out(f, DATA, 'p'); /* looped back */
    out(f, DATA, 'q');
    out(f, IER, 0x03);
    out(f, SCR, 0x77);
    fake_move(f->m, other);
    g_assert_true(fake_irq(other, GSI_SERIAL));
    fake_start(f->m);
    for (unsigned reg = 0; reg < 8; reg++)
        g_assert_cmphex(fake_in(other, (uint16_t)(PORT + reg), 1), ==, in(f, reg));
    g_assert_cmphex(fake_in(other, PORT, 1), ==, 'q');
}

static void
garbage_is_refused(Fixture *f, gconstpointer data)
{
    fake_stop(f->m);
    fake_check_garbage(f->m, "serial");
}

#define ADD(name, set_up, function)                                                                \
    g_test_add("/serial/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("the probe finds a 16550A", set_up_file, probe_finds_a_16550a);
    ADD("the divisor has its own registers", set_up_file, divisor_has_its_own_registers);
    ADD("an empty transmitter interrupts", set_up_file, transmitter_interrupt);
    ADD("loopback receives what is sent", set_up_file, loopback_receives);
    ADD("an overrun is told", set_up_file, overrun_is_told);
    ADD("modem line changes interrupt", set_up_file, modem_changes_interrupt);
    ADD("file and log get everything", set_up_file, file_and_log_get_everything);
    ADD("a prompt comes without a newline", set_up_file, prompt_comes_without_newline);
    ADD("files are appended to", set_up_file, files_are_appended_to);
    ADD("a full log is put aside", set_up_file, full_log_is_put_aside);
    ADD("output is bounded", set_up_file, output_is_bounded);
    ADD("a log emptied by hand goes on", set_up_file, emptied_log_goes_on);
    ADD("a full log that cannot be put aside ends", set_up_file, log_that_cannot_be_put_aside_ends);
    ADD("the pty goes both ways, raw", set_up_pty, pty_goes_both_ways);
    ADD("the pty outlives its reader", set_up_pty, pty_outlives_its_reader);
    ADD("a pty nobody reads keeps the latest", set_up_pty, unread_pty_drops_the_oldest);
    ADD("input waits for room in the FIFO", set_up_pty, input_waits_for_room);
    ADD("no input comes while stopped", set_up_pty, no_input_while_stopped);
    ADD("the link replaces only links", set_up_pty, link_replaces_only_links);
    g_test_add_func("/serial/bad specifications are refused", bad_specs_are_refused);
    ADD("state goes round", set_up_file, state_goes_round);
    ADD("garbage is refused", set_up_file, garbage_is_refused);
    return g_test_run();
}
