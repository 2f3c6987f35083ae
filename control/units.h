/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes, times, names and MAC addresses as people write them. */
#ifndef DISTRICT_CONTROL_UNITS_H
#define DISTRICT_CONTROL_UNITS_H

#include <glib.h>
#include <stdint.h>

/* "512M": a whole number and K, M, G or T (powers of 1024). FALSE with an error about text. */
gboolean units_parse_size(const char *text, uint64_t *bytes, GError **error);

/* "25ms": a whole number and us, ms, s or min. */
gboolean units_parse_time(const char *text, uint64_t *us, GError **error);

/* "yes" or "no" (also true/false, on/off, 1/0). */
gboolean units_parse_bool(const char *text, gboolean *value, GError **error);

/* "52:54:00:01:02:03": unicast, lower or upper case. */
gboolean units_parse_mac(const char *text, uint8_t mac[6], GError **error);

/* District, member and host names: [a-z0-9-], at most NAME_BYTES_MAX, no '-' at either end. */
gboolean units_check_name(const char *name, GError **error);

/* Shortest exact text with a unit that units_parse_size takes (bytes: multiple of 1024). */
char *units_format_size(uint64_t bytes);

/* For people: "0.21 ms", "1.4 s". */
char *units_format_ns(uint64_t ns);

#endif
