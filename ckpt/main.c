/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* district-ckpt: coordinator and pipeline of one district. */
#include "ckpt/coordinator.h"

#include "ckpt/layout.h"
#include "ckpt/member.h"
#include "ckpt/store-job.h"
#include "common/clock.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define CONNECT_MS 30000

static char *opt_name, *opt_host, *opt_control, *opt_net, *opt_pki, *opt_definition;
static char *opt_clone_of, *opt_overlay_dir;
static StoreJob job = {.file_fd = -1, .progress_fd = -1};
static char **opt_members;
static char **opt_journals;
static char *opt_store;
static char *opt_keep;
static gint64 opt_clone_id;
static gint64 opt_incarnation = 1;
static gint64 opt_durable_every_ms = 10000;
static gint64 opt_merge_rate = 64 << 20;
static gint64 opt_disk_sync_rate;
static gint64 opt_delta_cache = 64 << 20;
static gint64 opt_load_rate;

static const GOptionEntry options[] = {
    {"name", 0, 0, G_OPTION_ARG_STRING, &opt_name, "Name of the district", "NAME"},
    {"host", 0, 0, G_OPTION_ARG_STRING, &opt_host, "Name of this host", "NAME"},
    {"control", 0, 0, G_OPTION_ARG_FILENAME, &opt_control, "Control socket to listen on", "PATH"},
    {"net", 0, 0, G_OPTION_ARG_FILENAME, &opt_net,
     "Control socket of district-net, or 'none' for a district without network", "PATH"},
    {"member", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &opt_members,
     "A member and the socket of its engine, or \"off\"; once per member", "NAME=PATH"},
    {"journal", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &opt_journals,
     "Journal of a member that is off; others are told of by their engines; with --export: a copy "
     "of "
     "a member's",
     "NAME=PATH"},
    {"pki", 0, 0, G_OPTION_ARG_FILENAME, &opt_pki, "Directory of this host's certificates", "DIR"},
    {"definition", 0, 0, G_OPTION_ARG_FILENAME, &opt_definition, "The .district file", "FILE"},
    {"incarnation", 0, 0, G_OPTION_ARG_INT64, &opt_incarnation,
     "Incarnation, when the members run already (default 1)", "N"},
    {"check", 0, 0, G_OPTION_ARG_NONE, &job.check,
     "Only check every byte of the store, which may be in use, and print what is wrong", NULL},
    {"verify", 0, 0, G_OPTION_ARG_FILENAME, &job.verify,
     "Only verify a checkpoint of the store, which may be in use, and print what it is of", "ID"},
    {"describe", 0, 0, G_OPTION_ARG_STRING, &job.describe,
     "Only print the incarnation of a checkpoint of the store, and the definition it was saved "
     "with",
     "ID"},
    {"pin", 0, 0, G_OPTION_ARG_STRING, &job.pin,
     "Only keep a checkpoint of the store, which nobody else writes to, for --owner", "ID"},
    {"unpin", 0, 0, G_OPTION_ARG_STRING, &job.unpin, "Only undo that", "ID"},
    {"owner", 0, 0, G_OPTION_ARG_STRING, &job.owner, "For whom a checkpoint is kept", "NAME"},
    {"clone-of", 0, 0, G_OPTION_ARG_STRING, &opt_clone_of,
     "Run a checkpoint of this district; its --store is only read, none is made", "NAME"},
    {"clone-id", 0, 0, G_OPTION_ARG_INT64, &opt_clone_id,
     "The checkpoint that the members of a clone run already, if they do", "ID"},
    {"overlay-dir", 0, 0, G_OPTION_ARG_FILENAME, &opt_overlay_dir,
     "Where a clone's overlays are loaded to", "DIR"},
    {"export", 0, 0, G_OPTION_ARG_FILENAME, &job.export,
     "Only write a checkpoint of the store, which may be in use, to --file-fd, with its disks",
     "ID"},
    {"home", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &job.homes,
     "With --export: where the home of disk K of a member is; once per disk", "MEMBER/K=HOME"},
    {"socket-dir", 0, 0, G_OPTION_ARG_FILENAME, &job.socket_dir,
     "With --export: directory for the socket of a qemu-nbd", "DIR"},
    {"import", 0, 0, G_OPTION_ARG_NONE, &job.import,
     "Only make a store of what --file-fd has, and raw images of its disks", NULL},
    {"disk-dir", 0, 0, G_OPTION_ARG_FILENAME, &job.disk_dir, "With --import: where those go",
     "DIR"},
    {"as", 0, 0, G_OPTION_ARG_STRING, &job.as,
     "With --import: name of the new district (as in the file)", "NAME"},
    {"beside", 0, 0, G_OPTION_ARG_FILENAME, &job.beside,
     "With --import: refuse a name that is there in this directory", "DIR"},
    {"copy-journal", 0, 0, G_OPTION_ARG_FILENAME, &job.copy_journal,
     "Only copy the image of a journal, which no engine has open, to --file-fd", "PATH"},
    {"file-fd", 0, 0, G_OPTION_ARG_INT, &job.file_fd, "Descriptor to write to, or to read from",
     "FD"},
    {"progress-fd", 0, 0, G_OPTION_ARG_INT, &job.progress_fd,
     "Descriptor of a pipe to tell of progress; end when nobody reads it", "FD"},
    {"store", 0, 0, G_OPTION_ARG_FILENAME, &opt_store,
     "Directory of durable checkpoints; made if need be", "DIR"},
    {"durable-every", 0, 0, G_OPTION_ARG_INT64, &opt_durable_every_ms,
     "Time between durable checkpoints; 0: only when asked for (10000)", "MS"},
    {"keep", 0, 0, G_OPTION_ARG_STRING, &opt_keep,
     "Durable checkpoints to keep: the last, hourly and daily ones (3,0,0)", "N,N,N"},
    {"merge-rate", 0, 0, G_OPTION_ARG_INT64, &opt_merge_rate,
     "Bytes per second for moving old checkpoints to base images and homes (64 MiB)", "BYTES"},
    {"disk-sync-rate", 0, 0, G_OPTION_ARG_INT64, &opt_disk_sync_rate,
     "Bytes per second for the first copy of disks to a standby (0: no limit)", "BYTES"},
    {"delta-cache", 0, 0, G_OPTION_ARG_INT64, &opt_delta_cache,
     "Bytes of memory for what has been sent to a standby, to send only what changes of it (64 "
     "MiB; "
     "0: send whole pages)",
     "BYTES"},
    {"load-rate", 0, 0, G_OPTION_ARG_INT64, &opt_load_rate,
     "Bytes per second for reading memory and disks of a restored district ahead of their use (0: "
     "no limit)",
     "BYTES"},
    G_OPTION_ENTRY_NULL,
};

static gboolean
usage_error(GError **error, const char *text)
{
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "%s; see --help", text);
    return FALSE;
}

/* Split NAME=PATH options into two lists. */
static gboolean
parse_members(CoordinatorConfig *config, GError **error)
{
    guint n = opt_members ? g_strv_length(opt_members) : 0;

    if (n == 0 || n > MEMBERS_MAX)
        return usage_error(error, "1 to 256 --member options are needed");
    config->member_names = g_new0(char *, n + 1);
    config->member_paths = g_new0(char *, n + 1);
    for (guint i = 0; i < n; i++) {
        char *equals = strchr(opt_members[i], '=');
        if (!equals)
            return usage_error(error, "--member wants NAME=PATH");
        config->member_names[i] = g_strndup(opt_members[i], (gsize)(equals - opt_members[i]));
        config->member_paths[i] = g_strdup(equals + 1);
        if (!layout_name_good(config->member_names[i]))
            return usage_error(error, "a member's name is letters, digits, '.', '_' and '-'");
        for (guint k = 0; k < i; k++) {
            if (strcmp(config->member_names[k], config->member_names[i]) == 0)
                return usage_error(error, "two members have the same name");
        }
    }
    return TRUE;
}

/* Where the path of the journal goes that option, NAME=PATH, is about; NULL: no member that is off. */
static char **
journal_slot(CoordinatorConfig *config, const char *option)
{
    g_auto(GStrv) words = g_strsplit(option, "=", 2);

    for (guint i = 0; config->member_names[i]; i++) {
        if (g_strcmp0(config->member_names[i], words[0]) == 0 && words[1] &&
            g_strcmp0(config->member_paths[i], MEMBER_PATH_OFF) == 0)
            return &config->journal_paths[i];
    }
    return NULL;
}

static gboolean
parse_journals(CoordinatorConfig *config, GError **error)
{
    config->journal_paths = g_new0(char *, g_strv_length(config->member_names) + 1);
    for (char **option = opt_journals; option && *option; option++) {
        char **slot = journal_slot(config, *option);

        if (!slot)
            return usage_error(error, "--journal wants NAME=PATH of a member that is off");
        g_free(*slot);
        *slot = g_strdup(strchr(*option, '=') + 1);
    }
    return TRUE;
}

/* Where durable checkpoints go, how often, and which are kept. */
static gboolean
parse_persist(CoordinatorConfig *config, GError **error)
{
    CkptStorePolicy *keep = &config->persist.keep;

    *keep = (CkptStorePolicy){.keep_last = 3, .keep_labelled = true};
    if (opt_keep && (sscanf(opt_keep, "%u,%u,%u", &keep->keep_last, &keep->keep_hourly,
                            &keep->keep_daily) != 3 ||
                     keep->keep_last == 0))
        return usage_error(error, "--keep wants three numbers, the first at least 1");
    if (opt_durable_every_ms < 0 || opt_merge_rate < 1 || opt_disk_sync_rate < 0 ||
        opt_delta_cache < 0 || opt_load_rate < 0)
        return usage_error(error, "--durable-every or a rate is negative");
    if (opt_clone_of && (!opt_store || !opt_overlay_dir || !layout_name_good(opt_clone_of)))
        return usage_error(error, "--clone-of wants a name, --store and --overlay-dir");
    if (opt_clone_of)
        config->clone =
            (CloneConfig){opt_clone_of, opt_store, opt_overlay_dir, (uint64_t)MAX(opt_clone_id, 0)};
    else
        config->persist.dir = opt_store;
    config->persist.every_ns =
        opt_durable_every_ms == 0 ? INT64_MAX : opt_durable_every_ms * NS_PER_MS;
    config->persist.merge_rate = (uint64_t)opt_merge_rate;
    config->disk_sync_rate = (uint64_t)opt_disk_sync_rate;
    config->delta_cache = (uint64_t)opt_delta_cache;
    config->load_rate = (uint64_t)opt_load_rate;
    return TRUE;
}

static gboolean
parse_config(int argc, char **argv, CoordinatorConfig *config, GError **error)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    char *definition = NULL;

    g_option_context_set_summary(context, "Checkpoint the members of a district together.");
    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, error))
        return FALSE;
    if (argc == 1 && store_job_wanted(&job))
        return TRUE;
    if (argc > 1 || !opt_name || !opt_host || !opt_control || !opt_net)
        return usage_error(error, "--name, --host, --control and --net are needed, nothing else");
    if (!layout_name_good(opt_name) || opt_incarnation < 1)
        return usage_error(error, "--name or --incarnation is not a good one");
    if (opt_definition && !g_file_get_contents(opt_definition, &definition, NULL, error))
        return FALSE;
    config->district = opt_name;
    config->host = opt_host;
    config->pki_dir = opt_pki;
    config->net_path = strcmp(opt_net, "none") == 0 ? NULL : opt_net;
    config->numbers_path = g_strconcat(opt_control, ".numbers", NULL);
    config->definition = definition ? definition : g_strdup("");
    config->incarnation = (uint64_t)opt_incarnation;
    return parse_persist(config, error) && parse_members(config, error) &&
           parse_journals(config, error);
}

static void
config_clear(CoordinatorConfig *config)
{
    for (guint i = 0; config->member_names && config->member_names[i]; i++)
        g_free(config->journal_paths[i]);
    g_free(config->journal_paths);
    g_strfreev(config->member_names);
    g_strfreev(config->member_paths);
    g_free((char *)config->definition);
    g_free((char *)config->numbers_path);
    g_strfreev(opt_members);
    g_strfreev(opt_journals);
    g_free(opt_name);
    g_free(opt_host);
    g_free(opt_control);
    g_free(opt_net);
    g_free(opt_pki);
    g_free(opt_definition);
    g_free(opt_store);
    g_free(opt_keep);
    g_free(opt_clone_of);
    g_free(opt_overlay_dir);
}

/* A checkpoint of 256 members needs that many descriptors several times over. */
static void
raise_fd_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int
main(int argc, char **argv)
{
    CoordinatorConfig config = {0};
    g_autoptr(GError) error = NULL;
    Inbox *inbox = inbox_new();
    GMainLoop *loop = g_main_loop_new(NULL, FALSE);

    signal(SIGPIPE, SIG_IGN);
    raise_fd_limit();
    if (!parse_config(argc, argv, &config, &error)) {
        g_printerr("district-ckpt: %s\n", error->message);
        return 2;
    }
    if (store_job_wanted(&job)) {
        job.store = opt_store;
        job.host = opt_host;
        job.name = opt_name;
        job.journals = opt_journals;
        return store_job_run(&job);
    }
    log_init("district-ckpt", config.district);
    Coordinator *coordinator = coordinator_new(&config, inbox, CONNECT_MS, &error);
    ControlServer *control = coordinator ? control_server_new(opt_control, inbox, &error) : NULL;
    if (!control) {
        g_warning("%s", error->message);
        return 1;
    }
    coordinator_start(coordinator, control, loop);
    g_main_loop_run(loop);
    bool ended = coordinator_join(coordinator);
    control_server_free(control);
    /* A thread hangs in what it was at, and still uses what an exit would take down. */
    if (!ended)
        _exit(0);
    inbox_free(inbox);
    g_main_loop_unref(loop);
    config_clear(&config);
    return 0;
}
