/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tiny guest and the host-side checker agree on: its options, and the header page that
 * says at any instant how far each of its CPUs has come. Freestanding: compiled into both.
 */
#ifndef DISTRICT_TESTS_GUEST_GUEST_H
#define DISTRICT_TESTS_GUEST_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_PAGE_BYTES 4096ULL
#define GUEST_PAGE_WORDS 512ULL
#define GUEST_CPUS_MAX 16
#define GUEST_HEADER_GPA 0x100000ULL    /* the header page */
#define GUEST_BASE_DEFAULT 0x1000000ULL /* the working set starts here: 16 MiB */
#define GUEST_IO_JOBS_MAX 12
#define GUEST_IO_BYTES_MAX (1U << 20)
#define GUEST_IO_DEPTH_MAX 16
#define GUEST_DISK_UNITS 64               /* places on the disk: diskwork.h */
#define GUEST_MAGIC 0x3154534754534944ULL /* "DISTGST1" in memory */

typedef enum GuestOp {
    GUEST_OP_DIRTY,
    GUEST_OP_TOUCH,
    GUEST_OP_DEVICES,
    GUEST_OP_TICK,
    GUEST_OP_JOURNAL,
    GUEST_OP_HALT,
    GUEST_OP_DISK,
} GuestOp;
typedef enum GuestOrder { GUEST_ORDER_SEQ, GUEST_ORDER_RANDOM, GUEST_ORDER_HOT } GuestOrder;
typedef enum GuestFill {
    GUEST_FILL_WORDS, /* three words of the page */
    GUEST_FILL_ZERO,  /* three times in four the whole page becomes zero, else three words */
    GUEST_FILL_TEXT,  /* the whole page, compressible */
    GUEST_FILL_NOISE, /* the whole page, incompressible */
} GuestFill;
typedef enum GuestEnd {
    GUEST_END_HALT,
    GUEST_END_RESET,
    GUEST_END_RESET_WRITING, /* with a write to the disk under way */
    GUEST_END_POWEROFF,
} GuestEnd;
typedef enum GuestOut { GUEST_OUT_DEBUGCON, GUEST_OUT_SERIAL } GuestOut;
/* What a request of op=disk is. */
typedef enum GuestIoMode {
    GUEST_IO_READ,
    GUEST_IO_WRITE,
    GUEST_IO_RANDREAD,
    GUEST_IO_RANDWRITE,
    GUEST_IO_SYNC, /* a random write, and a flush when it has ended */
    GUEST_IO_ID,   /* the disk's name: all that a request costs without data */
} GuestIoMode;
typedef enum GuestNet { GUEST_NET_NONE, GUEST_NET_SEND, GUEST_NET_ECHO, GUEST_NET_RECV } GuestNet;

/* op=disk: requests of one kind, so many at once. */
typedef struct GuestIoJob {
    uint32_t mode;
    uint32_t bytes;
    uint32_t depth;
} GuestIoJob;

/* The command line, parsed; README.md has each key. In the header page: no pointers, fixed widths.
 */
typedef struct GuestParams {
    uint64_t base;  /* guest-physical address of the working set */
    uint64_t pages; /* in it, all CPUs together */
    uint64_t dirty; /* pages written per round and CPU */
    uint64_t seed;
    uint64_t rounds; /* 0: endless */
    uint64_t delay;  /* busy loop after each round */
    uint64_t report; /* print each so many rounds, 0: never */
    uint64_t verify; /* re-read everything each so many rounds, 0: never */
    uint64_t vwords; /* words per page read then */
    uint64_t period; /* of a round, ticks of the TSC, 0: as fast as it goes */
    uint32_t cpus;
    uint32_t ring;
    uint32_t op;
    uint32_t order;
    uint32_t fill;
    uint32_t init; /* round 0 writes every page once */
    uint32_t out;
    uint32_t end;
    uint32_t poweroff_port;
    uint32_t poweroff_value;
    uint32_t net;
    uint32_t bytes;  /* payload of a test frame */
    uint32_t window; /* frames sent ahead of their echo, 0: echoes are not waited for */
    uint8_t peer[6];
    uint8_t pad[2];
    uint32_t button; /* port of the ACPI PM1 event block, 0: the power button is ignored */
    uint32_t io_ms;  /* how long each job takes */
    uint32_t n_io;
    GuestIoJob io[GUEST_IO_JOBS_MAX];
} GuestParams;

/*
 * How far a CPU has come: (round, step) is the next step to be done, chain the hash of all before
 * it. When step is 0 all of round - 1 is done.
 */
typedef struct ChainPos {
    uint64_t round;
    uint64_t step;
    uint64_t chain;
} ChainPos;

/* pos[seq % 2] is valid: the other one is being written, then seq steps on in one store. */
typedef struct GuestCpuState {
    uint64_t seq;
    ChainPos pos[2];
    uint64_t done; /* 1: all rounds are done */
} GuestCpuState;

/* op=devices: what was seen; also printed. */
typedef struct GuestDeviceState {
    uint64_t net_tx;
    uint64_t net_rx;
    uint64_t net_lost;
    uint64_t net_dup;
    uint64_t net_bad;
    uint64_t rng_bytes;
    uint64_t console_bytes;
    uint64_t disk_writes;
    uint64_t disk_reads;
    uint64_t disk_bad;                      /* reads that were not what was written last */
    uint64_t disk_errors;                   /* requests that failed */
    uint64_t disk_writing;                  /* number of the write under way, 0: none */
    uint64_t disk_number[GUEST_DISK_UNITS]; /* of the last write to each place, 0: none */
} GuestDeviceState;

typedef struct GuestHeader {
    uint64_t magic;
    GuestParams params;
    GuestDeviceState devices;
    GuestCpuState cpu[GUEST_CPUS_MAX];
} GuestHeader;

_Static_assert(sizeof(GuestHeader) <= GUEST_PAGE_BYTES, "the header is one page");

/*
 * Parse a command line: space-separated key=value. FALSE if a word is not understood; *bad then
 * points at it in line.
 */
bool guest_params_parse(GuestParams *params, const char *line, const char **bad);

#endif
