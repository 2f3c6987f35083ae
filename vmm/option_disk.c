/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The value of --disk. */
#include "vmm/options.h"

#include <string.h>

static gboolean
disk_refuse(GError **error, const char *text, const char *want)
{
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG, "--disk %s: %s", text, want);
    return FALSE;
}

/* What is before the next single comma, with double ones made single; *rest is what follows it. */
static char *
field_take(const char *text, const char **rest)
{
    GString *field = g_string_new(NULL);

    for (; *text != '\0'; text++) {
        if (text[0] == ',' && text[1] != ',')
            break;
        if (text[0] == ',')
            text++;
        g_string_append_c(field, *text);
    }
    *rest = *text == ',' ? text + 1 : NULL;
    return g_string_free(field, FALSE);
}

/* By the name alone: content may be the guest's. */
static const char *
format_of_name(const char *path)
{
    static const char *const formats[] = {"qcow2", "vmdk", "vdi", "vhdx", "qed"};

    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        const char *dot = strrchr(path, '.');

        if (dot != NULL && g_ascii_strcasecmp(dot + 1, formats[i]) == 0)
            return formats[i];
    }
    return "raw";
}

static bool
is_word(const char *text, bool (*allowed)(char c), size_t max)
{
    size_t len = strlen(text);

    for (size_t i = 0; i < len; i++) {
        if (!allowed(text[i]))
            return false;
    }
    return len > 0 && len <= max;
}

static bool
format_char(char c)
{
    return g_ascii_isalnum(c) || c == '-';
}

static bool
id_char(char c)
{
    return g_ascii_isgraph(c) && c != '/';
}

static gboolean
setting_take(OptionDisk *disk, const char *text, const char *setting, GError **error)
{
    const char *value = strchr(setting, '=');
    size_t key_len = value == NULL ? 0 : (size_t)(value - setting);
    g_autofree char *key = g_strndup(setting, key_len);

    value = value == NULL ? "" : value + 1;
    if (g_str_equal(key, "format")) {
        if (!is_word(value, format_char, 16))
            return disk_refuse(error, text, "format= takes raw, qcow2 or what else qemu-nbd knows");
        g_free(disk->format);
        disk->format = g_strdup(value);
        return TRUE;
    }
    if (g_str_equal(key, "readonly")) {
        disk->read_only = g_str_equal(value, "on");
        return disk->read_only || g_str_equal(value, "off") ||
               disk_refuse(error, text, "readonly= takes on or off");
    }
    if (g_str_equal(key, "shared")) {
        disk->shared = g_str_equal(value, "on");
        return disk->shared || g_str_equal(value, "off") ||
               disk_refuse(error, text, "shared= takes on or off");
    }
    if (g_str_equal(key, "id")) {
        if (!is_word(value, id_char, OPTION_DISK_ID_MAX))
            return disk_refuse(error, text, "id= takes 1 to 20 printable characters");
        g_free(disk->id);
        disk->id = g_strdup(value);
        return TRUE;
    }
    return disk_refuse(error, text,
                       "after the path come format=, readonly=, shared= and id=; a "
                       "comma in the path is doubled");
}

gboolean
option_disk_parse(const char *text, guint number, OptionDisk *disk, GError **error)
{
    const char *rest;

    *disk = (OptionDisk){.path = field_take(text, &rest)};
    if (disk->path[0] == '\0')
        return disk_refuse(error, text, "the path is missing");
    disk->format = g_strdup(format_of_name(disk->path));
    disk->id = g_strdup_printf("disk%u", number);
    while (rest != NULL) {
        g_autofree char *setting = field_take(rest, &rest);

        if (!setting_take(disk, text, setting, error))
            return FALSE;
    }
    return TRUE;
}

void
option_disk_clear(OptionDisk *disk)
{
    g_free(disk->path);
    g_free(disk->format);
    g_free(disk->id);
    *disk = (OptionDisk){0};
}
