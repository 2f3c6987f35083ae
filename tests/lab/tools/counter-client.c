/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client that increments a counter in a redis server over one long TCP connection, one request at
 * a time, and prints a line, with the time in milliseconds since 1970, for all that happens:
 *
 *   1732130000123 connected port=40112 connection=1
 *   1732130000130 ack value=17 connection=1 took_ms=3
 *   1732130002001 lost errno=ECONNRESET connection=1 acked=17
 *   1732130002105 retry errno=ECONNREFUSED
 *   1732130009000 end acked=99 connections=2
 *
 * With --idle it sends nothing after connecting and only waits for the connection to be lost. An
 * unanswered request is never repeated on the same connection; after a loss the client reconnects
 * and goes on, so "lost" with a gap in the values tells what was acknowledged and then undone.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <glib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_MS 2000
#define RETRY_US 100000

static volatile sig_atomic_t stopped;

static struct {
    char *address;
    int port;
    char *key;
    int delay_ms;
    int timeout_ms;
    gboolean idle;
} options = {.port = 6379, .delay_ms = 20, .timeout_ms = 60000};

static void
on_stop(int signo)
{
    stopped = 1;
}

static gint64
now_ms(void)
{
    return g_get_real_time() / 1000;
}

static const char *
errno_name(int code)
{
    switch (code) {
    case 0:
        return "EOF";
    case ECONNRESET:
        return "ECONNRESET";
    case ECONNREFUSED:
        return "ECONNREFUSED";
    case ETIMEDOUT:
        return "ETIMEDOUT";
    case EHOSTUNREACH:
        return "EHOSTUNREACH";
    case EPIPE:
        return "EPIPE";
    default:
        return g_strerror(code);
    }
}

/* Wait for events on fd; 0 with errno ETIMEDOUT after ms. */
static int
wait_fd(int fd, short events, int ms)
{
    struct pollfd pfd = {.fd = fd, .events = events};
    int n = poll(&pfd, 1, ms);

    if (n == 0)
        errno = ETIMEDOUT;
    return n;
}

static int
client_connect(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1, failure = 0;
    socklen_t len = sizeof(failure);

    inet_pton(AF_INET, options.address, &addr.sin_addr);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 && errno == EINPROGRESS) {
        if (wait_fd(fd, POLLOUT, CONNECT_MS) > 0)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &len);
        else
            failure = errno;
    }
    if (failure != 0) {
        close(fd);
        errno = failure;
        return -1;
    }
    return fd;
}

static int
local_port(int fd)
{
    struct sockaddr_in addr = {0};
    socklen_t len = sizeof(addr);

    return getsockname(fd, (struct sockaddr *)&addr, &len) == 0 ? ntohs(addr.sin_port) : 0;
}

/* Read a line; FALSE with errno set (0 at end of file). */
static gboolean
read_line(int fd, char *line, size_t cap)
{
    for (size_t n = 0; n + 1 < cap;) {
        if (wait_fd(fd, POLLIN, options.timeout_ms) <= 0)
            return FALSE;
        ssize_t got = recv(fd, line + n, 1, 0);
        if (got <= 0) {
            errno = got == 0 ? 0 : errno;
            return FALSE;
        }
        if (line[n++] == '\n') {
            line[n] = '\0';
            return TRUE;
        }
    }
    errno = EMSGSIZE;
    return FALSE;
}

static gboolean
increment(int fd, gint64 *value)
{
    g_autofree char *request = g_strdup_printf("INCR %s\r\n", options.key);
    char line[128];

    if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0 || !read_line(fd, line, sizeof(line)))
        return FALSE;
    if (line[0] != ':') {
        errno = EPROTO;
        return FALSE;
    }
    *value = g_ascii_strtoll(line + 1, NULL, 10);
    return TRUE;
}

/* Use the connection until it is lost or the program is to stop; errno says how it was lost. */
static void
client_use(int fd, int connection, gint64 *acked)
{
    if (options.idle) {
        char c;
        if (wait_fd(fd, POLLIN, -1) > 0 && recv(fd, &c, 1, 0) == 0)
            errno = 0;
        return;
    }
    while (!stopped) {
        gint64 start = now_ms(), value;
        if (!increment(fd, &value))
            return;
        *acked = value;
        printf("%" G_GINT64_FORMAT " ack value=%" G_GINT64_FORMAT " connection=%d took_ms=%ld\n",
               now_ms(), value, connection, (long)(now_ms() - start));
        g_usleep((gulong)options.delay_ms * 1000);
    }
}

static void
client_run(void)
{
    gint64 acked = 0;
    int connections = 0;

    while (!stopped) {
        int fd = client_connect();
        if (fd < 0) {
            printf("%" G_GINT64_FORMAT " retry errno=%s\n", now_ms(), errno_name(errno));
            g_usleep(RETRY_US);
            continue;
        }
        connections++;
        printf("%" G_GINT64_FORMAT " connected port=%d connection=%d\n", now_ms(), local_port(fd),
               connections);
        client_use(fd, connections, &acked);
        if (!stopped)
            printf("%" G_GINT64_FORMAT " lost errno=%s connection=%d acked=%" G_GINT64_FORMAT "\n",
                   now_ms(), errno_name(errno), connections, acked);
        close(fd);
    }
    printf("%" G_GINT64_FORMAT " end acked=%" G_GINT64_FORMAT " connections=%d\n", now_ms(), acked,
           connections);
}

int
main(int argc, char **argv)
{
    GOptionEntry entries[] = {
        {"address", 0, 0, G_OPTION_ARG_STRING, &options.address, "IPv4 address of redis", "ADDR"},
        {"port", 0, 0, G_OPTION_ARG_INT, &options.port, "its port (6379)", "PORT"},
        {"key", 0, 0, G_OPTION_ARG_STRING, &options.key, "counter to increment", "KEY"},
        {"delay", 0, 0, G_OPTION_ARG_INT, &options.delay_ms, "pause between requests (20)", "MS"},
        {"timeout", 0, 0, G_OPTION_ARG_INT, &options.timeout_ms,
         "longest wait for an answer (60000)", "MS"},
        {"idle", 0, 0, G_OPTION_ARG_NONE, &options.idle, "connect and only wait", NULL},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    struct sigaction action = {.sa_handler = on_stop};

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || !options.address) {
        fprintf(stderr, "counter-client: %s\n",
                error ? error->message : "--address is missing: give the server's");
        return 1;
    }
    if (!options.key)
        options.key = g_strdup("outside");
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    client_run();
    return 0;
}
