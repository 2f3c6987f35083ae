/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Command line of district-vmm: the option table and what the values must be. */
#include "vmm/options.h"

#include "common/page.h"
#include "vmm/vmgenid.h"

#include <stdio.h>
#include <string.h>

/* As text, before it is checked. */
typedef struct RawOptions {
    char *memory;
    char **nets;
    char **macs;
    char **disks;
    char *dirty_source;
    char *vmgenid;
} RawOptions;

uint64_t
options_size_parse(const char *text)
{
    static const char units[] = "KMGT";
    char *end = NULL;
    guint64 value = g_ascii_strtoull(text, &end, 10);
    const char *unit;
    unsigned shift = 0;

    if (!g_ascii_isdigit(text[0]) || value == 0)
        return 0;
    if (*end != '\0') {
        unit = strchr(units, g_ascii_toupper(*end));
        if (unit == NULL || end[1] != '\0')
            return 0;
        shift = 10 * (unsigned)(unit - units + 1);
    }
    return value > RAM_BYTES_MAX >> shift ? 0 : value << shift;
}

gboolean
options_mac_parse(const char *text, uint8_t mac[6])
{
    if (strlen(text) != 17)
        return FALSE;
    for (int i = 0; i < 6; i++) {
        int high = g_ascii_xdigit_value(text[3 * i]);
        int low = g_ascii_xdigit_value(text[3 * i + 1]);

        if (high < 0 || low < 0 || (i < 5 && text[3 * i + 2] != ':'))
            return FALSE;
        mac[i] = (uint8_t)(high << 4 | low);
    }
    return (mac[0] & 1) == 0; /* a group address cannot be an interface's */
}

static gboolean
options_refuse(GError **error, const char *option, const char *value, const char *want)
{
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG, "%s %s: %s", option, value, want);
    return FALSE;
}

/* An address of KVM's usual prefix that stays the same for this name and card. */
static void
options_mac_derive(const char *name, guint number, uint8_t mac[6])
{
    guint hash = g_str_hash(name) + number;

    memcpy(mac, (const uint8_t[]){0x52, 0x54, 0x00}, 3);
    mac[3] = (uint8_t)(hash >> 16);
    mac[4] = (uint8_t)(hash >> 8);
    mac[5] = (uint8_t)hash;
}

static gboolean
options_nets_set(Options *o, const RawOptions *raw, GError **error)
{
    guint n_macs = raw->macs == NULL ? 0 : g_strv_length(raw->macs);

    o->n_nets = raw->nets == NULL ? 0 : g_strv_length(raw->nets);
    if (n_macs > o->n_nets)
        return options_refuse(error, "--mac", raw->macs[o->n_nets], "has no --net that it is for");
    o->nets = g_new0(OptionNet, o->n_nets);
    for (guint i = 0; i < o->n_nets; i++) {
        o->nets[i].socket = g_strdup(raw->nets[i]);
        if (i >= n_macs)
            options_mac_derive(o->name, i, o->nets[i].mac);
        else if (!options_mac_parse(raw->macs[i], o->nets[i].mac))
            return options_refuse(error, "--mac", raw->macs[i],
                                  "not a station address such as 52:54:00:12:34:56");
    }
    return TRUE;
}

static gboolean
options_disks_set(Options *o, const RawOptions *raw, GError **error)
{
    guint n = raw->disks == NULL ? 0 : g_strv_length(raw->disks);

    if (n > DISKS_MAX)
        return options_refuse(error, "--disk", raw->disks[DISKS_MAX], "a member has at most 8");
    if (o->overlay_dir != NULL && n == 0)
        return options_refuse(error, "--overlay-dir", o->overlay_dir,
                              "there is no --disk that could have an overlay");
    o->disks = g_new0(OptionDisk, n);
    for (o->n_disks = 0; o->n_disks < n; o->n_disks++) {
        if (!option_disk_parse(raw->disks[o->n_disks], o->n_disks, &o->disks[o->n_disks], error)) {
            o->n_disks++; /* clear it, too */
            return FALSE;
        }
        if (o->disks[o->n_disks].shared && o->overlay_dir == NULL) {
            o->n_disks++;
            return options_refuse(error, "--disk", raw->disks[o->n_disks - 1],
                                  "shared=on needs --overlay-dir: the image is not written to");
        }
    }
    return TRUE;
}

static gboolean
options_source_set(Options *o, const char *text, GError **error)
{
    static const char *const names[] = {
        [DIRTYLOG_AUTO] = "auto", [DIRTYLOG_BITMAP] = "bitmap", [DIRTYLOG_RING] = "ring"};

    for (size_t i = 0; text != NULL && i < G_N_ELEMENTS(names); i++) {
        if (g_str_equal(text, names[i])) {
            o->dirty_source = (DirtyLogSource)i;
            return TRUE;
        }
    }
    return text == NULL ||
           options_refuse(error, "--dirty-source", text, "must be auto, bitmap or ring");
}

static gboolean
options_combination_check(const Options *o, GError **error)
{
    const char *wrong = NULL;

    if (o->paused && o->member_socket == NULL)
        wrong = "--paused needs --member-socket: nobody could let the guest run";
    else if (o->incoming && o->member_socket == NULL)
        wrong = "--incoming needs --member-socket: that is where the state comes from";
    else if (!o->incoming && o->kernel == NULL)
        wrong = "there is nothing to boot: give --kernel FILE";
    else if (o->kernel == NULL && (o->initrd != NULL || o->append != NULL))
        wrong = "--initrd and --append need --kernel";
    else if (strlen(o->name) > 2 * NAME_BYTES_MAX + 1)
        wrong = "--name is too long";
    if (wrong == NULL)
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG, "%s", wrong);
    return FALSE;
}

static gboolean
options_check(Options *o, const RawOptions *raw, GError **error)
{
    const char *memory = raw->memory == NULL ? "512M" : raw->memory;

    if (o->name == NULL)
        o->name = g_strdup("guest");
    if (o->serial == NULL)
        o->serial = g_strdup("none");
    o->ram_size = options_size_parse(memory);
    if (o->ram_size == 0)
        return options_refuse(error, "--memory", memory, "not a size such as 512M or 4G");
    if (raw->vmgenid != NULL && !vmgenid_parse(raw->vmgenid, o->vmgenid, error))
        return FALSE;
    o->has_vmgenid = raw->vmgenid != NULL;
    return options_source_set(o, raw->dirty_source, error) && options_nets_set(o, raw, error) &&
           options_disks_set(o, raw, error) && options_combination_check(o, error);
}

static void
raw_options_clear(RawOptions *raw)
{
    g_free(raw->memory);
    g_strfreev(raw->nets);
    g_strfreev(raw->macs);
    g_strfreev(raw->disks);
    g_free(raw->dirty_source);
    g_free(raw->vmgenid);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(RawOptions, raw_options_clear)

void
options_clear(Options *o)
{
    for (guint i = 0; i < o->n_nets && o->nets != NULL; i++)
        g_free(o->nets[i].socket);
    g_free(o->nets);
    for (guint i = 0; i < o->n_disks; i++)
        option_disk_clear(&o->disks[i]);
    g_free(o->disks);
    g_free(o->overlay_dir);
    g_free(o->journal);
    g_free(o->name);
    g_free(o->kernel);
    g_free(o->initrd);
    g_free(o->append);
    g_free(o->serial);
    g_free(o->serial_log);
    g_free(o->console);
    g_free(o->debugcon);
    g_free(o->member_socket);
    *o = (Options){0};
}

gboolean
options_parse(int argc, char **argv, Options *o, GError **error)
{
    g_auto(RawOptions) raw = {0};
    const GOptionEntry table[] = {
        {"name", 0, 0, G_OPTION_ARG_STRING, &o->name, "Name for logs, DISTRICT/MEMBER", "NAME"},
        {"memory", 'm', 0, G_OPTION_ARG_STRING, &raw.memory, "Guest memory (512M)", "SIZE"},
        {"cpus", 'c', 0, G_OPTION_ARG_INT, &o->cpus, "Number of vCPUs (1)", "N"},
        {"kernel", 'k', 0, G_OPTION_ARG_FILENAME, &o->kernel, "bzImage or PVH ELF file", "FILE"},
        {"initrd", 'i', 0, G_OPTION_ARG_FILENAME, &o->initrd, "Initial RAM disk", "FILE"},
        {"append", 'a', 0, G_OPTION_ARG_STRING, &o->append, "Kernel command line", "TEXT"},
        {"net", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &raw.nets,
         "Network card on a stream socket; may be repeated", "SOCKET"},
        {"mac", 0, 0, G_OPTION_ARG_STRING_ARRAY, &raw.macs, "Its address, in order of --net",
         "ADDR"},
        {"disk", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &raw.disks,
         "Disk: PATH[,format=F][,readonly=on][,shared=on][,id=SERIAL]; may be repeated", "DISK"},
        {"overlay-dir", 0, 0, G_OPTION_ARG_FILENAME, &o->overlay_dir,
         "Keep what the guest writes to its disks in overlays here", "DIR"},
        {"journal", 0, 0, G_OPTION_ARG_FILENAME, &o->journal,
         "Raw image of a disk whose writes are durable at once and are not undone", "PATH"},
        {"serial", 0, 0, G_OPTION_ARG_STRING, &o->serial,
         "Serial port: none, file:PATH, pty or pty:LINK (none)", "SPEC"},
        {"serial-log", 0, 0, G_OPTION_ARG_FILENAME, &o->serial_log,
         "Also write its output to this file", "FILE"},
        {"console", 0, 0, G_OPTION_ARG_STRING, &o->console, "virtio console, as --serial", "SPEC"},
        {"rng", 0, 0, G_OPTION_ARG_NONE, &o->rng, "virtio random number generator", NULL},
        {"debugcon", 0, 0, G_OPTION_ARG_FILENAME, &o->debugcon, "Bytes written to port 0xE9",
         "FILE"},
        {"member-socket", 0, 0, G_OPTION_ARG_FILENAME, &o->member_socket,
         "Serve the member protocol here", "PATH"},
        {"incoming", 0, 0, G_OPTION_ARG_NONE, &o->incoming, "Wait for a RESTORE request", NULL},
        {"paused", 0, 0, G_OPTION_ARG_NONE, &o->paused, "Wait for a RESUME request", NULL},
        {"dirty-source", 0, 0, G_OPTION_ARG_STRING, &raw.dirty_source,
         "Where dirty pages come from: auto, bitmap, ring (auto)", "SOURCE"},
        {"vmgenid", 0, 0, G_OPTION_ARG_STRING, &raw.vmgenid, "VM generation id (random)", "UUID"},
        {"version", 0, 0, G_OPTION_ARG_NONE, &o->version, "Print the version", NULL},
        {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
    };
    g_autoptr(GOptionContext) context = g_option_context_new("- run one guest on KVM");
    g_auto(GStrv) args = g_strdupv(argv);

    *o = (Options){.cpus = 1, .dirty_source = DIRTYLOG_AUTO};
    g_option_context_add_main_entries(context, table, NULL);
    if (!g_option_context_parse_strv(context, &args, error))
        return FALSE;
    if (args[0] != NULL && args[1] != NULL)
        return options_refuse(error, "argument", args[1], "not expected; see --help");
    return o->version || options_check(o, &raw, error);
}
