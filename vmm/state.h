/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of the VM beside its RAM: saving it and taking it over. Schema: proto/vmstate.proto. */
#ifndef DISTRICT_VMM_STATE_H
#define DISTRICT_VMM_STATE_H

#include "vmm/machine_priv.h"

#include "vmstate.pb-c.h"

#define STATE_VERSION 1
/* Capacity of the state memfd: sparse, so only what is used is ever allocated. */
#define STATE_BYTES_MAX (64ULL << 20)

/*
 * Save into out (capacity bytes); *len is what it took. The machine must be at rest: vCPUs parked,
 * devices stopped. vCPUs have begun with a job that does vcpu_state_save(); it is finished whatever comes of it.
 * Nothing is changed by it.
 */
gboolean state_save(Machine *m, uint8_t *out, size_t capacity, size_t *len, GError **error);

typedef struct StateRestore {
    int ram_fd;             /* -1: the machine has it (lazy_ram.h) */
    bool ram_known;         /* its pages are dirty only once they are written from here on */
    bool journal_current;   /* no guest has gone on from this state before */
    const uint8_t *vmgenid; /* 16 bytes: the new VM generation id; NULL keeps the one saved */
} StateRestore;

/*
 * Take over a state on the RAM in ram_fd (passes to the machine on success). Before anything is
 * touched all of it is checked against this machine and this host; such a refusal has code
 * MACHINE_ERROR_STATE and the machine still awaits a restore. An error after that has code
 * MACHINE_ERROR_KVM and leaves the machine unusable.
 */
gboolean state_restore(Machine *m, const uint8_t *data, size_t len, const StateRestore *restore,
                       GError **error);

/*
 * The first half of it, for a state that may have to be restored later: whether it may be loaded
 * into m on this host. Loads nothing; a refusal has code MACHINE_ERROR_STATE.
 */
gboolean state_check_blob(Machine *m, const uint8_t *data, size_t len, GError **error);

/*
 * The same for a state that has been parsed: whether state may be loaded into m on this host. Touches nothing but its
 * arguments.
 */
gboolean state_check(Machine *m, const District__VmState *state, GError **error);

/* ---- chip_state.c ---- */

typedef struct ChipFrame {
    District__PicState pic[2];
    District__IoapicState ioapic;
    uint64_t redirtbl[KVM_IOAPIC_NUM_PINS];
    District__PitState pit;
    District__PitChannel channels[3];
    District__PitChannel *channel_list[3];
    District__ClockState clock;
} ChipFrame;

/* Fill frame, and let state point at it. */
gboolean chip_state_save(Machine *m, District__VmState *state, ChipFrame *frame, GError **error);
gboolean chip_state_check(const District__VmState *state, GError **error);
gboolean chip_state_restore(Machine *m, const District__VmState *state, GError **error);
/* Set kvmclock, moved on by the real time that has passed since the save. */
gboolean clock_state_restore(Machine *m, const District__ClockState *clock, GError **error);
/* Nanoseconds of real time since the save; 0 if this host's clock is behind. */
uint64_t clock_state_elapsed(const District__ClockState *clock);

#endif
