/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * lab-on: run a command on a lab host (the `on` of scripts/lab)
 *
 * THEORY OF OPERATION
 *
 * $LAB_DIR/HOST/agent says where the host's agent listens: "unix PATH", or
 * "tcp PORT NETNS", a port of the loopback device of the network namespace
 * that the file NETNS stands for; being inside that namespace is what allows
 * one to use it.  lab-on connects, waits for HELLO, sends the request and pumps
 * standard input, output and error until EXIT.  If it is killed, the
 * connection breaks and the agent ends the command.
 *
 * Only a refused connection means that the host is off.  QEMU accepts on its
 * behalf and closes again when many connect at once or the host is busy; as no
 * request has been sent before HELLO, the next attempt is safe.
 *
 * Exit status: the command's; 124 when --timeout has passed; 255 if the host
 * cannot be reached or was lost before the command had ended.
 */

#include "channel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EXIT_TIMEOUT 124
#define EXIT_UNREACHABLE 255
/** How long a host that accepts may take to say HELLO, over all attempts. */
#define HELLO_MS 20000
/** The same for the first attempt alone. It grows by half each time. */
#define HELLO_FIRST_MS 3000
/** And while --wait lasts: a host that was not yet listening hears the next attempt sooner than the
 * retransmission of a lost one. */
#define HELLO_WAIT_MS 250
/** Between attempts. */
#define RETRY_MS 50

extern char **environ;

/** The command line. */
struct options {
    const char *host;
    char **command;
    int n_command;
    bool no_input;
    bool detach;
    int64_t wait_ms;  /**< keep trying to reach the host for this long */
    int64_t deadline; /**< of channel_now_ms(); INT64_MAX if none */
};

/** Milliseconds left until @deadline, in the form poll() takes. */
static int
time_left(int64_t deadline)
{
    int64_t left = deadline - channel_now_ms();

    if (deadline == INT64_MAX)
        return -1;
    if (left < 0)
        return 0;
    return left > INT32_MAX ? INT32_MAX : (int)left;
}

/** Connect to TCP @port on the loopback device of the namespace @netns. */
static int
connect_tcp(const char *port, const char *netns)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(port)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int ns = open(netns, O_RDONLY | O_CLOEXEC), fd, saved, on = 1;

    if (ns < 0 || setns(ns, CLONE_NEWNET) != 0) {
        if (ns >= 0)
            close(ns);
        return -1;
    }
    close(ns);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/** Connect to the unix socket @path. */
static int
connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, saved;

    if (strlen(path) >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/** Connect to the agent of @host. Returns the fd, or -1 with errno. */
static int
connect_host(const char *host)
{
    const char *lab = getenv("LAB_DIR");
    char path[4096], line[8192] = "", first[4096], second[4096];
    FILE *file;
    int fields;

    if (!lab || strchr(host, '/')) {
        fprintf(stderr, "on: %s\n",
                lab ? "a host name has no '/'" : "LAB_DIR is not set: run this inside scripts/lab");
        exit(2);
    }
    snprintf(path, sizeof(path), "%s/%s/agent", lab, host);
    file = fopen(path, "re");
    if (!file) {
        fprintf(stderr, "on: no host %s in this lab; it has: %s\n", host,
                getenv("LAB_HOSTS") ? getenv("LAB_HOSTS") : "?");
        exit(2);
    }
    if (!fgets(line, sizeof(line), file))
        line[0] = '\0';
    fclose(file);
    fields = sscanf(line, "tcp %4095s %4095[^\n]", first, second);
    if (fields == 2)
        return connect_tcp(first, second);
    if (sscanf(line, "unix %4095[^\n]", first) == 1)
        return connect_unix(first);
    errno = EINVAL;
    return -1;
}

/**
 * Read frames until HELLO.
 *
 * Returns true when the agent has answered; false when the connection broke
 * or @deadline passed.
 */
static bool
await_hello(struct channel *channel, int64_t deadline)
{
    struct pollfd readable = {.fd = channel->fd, .events = POLLIN};
    struct channel_frame frame;

    while (!channel_next(channel, &frame)) {
        if (channel->closed || time_left(deadline) == 0)
            return false;
        if (poll(&readable, 1, time_left(deadline)) > 0)
            channel_fill(channel);
    }
    return frame.type == CHANNEL_HELLO;
}

/** Whether nobody listens: a connection that failed with @error. */
static bool
is_off(int error)
{
    return error == ECONNREFUSED || error == ENOENT;
}

/** One attempt. Returns 0 when the agent has answered, else an errno. */
static int
try_channel(struct channel *channel, const char *host, int64_t hello_by)
{
    int fd = connect_host(host);

    if (fd < 0)
        return errno;
    channel_init(channel, fd);
    if (await_hello(channel, hello_by))
        return 0;
    close(fd);
    return ECONNRESET;
}

/** Reach the agent, trying again while that may help. Exits if it cannot. */
static void
open_channel(struct channel *channel, const struct options *options)
{
    int64_t start = channel_now_ms();
    int64_t patience = options->wait_ms ? HELLO_WAIT_MS : HELLO_FIRST_MS;

    for (;; patience = patience < HELLO_MS ? patience * 3 / 2 : HELLO_MS) {
        int64_t hello_by = channel_now_ms() + patience;
        int error = try_channel(channel, options->host,
                                hello_by < options->deadline ? hello_by : options->deadline);
        int64_t limit = options->wait_ms || is_off(error) ? options->wait_ms : HELLO_MS;

        if (error == 0)
            return;
        if (channel_now_ms() >= options->deadline) {
            fprintf(stderr, "on: %s: no answer in time\n", options->host);
            exit(EXIT_TIMEOUT);
        }
        if (channel_now_ms() >= start + limit) {
            fprintf(stderr, "on: %s: host is off or not answering\n", options->host);
            exit(EXIT_UNREACHABLE);
        }
        poll(NULL, 0, RETRY_MS);
    }
}

/** Append one tagged string to a request. */
static void
request_add(struct channel_buffer *request, char tag, const char *text)
{
    channel_buffer_append(request, &tag, 1);
    channel_buffer_append(request, text, strlen(text) + 1);
}

/** Whether the command gets this variable of our environment. */
static bool
is_forwarded(const char *variable)
{
    static const char *const prefixes[] = {"LAB_",          "DISTRICT_",      "G_",
                                           "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS=",
                                           "LC_ALL=",       "LANG="};

    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        if (strncmp(variable, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    }
    return false;
}

/** Queue the REQUEST that @options describe. */
static void
put_request(struct channel *channel, const struct options *options)
{
    struct channel_buffer request = {0};
    char directory[4096];

    if (getcwd(directory, sizeof(directory)))
        request_add(&request, 'd', directory);
    for (char **variable = environ; *variable; variable++) {
        if (is_forwarded(*variable))
            request_add(&request, 'e', *variable);
    }
    if (options->detach)
        request_add(&request, 'D', "");
    if (options->n_command == 1) {
        request_add(&request, 'a', "/bin/bash");
        request_add(&request, 'a', "-c");
    }
    for (int i = 0; i < options->n_command; i++)
        request_add(&request, 'a', options->command[i]);
    if (channel_buffer_length(&request) > CHANNEL_PAYLOAD_MAX) {
        fprintf(stderr, "on: the command is longer than %zu bytes: copy a script instead\n",
                CHANNEL_PAYLOAD_MAX);
        exit(2);
    }
    channel_put(channel, CHANNEL_REQUEST, request.data, channel_buffer_length(&request));
    free(request.data);
}

/** Read from standard input into a frame. Returns false once it has ended. */
static bool
forward_input(struct channel *channel)
{
    uint8_t data[16 << 10];
    ssize_t n = read(STDIN_FILENO, data, sizeof(data));

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return true;
    channel_put(channel, CHANNEL_STDIN, data, n > 0 ? (size_t)n : 0);
    return n > 0;
}

/** Write all of @frame to @fd. */
static void
deliver(int fd, const struct channel_frame *frame)
{
    for (size_t done = 0; done < frame->length;) {
        ssize_t n = write(fd, frame->payload + done, frame->length - done);

        if (n < 0 && errno == EAGAIN) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
            continue;
        }
        if (n < 0 && errno != EINTR)
            exit(EXIT_UNREACHABLE);
        if (n > 0)
            done += (size_t)n;
    }
}

/** Act on what the agent has sent. Exits with the command's status at EXIT. */
static void
dispatch(struct channel *channel)
{
    struct channel_frame frame;

    while (channel_next(channel, &frame)) {
        switch (frame.type) {
        case CHANNEL_STDOUT:
            deliver(STDOUT_FILENO, &frame);
            break;
        case CHANNEL_STDERR:
            deliver(STDERR_FILENO, &frame);
            break;
        case CHANNEL_EXIT:
            exit(frame.length ? frame.payload[0] : EXIT_UNREACHABLE);
        case CHANNEL_HELLO:
        case CHANNEL_REQUEST:
        case CHANNEL_STDIN:
            break;
        }
    }
}

/** Pump until the command ends, the time is up or the host is lost. */
static void
run(struct channel *channel, const struct options *options)
{
    bool input = !options->no_input && !options->detach;

    if (!input)
        channel_put(channel, CHANNEL_STDIN, NULL, 0);
    for (;;) {
        channel_flush(channel);

        bool roomy = channel_buffer_length(&channel->out) < CHANNEL_HIGH_WATER;
        struct pollfd polled[] = {
            {.fd = channel->fd, .events = POLLIN},
            {.fd = input && roomy ? STDIN_FILENO : -1, .events = POLLIN},
        };

        if (channel_buffer_length(&channel->out))
            polled[0].events |= POLLOUT;
        if (time_left(options->deadline) == 0) {
            fprintf(stderr, "on: %s: the command was ended: its time is up\n", options->host);
            exit(EXIT_TIMEOUT);
        }
        poll(polled, 2, time_left(options->deadline));
        if (polled[1].revents)
            input = forward_input(channel);
        if (polled[0].revents & (POLLIN | POLLHUP | POLLERR))
            channel_fill(channel);
        dispatch(channel);
        if (channel->closed) {
            fprintf(stderr, "on: %s: host lost before the command had ended\n", options->host);
            exit(EXIT_UNREACHABLE);
        }
    }
}

/** Print usage to @stream and exit with @status. */
static void
usage(FILE *stream, int status)
{
    fprintf(stream,
            "usage: on [-n] [--detach] [--timeout SECONDS] [--wait SECONDS] HOST COMMAND [ARG…]\n"
            "\n"
            "Run COMMAND on a host of the lab, with this standard input, output and error.\n"
            "A COMMAND without arguments is given to a shell.\n"
            "\n"
            "  -n, --no-input     give the command no input (needed in a loop that reads)\n"
            "  --detach           leave it running there; print its process id\n"
            "  --timeout SECONDS  then end it, and exit with 124\n"
            "  --wait SECONDS     keep trying that long to reach the host\n");
    exit(status);
}

/** A number of seconds, as milliseconds. */
static int64_t
parse_seconds(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds > 0 && seconds < 1e6)) {
        fprintf(stderr, "on: '%s' is not a number of seconds above 0\n", text);
        exit(2);
    }
    return (int64_t)(seconds * 1000);
}

int
main(int argc, char **argv)
{
    static const struct option long_options[] = {
        {"no-input", no_argument, NULL, 'n'},      {"detach", no_argument, NULL, 'd'},
        {"timeout", required_argument, NULL, 't'}, {"wait", required_argument, NULL, 'w'},
        {"help", no_argument, NULL, 'h'},          {0},
    };
    struct options options = {.deadline = INT64_MAX};
    struct channel channel;
    int option;

    while ((option = getopt_long(argc, argv, "+nh", long_options, NULL)) != -1) {
        switch (option) {
        case 'n':
            options.no_input = true;
            break;
        case 'd':
            options.detach = true;
            break;
        case 't':
            options.deadline = channel_now_ms() + parse_seconds(optarg);
            break;
        case 'w':
            options.wait_ms = parse_seconds(optarg);
            break;
        case 'h':
            usage(stdout, 0);
            break;
        default:
            usage(stderr, 2);
        }
    }
    if (argc - optind < 2)
        usage(stderr, 2);
    options.host = argv[optind];
    options.command = argv + optind + 1;
    options.n_command = argc - optind - 1;

    /* A writer that fails says more than one that dies. */
    signal(SIGPIPE, SIG_IGN);
    open_channel(&channel, &options);
    put_request(&channel, &options);
    run(&channel, &options);
}
