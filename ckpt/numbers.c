/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Epoch numbers, never reused. They are taken from one counter, for cuts and for full syncs. Blocks
 * of them are noted in a small file beside the control socket before the first of a block is used,
 * so that a successor after a crash goes on behind all that may have been taken.
 */
#include "ckpt/coordinator-internal.h"

#define NUMBERS_PER_NOTE 1024

void
numbers_open(Coordinator *c, const char *path)
{
    g_autofree char *text = NULL;

    c->numbers_path = g_strdup(path);
    if (!path || !g_file_get_contents(path, &text, NULL, NULL))
        return;
    if (!g_ascii_string_to_unsigned(g_strchomp(text), 10, 0, G_MAXINT64, &c->last_number, NULL))
        g_warning("%s: not a number; counting epochs from 1", path);
    c->noted_number = c->last_number;
}

/* Tried again with the next number if it fails: only a crash before that could reuse one. */
static void
numbers_note(Coordinator *c)
{
    g_autoptr(GError) error = NULL;
    uint64_t upto = c->last_number + NUMBERS_PER_NOTE;
    g_autofree char *text = g_strdup_printf("%" G_GUINT64_FORMAT "\n", upto);

    if (!c->numbers_path)
        return;
    if (g_file_set_contents_full(c->numbers_path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600,
                                 &error))
        c->noted_number = upto;
    else
        g_warning("epoch numbers cannot be noted: %s", error->message);
}

uint64_t
numbers_next(Coordinator *c)
{
    c->last_number++;
    if (c->last_number > c->noted_number)
        numbers_note(c);
    return c->last_number;
}

void
numbers_skip_to(Coordinator *c, uint64_t number)
{
    c->last_number = MAX(c->last_number, number);
}
