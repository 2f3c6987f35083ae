/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside of Machine, for the files of vmm/ only; devices see machine.h.
 *
 * Who owns what: everything is written by the main thread, except what lies behind the machine lock
 * (buses, devices' state, exit_wanted) and each vCPU's own part (vcpu.h).
 */
#ifndef DISTRICT_VMM_MACHINE_PRIV_H
#define DISTRICT_VMM_MACHINE_PRIV_H

#include "dirtylog/dirtylog.h"
#include "vmm/bus.h"
#include "vmm/machine.h"

#include <linux/kvm.h>

#define MACHINE_VCPUS_MAX 64
#define MACHINE_RAM_MIN (2ULL << 20)
#define MACHINE_RAM_SLOTS 2
#define VMGENID_BYTES 16

#define MACHINE_ERROR (machine_error_quark())
GQuark machine_error_quark(void);
typedef enum {
    MACHINE_ERROR_KVM,    /* the kernel refused something */
    MACHINE_ERROR_CONFIG, /* what the user asked for cannot be */
    MACHINE_ERROR_STATE,  /* a state blob is damaged, foreign or does not fit */
    MACHINE_ERROR_TIMEOUT,
} MachineError;

typedef struct LazyShare LazyShare;

/* A contiguous piece of guest RAM: a KVM memslot and a range of the RAM memfd. */
typedef struct RamSlot {
    uint64_t gpa;
    uint64_t size;
    uint64_t offset; /* in the memfd */
} RamSlot;

typedef enum {
    MACHINE_AWAITING_RESTORE,
    MACHINE_PAUSED,
    MACHINE_RUNNING,
    MACHINE_SHUTDOWN, /* the guest is gone for good */
} MachineState;

/* How the guest left; MACHINE_EXIT_SHUTDOWN and _RESET are in machine.h. */
typedef enum { EXIT_NONE, EXIT_SHUTDOWN, EXIT_RESET, EXIT_FAILED } ExitWanted;

typedef struct Vcpu Vcpu;
typedef struct VcpuSet VcpuSet;
typedef struct SaveFrame SaveFrame;
typedef struct Stir Stir;

struct Machine {
    char *name;
    int kvm_fd;
    int vm_fd;
    GMutex lock;

    uint64_t ram_size;
    int ram_fd; /* -1 until there is RAM (--incoming) */
    uint8_t *ram;
    int lazy_fd; /* userfaultfd while RAM is being filled in by the client (lazy_ram.h), else -1 */
    LazyShare *lazy_share; /* passes it on, or NULL */
    RamSlot slots[MACHINE_RAM_SLOTS];
    unsigned n_slots;
    DirtyLog *dirty;

    Bus ports;
    Bus mmio;
    GPtrArray *devices; /* of Device, not owned */
    bool urgent;        /* the main thread is (common/urgent.h) */
    SaveFrame *save;    /* state.c; NULL: nothing has been saved yet */

    VcpuSet *vcpus;
    Stir *stir;
    MachineState state;
    uint8_t vmgenid[VMGENID_BYTES];
    int64_t saved_realtime_ns; /* of the state it was restored from; 0 if it was not */
    bool journal_current;      /* no guest has gone on from that state before */

    /* Under the machine lock. */
    ExitWanted exit_wanted;
    char *exit_reason; /* for EXIT_FAILED: one line */
    /* Called once on the main thread after exit_wanted was set. */
    void (*exit_notify)(Machine *m, void *opaque);
    void *exit_opaque;
};

typedef struct MachineConfig {
    const char *name;
    uint64_t ram_size; /* bytes, multiple of 4 KiB */
    unsigned n_vcpus;
    DirtyLogSource dirty_source;
    int ram_fd;    /* RAM to run on, taken over; -1 makes new RAM */
    int stir_fd;   /* of stir_new() */
    bool incoming; /* no RAM yet: it comes with the restore */
} MachineConfig;

/* Create the VM with interrupt controllers, PIT, vCPUs (parked) and, unless incoming, RAM. */
Machine *machine_new(const MachineConfig *config, GError **error);

/* ioctl on the VM that must work: FALSE with an error naming what. */
gboolean machine_ioctl(Machine *m, unsigned long request, const void *arg, const char *what,
                       GError **error);

/* Record that the guest cannot go on; from any thread, lock held. Ends the process with status 1.
 */
void machine_fail(Machine *m, const char *format, ...) G_GNUC_PRINTF(2, 3);
const char *machine_state_name(MachineState state);

/* ---- memory.c ---- */
/* Lay slots out for size bytes; pure. */
unsigned machine_ram_layout(uint64_t size, RamSlot slots[MACHINE_RAM_SLOTS]);
/* Take ram_fd (a sealed memfd of ram_size bytes) as guest RAM: map it and set the memslots. */
gboolean machine_ram_attach(Machine *m, int ram_fd, GError **error);

/* ---- irq.c ---- */
gboolean machine_irq_init(Machine *m, GError **error);

#endif
