/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The places of an overlay's data file: which are in use. Handed out in runs, from what was freed
 * last if possible; ranges of the file that have become free and are not wanted soon are named for
 * punching.
 */
#ifndef DISTRICT_DISK_PLACES_H
#define DISTRICT_DISK_PLACES_H

#include "disk/blockmap.h"

/* Places of a chunk, the unit of punching: 1 MiB. */
#define CHUNK_PLACES 256
/* Chunks that are free and not punched, kept for the next writes: 64 MiB. */
#define CHUNKS_KEPT 64

typedef struct Places Places;

/* limit: the most places there may ever be. */
Places *places_new(uint64_t limit);
void places_free(Places *places);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Places, places_free)

/* Places in use. */
uint64_t places_used(const Places *places);

/* Take up to want places in a row. Returns the first, and in *got how many; PLACE_NONE: there is
 * none left below the limit. */
uint64_t places_take(Places *places, uint64_t want, uint64_t *got);
/* Take this one. false: it is taken already, or not below the limit. */
bool places_claim(Places *places, uint64_t place);
/* Give back one that is in use. */
void places_give(Places *places, uint64_t place);

/* Whether there is more free space in chunks than is kept. */
bool places_spare(const Places *places);
/* A range to punch out of the file, which stays unused until places_punched. all: keep no free
 * chunks. false: none for now. */
bool places_punch(Places *places, bool all, uint64_t *first, uint64_t *count);
void places_punched(Places *places, uint64_t first, uint64_t count);

/* How often places_give has been called. */
uint64_t places_given(const Places *places);
/* Take the next free places in a row from this one on that share a chunk with others in use, to be
 * punched and given back. false: there are no more. */
bool places_take_gap(Places *places, uint64_t from, uint64_t *first, uint64_t *count);

#endif
