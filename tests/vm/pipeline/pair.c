/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two hosts on one machine, by the district command. */
#include "pair.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMMAND_LIMIT "30" /* seconds */
#define POLL_US 20000
#define SKIP 77 /* the exit status that says so to meson */

static const char *const member_names[PAIR_MEMBERS] = {"db", "app"};
/* Both end when their power button is pressed, but app stays on. */
static const char *const guest_options[PAIR_MEMBERS] = {
    "base=0x400000 pages=128 dirty=8 report=8 verify=16 seed=1 button=0x600 poweroff=0x604:0x3400",
    "base=0x400000 pages=128 dirty=4 report=8 verify=16 seed=2 pattern=random button=0x600",
};

/* ---- The district command ---- */

static GPtrArray *
command_line(const Host *host, const char *const *args)
{
    const char *fixed[] = {"timeout", COMMAND_LIMIT, g_getenv("DISTRICT"),
                           "-c",      host->conf,    "--json"};
    GPtrArray *argv = g_ptr_array_new();

    for (guint i = 0; i < G_N_ELEMENTS(fixed); i++)
        g_ptr_array_add(argv, (gpointer)fixed[i]);
    for (; *args; args++)
        g_ptr_array_add(argv, (gpointer)*args);
    g_ptr_array_add(argv, NULL);
    return argv;
}

void
pair_command_start(Pair *pair, const Host *host, Proc *proc, const char *const *args)
{
    g_autoptr(GPtrArray) argv = command_line(host, args);
    g_autofree char *program = g_find_program_in_path(argv->pdata[0]);

    argv->pdata[0] = program;
    proc_start(proc, pair->dir, args[0], (const char *const *)argv->pdata);
}

JsonNode *
pair_command(Pair *pair, const Host *host, char **error_text, const char *const *args)
{
    g_autoptr(GPtrArray) argv = command_line(host, args);
    g_autofree char *out = NULL, *err = NULL;
    g_autoptr(GError) error = NULL;
    int status = 0;

    g_spawn_sync(NULL, (char **)argv->pdata, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, &err,
                 &status, &error);
    g_assert_no_error(error);
    if (status == 0)
        return json_from_string(*out ? out : "{}", NULL);
    if (error_text)
        *error_text = g_strdup(g_strstrip(err));
    return NULL;
}

void
pair_must(Pair *pair, const Host *host, const char *const *args)
{
    g_autofree char *why = NULL;
    JsonNode *answer = pair_command(pair, host, &why, args);

    if (!answer)
        rig_fail(pair->dir, "%s: district %s: %s", host->name, args[0], why ? why : "no JSON");
    json_node_unref(answer);
}

/* Follow one word of a path; NULL if it leads nowhere. */
static JsonNode *
json_step(JsonNode *node, const char *word)
{
    if (JSON_NODE_HOLDS_OBJECT(node))
        return json_object_get_member(json_node_get_object(node), word);
    if (!JSON_NODE_HOLDS_ARRAY(node))
        return NULL;
    JsonArray *array = json_node_get_array(node);
    guint index = (guint)strtoul(word, NULL, 10);
    return index < json_array_get_length(array) ? json_array_get_element(array, index) : NULL;
}

JsonNode *
pair_show(Pair *pair, const Host *host, const char *district)
{
    const char *args[] = {"show", district, NULL};

    return pair_command(pair, host, NULL, args);
}

char *
pair_shown(JsonNode *show, const char *path)
{
    g_auto(GStrv) words = g_strsplit(path, ".", -1);
    JsonNode *at = show;

    for (char **word = words; at && *word; word++)
        at = json_step(at, *word);
    if (!at || !JSON_NODE_HOLDS_VALUE(at))
        return NULL;
    if (json_node_get_value_type(at) == G_TYPE_STRING)
        return json_node_dup_string(at);
    return g_strdup_printf("%" G_GINT64_FORMAT, json_node_get_int(at));
}

gint64
pair_shown_number(JsonNode *show, const char *path)
{
    g_autofree char *value = pair_shown(show, path);

    return value ? g_ascii_strtoll(value, NULL, 10) : 0;
}

char *
pair_field(Pair *pair, const Host *host, const char *path)
{
    return pair_field_of(pair, host, "shop", path);
}

char *
pair_field_of(Pair *pair, const Host *host, const char *district, const char *path)
{
    g_autoptr(JsonNode) answer = pair_show(pair, host, district);

    return pair_shown(answer, path);
}

gint64
pair_number(Pair *pair, const Host *host, const char *path)
{
    g_autoptr(JsonNode) answer = pair_show(pair, host, "shop");

    return pair_shown_number(answer, path);
}

GPid
pair_process(Pair *pair, const Host *host, const char *path)
{
    gint64 pid = pair_number(pair, host, path);

    if (pid <= 1)
        rig_fail(pair->dir, "%s: shop has no %s", host->name, path);
    return (GPid)pid;
}

const char *const pair_home_paths[PAIR_HOME_PROCESSES] = {"processes.ckpt", "processes.net",
                                                          "members.0.pid", "members.1.pid"};

static gint64
deadline_new(void)
{
    return g_get_monotonic_time() + RIG_LIMIT_MS * 1000;
}

void
pair_wait(Pair *pair, const Host *host, const char *path, const char *value)
{
    gint64 deadline = deadline_new();

    for (;;) {
        g_autofree char *now = pair_field(pair, host, path);
        if (g_strcmp0(now, value) == 0)
            return;
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "%s: %s of shop is %s, and not %s after %d ms", host->name, path,
                     now ? now : "unknown", value, RIG_LIMIT_MS);
        g_usleep(POLL_US);
    }
}

void
pair_wait_above(Pair *pair, const Host *host, const char *path, gint64 value)
{
    gint64 deadline = deadline_new(), now;

    while ((now = pair_number(pair, host, path)) <= value) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "%s: %s of shop is %" G_GINT64_FORMAT " after %d ms", host->name,
                     path, now, RIG_LIMIT_MS);
        g_usleep(POLL_US);
    }
}

void
pair_wait_protected(Pair *pair)
{
    pair_wait(pair, pair_home(pair), "state", "running");
    pair_wait(pair, pair_home(pair), "protection", "protected");
}

/* TRUE if `district host list` on a host says that the other one can be reached. */
static gboolean
link_is_up(Pair *pair, const Host *host)
{
    const char *args[] = {"host", "list", NULL};
    g_autoptr(JsonNode) answer = pair_command(pair, host, NULL, args);
    JsonNode *at = answer;

    for (const char *const *word = (const char *const[]){"hosts", "0", "reachable", NULL};
         at && *word; word++)
        at = json_step(at, *word);
    return at && JSON_NODE_HOLDS_VALUE(at) && json_node_get_boolean(at);
}

void
pair_wait_link(Pair *pair, const Host *host)
{
    gint64 deadline = deadline_new();

    while (!link_is_up(pair, host)) {
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "%s: the other host cannot be reached after %d ms", host->name,
                     RIG_LIMIT_MS);
        g_usleep(POLL_US);
    }
}

gint64
pair_started_epoch(Pair *pair, const Host *host)
{
    static const char said[] = "running from epoch ";
    g_autofree char *path = g_strdup_printf("%s/%s/log/shop/ckpt.log", pair->dir, host->name);
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    const char *at = g_strrstr(text, said);
    if (!at)
        rig_fail(pair->dir, "%s: district-ckpt has not run the district from an image", host->name);
    return g_ascii_strtoll(at + strlen(said), NULL, 10);
}

/* The events of a host, one JSON object a line. */
static char *
event_lines(const Host *host)
{
    g_autofree char *command = g_strdup_printf("timeout %s %s -c %s --json events", COMMAND_LIMIT,
                                               g_getenv("DISTRICT"), host->conf);
    char *out = NULL;

    g_assert_true(g_spawn_command_line_sync(command, &out, NULL, NULL, NULL));
    return out;
}

char *
pair_event_text(Pair *pair, const Host *host, const char *kind)
{
    g_autofree char *out = event_lines(host);
    g_auto(GStrv) lines = g_strsplit(out, "\n", -1);
    char *text = NULL;

    for (char **line = lines; *line; line++) {
        g_autoptr(JsonNode) node = **line ? json_from_string(*line, NULL) : NULL;
        JsonObject *event = node ? json_node_get_object(node) : NULL;
        if (!event || strcmp(json_object_get_string_member(event, "event"), kind) != 0)
            continue;
        g_free(text);
        text = g_strdup(json_object_get_string_member(event, "text"));
    }
    return text;
}

gboolean
pair_had_event(Pair *pair, const Host *host, const char *kind)
{
    g_autofree char *out = event_lines(host);
    g_autofree char *wanted = g_strdup_printf("\"event\":\"%s\",\"subject\":\"shop\"", kind);

    return strstr(out, wanted) != NULL;
}

/* ---- What the guests print ---- */

char *
pair_output(const Host *host, int member)
{
    g_autofree char *path = g_strdup_printf("%s/%s", host->out, member_names[member]);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : g_strdup("");
}

static guint
chain_lines(const Host *host, int member)
{
    g_autofree char *text = pair_output(host, member);
    guint n = 0;

    for (const char *p = text; (p = strstr(p, "chain cpu=")); p++)
        n++;
    for (const char *p = text; (p = strstr(p, "disk writes=")); p++)
        n++;
    for (const char *p = text; (p = strstr(p, "\njournal ")); p++)
        n++;
    return n;
}

void
pair_wait_progress(Pair *pair)
{
    const Host *home = pair_home(pair);
    gint64 deadline = deadline_new();

    for (int i = 0; i < PAIR_MEMBERS; i++) {
        guint before = chain_lines(home, i);
        while (chain_lines(home, i) < before + 3) {
            if (g_get_monotonic_time() > deadline)
                rig_fail(pair->dir, "guest %s on %s stands still for %d ms", member_names[i],
                         home->name, RIG_LIMIT_MS);
            g_usleep(2000);
        }
    }
}

void
pair_check_output(Pair *pair, const Host *host)
{
    for (int i = 0; i < PAIR_MEMBERS; i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *text = pair_output(host, i);
        /* A guest that went on here may have begun its line elsewhere. */
        const char *whole = g_str_has_prefix(text, "ready") ? text : strchr(text, '\n');
        guint n = 0;
        if (whole)
            guest_checker_output(pair->checkers[i], whole, &n, &error);
        if (error)
            rig_fail(pair->dir, "%s on %s: %s", member_names[i], host->name, error->message);
        g_assert_cmpuint(n, >, 0);
    }
}

static void
forget_output(const Host *host)
{
    for (int i = 0; i < PAIR_MEMBERS; i++) {
        g_autofree char *path = g_strdup_printf("%s/%s", host->out, member_names[i]);
        unlink(path);
    }
}

/* ---- Hosts ---- */

Host *
pair_home(Pair *pair)
{
    return &pair->hosts[pair->home];
}

Host *
pair_standby(Pair *pair)
{
    return &pair->hosts[1 - pair->home];
}

void
pair_swap(Pair *pair)
{
    pair->home = 1 - pair->home;
    forget_output(pair_standby(pair));
}

/* DIR/out is each host's own directory: the definition names the same files on both. */
void
pair_daemon_start(Pair *pair, Host *host)
{
    static const char script[] =
        "mount --bind \"$0\" \"$1\" && exec \"$2\" --config \"$3\" --foreground";
    g_autofree char *out = g_build_filename(pair->dir, "out", NULL);
    const char *argv[] = {
        "/usr/bin/env", "unshare", "-m", "--propagation",       "slave",    "sh", "-c",
        script,         host->out, out,  g_getenv("DISTRICTD"), host->conf, NULL};
    const char *list[] = {"list", NULL};
    gint64 deadline = deadline_new();

    proc_start(&host->daemon, pair->dir, host->name, argv);
    for (;;) {
        g_autofree char *why = NULL;
        g_autoptr(JsonNode) answer = pair_command(pair, host, &why, list);
        if (answer)
            return;
        if (g_get_monotonic_time() > deadline)
            rig_fail(pair->dir, "districtd of %s does not answer: %s", host->name, why);
        g_usleep(POLL_US);
    }
}

/* A port that is free now. */
static guint
free_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&addr, &len), ==, 0);
    close(fd);
    return ntohs(addr.sin_port);
}

static void
host_init(Pair *pair, Host *host, const char *name, guint port)
{
    host->name = g_strdup(name);
    host->conf = g_strdup_printf("%s/%s.conf", pair->dir, name);
    host->out = g_strdup_printf("%s/out.%s", pair->dir, name);
    g_autofree char *text = g_strdup_printf("[Daemon]\nHostName=%s\nStateDir=%s/%s/state\n"
                                            "RuntimeDir=%s/%s/run\nLogDir=%s/%s/log\n"
                                            "PkiDir=%s/%s/pki\nListen=127.0.0.1\nPort=%u\n",
                                            name, pair->dir, name, pair->dir, name, pair->dir, name,
                                            pair->dir, name, port);
    g_assert_true(g_file_set_contents(host->conf, text, -1, NULL));
    g_assert_cmpint(g_mkdir_with_parents(host->out, 0700), ==, 0);
}

/* The second host joins the first one with the token that the first one gives out. */
static void
pair_join(Pair *pair, const guint ports[2])
{
    g_autofree char *first = g_strdup_printf("127.0.0.1:%u", ports[0]);
    g_autofree char *second = g_strdup_printf("127.0.0.1:%u", ports[1]);
    const char *invite[] = {"host", "add", "h2", "--address", second, NULL};
    g_autofree char *why = NULL;
    g_autoptr(JsonNode) answer = pair_command(pair, &pair->hosts[0], &why, invite);

    if (!answer)
        rig_fail(pair->dir, "host add: %s", why);
    const char *token = json_object_get_string_member(json_node_get_object(answer), "token");
    const char *join[] = {"host", "add", "h1", "--address", first, "--token", token, NULL};
    pair_must(pair, &pair->hosts[1], join);
}

static char *
pair_definition(Pair *pair, const char *options, char *const commands[PAIR_MEMBERS])
{
    g_autoptr(GString) text = g_string_new("[District]\nName=shop\nInterval=5ms\n");
    char *path = g_build_filename(pair->dir, "shop.district", NULL);

    /* A link that a test may remove. */
    g_autofree char *kernel = g_build_filename(pair->dir, "kernel", NULL);
    g_assert_cmpint(symlink(g_getenv("TINY_GUEST"), kernel), ==, 0);
    g_string_append(text, options);
    for (int i = 0; i < PAIR_MEMBERS; i++)
        g_string_append_printf(text,
                               "[Member %s]\nKernel=%s\nCommandLine=%s\nMemory=32M\n"
                               "Debugcon=%s/out/%s\n",
                               member_names[i], kernel, commands[i], pair->dir, member_names[i]);
    g_assert_true(g_file_set_contents(path, text->str, -1, NULL));
    return path;
}

/* Where districtd looks for the others: one directory, as they are installed. */
static void
pair_libexec(Pair *pair)
{
    static const char *const variables[] = {"DISTRICT_VMM", "DISTRICT_CKPT", "DISTRICT_NET",
                                            "DISTRICT_STANDBY"};
    g_autofree char *dir = g_build_filename(pair->dir, "libexec", NULL);

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    for (guint i = 0; i < G_N_ELEMENTS(variables); i++) {
        const char *program = g_getenv(variables[i]);
        g_autofree char *name = g_path_get_basename(program);
        g_autofree char *link = g_build_filename(dir, name, NULL);
        g_assert_cmpint(symlink(program, link), ==, 0);
    }
    g_setenv("DISTRICT_LIBEXEC", dir, TRUE);
}

Pair *
pair_new_off(void)
{
    Pair *pair = g_new0(Pair, 1);
    g_autoptr(GError) error = NULL;

    pair->dir = g_dir_make_tmp("district-pair-XXXXXX", &error);
    g_assert_no_error(error);
    g_autofree char *out = g_build_filename(pair->dir, "out", NULL);
    g_assert_cmpint(g_mkdir_with_parents(out, 0700), ==, 0);
    pair_libexec(pair);
    pair->ports[0] = free_port();
    pair->ports[1] = free_port();
    host_init(pair, &pair->hosts[0], "h1", pair->ports[0]);
    host_init(pair, &pair->hosts[1], "h2", pair->ports[1]);
    return pair;
}

void
pair_on(Pair *pair)
{
    for (int i = 0; i < 2; i++) {
        if (pair->hosts[i].daemon.pid == 0)
            pair_daemon_start(pair, &pair->hosts[i]);
    }
    pair_join(pair, pair->ports);
}

/* Two hosts that know each other, and a definition with these options. app: more for its guest. */
static Pair *
pair_make(const char *options, const char *app)
{
    Pair *pair = pair_new_off();
    g_autoptr(GError) error = NULL;
    g_autofree char *app_command = g_strconcat(guest_options[1], " ", app, NULL);
    char *const commands[PAIR_MEMBERS] = {(char *)guest_options[0], app_command};

    for (int i = 0; i < PAIR_MEMBERS; i++) {
        pair->checkers[i] = guest_checker_new(commands[i], &error);
        g_assert_no_error(error);
    }
    pair_on(pair);
    pair->definition = pair_definition(pair, options, commands);
    return pair;
}

/* Create, start and protect the district. */
static void
pair_protect(Pair *pair)
{
    const char *create[] = {"create", pair->definition, NULL}, *start[] = {"start", "shop", NULL};
    const char *protect[] = {"protect", "shop", "--standby", "h2", "--wait", NULL};

    pair_must(pair, pair_home(pair), create);
    pair_must(pair, pair_home(pair), start);
    pair_must(pair, pair_home(pair), protect);
}

static Pair *
pair_run(Pair *pair)
{
    pair_protect(pair);
    pair_wait_progress(pair);
    return pair;
}

Pair *
pair_new_with(const char *options, const char *app)
{
    return pair_run(pair_make(options, app));
}

/* One more line for app, whose section is the last. */
static void
pair_define_more(Pair *pair, const char *key, const char *value)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(pair->definition, &text, NULL, NULL));
    g_autofree char *with = g_strdup_printf("%s%s=%s\n", text, key, value);
    g_assert_true(g_file_set_contents(pair->definition, with, -1, NULL));
}

void
pair_make_disk(const char *path, const char *format)
{
    g_autofree char *bytes = g_strdup_printf("%d", PAIR_DISK_BYTES);
    const char *create[] = {"qemu-img", "create", "-q", "-f", format, path, bytes, NULL};
    int status = 1;

    g_assert_true(g_spawn_sync(NULL, (char **)create, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

Pair *
pair_new_disk_with(const char *options, const char *format, const char *app)
{
    g_autofree char *command =
        g_strconcat("op=devices report=1 delay=20000 pages=1 poweroff=0x604:0x3400 ", app, NULL);
    Pair *pair = pair_make(options, command);
    g_autofree char *disk = g_strdup_printf("%s/app.%s", pair->dir, format);

    pair_make_disk(disk, format);
    pair_define_more(pair, "Disk", disk);
    return pair_run(pair);
}

Pair *
pair_new_disk(void)
{
    return pair_new_disk_with("AutoFailover=no\n", "raw", "");
}

/* ---- The journal ---- */

Pair *
pair_new_journal(const char *options)
{
    Pair *pair = pair_make(options, "op=journal pages=1 delay=2000");

    pair_define_more(pair, "Journal", "1M");
    return pair_run(pair);
}

Pair *
pair_new_journal_off(unsigned records)
{
    g_autofree char *app =
        g_strdup_printf("op=journal pages=1 poweroff=0x604:0x3400 rounds=%u", records);
    Pair *pair = pair_make("AutoFailover=no\n", app);

    pair_define_more(pair, "Journal", "1M");
    pair_protect(pair);
    pair_wait(pair, pair_home(pair), "members.1.off", "1");
    return pair;
}

guint64
pair_journal_told(const Host *host)
{
    static const char told[] = "\njournal ";
    g_autofree char *text = pair_output(host, PAIR_MEMBERS - 1);
    guint64 last = 0;

    /* The last line may not be whole. */
    char *end = strrchr(text, '\n');
    if (!end)
        return 0;
    *end = '\0';
    for (const char *p = text; (p = strstr(p, told)); p++) {
        if (g_ascii_isdigit(p[strlen(told)]))
            last = MAX(last, g_ascii_strtoull(p + strlen(told), NULL, 10));
    }
    return last;
}

guint64
pair_check_journal(Pair *pair, const Host *host, guint64 told)
{
    g_autofree char *path = pair_field(pair, host, "members.1.journal");
    g_autoptr(GError) error = NULL;
    g_autofree char *content = NULL;
    gsize bytes = 0;
    guint64 last = 0;

    if (!g_file_get_contents(path, &content, &bytes, &error))
        rig_fail(pair->dir, "app on %s: %s", host->name, error->message);
    if (!guest_journal_check(content, bytes, told, &last, &error))
        rig_fail(pair->dir, "app on %s, told up to %" G_GUINT64_FORMAT ": %s", host->name, told,
                 error->message);
    return last;
}

guint
pair_check_disk(Pair *pair, const Host *host)
{
    g_autofree char *text = pair_output(host, PAIR_MEMBERS - 1);
    g_autofree char *who = g_strdup_printf("app on %s", host->name);

    return pair_check_disk_text(pair, who, text);
}

guint
pair_check_disk_text(Pair *pair, const char *who, const char *text)
{
    guint n = 0;

    for (const char *line = strstr(text, "disk writes="); line;
         line = strstr(line, "disk writes=")) {
        const char *end = strchr(line, '\n');
        if (!end)
            break;
        g_autofree char *said = g_strndup(line, (gsize)(end - line));
        if (!g_str_has_suffix(said, " bad=0 errors=0"))
            rig_fail(pair->dir, "%s: %s", who, said);
        n++;
        line = end;
    }
    return n;
}

Pair *
pair_new_empty(const char *failover_after)
{
    g_autofree char *options =
        g_strdup_printf("AutoFailover=yes\nFailoverAfter=%s\n", failover_after);

    return pair_make(options, "");
}

Pair *
pair_new_failover_after(const char *failover_after)
{
    return pair_run(pair_new_empty(failover_after));
}

Pair *
pair_new(void)
{
    return pair_new_failover_after(PAIR_FAILOVER_AFTER);
}

void
pair_free(Pair *pair)
{
    const char *stop[] = {"stop", "shop", "--force", NULL};
    const char *destroy[] = {"destroy", "shop", NULL};
    const char *rm[] = {"rm", "-rf", pair->dir, NULL};

    bool on = pair_home(pair)->daemon.pid != 0;
    g_autofree char *state = on ? pair_field(pair, pair_home(pair), "state") : NULL;
    if (state && strcmp(state, "stopped") != 0 && strcmp(state, "superseded") != 0)
        pair_must(pair, pair_home(pair), stop);
    for (int i = 0; i < 2; i++) {
        /* What a standby keeps is ended with it; whatever is left dies with the test. */
        if (pair->hosts[i].daemon.pid != 0)
            g_clear_pointer(&(JsonNode *){pair_command(pair, &pair->hosts[i], NULL, destroy)},
                            json_node_unref);
        proc_kill(&pair->hosts[i].daemon);
        g_free(pair->hosts[i].name);
        g_free(pair->hosts[i].conf);
        g_free(pair->hosts[i].out);
        g_free(pair->hosts[i].daemon.name);
    }
    for (int i = 0; i < PAIR_MEMBERS; i++)
        g_clear_pointer(&pair->checkers[i], guest_checker_free);
    g_spawn_sync(NULL, (char **)rm, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
    g_free(pair->definition);
    g_free(pair->dir);
    g_free(pair);
}

static void
add_pid(GArray *pids, JsonNode *show, const char *path)
{
    GPid pid = (GPid)pair_shown_number(show, path);

    if (pid > 1)
        g_array_append_val(pids, pid);
}

/* What a home runs for shop; a member that is off has no process. */
static GArray *
home_pids(Pair *pair)
{
    g_autoptr(JsonNode) show = pair_show(pair, pair_home(pair), "shop");
    GArray *pids = g_array_new(FALSE, FALSE, sizeof(GPid));
    JsonArray *members =
        show ? json_object_get_array_member(json_node_get_object(show), "members") : NULL;

    add_pid(pids, show, "processes.ckpt");
    add_pid(pids, show, "processes.net");
    for (guint i = 0; members && i < json_array_get_length(members); i++) {
        g_autofree char *path = g_strdup_printf("members.%u.pid", i);
        add_pid(pids, show, path);
    }
    return pids;
}

static void
kill_pids(const GArray *pids)
{
    for (guint i = 0; i < pids->len; i++)
        kill(g_array_index(pids, GPid, i), SIGKILL);
}

void
pair_kill_district(Pair *pair)
{
    g_autoptr(GArray) pids = home_pids(pair);

    kill_pids(pids);
}

void
pair_lose_power(Pair *pair)
{
    Host *home = pair_home(pair);
    g_autoptr(GArray) pids = home_pids(pair);
    g_autofree char *run = g_strdup_printf("%s/%s/run", pair->dir, home->name);
    const char *rm[] = {"rm", "-rf", run, NULL};

    g_assert_true(g_file_test(run, G_FILE_TEST_IS_DIR));
    proc_kill(&home->daemon);
    kill_pids(pids);
    g_assert_true(g_spawn_sync(NULL, (char **)rm, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                               NULL, NULL));
}

/* ---- What is left behind ---- */

/* The children of this process now. */
static guint
kill_children(void)
{
    g_autofree char *path = g_strdup_printf("/proc/self/task/%d/children", getpid());
    g_autofree char *text = NULL;
    guint n = 0;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    g_auto(GStrv) words = g_strsplit(g_strstrip(text), " ", -1);
    for (char **word = words; *word && **word; word++, n++)
        kill((GPid)g_ascii_strtoll(*word, NULL, 10), SIGKILL);
    return n;
}

static volatile sig_atomic_t guarded;

/* A test that takes too long is ended so. */
static void
end_guarded(int signal_number)
{
    kill((pid_t)guarded, SIGKILL);
}

static int
guard_tests(pid_t tests)
{
    const struct sigaction end = {.sa_handler = end_guarded};
    int status = 0, result = 1;
    pid_t pid;

    guarded = tests;
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGINT, &end, NULL);

    while ((pid = waitpid(-1, &status, 0)) > 0 || errno == EINTR) {
        if (pid != tests)
            continue;
        result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        break;
    }
    while (kill_children() > 0) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        g_usleep(1000);
    }
    return result;
}

int
pair_guard(void)
{
    if (geteuid() != 0) {
        g_print("1..0 # SKIP mount namespaces are needed: run as root\n");
        return SKIP;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t tests = fork();
    if (tests != 0)
        return guard_tests(tests);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return -1;
}
