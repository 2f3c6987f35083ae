/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Host-side check of the tiny guest's disk; check.h describes it. */
#include "check.h"

#include "journalwork.h"

#include <gio/gio.h>

gboolean
guest_disk_check(const GuestHeader *header, const void *content, gsize bytes, GError **error)
{
    const GuestDeviceState *s = &header->devices;

    if (bytes < GUEST_DISK_BYTES_MIN) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "tiny guest: the disk has %" G_GSIZE_FORMAT " bytes", bytes);
        return FALSE;
    }
    for (unsigned unit = 0; unit < GUEST_DISK_UNITS; unit++) {
        const uint64_t *words =
            (const uint64_t *)((const uint8_t *)content + guest_disk_offset(unit));
        uint64_t number = s->disk_number[unit];
        bool writing = s->disk_writing != 0 && guest_disk_unit(s->disk_writing) == unit;

        if (number == 0 || guest_disk_is(words, unit, number) ||
            (writing && guest_disk_is(words, unit, s->disk_writing)))
            continue;
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "tiny guest: place %u of the disk is not what write %" G_GUINT64_FORMAT
                    " left; it starts with number %" G_GUINT64_FORMAT,
                    unit, (guint64)number, (guint64)words[0]);
        return FALSE;
    }
    return TRUE;
}

static gboolean
journal_fail(GError **error, const char *what, guint64 number)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                "tiny guest: its journal %s %" G_GUINT64_FORMAT, what, number);
    return FALSE;
}

gboolean
guest_journal_check(const void *content, gsize bytes, guint64 told, guint64 *last, GError **error)
{
    const uint64_t *words = content;

    if (bytes < (GUEST_JOURNAL_SLOTS + 1) * GUEST_SECTOR_BYTES)
        return journal_fail(error, "has a size of", bytes);
    *last = words[0];
    if (*last != 0 && !guest_journal_is(words, *last))
        return journal_fail(error, "has a torn head that says", *last);
    if (*last < told)
        return journal_fail(error, "has lost records that were told; the last one it has is",
                            *last);
    for (uint64_t n = *last; n > 0 && *last - n < GUEST_JOURNAL_CHECKED; n--) {
        if (!guest_journal_is(words + guest_journal_sector(n) * GUEST_SECTOR_WORDS, n))
            return journal_fail(error, "has not got record", n);
    }
    return TRUE;
}
