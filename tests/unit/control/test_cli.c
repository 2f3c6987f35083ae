/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_cli PROGRAM: what the district command makes of its arguments, and of what districtd answers. */
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define GREETING "{\"district\":{\"version\":\"0\",\"host\":\"h1\"}}\n"
#define LIMIT_S "20"

static const char *program;

/* A districtd that has the same answer to everything. */
typedef struct Fake {
    char *dir;
    char *path;
    int fd;
    const char *answer; /* one line; @ is the id of the request */
    GThread *thread;
} Fake;

static void
put(int fd, const char *text)
{
    g_assert_cmpint(send(fd, text, strlen(text), MSG_NOSIGNAL), ==, (ssize_t)strlen(text));
}

/* answer, with the id of request for each @. */
static void
put_answer(int fd, const char *answer, const char *request)
{
    const char *member = strstr(request, "\"id\":");
    g_autofree char *id = g_strdup_printf("%d", member ? atoi(member + strlen("\"id\":")) : 0);
    g_auto(GStrv) parts = g_strsplit(answer, "@", -1);
    g_autofree char *line = g_strjoinv(id, parts);

    put(fd, line);
}

/* Until fake_stop shuts the socket down. */
static gpointer
fake_thread(gpointer data)
{
    Fake *fake = data;
    int client = -1;

    while ((client = accept(fake->fd, NULL, NULL)) >= 0) {
        char chunk[4096];
        ssize_t n = 0;
        put(client, GREETING);
        while ((n = read(client, chunk, sizeof(chunk) - 1)) > 0) {
            chunk[n] = '\0';
            put_answer(client, fake->answer, chunk);
        }
        close(client);
    }
    return NULL;
}

static void
fake_start(Fake *fake, const char *answer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    fake->dir = g_dir_make_tmp("cli-XXXXXX", NULL);
    fake->path = g_build_filename(fake->dir, "sock", NULL);
    fake->answer = answer;
    fake->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_strlcpy(address.sun_path, fake->path, sizeof(address.sun_path));
    g_assert_cmpint(bind(fake->fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(fake->fd, 8), ==, 0);
    fake->thread = g_thread_new("fake", fake_thread, fake);
}

static void
fake_stop(Fake *fake)
{
    shutdown(fake->fd, SHUT_RDWR);
    g_thread_join(fake->thread);
    close(fake->fd);
    g_unlink(fake->path);
    g_rmdir(fake->dir);
    g_free(fake->path);
    g_free(fake->dir);
}

typedef struct Run {
    int status;
    char *out;
    char *err;
} Run;

static void
run_clear(Run *run)
{
    g_free(run->out);
    g_free(run->err);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Run, run_clear)

/* With words, separated by spaces, where everything is answered by answer. Whatever takes longer than
 * LIMIT_S ends with status 124. */
static Run
run_with(const char *answer, const char *locale, const char *words)
{
    Fake fake;
    Run run = {0};
    g_autoptr(GError) error = NULL;

    fake_start(&fake, answer);
    g_autofree char *set = g_strconcat("LC_ALL=", locale, NULL);
    g_autofree char *line = g_strdup_printf("timeout " LIMIT_S " env %s %s --socket %s %s", set,
                                            program, fake.path, words);
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);
    g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &run.out,
                               &run.err, &run.status, &error));
    g_assert_no_error(error);
    run.status = WIFEXITED(run.status) ? WEXITSTATUS(run.status) : -1;
    fake_stop(&fake);
    return run;
}

static void
assert_has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        g_error("\"%s\" is not in: %s", part, text);
}

/* ---- console ---- */

#define SHOP(member)                                                                               \
    "{\"id\":@,\"return\":{\"name\":\"shop\",\"members\":[{\"name\":\"db\"," member "}]}}\n"

static void
test_console_stopped(void)
{
    g_auto(Run) run = run_with(SHOP("\"console\":\"/dev/null\""), "C", "console shop/db");

    g_assert_cmpint(run.status, ==, 1);
    assert_has(run.err, "shop/db: it does not run");
}

static void
test_console_running(void)
{
    g_auto(Run) run = run_with(SHOP("\"pid\":7,\"console\":\"/dev/null\""), "C", "console shop/db");

    g_assert_cmpint(run.status, ==, 0);
}

/* ---- show ---- */

static void
test_show_outside(void)
{
    g_auto(Run) run =
        run_with("{\"id\":@,\"return\":{\"bridge\":\"br0\",\"tap\":\"dst-0123456789\"}}\n", "C",
                 "show shop");

    assert_has(run.out, "dst-0123456789, bridge br0");
}

/* ---- top ---- */

/* To list, and to show. */
#define PAUSED(name)                                                                               \
    "{\"id\":@,\"return\":{\"districts\":[{\"name\":\"" name "\",\"lag_ns\":1}],"                  \
    "\"checkpointing\":{\"recent\":{\"pause_ns\":{\"count\":1,\"p50\":1000}}}}}\n"

static void
test_top_long_name(void)
{
    g_auto(Run) run = run_with(PAUSED("orders-of-the-north"), "C", "top --once");

    assert_has(run.out, "\norders-of-the-north\n            p50    1.0");
}

static void
test_top_short_name(void)
{
    g_auto(Run) run = run_with(PAUSED("orders-east"), "C", "top --once");

    assert_has(run.out, "\norders-east p50    1.0");
}

/* ---- protect --wait ---- */

#define PROTECTION(what)                                                                           \
    "{\"id\":@,\"return\":{\"state\":\"running\",\"protect\":true,\"checkpointing\":{" what "}}}"  \
    "\n"

static void
test_wait_refused(void)
{
    g_auto(Run) run =
        run_with(PROTECTION("\"protection\":\"connecting\",\"protection_error\":\"no room there\""),
                 "C", "protect shop --standby two --wait --timeout 500ms");

    g_assert_cmpint(run.status, ==, 1);
    g_assert_cmpstr(run.err, ==,
                    "shop: not protected yet: no room there\n"
                    "district: shop: not protected in time: no room there: it is tried on until "
                    "district unprotect shop\n");
}

static void
test_wait_protected(void)
{
    g_auto(Run) run = run_with(PROTECTION("\"protection\":\"protected\""), "C",
                               "protect shop --standby two --wait --timeout 10s");

    g_assert_cmpint(run.status, ==, 0);
    g_assert_cmpstr(run.out, ==, "shop: protected\n");
}

/* ---- Words ---- */

static void
test_refused_without_id(void)
{
    g_auto(Run) run = run_with("{\"error\":{\"class\":\"InvalidArgument\",\"desc\":\"not so\"}}\n",
                               "C", "show shop");

    g_assert_cmpint(run.status, ==, 1);
    assert_has(run.err, "district: not so");
}

static void
test_word_not_utf8(void)
{
    g_auto(Run) run = run_with("", "C", "show caf\xe9");

    g_assert_cmpint(run.status, ==, 1);
    assert_has(run.err, "show: \"caf\uFFFD\" is not UTF-8");
}

/* data: the words, and what is said of them. */
static void
test_refused(gconstpointer data)
{
    g_auto(GStrv) parts = g_strsplit(data, "|", 2);
    g_auto(Run) run = run_with("", "C", parts[0]);

    g_assert_cmpint(run.status, ==, 1);
    assert_has(run.err, parts[1]);
}

static void
test_help(void)
{
    g_auto(Run) run = run_with("", "C", "host add --help");

    g_assert_cmpint(run.status, ==, 0);
    assert_has(run.out, "district host add [OPTION");
}

static void
test_label_in_c_locale(void)
{
    g_auto(Run) run =
        run_with("{\"id\":@,\"return\":{\"id\":3}}\n", "C", "checkpoint shop --label caf\xc3\xa9");

    g_assert_cmpstr(run.err, ==, "");
    g_assert_cmpint(run.status, ==, 0);
}

int
main(int argc, char **argv)
{
    static const char *const bad_values[] = {
        "stop shop --timeout 10|stop: --timeout: \"10\"",
        "protect shop --standby two --interval 25|protect: --interval: \"25\"",
        "protect shop --standby two --max-slowdown 5|protect: --max-slowdown: \"5\"",
        "protect shop --standby two --max-lag 1h|protect: --max-lag: \"1h\"",
        "protect shop --standby two --output-commit maybe|protect: --output-commit: \"maybe\"",
        "protect shop --standby two --timeout 5s|protect: --timeout is how long to --wait",
        "protect shop --standby two --wait --timeout 5|protect: --timeout: \"5\"",
        "checkpoint shop --label caf\xe9|checkpoint: \"caf\uFFFD\" is not UTF-8",
    };
    static const char *const bad_calls[] = {
        "store check|usage: district store check NAME",
        "host add|usage: district host add NAME",
        "host list x|usage: district host list",
        "host remove|usage: district host remove NAME",
        "host list --y|host list: ",
        "start|usage: district start NAME",
    };

    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(argc, ==, 2);
    program = argv[1];
    g_test_add_func("/cli/the console of a member that does not run is not joined",
                    test_console_stopped);
    g_test_add_func("/cli/the console of a member that runs is joined", test_console_running);
    g_test_add_func("/cli/an error without an id is the answer", test_refused_without_id);
    g_test_add_func("/cli/a word that is not UTF-8 is refused by name", test_word_not_utf8);
    g_test_add_func("/cli/show has the interface that leads outside", test_show_outside);
    g_test_add_func("/cli/top has a name that is too long for its column on a line of its own",
                    test_top_long_name);
    g_test_add_func("/cli/top has any other name beside its times", test_top_short_name);
    g_test_add_func("/cli/what keeps a district from being protected is said once, and in the end",
                    test_wait_refused);
    g_test_add_func("/cli/a wait for protection ends when it is there", test_wait_protected);
    for (gsize i = 0; i < G_N_ELEMENTS(bad_values); i++) {
        g_autofree char *path =
            g_strdup_printf("/cli/a bad value is refused with its option %zu", i);
        g_test_add_data_func(path, bad_values[i], test_refused);
    }
    for (gsize i = 0; i < G_N_ELEMENTS(bad_calls); i++) {
        g_autofree char *path = g_strdup_printf("/cli/the usage has the verb in full %zu", i);
        g_test_add_data_func(path, bad_calls[i], test_refused);
    }
    g_test_add_func("/cli/help has the verb in full", test_help);
    g_test_add_func("/cli/a label is any UTF-8 text in the locale of cron", test_label_in_c_locale);
    return g_test_run();
}
