/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes, times, names and MAC addresses as people write them. */
#include "control/units.h"
#include "control/error.h"
#include "common/page.h"

#include <string.h>

typedef struct Unit {
    const char *suffix;
    uint64_t factor;
} Unit;

static const Unit size_units[] = {
    {"K", 1ULL << 10}, {"M", 1ULL << 20}, {"G", 1ULL << 30}, {"T", 1ULL << 40}, {NULL, 0},
};

static const Unit time_units[] = {
    {"us", 1}, {"ms", 1000}, {"s", 1000000}, {"min", 60000000}, {NULL, 0},
};

static gboolean
units_parse(const char *text, const Unit *units, const char *example, uint64_t *value,
            GError **error)
{
    char *end = NULL;
    guint64 number = 0;

    if (g_ascii_isdigit(text[0]))
        number = g_ascii_strtoull(text, &end, 10);
    for (const Unit *u = units; end != NULL && u->suffix != NULL; u++) {
        if (strcmp(end, u->suffix) != 0)
            continue;
        if (number > G_MAXUINT64 / u->factor)
            break;
        *value = number * u->factor;
        return TRUE;
    }
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "\"%.40s\" is not a whole number with a unit: write it like %s", text, example);
    return FALSE;
}

gboolean
units_parse_size(const char *text, uint64_t *bytes, GError **error)
{
    return units_parse(text, size_units, "512M (K, M, G, T)", bytes, error);
}

gboolean
units_parse_time(const char *text, uint64_t *us, GError **error)
{
    return units_parse(text, time_units, "25ms (us, ms, s, min)", us, error);
}

gboolean
units_parse_bool(const char *text, gboolean *value, GError **error)
{
    static const char *const yes[] = {"yes", "true", "on", "1", NULL};
    static const char *const no[] = {"no", "false", "off", "0", NULL};

    *value = g_strv_contains(yes, text);
    if (*value || g_strv_contains(no, text))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID, "\"%.40s\" is neither yes nor no",
                text);
    return FALSE;
}

gboolean
units_parse_mac(const char *text, uint8_t mac[6], GError **error)
{
    gboolean good = strlen(text) == 17;

    for (int i = 0; good && i < 17; i++)
        good = i % 3 == 2 ? text[i] == ':' : g_ascii_isxdigit(text[i]);
    for (int i = 0; good && i < 6; i++)
        mac[i] = (uint8_t)(g_ascii_xdigit_value(text[i * 3]) << 4 |
                           g_ascii_xdigit_value(text[i * 3 + 1]));
    if (good && !(mac[0] & 1))
        return TRUE;
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "\"%.40s\" is not a unicast MAC address: write it like 52:54:00:12:34:56", text);
    return FALSE;
}

gboolean
units_check_name(const char *name, GError **error)
{
    size_t len = strlen(name);
    gboolean good = len > 0 && len <= NAME_BYTES_MAX && name[0] != '-' && name[len - 1] != '-';

    for (const char *p = name; good && *p; p++)
        good = g_ascii_islower(*p) || g_ascii_isdigit(*p) || *p == '-';
    if (good)
        return TRUE;
    g_autofree char *shown = g_strndup(name, NAME_BYTES_MAX);
    g_autofree char *escaped = g_strescape(shown, NULL);
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID,
                "\"%s\" is not a name: use 1 to %d of a-z, 0-9 and -, no - at the ends", escaped,
                NAME_BYTES_MAX);
    return FALSE;
}

char *
units_format_size(uint64_t bytes)
{
    const Unit *best = &size_units[0];

    for (const Unit *u = size_units; u->suffix != NULL; u++) {
        if (bytes % u->factor == 0)
            best = u;
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT "%s", bytes / best->factor, best->suffix);
}

char *
units_format_ns(uint64_t ns)
{
    if (ns < 1000000)
        return g_strdup_printf("%.0f us", (double)ns / 1e3);
    if (ns < 1000000000)
        return g_strdup_printf("%.2f ms", (double)ns / 1e6);
    return g_strdup_printf("%.2f s", (double)ns / 1e9);
}
