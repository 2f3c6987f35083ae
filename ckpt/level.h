/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The zstd level of a stream: the one at which epochs arrive soonest. And how many threads encode.
 *
 * Theory of operation. An epoch has arrived when its last byte has been encoded and sent, which go on at
 * the same time: it takes about as long as the slower of the two. What the encoder costs and how small
 * it makes its input is measured at the level in force; what the link takes is measured while
 * it was busy, so a link that is idle most of the time is not taken for a slow one. For the levels
 * beside it that cost and size are taken which were measured there not long ago, else what is usual
 * between the two levels. The level moves by one step at a time, and only for a twentieth of the time: so it
 * does not swing between two that are about as good, nor by one odd measurement. What came of a step is
 * measured, and the level goes back if it was wrong.
 *
 * The level is chosen as if all threads that may encode did. Then as few of them do as can without making
 * epochs late by more than a tenth: where the link is what takes the time, the others would only take
 * CPUs from guests.
 */
#ifndef DISTRICT_CKPT_LEVEL_H
#define DISTRICT_CKPT_LEVEL_H

#include <stdbool.h>
#include <stdint.h>

#define ZSTD_LEVELS 7

/* What was done since the last look. */
typedef struct LevelSample {
    uint64_t plain_bytes;   /* into zstd */
    uint64_t encoded_bytes; /* out of it */
    int64_t encode_ns;      /* that took, over all threads */
    uint64_t link_bytes;    /* that the link took */
    int64_t link_ns;        /* while it had something to send */
} LevelSample;

typedef struct Level {
    unsigned threads_max;          /* that may encode */
    unsigned threads;              /* that should */
    unsigned at;                   /* of the levels, from the fastest */
    bool moved;                    /* since the last look: what is measured now is of both levels */
    double link_ns_per_byte;       /* 0: not known yet */
    double cost[ZSTD_LEVELS];      /* ns per plain byte and thread */
    double size[ZSTD_LEVELS];      /* encoded bytes per plain byte */
    int64_t known_ns[ZSTD_LEVELS]; /* when they were measured; 0: never */
} Level;

void level_init(Level *choice, unsigned threads_max);
int level_zstd(const Level *choice);
/* Look at what has been done; too little changes nothing. Returns the level from now on; threads may have
 * changed as well. */
int level_look(Level *choice, const LevelSample *sample, int64_t now_ns);

#endif
