/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The description of a district, NAME.district.
 *
 * Keys are read through tables, one row per key with the function that understands its value, so
 * that the file format is in one place and an unknown key is simply one without a row. GKeyFile
 * does the syntax; as it silently merges repeated sections and lets the last of repeated keys win,
 * a scan of the lines before it refuses both.
 */
#include "control/definition.h"
#include "control/error.h"
#include "control/units.h"
#include "common/page.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#define MEMBER_PREFIX "Member "
#define MEMORY_MIN (2ULL << 20) /* as the engine has it: MACHINE_RAM_MIN */
#define DURABLE_EVERY_DEFAULT_US 10000000

typedef gboolean (*KeyParser)(const char *value, void *field, GError **error);

typedef struct Key {
    const char *name;
    KeyParser parse;
    size_t offset; /* of the field */
} Key;

static gboolean G_GNUC_PRINTF(2, 3) bad_value(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, text);
    return FALSE;
}

static gboolean
parse_name(const char *value, void *field, GError **error)
{
    if (!units_check_name(value, error))
        return FALSE;
    *(char **)field = g_strdup(value);
    return TRUE;
}

static gboolean
parse_bool(const char *value, void *field, GError **error)
{
    return units_parse_bool(value, field, error);
}

static gboolean
parse_interval(const char *value, void *field, GError **error)
{
    return pacing_parse_interval(value, field, error);
}

static gboolean
parse_slowdown(const char *value, void *field, GError **error)
{
    return pacing_parse_slowdown(value, field, error);
}

static gboolean
parse_lag(const char *value, void *field, GError **error)
{
    return pacing_parse_lag(value, field, error);
}

static gboolean
parse_patience(const char *value, uint32_t *ms, uint64_t min_ms, GError **error)
{
    uint64_t us = 0;

    if (!units_parse_time(value, &us, error))
        return FALSE;
    if (us < min_ms * 1000 || us > 3600000000ULL)
        return bad_value(error, "%s is out of range: give %" G_GUINT64_FORMAT "ms to 60min", value,
                         min_ms);
    *ms = (uint32_t)(us / 1000);
    return TRUE;
}

/* Less is soon mistaken: both hosts beat every 200 ms only, and any host stands still at times. */
static gboolean
parse_failover_after(const char *value, void *field, GError **error)
{
    return parse_patience(value, field, 1000, error);
}

static gboolean
parse_detach_after(const char *value, void *field, GError **error)
{
    return parse_patience(value, field, 200, error);
}

static gboolean
parse_bridge(const char *value, void *field, GError **error)
{
    size_t len = strlen(value);

    if (len == 0 || len > 15 || strpbrk(value, "/ \t") != NULL || !g_str_is_ascii(value))
        return bad_value(error, "\"%.40s\" is not the name of a network interface", value);
    *(char **)field = g_strdup(value);
    return TRUE;
}

static gboolean
parse_engine(const char *value, void *field, GError **error)
{
    if (strcmp(value, "kvm") == 0)
        return TRUE;
    if (strcmp(value, "qemu") == 0)
        return bad_value(error, "the qemu engine is not available in this version: use kvm");
    return bad_value(error, "\"%.40s\" is not an engine: use kvm", value);
}

static gboolean
parse_path(const char *value, void *field, GError **error)
{
    if (!g_path_is_absolute(value))
        return bad_value(error, "\"%.200s\" is not an absolute path: start it with /", value);
    *(char **)field = g_strdup(value);
    return TRUE;
}

static gboolean
parse_text(const char *value, void *field, GError **error)
{
    if (strlen(value) > 2000)
        return bad_value(error, "longer than 2000 characters: shorten it");
    *(char **)field = g_strdup(value);
    return TRUE;
}

static gboolean
parse_memory(const char *value, void *field, GError **error)
{
    uint64_t bytes = 0;

    if (!units_parse_size(value, &bytes, error))
        return FALSE;
    if (bytes < MEMORY_MIN || bytes > RAM_BYTES_MAX || bytes % PAGE_BYTES != 0)
        return bad_value(error, "%s is out of range: give 2M to 1T in steps of 4K", value);
    *(uint64_t *)field = bytes;
    return TRUE;
}

static gboolean
parse_journal(const char *value, void *field, GError **error)
{
    uint64_t bytes = 0;

    if (!units_parse_size(value, &bytes, error))
        return FALSE;
    if (bytes < JOURNAL_BYTES_MIN || bytes > JOURNAL_BYTES_MAX || bytes % PAGE_BYTES != 0)
        return bad_value(error, "%s is out of range: give 1M to 1G in steps of 4K", value);
    *(uint64_t *)field = bytes;
    return TRUE;
}

static gboolean
parse_delta_cache(const char *value, void *field, GError **error)
{
    uint64_t bytes = 0;

    if (strcmp(value, "0") != 0 && !units_parse_size(value, &bytes, error))
        return FALSE;
    if (bytes != 0 && (bytes < DELTA_CACHE_MIN || bytes > DELTA_CACHE_MAX))
        return bad_value(error, "%s is out of range: give 1M to 16G, or 0", value);
    *(uint64_t *)field = bytes;
    return TRUE;
}

static gboolean
parse_cpus(const char *value, void *field, GError **error)
{
    guint64 number = 0;

    if (!g_ascii_string_to_unsigned(value, 10, 1, DEFINITION_CPUS_MAX, &number, NULL))
        return bad_value(error, "\"%.40s\" is not a number of CPUs: give 1 to %d", value,
                         DEFINITION_CPUS_MAX);
    *(unsigned *)field = (unsigned)number;
    return TRUE;
}

static gboolean
parse_mac(const char *value, void *field, GError **error)
{
    return units_parse_mac(value, field, error);
}

static gboolean
parse_dirty_source(const char *value, void *field, GError **error)
{
    static const char *const known[] = {"auto", "bitmap", "ring", NULL};

    if (!g_strv_contains(known, value))
        return bad_value(error, "\"%.40s\" is not one of auto, bitmap, ring", value);
    *(char **)field = g_strdup(value);
    return TRUE;
}

static gboolean
parse_console(const char *value, void *field, GError **error)
{
    if (strcmp(value, "none") != 0 && strcmp(value, "pty") != 0 &&
        !g_str_has_prefix(value, "pty:/") && !g_str_has_prefix(value, "file:/"))
        return bad_value(error, "\"%.200s\" is not one of none, pty, pty:/LINK, file:/PATH", value);
    *(char **)field = g_strdup(value);
    return TRUE;
}

static gboolean
parse_durable_every(const char *value, void *field, GError **error)
{
    uint64_t us = 0;

    if (strcmp(value, "never") == 0) {
        *(uint64_t *)field = DEFINITION_NEVER;
        return TRUE;
    }
    if (!units_parse_time(value, &us, error))
        return FALSE;
    if (us < 100000 || us > 86400000000ULL)
        return bad_value(error, "%s is out of range: give 100ms to 1440min, or never", value);
    *(uint64_t *)field = us;
    return TRUE;
}

static gboolean
parse_rate(const char *value, void *field, GError **error)
{
    uint64_t bytes = 0;

    if (!units_parse_size(value, &bytes, error))
        return FALSE;
    if (bytes < PAGE_BYTES || bytes > (UINT64_C(1) << 40))
        return bad_value(error, "%s is out of range: give bytes per second, 4K to 1T", value);
    *(uint64_t *)field = bytes;
    return TRUE;
}

/* One word of Keep=: "3", "hourly:24", "daily:7". */
static gboolean
parse_keep_word(const char *word, DefinitionKeep *keep, GError **error)
{
    static const char *const kinds[] = {"last:", "hourly:", "daily:"};
    unsigned *counts[] = {&keep->last, &keep->hourly, &keep->daily};
    size_t kind = 0;
    guint64 number = 0;

    if (!g_ascii_isdigit(word[0])) {
        while (kind < G_N_ELEMENTS(kinds) && !g_str_has_prefix(word, kinds[kind]))
            kind++;
        if (kind == G_N_ELEMENTS(kinds))
            return bad_value(error, "\"%.40s\" is not one of N, hourly:N, daily:N", word);
        word += strlen(kinds[kind]);
    }
    if (!g_ascii_string_to_unsigned(word, 10, kind == 0 ? 1 : 0, 100000, &number, NULL))
        return bad_value(error, "\"%.40s\" is not a number of checkpoints: give %d to 100000", word,
                         kind == 0 ? 1 : 0);
    *counts[kind] = (unsigned)number;
    return TRUE;
}

static gboolean
parse_keep(const char *value, void *field, GError **error)
{
    g_auto(GStrv) words = g_strsplit_set(value, " \t", -1);

    for (char **word = words; *word != NULL; word++) {
        if (**word != '\0' && !parse_keep_word(*word, field, error))
            return FALSE;
    }
    return TRUE;
}

static void
disk_free(gpointer data)
{
    DefinitionDisk *disk = data;

    g_free(disk->path);
    g_free(disk->format);
    g_free(disk);
}

/* By the end of the name, never by the content: that is the guest's to write. */
static const char *
format_of_name(const char *path)
{
    static const char *const known[] = {"qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc"};
    const char *end = strrchr(path, '.');

    for (size_t i = 0; end != NULL && i < G_N_ELEMENTS(known); i++) {
        if (strcmp(end + 1, known[i]) == 0)
            return known[i];
    }
    return "raw";
}

static gboolean
parse_disk_option(const char *option, DefinitionDisk *disk, GError **error)
{
    if (g_str_has_prefix(option, "format=")) {
        g_free(disk->format);
        disk->format = g_strdup(option + strlen("format="));
        for (const char *c = disk->format; *c != '\0'; c++) {
            if (!g_ascii_isalnum(*c) && *c != '-')
                return bad_value(error, "\"%.40s\" is not the name of a disk format", option);
        }
        return disk->format[0] != '\0' ||
               bad_value(error, "format= needs the name of a disk format, such as qcow2");
    }
    if (strcmp(option, "readonly") == 0) {
        disk->read_only = TRUE;
        return TRUE;
    }
    return bad_value(error, "\"%.40s\" is not one of format=NAME, readonly", option);
}

static gboolean
parse_one_disk(const char *text, GPtrArray *disks, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    DefinitionDisk *disk = g_new0(DefinitionDisk, 1);

    g_ptr_array_add(disks, disk);
    if (!parse_path(g_strstrip(parts[0]), &disk->path, error))
        return FALSE;
    disk->format = g_strdup(format_of_name(disk->path));
    for (char **option = parts + 1; *option != NULL; option++) {
        if (!parse_disk_option(g_strstrip(*option), disk, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
parse_disks(const char *value, void *field, GError **error)
{
    g_auto(GStrv) texts = g_strsplit(value, ";", -1);
    GPtrArray *disks = *(GPtrArray **)field;

    for (char **text = texts; *text != NULL; text++) {
        if (g_strstrip(*text)[0] == '\0')
            continue;
        if (disks->len == DISKS_MAX)
            return bad_value(error, "more than %d disks: remove some", DISKS_MAX);
        if (!parse_one_disk(*text, disks, error))
            return FALSE;
    }
    return disks->len > 0 || bad_value(error, "no disk: give a path or remove the line");
}

static const Key district_keys[] = {
    {"Name", parse_name, offsetof(Definition, name)},
    {"Interval", parse_interval, offsetof(Definition, pacing.interval_us)},
    {"MaxSlowdown", parse_slowdown, offsetof(Definition, pacing.max_slowdown)},
    {"MaxLag", parse_lag, offsetof(Definition, pacing.max_lag_us)},
    {"OutputCommit", parse_bool, offsetof(Definition, output_commit)},
    {"AutoFailover", parse_bool, offsetof(Definition, auto_failover)},
    {"FailoverAfter", parse_failover_after, offsetof(Definition, failover_after_ms)},
    {"DetachAfter", parse_detach_after, offsetof(Definition, detach_after_ms)},
    {"Bridge", parse_bridge, offsetof(Definition, bridge)},
    {"DurableEvery", parse_durable_every, offsetof(Definition, durable_every_us)},
    {"Keep", parse_keep, offsetof(Definition, keep)},
    {"DeltaCache", parse_delta_cache, offsetof(Definition, delta_cache)},
    {"SyncRate", parse_rate, offsetof(Definition, sync_rate)},
    {"LoadRate", parse_rate, offsetof(Definition, load_rate)},
    {"Autostart", parse_bool, offsetof(Definition, autostart)},
    {NULL, NULL, 0},
};

static const Key member_keys[] = {
    {"Engine", parse_engine, 0},
    {"Kernel", parse_path, offsetof(DefinitionMember, kernel)},
    {"Initrd", parse_path, offsetof(DefinitionMember, initrd)},
    {"CommandLine", parse_text, offsetof(DefinitionMember, command_line)},
    {"Memory", parse_memory, offsetof(DefinitionMember, memory)},
    {"CPUs", parse_cpus, offsetof(DefinitionMember, cpus)},
    {"MAC", parse_mac, offsetof(DefinitionMember, mac)},
    {"DirtySource", parse_dirty_source, offsetof(DefinitionMember, dirty_source)},
    {"Rng", parse_bool, offsetof(DefinitionMember, rng)},
    {"Console", parse_console, offsetof(DefinitionMember, console)},
    {"Debugcon", parse_path, offsetof(DefinitionMember, debugcon)},
    {"Disk", parse_disks, offsetof(DefinitionMember, disks)},
    {"Journal", parse_journal, offsetof(DefinitionMember, journal)},
    {NULL, NULL, 0},
};

static void
member_free(gpointer data)
{
    DefinitionMember *member = data;

    g_free(member->name);
    g_free(member->kernel);
    g_free(member->initrd);
    g_free(member->command_line);
    g_free(member->dirty_source);
    g_free(member->console);
    g_free(member->debugcon);
    g_ptr_array_unref(member->disks);
    g_free(member);
}

void
definition_free(Definition *definition)
{
    if (definition == NULL)
        return;
    g_free(definition->name);
    g_free(definition->bridge);
    g_ptr_array_unref(definition->members);
    g_free(definition->text);
    g_free(definition);
}

/* A MAC that is the same on every host and after every start. */
static void
member_derive_mac(const char *district, DefinitionMember *member)
{
    g_autofree char *full = g_strdup_printf("%s/%s", district, member->name);
    g_autoptr(GChecksum) hash = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 digest[32];
    gsize len = sizeof(digest);

    g_checksum_update(hash, (const guchar *)full, -1);
    g_checksum_get_digest(hash, digest, &len);
    memcpy(member->mac, (const uint8_t[]){0x52, 0x54, 0x00, digest[0], digest[1], digest[2]}, 6);
}

/* Refuse repeated sections and keys, which GKeyFile would merge. */
static gboolean
scan_duplicates(const char *text, const char *file, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autofree char *section = g_strdup("");

    for (guint i = 0; lines[i] != NULL; i++) {
        char *line = g_strstrip(lines[i]);
        if (line[0] == '\0' || line[0] == '#')
            continue;
        gboolean is_section = line[0] == '[';
        if (is_section) {
            g_free(section);
            section = g_strdup(line);
        } else {
            line[strcspn(line, "=")] = '\0';
            g_strchomp(line);
        }
        char *id = g_strdup_printf("%s\n%s", section, is_section ? "" : line);
        if (g_hash_table_add(seen, id))
            continue;
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s:%u: %.60s is there twice: remove one", file, i + 1,
                    is_section ? section : line);
        return FALSE;
    }
    return TRUE;
}

static gboolean
read_key(GKeyFile *kf, const char *section, const char *key, const Key *keys, void *object,
         const char *file, GError **error)
{
    g_autoptr(GError) why = NULL;
    const Key *row = keys;

    while (row->name != NULL && strcmp(row->name, key) != 0)
        row++;
    if (row->name == NULL) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s: [%s] %.60s=: unknown key: see district(5)", file, section, key);
        return FALSE;
    }
    g_autofree char *value = g_key_file_get_string(kf, section, key, &why);
    if (value != NULL && row->parse(value, (char *)object + row->offset, &why))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%s: [%s] %s=: %s", file, section, key,
                why->message);
    return FALSE;
}

static gboolean
read_section(GKeyFile *kf, const char *section, const Key *keys, void *object, const char *file,
             GError **error)
{
    g_auto(GStrv) names = g_key_file_get_keys(kf, section, NULL, error);

    for (char **key = names; key != NULL && *key != NULL; key++) {
        if (!read_key(kf, section, *key, keys, object, file, error))
            return FALSE;
    }
    return names != NULL;
}

static gboolean
missing_key(const char *file, const char *section, const char *key, GError **error)
{
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%s: [%s] %s= is missing: add it",
                file, section, key);
    return FALSE;
}

static gboolean
read_member(GKeyFile *kf, const char *section, Definition *definition, const char *file,
            GError **error)
{
    static const uint8_t no_mac[6] = {0};
    const char *name = section + strlen(MEMBER_PREFIX);
    g_autoptr(GError) why = NULL;
    DefinitionMember *member = g_new0(DefinitionMember, 1);

    g_ptr_array_add(definition->members, member);
    member->name = g_strdup(name);
    member->cpus = 1;
    member->disks = g_ptr_array_new_with_free_func(disk_free);
    if (!units_check_name(name, &why)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%s: [%.60s]: %s", file, section,
                    why->message);
        return FALSE;
    }
    if (!read_section(kf, section, member_keys, member, file, error))
        return FALSE;
    if (member->kernel == NULL)
        return missing_key(file, section, "Kernel", error);
    if (member->memory == 0)
        return missing_key(file, section, "Memory", error);
    if (member->command_line == NULL)
        member->command_line = g_strdup("");
    if (member->dirty_source == NULL)
        member->dirty_source = g_strdup("auto");
    if (memcmp(member->mac, no_mac, 6) == 0)
        member_derive_mac(definition->name, member);
    return TRUE;
}

static gboolean
check_macs(const Definition *definition, const char *file, GError **error)
{
    for (guint i = 0; i < definition->members->len; i++) {
        const DefinitionMember *a = definition->members->pdata[i];
        for (guint j = 0; j < i; j++) {
            const DefinitionMember *b = definition->members->pdata[j];
            if (memcmp(a->mac, b->mac, 6) != 0)
                continue;
            g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                        "%s: [Member %s] MAC=: the same as of member %s: give another", file,
                        a->name, b->name);
            return FALSE;
        }
    }
    return TRUE;
}

/* Why disk cannot be, given the disks before it (path -> DefinitionDisk); NULL: it can. */
static const char *
disk_fault(const Definition *definition, const DefinitionDisk *disk, GHashTable *before)
{
    const DefinitionDisk *same = g_hash_table_lookup(before, disk->path);

    if (same != NULL && !(same->read_only && disk->read_only))
        return "is there twice: give each disk its own image";
    /* Writes wait in the overlay for a durable checkpoint. */
    if (!disk->read_only && definition->durable_every_us == DEFINITION_NEVER)
        return "needs durable checkpoints: remove DurableEvery=never";
    return NULL;
}

static gboolean
check_disks(const Definition *definition, const char *file, GError **error)
{
    g_autoptr(GHashTable) before = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < definition->members->len; i++) {
        const DefinitionMember *m = definition->members->pdata[i];
        for (guint k = 0; k < m->disks->len; k++) {
            DefinitionDisk *disk = m->disks->pdata[k];
            const char *fault = disk_fault(definition, disk, before);

            if (fault != NULL) {
                g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                            "%s: [Member %s] Disk=%s: %s", file, m->name, disk->path, fault);
                return FALSE;
            }
            g_hash_table_insert(before, disk->path, disk);
        }
    }
    return TRUE;
}

static gboolean
read_members(GKeyFile *kf, Definition *definition, const char *file, GError **error)
{
    g_auto(GStrv) groups = g_key_file_get_groups(kf, NULL);

    for (char **group = groups; *group != NULL; group++) {
        if (strcmp(*group, "District") == 0)
            continue;
        if (!g_str_has_prefix(*group, MEMBER_PREFIX)) {
            g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                        "%s: [%.60s]: unknown section: use [District] or [Member NAME]", file,
                        *group);
            return FALSE;
        }
        if (definition->members->len == MEMBERS_MAX) {
            g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                        "%s: [%.60s]: more than %d members", file, *group, MEMBERS_MAX);
            return FALSE;
        }
        if (!read_member(kf, *group, definition, file, error))
            return FALSE;
    }
    if (definition->members->len > 0)
        return check_macs(definition, file, error) && check_disks(definition, file, error);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "%s: no members: add a section [Member NAME]", file);
    return FALSE;
}

static gboolean
check_text(const char *text, gsize len, const char *file, GError **error)
{
    if (len > DEFINITION_BYTES_MAX) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%s: larger than %d bytes", file,
                    DEFINITION_BYTES_MAX);
        return FALSE;
    }
    if (!g_utf8_validate(text, (gssize)len, NULL)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s: not UTF-8 text: is it a district definition?", file);
        return FALSE;
    }
    return TRUE;
}

static gboolean
read_definition(GKeyFile *kf, Definition *definition, const char *file, GError **error)
{
    if (!g_key_file_has_group(kf, "District")) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                    "%s: section [District] is missing: add it", file);
        return FALSE;
    }
    if (!read_section(kf, "District", district_keys, definition, file, error))
        return FALSE;
    if (definition->name == NULL)
        return missing_key(file, "District", "Name", error);
    return read_members(kf, definition, file, error);
}

gboolean
definition_has_disks(const Definition *definition)
{
    for (guint i = 0; i < definition->members->len; i++) {
        const DefinitionMember *member = definition->members->pdata[i];
        if (member->disks->len > 0)
            return TRUE;
    }
    return FALSE;
}

gboolean
definition_has_journals(const Definition *definition)
{
    for (guint i = 0; i < definition->members->len; i++) {
        const DefinitionMember *member = definition->members->pdata[i];
        if (member->journal != 0)
            return TRUE;
    }
    return FALSE;
}

Definition *
definition_parse(const char *text, gsize len, const char *file, GError **error)
{
    g_autoptr(GKeyFile) kf = g_key_file_new();
    g_autoptr(GError) why = NULL;

    if (!check_text(text, len, file, error))
        return NULL;
    g_autoptr(Definition) definition = g_new0(Definition, 1);
    definition->members = g_ptr_array_new_with_free_func(member_free);
    definition->text = g_strndup(text, len);
    pacing_init(&definition->pacing);
    definition->delta_cache = DELTA_CACHE_DEFAULT;
    definition->output_commit = TRUE;
    definition->failover_after_ms = 1000;
    definition->detach_after_ms = 5000;
    definition->keep = (DefinitionKeep){.last = 3};
    if (!scan_duplicates(definition->text, file, error))
        return NULL;
    if (!g_key_file_load_from_data(kf, text, len, G_KEY_FILE_NONE, &why)) {
        g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "%s: %s", file, why->message);
        return NULL;
    }
    if (!read_definition(kf, definition, file, error))
        return NULL;
    if (definition->durable_every_us == 0)
        definition->durable_every_us =
            definition_has_disks(definition) ? DURABLE_EVERY_DEFAULT_US : DEFINITION_NEVER;
    return g_steal_pointer(&definition);
}

static gboolean
check_readable(const Definition *definition, const DefinitionMember *member, const char *key,
               const char *path, GError **error)
{
    if (path == NULL || access(path, R_OK) == 0)
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_NOT_FOUND,
                "%s.district: [Member %s] %s=%s: %s: install the file or correct the path",
                definition->name, member->name, key, path, g_strerror(errno));
    return FALSE;
}

static gboolean
check_disk_files(const Definition *definition, const DefinitionMember *member, unsigned less,
                 GError **error)
{
    for (guint k = 0; k < member->disks->len; k++) {
        const DefinitionDisk *disk = member->disks->pdata[k];
        if (!((less & DEFINITION_DISKS_MOVED) && !disk->read_only) &&
            !check_readable(definition, member, "Disk", disk->path, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
definition_check_files(const Definition *definition, unsigned less, GError **error)
{
    for (guint i = 0; i < definition->members->len; i++) {
        const DefinitionMember *member = definition->members->pdata[i];
        if (!(less & DEFINITION_NO_BOOT) &&
            (!check_readable(definition, member, "Kernel", member->kernel, error) ||
             !check_readable(definition, member, "Initrd", member->initrd, error)))
            return FALSE;
        if (!check_disk_files(definition, member, less, error))
            return FALSE;
    }
    return TRUE;
}

char *
definition_renamed(const Definition *definition, const char *name, gboolean isolated,
                   GError **error)
{
    g_autoptr(GKeyFile) kf = g_key_file_new();

    if (!g_key_file_load_from_data(kf, definition->text, strlen(definition->text),
                                   G_KEY_FILE_KEEP_COMMENTS, error))
        return NULL;
    g_key_file_set_string(kf, "District", "Name", name);
    if (isolated)
        g_key_file_remove_key(kf, "District", "Bridge", NULL);
    for (guint i = 0; i < definition->members->len; i++) {
        const DefinitionMember *member = definition->members->pdata[i];
        g_autofree char *section = g_strconcat(MEMBER_PREFIX, member->name, NULL);
        g_autofree char *mac = definition_member_mac(member);
        g_key_file_set_string(kf, section, "MAC", mac);
    }
    return g_key_file_to_data(kf, NULL, NULL);
}

int
definition_find_member(const Definition *definition, const char *name)
{
    for (guint i = 0; i < definition->members->len; i++) {
        const DefinitionMember *member = definition->members->pdata[i];
        if (strcmp(member->name, name) == 0)
            return (int)i;
    }
    return -1;
}

char *
definition_member_mac(const DefinitionMember *member)
{
    const uint8_t *m = member->mac;

    return g_strdup_printf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
}
