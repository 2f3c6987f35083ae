/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A writer of the few AML terms that the DSDT needs. */
#include "vmm/aml.h"

#include <string.h>

static void
aml_byte(GByteArray *aml, uint8_t value)
{
    g_byte_array_append(aml, &value, 1);
}

static void
aml_le(GByteArray *aml, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        aml_byte(aml, (uint8_t)(value >> (8 * i)));
}

/* A name or a path of names that each have four characters (§20.2.2). */
static void
aml_path(GByteArray *aml, const char *path)
{
    size_t segments;

    if (*path == '\\')
        aml_byte(aml, (uint8_t)*path++);
    segments = (strlen(path) + 1) / 5;
    g_assert(segments >= 1 && strlen(path) == segments * 5 - 1);
    if (segments == 2) {
        aml_byte(aml, 0x2E); /* DualNamePrefix */
    } else if (segments > 2) {
        aml_byte(aml, 0x2F); /* MultiNamePrefix */
        aml_byte(aml, (uint8_t)segments);
    }
    for (; segments > 0; segments--, path += 5)
        g_byte_array_append(aml, (const uint8_t *)path, 4);
}

/* ---- Terms with a length ---- */

/* PkgLength (§20.2.4) counts itself: one byte up to 63, else two to four with 4 + 8n bits. */
void
aml_close(GByteArray *aml, guint mark)
{
    guint body = aml->len - mark;
    uint8_t length[4];
    guint n = 1;

    if (body + 1 <= 0x3F) {
        length[0] = (uint8_t)(body + 1);
    } else {
        guint total;

        do {
            n++;
            total = body + n;
        } while (n < 4 && total >= 1u << (4 + 8 * (n - 1)));
        g_assert(total < 1u << 28);
        length[0] = (uint8_t)((n - 1) << 6 | (total & 0xF));
        for (guint i = 1; i < n; i++)
            length[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
    }
    g_byte_array_set_size(aml, aml->len + n);
    memmove(aml->data + mark + n, aml->data + mark, body);
    memcpy(aml->data + mark, length, n);
}

guint
aml_open_scope(GByteArray *aml, const char *path)
{
    guint mark;

    aml_byte(aml, 0x10);
    mark = aml->len;
    aml_path(aml, path);
    return mark;
}

guint
aml_open_device(GByteArray *aml, const char *name)
{
    guint mark;

    aml_byte(aml, 0x5B);
    aml_byte(aml, 0x82);
    mark = aml->len;
    aml_path(aml, name);
    return mark;
}

guint
aml_open_method(GByteArray *aml, const char *name, unsigned args)
{
    guint mark;

    aml_byte(aml, 0x14);
    mark = aml->len;
    aml_path(aml, name);
    aml_byte(aml, (uint8_t)(args & 7));
    return mark;
}

guint
aml_open_package(GByteArray *aml, uint8_t elements)
{
    guint mark;

    aml_byte(aml, 0x12);
    mark = aml->len;
    aml_byte(aml, elements);
    return mark;
}

/* ---- Data ---- */

void
aml_name(GByteArray *aml, const char *name)
{
    aml_byte(aml, 0x08);
    aml_path(aml, name);
}

void
aml_integer(GByteArray *aml, uint64_t value)
{
    if (value <= 1) {
        aml_byte(aml, (uint8_t)value); /* ZeroOp, OneOp */
    } else if (value <= UINT8_MAX) {
        aml_byte(aml, 0x0A);
        aml_le(aml, value, 1);
    } else if (value <= UINT16_MAX) {
        aml_byte(aml, 0x0B);
        aml_le(aml, value, 2);
    } else if (value <= UINT32_MAX) {
        aml_byte(aml, 0x0C);
        aml_le(aml, value, 4);
    } else {
        aml_byte(aml, 0x0E);
        aml_le(aml, value, 8);
    }
}

void
aml_string(GByteArray *aml, const char *text)
{
    aml_byte(aml, 0x0D);
    g_byte_array_append(aml, (const uint8_t *)text, (guint)strlen(text) + 1);
}

void
aml_eisaid(GByteArray *aml, const char *id)
{
    uint32_t value = 0;

    g_assert(strlen(id) == 7);
    for (int i = 0; i < 3; i++)
        value = value << 5 | ((uint32_t)(id[i] - '@') & 0x1F);
    for (int i = 3; i < 7; i++)
        value = value << 4 | (uint32_t)g_ascii_xdigit_value(id[i]);
    aml_byte(aml, 0x0C);
    aml_le(aml, GUINT32_SWAP_LE_BE(value), 4);
}

void
aml_notify(GByteArray *aml, const char *path, uint8_t value)
{
    aml_byte(aml, 0x86);
    aml_path(aml, path);
    aml_integer(aml, value);
}

/* ---- Resources ---- */

/* Buffer { size, bytes }; the size is patched at the close, so it always takes a word. */
guint
aml_open_resources(GByteArray *aml)
{
    guint mark;

    aml_byte(aml, 0x11);
    mark = aml->len;
    aml_byte(aml, 0x0B);
    aml_le(aml, 0, 2);
    return mark;
}

void
aml_close_resources(GByteArray *aml, guint mark)
{
    guint bytes;

    aml_byte(aml, 0x79); /* end tag, checksum not used */
    aml_byte(aml, 0);
    bytes = aml->len - mark - 3;
    aml->data[mark + 1] = (uint8_t)bytes;
    aml->data[mark + 2] = (uint8_t)(bytes >> 8);
    aml_close(aml, mark);
}

void
aml_resource_io(GByteArray *aml, uint16_t base, uint8_t size)
{
    aml_byte(aml, 0x47);
    aml_byte(aml, 1); /* decodes 16 bits */
    aml_le(aml, base, 2);
    aml_le(aml, base, 2);
    aml_byte(aml, 1);
    aml_byte(aml, size);
}

void
aml_resource_irq(GByteArray *aml, unsigned irq)
{
    aml_byte(aml, 0x22);
    aml_le(aml, 1u << irq, 2);
}

void
aml_resource_memory(GByteArray *aml, uint32_t base, uint32_t size)
{
    aml_byte(aml, 0x86);
    aml_le(aml, 9, 2);
    aml_byte(aml, 1); /* read and write */
    aml_le(aml, base, 4);
    aml_le(aml, size, 4);
}

/* Address space descriptor with words (0x88) or dwords (0x87), produced, fixed at both ends. */
static void
aml_resource_range(GByteArray *aml, uint8_t tag, uint8_t type, uint8_t type_flags, uint32_t first,
                   uint32_t last)
{
    unsigned width = tag == 0x87 ? 4 : 2;

    aml_byte(aml, tag);
    aml_le(aml, 3 + 5 * width, 2);
    aml_byte(aml, type);
    aml_byte(aml, 0x0C); /* fixed minimum and maximum, positive decode, producer */
    aml_byte(aml, type_flags);
    aml_le(aml, 0, width); /* granularity */
    aml_le(aml, first, width);
    aml_le(aml, last, width);
    aml_le(aml, 0, width); /* translation */
    aml_le(aml, (uint64_t)last - first + 1, width);
}

void
aml_resource_bus_range(GByteArray *aml, uint16_t first, uint16_t last)
{
    aml_resource_range(aml, 0x88, 2, 0, first, last);
}

void
aml_resource_io_range(GByteArray *aml, uint16_t first, uint16_t last)
{
    aml_resource_range(aml, 0x88, 1, 3 /* entire range */, first, last);
}

void
aml_resource_memory_range(GByteArray *aml, uint32_t first, uint32_t last)
{
    aml_resource_range(aml, 0x87, 0, 1 /* not cached, writable */, first, last);
}
