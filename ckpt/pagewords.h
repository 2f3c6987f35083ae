/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages as 512 words of 8 bytes: is one all zeros, where do two differ.
 *
 * There is a portable version of each and one for AVX2, chosen once by what the CPU can do. Pages need
 * not be aligned.
 */
#ifndef DISTRICT_CKPT_PAGEWORDS_H
#define DISTRICT_CKPT_PAGEWORDS_H

#include "common/page.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define PAGE_WORD_BYTES ((size_t)8)
#define PAGE_WORDS (PAGE_BYTES / PAGE_WORD_BYTES)
/* One bit per word: bit w % 8 of byte w / 8. */
#define PAGE_MASK_BYTES (PAGE_WORDS / 8)
/* The words that a byte of the mask is about. */
#define PAGE_GROUP_BYTES (8 * PAGE_WORD_BYTES)

typedef struct PageOps {
    const char *name;
    bool (*is_zero)(const uint8_t *page);
    /* Set the bits of the words that differ, clear all others; returns how many differ. */
    unsigned (*diff)(const uint8_t *a, const uint8_t *b, uint8_t mask[PAGE_MASK_BYTES]);
} PageOps;

/* The best that this CPU can do. */
const PageOps *page_ops(void);

/* All that this CPU can do, NULL at the end; the portable one is the first. */
const PageOps *const *page_ops_all(void);

#endif
