/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * lab-agent: runs commands in a lab host on behalf of lab-on
 *
 * THEORY OF OPERATION
 *
 * The agent is process 1 of a lab host, so it never exits: it accepts, forks
 * one session per connection, and has the kernel reap whatever ends.  It keeps
 * no state.  A session sends HELLO, reads one REQUEST, starts the command in a
 * session and process group of its own and pumps bytes until the command has
 * ended and its output is drained.  If the client goes away first, the process
 * group gets SIGTERM and, a second later, SIGKILL.
 *
 * What a command leaves in the background outlives it.  Since such a process
 * may hold the output pipes open for ever, a session waits for their end only
 * as long as DRAIN_MS passes without output.
 *
 * A detached command has no client: its output goes to the agent's own, which
 * is the host's console.
 *
 * The agent trusts whoever can connect.  It listens on a unix socket, or on a
 * TCP port bound to one network device which only the lab can reach.
 */

#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/** How long to wait for more output once the command itself has ended. */
#define DRAIN_MS 50
/** Between SIGTERM and SIGKILL for a command whose client has gone. */
#define TERM_GRACE_MS 1000
#define ARGUMENTS_MAX 4096

/** What a REQUEST asks for; the pointers lead into its payload. */
struct request {
    const char *directory;
    const char *environment[ARGUMENTS_MAX];
    size_t n_environment;
    char *arguments[ARGUMENTS_MAX + 1];
    size_t n_arguments;
    bool detach;
};

/** A running command and the pipes to it; an fd of -1 is closed. */
struct session {
    struct channel channel;
    struct channel_buffer input; /**< what the command has yet to read */
    bool input_ended;
    pid_t pid;
    int pid_fd;
    int to_stdin;
    int from_stdout;
    int from_stderr;
};

static void
close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/** Parse @payload into @request. Returns false if it is malformed. */
static bool
request_parse(struct request *request, char *payload, size_t length)
{
    if (!length || payload[length - 1])
        return false;
    for (char *item = payload; item < payload + length; item += strlen(item) + 1) {
        if (*item == 'd')
            request->directory = item + 1;
        else if (*item == 'D')
            request->detach = true;
        else if (*item == 'e' && request->n_environment < ARGUMENTS_MAX)
            request->environment[request->n_environment++] = item + 1;
        else if (*item == 'a' && request->n_arguments < ARGUMENTS_MAX)
            request->arguments[request->n_arguments++] = item + 1;
        else
            return false;
    }
    return request->n_arguments > 0;
}

/** In the child: become the command. Never returns. */
static void
command_exec(const struct request *request)
{
    const char *path;
    sigset_t none;

    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (!request->directory || chdir(request->directory) != 0) {
        if (chdir("/") != 0)
            _exit(126);
    }
    for (size_t i = 0; i < request->n_environment; i++)
        putenv((char *)request->environment[i]);
    path = getenv("LAB_PATH");
    if (path && *path) {
        char *full;

        if (asprintf(&full, "%s:%s", path, getenv("PATH")) > 0)
            setenv("PATH", full, 1);
    }
    execvp(request->arguments[0], request->arguments);
    dprintf(STDERR_FILENO, "on: %s: %s\n", request->arguments[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

/** Start the command of @session. Returns false, with errno, if it cannot. */
static bool
session_start(struct session *session, const struct request *request)
{
    int in[2], out[2], err[2];

    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0)
        return false;
    session->pid = fork();
    if (session->pid < 0)
        return false;
    if (session->pid == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        command_exec(request);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    session->to_stdin = in[1];
    session->from_stdout = out[0];
    session->from_stderr = err[0];
    fcntl(session->to_stdin, F_SETFL, O_NONBLOCK);
    session->pid_fd = pidfd_open(session->pid, 0);
    return session->pid_fd >= 0;
}

/** Move what can be read from @fd into frames of @type; closes it at its end. */
static void
session_forward(struct session *session, int *fd, enum channel_frame_type type)
{
    uint8_t data[16 << 10];
    ssize_t n = read(*fd, data, sizeof(data));

    if (n > 0)
        channel_put(&session->channel, type, data, (size_t)n);
    else if (n == 0 || (errno != EINTR && errno != EAGAIN))
        close_fd(fd);
}

/** Take STDIN frames off the channel, and feed the command. */
static void
session_feed(struct session *session)
{
    struct channel_frame frame;

    while (channel_next(&session->channel, &frame)) {
        if (frame.type != CHANNEL_STDIN)
            continue;
        if (frame.length == 0)
            session->input_ended = true;
        else if (session->to_stdin >= 0)
            channel_buffer_append(&session->input, frame.payload, frame.length);
    }
    if (session->to_stdin < 0)
        return;
    if (!channel_buffer_write(&session->input, session->to_stdin) ||
        (session->input_ended && !channel_buffer_length(&session->input))) {
        close_fd(&session->to_stdin);
        session->input.start = session->input.end = 0;
    }
}

/** Send all that is queued, waiting as long as the client reads. */
static void
session_finish(struct session *session, uint8_t status)
{
    struct pollfd writable = {.fd = session->channel.fd, .events = POLLOUT};

    channel_put(&session->channel, CHANNEL_EXIT, &status, 1);
    while (channel_buffer_length(&session->channel.out) && !session->channel.closed) {
        poll(&writable, 1, -1);
        channel_flush(&session->channel);
    }
    shutdown(session->channel.fd, SHUT_WR);
    exit(0);
}

/** The client has gone: end the command's process group. Never returns. */
static void
session_abandon(struct session *session)
{
    struct pollfd ended = {.fd = session->pid_fd, .events = POLLIN};

    kill(-session->pid, SIGTERM);
    poll(&ended, 1, TERM_GRACE_MS);
    kill(-session->pid, SIGKILL);
    exit(0);
}

/** Collect the command's exit status the way a shell counts it. */
static uint8_t
session_reap(struct session *session)
{
    int status = 0;

    waitpid(session->pid, &status, 0);
    return (uint8_t)(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

/** Pump bytes both ways until the command has ended and its output is sent. */
static void
session_run(struct session *session)
{
    enum { SOCKET, INPUT, OUTPUT, ERRORS, PROCESS, N_POLLED };
    struct channel *channel = &session->channel;
    bool running = true;
    uint8_t status = 0;

    while (running || session->from_stdout >= 0 || session->from_stderr >= 0) {
        /* First of all: the client's first input may have come with its request. */
        session_feed(session);

        bool roomy = channel_buffer_length(&channel->out) < CHANNEL_HIGH_WATER;
        bool hungry = channel_buffer_length(&session->input) < CHANNEL_HIGH_WATER;
        struct pollfd polled[N_POLLED] = {
            [SOCKET] = {.fd = channel->fd, .events = POLLRDHUP},
            [INPUT] = {.fd = -1, .events = POLLOUT},
            [OUTPUT] = {.fd = roomy ? session->from_stdout : -1, .events = POLLIN},
            [ERRORS] = {.fd = roomy ? session->from_stderr : -1, .events = POLLIN},
            [PROCESS] = {.fd = running ? session->pid_fd : -1, .events = POLLIN},
        };
        int ready;

        if (hungry)
            polled[SOCKET].events |= POLLIN;
        if (channel_buffer_length(&channel->out))
            polled[SOCKET].events |= POLLOUT;
        if (channel_buffer_length(&session->input))
            polled[INPUT].fd = session->to_stdin;

        ready = poll(polled, N_POLLED, running || !roomy ? -1 : DRAIN_MS);
        if (ready == 0)
            break;
        if (ready < 0)
            continue;
        if (polled[SOCKET].revents & POLLIN)
            channel_fill(channel);
        if (polled[SOCKET].revents & (POLLRDHUP | POLLHUP | POLLERR))
            channel->closed = true;
        if (polled[OUTPUT].revents)
            session_forward(session, &session->from_stdout, CHANNEL_STDOUT);
        if (polled[ERRORS].revents)
            session_forward(session, &session->from_stderr, CHANNEL_STDERR);
        if (polled[PROCESS].revents) {
            running = false;
            status = session_reap(session);
        }
        channel_flush(channel);
        if (channel->closed && running)
            session_abandon(session);
        if (channel->closed)
            exit(0);
    }
    session_finish(session, status);
}

/** Answer @request without leaving a command attached to this connection. */
static void
session_detach(struct session *session, const struct request *request)
{
    char line[32];
    pid_t pid = fork();

    if (pid == 0) {
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

        dup2(null, STDIN_FILENO);
        command_exec(request);
    }
    snprintf(line, sizeof(line), "%d\n", (int)pid);
    channel_put(&session->channel, CHANNEL_STDOUT, line, strlen(line));
    session_finish(session, pid < 0);
}

/** Serve one connection. Never returns. */
static void
session_main(int fd)
{
    struct session session = {.to_stdin = -1, .from_stdout = -1, .from_stderr = -1};
    static struct request request;
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    struct channel_frame frame;
    static char payload[1 << 20];
    char name[65] = "";

    signal(SIGCHLD, SIG_DFL);
    gethostname(name, sizeof(name) - 1);
    channel_init(&session.channel, fd);
    channel_put(&session.channel, CHANNEL_HELLO, name, strlen(name));
    channel_flush(&session.channel);
    while (!channel_next(&session.channel, &frame)) {
        if (session.channel.closed)
            exit(0);
        poll(&readable, 1, -1);
        channel_fill(&session.channel);
    }
    if (frame.type != CHANNEL_REQUEST)
        exit(1);
    memcpy(payload, frame.payload, frame.length);
    if (!request_parse(&request, payload, frame.length)) {
        fprintf(stderr, "lab-agent: malformed request of %zu bytes refused\n", frame.length);
        exit(1);
    }
    if (request.detach)
        session_detach(&session, &request);
    if (!session_start(&session, &request)) {
        fprintf(stderr, "lab-agent: cannot start %s: %s\n", request.arguments[0], strerror(errno));
        session_finish(&session, 126);
    }
    session_run(&session);
}

/** Listen on the unix socket @path. Returns the fd, or -1 with errno. */
static int
listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    unlink(path);
    umask(077);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 64) != 0)
        return -1;
    umask(022);
    return fd;
}

/** Listen on TCP @port of network device @device only. Returns the fd, or -1 with errno. */
static int
listen_tcp(const char *port, const char *device)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strlen(device)) != 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 64) != 0)
        return -1;
    return fd;
}

/** Accept for ever. */
static void
serve(int listener)
{
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pid_t pid;

        if (fd < 0) {
            poll(NULL, 0, 10);
            continue;
        }
        pid = fork();
        if (pid == 0) {
            close(listener);
            session_main(fd);
        }
        close(fd);
    }
}

int
main(int argc, char **argv)
{
    static const struct option options[] = {
        {"unix", required_argument, NULL, 'u'},
        {"tcp", required_argument, NULL, 't'},
        {"device", required_argument, NULL, 'd'},
        {0},
    };
    const char *unix_path = NULL, *port = NULL, *device = NULL;
    int option, listener;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'u':
            unix_path = optarg;
            break;
        case 't':
            port = optarg;
            break;
        case 'd':
            device = optarg;
            break;
        default:
            return 2;
        }
    }
    if (!unix_path && (!port || !device)) {
        fprintf(stderr, "usage: lab-agent --unix PATH | --tcp PORT --device DEVICE\n");
        return 2;
    }
    listener = unix_path ? listen_unix(unix_path) : listen_tcp(port, device);
    if (listener < 0) {
        fprintf(stderr, "lab-agent: cannot listen on %s: %s\n", unix_path ? unix_path : device,
                strerror(errno));
        return 1;
    }
    serve(listener);
}
