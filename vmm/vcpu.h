/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vCPUs: one thread each. A thread is either in the guest or parked; parked, it can do jobs on its
 * vCPU (saving, restoring), all vCPUs at the same time.
 *
 * vcpus_* are for the main thread. A Vcpu belongs to its own thread, and to the main thread while
 * it is parked and has no job.
 */
#ifndef DISTRICT_VMM_VCPU_H
#define DISTRICT_VMM_VCPU_H

#include "vmm/machine_priv.h"

#include <pthread.h>

/* Longest time a vCPU may take to leave the guest. */
#define VCPU_STOP_LIMIT_US (2 * G_USEC_PER_SEC)

struct Vcpu {
    VcpuSet *set;
    Machine *m;
    unsigned id;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    pid_t tid;

    struct kvm_cpuid2 *cpuid;
    struct kvm_msrs *msrs; /* every MSR that is saved, in the order in which to restore them */
    struct kvm_xsave *xsave;
    struct VcpuFrame *frame; /* what a save fills in (vcpu_state.c) */
    GByteArray *constant;    /* of its state what never changes: a piece of a VcpuState, packed */
    GByteArray *saved;       /* of the last save: the rest of it, packed */

    bool parked;    /* set->lock */
    bool urgent;    /* until it is in the guest again; set->lock */
    bool lame;      /* cannot run any more; set->lock */
    guint64 job_no; /* last job done; set->lock */
    GError *job_error;
};

/* Does something to a parked vCPU on its own thread. */
typedef gboolean (*VcpuJob)(Vcpu *vcpu, void *opaque, GError **error);

struct VcpuSet {
    Machine *m;
    unsigned n;
    Vcpu *vcpu;
    size_t xsave_bytes;
    bool has_xcrs;
    bool has_sregs2;

    GMutex lock;
    GCond work;      /* for the vCPU threads: running or job_no changed */
    GCond done;      /* for the main thread: a vCPU has parked or done its job */
    gint running;    /* vCPUs shall be in the guest; also read without the lock */
    unsigned inside; /* vCPUs that are */
    VcpuJob at_stop; /* what they do when the last one is out; NULL: nothing */
    guint64 job_no;  /* raised for each job */
    unsigned jobs_open;
    VcpuJob job;
    void *job_opaque;
};

/* Create n vCPUs with their threads, parked, with CPUID set. */
VcpuSet *vcpus_new(Machine *m, unsigned n, GError **error);

/* Let all vCPUs run, once the jobs that they may have are done. */
void vcpus_start(VcpuSet *set);

/*
 * Kick all vCPUs out of the guest and wait until they are parked, each at an instruction boundary
 * with no exit half done. When the last one is out all begin with job, if it is not NULL, without
 * waiting for the main thread: vcpus_job_finish() must follow. FALSE: one did not come out in time;
 * the others are running again, and have no job.
 */
gboolean vcpus_stop(VcpuSet *set, VcpuJob job, GError **error);

/* Start a job on all parked vCPUs; then wait for all of them. First error wins. */
void vcpus_job_start(VcpuSet *set, VcpuJob job, void *opaque);
gboolean vcpus_job_finish(VcpuSet *set, GError **error);

/* ioctl on a vCPU that must work. */
gboolean vcpu_ioctl(Vcpu *vcpu, unsigned long request, const void *arg, const char *what,
                    GError **error);

/*
 * Is this MSR part of a guest's state? Not if it only tells what a feature that is never offered
 * could do here (VMX, performance): hosts and kernels differ in that, and refuse each other's.
 */
bool vcpu_msr_is_state(uint32_t index);

/* Give the vCPU its CPUID and find out which MSRs it has then. */
gboolean vcpu_cpuid_set(Vcpu *vcpu, const struct kvm_cpuid2 *cpuid, GError **error);

#endif
