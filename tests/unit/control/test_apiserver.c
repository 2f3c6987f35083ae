/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The server of the user API, with clients that are threads. */
#include "control/daemon.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LIMIT_S 20

/* A client that has one request. */
typedef struct Asker {
    const char *path;
    const char *line;
    GString *answer; /* the line after the greeting; cut off: what came of it */
    gint done;
} Asker;

static void
read_line(int fd, GString *line)
{
    char c = '\0';

    g_string_truncate(line, 0);
    while (read(fd, &c, 1) == 1 && c != '\n')
        g_string_append_c(line, c);
}

static gpointer
asker_thread(gpointer data)
{
    Asker *asker = data;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, asker->path, sizeof(address.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(write(fd, asker->line, strlen(asker->line)), ==, (ssize_t)strlen(asker->line));
    read_line(fd, asker->answer);
    read_line(fd, asker->answer);
    close(fd);
    g_atomic_int_set(&asker->done, 1);
    g_main_context_wakeup(NULL);
    return NULL;
}

static gboolean
on_late(gpointer data)
{
    g_error("no answer in time");
    return G_SOURCE_REMOVE;
}

/* The answer to line. */
static GString *
ask(Daemon *daemon, const char *line)
{
    g_autofree char *path = config_socket_path(daemon->config);
    Asker asker = {.path = path, .line = line, .answer = g_string_new(NULL)};
    guint late = g_timeout_add_seconds(LIMIT_S, on_late, NULL);
    GThread *thread = g_thread_new("asker", asker_thread, &asker);

    while (!g_atomic_int_get(&asker.done))
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(late);
    g_thread_join(thread);
    return asker.answer;
}

static void
add_event(Daemon *daemon, gsize bytes)
{
    g_autoptr(JsonObject) event = json_object_new();
    g_autofree char *text = g_strnfill(bytes, 'x');

    json_object_set_string_member(event, "text", text);
    api_server_event(daemon->api, event);
}

/* A daemon with nothing but an API. */
typedef struct Fixture {
    char *dir;
    Config config;
    Daemon daemon;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->dir = g_dir_make_tmp("api-XXXXXX", NULL);
    f->config = (Config){
        .runtime_dir = f->dir, .state_dir = f->dir, .log_dir = f->dir, .host_name = (char *)"h1"};
    f->daemon.config = &f->config;
    f->daemon.districts =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)district_free);
    f->daemon.api = api_server_new(&f->daemon, &error);
    g_assert_no_error(error);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    api_server_free(f->daemon.api);
    f->daemon.api = NULL;
    g_hash_table_unref(f->daemon.districts);
    g_rmdir(f->dir);
    g_free(f->dir);
}

/* The error that line is answered with. */
static JsonObject *
ask_refused(Fixture *f, const char *line)
{
    g_autoptr(GError) error = NULL;
    GString *answer = ask(&f->daemon, line);
    g_autoptr(JsonObject) message = json_parse_object(answer->str, answer->len, &error);

    g_assert_no_error(error);
    g_string_free(answer, TRUE);
    g_assert_cmpint(json_get_int(message, "id", 0), ==, 7);
    g_assert_nonnull(json_get_object(message, "error"));
    return json_object_ref(json_get_object(message, "error"));
}

static void
test_too_long(Fixture *f, gconstpointer data)
{
    for (int i = 0; i < 9; i++)
        add_event(&f->daemon, 1024 * 1024);
    g_autoptr(JsonObject) refused = ask_refused(f, "{\"execute\":\"events\",\"id\":7}\n");
    g_assert_cmpstr(json_get_string(refused, "class", ""), ==, "Failed");
}

static void
test_stop_without_room(Fixture *f, gconstpointer data)
{
    static const char text[] =
        "[District]\nName=shop\n[Member db]\nKernel=/k\nMemory=64M\nDisk=/d.img\n";
    g_autoptr(GError) error = NULL;
    Definition *definition = definition_parse(text, strlen(text), "shop.district", &error);

    g_assert_no_error(error);
    District *d = district_new(&f->daemon, definition);
    d->record.role = ROLE_HOME;
    d->state = STATE_RUNNING;
    d->ckpt_status = json_object_new();
    json_object_set_string_member(d->ckpt_status, "durable_error", "no room");
    g_hash_table_insert(f->daemon.districts, d->name, d);
    g_autoptr(JsonObject) refused = ask_refused(
        f, "{\"execute\":\"stop\",\"arguments\":{\"name\":\"shop\",\"timeout_us\":0},\"id\":7}\n");
    g_assert_nonnull(strstr(json_get_string(refused, "desc", ""), "cannot be saved: no room"));
    g_assert_cmpint(d->state, ==, STATE_RUNNING);
}

static void
test_rollback(Fixture *f, gconstpointer data)
{
    g_autoptr(JsonObject) refused =
        ask_refused(f, "{\"execute\":\"rollback\",\"arguments\":{\"name\":\"shop\"},\"id\":7}\n");
    g_assert_cmpstr(json_get_string(refused, "class", ""), ==, "NotFound");
}

static void
add(const char *path, void (*test)(Fixture *f, gconstpointer data))
{
    g_test_add(path, Fixture, NULL, set_up, test, tear_down);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("/api/an answer that is too long for any client is an error", test_too_long);
    add("/api/a district whose disks cannot be saved is not stopped without its buttons either",
        test_stop_without_room);
    add("/api/rollback is a verb", test_rollback);
    return g_test_run();
}
