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

static void
test_too_long(void)
{
    g_autofree char *dir = g_dir_make_tmp("api-XXXXXX", NULL);
    Config config = {.runtime_dir = dir, .host_name = (char *)"h1"};
    Daemon daemon = {.config = &config};
    g_autoptr(GError) error = NULL;

    daemon.api = api_server_new(&daemon, &error);
    g_assert_no_error(error);
    for (int i = 0; i < 9; i++)
        add_event(&daemon, 1024 * 1024);
    GString *answer = ask(&daemon, "{\"execute\":\"events\",\"id\":7}\n");
    g_autoptr(JsonObject) message = json_parse_object(answer->str, answer->len, &error);
    g_assert_no_error(error);
    g_assert_cmpint(json_get_int(message, "id", 0), ==, 7);
    g_assert_nonnull(json_get_object(message, "error"));
    g_string_free(answer, TRUE);
    api_server_free(daemon.api);
    g_rmdir(dir);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/api/an answer that is too long for any client is an error", test_too_long);
    return g_test_run();
}
