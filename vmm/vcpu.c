/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads that run vCPUs.
 *
 * Theory of operation. Stopping: KVM keeps part of a port or MMIO access to itself until the next
 * KVM_RUN (KVM API §5, KVM_EXIT_IO), so state may not be saved straight after such an exit. The
 * loop therefore never looks at a stop request after an exit: it always enters KVM_RUN again, and
 * only stops when that returns EINTR. To stop, the main thread sets kvm_run.immediate_exit and
 * sends a signal: the signal gets a vCPU out of the guest, and immediate_exit makes a KVM_RUN
 * entered just after the signal complete the pending access and return EINTR without running the
 * guest.
 */
#include "vmm/vcpu.h"

#include "common/urgent.h"
#include "vmm/cpuid.h"
#include "vmm/vcpu_state.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define VCPU_KICK_SIGNAL SIGUSR1

gboolean
vcpu_ioctl(Vcpu *vcpu, unsigned long request, const void *arg, const char *what, GError **error)
{
    if (ioctl(vcpu->fd, request, arg) >= 0)
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s, vCPU %u: cannot %s: %s",
                vcpu->m->name, vcpu->id, what, g_strerror(errno));
    return FALSE;
}

/* ---- The run loop ---- */

static void
vcpu_exit_io(Vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    machine_lock(vcpu->m);
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
        bus_access(&vcpu->m->ports, run->io.port, data, run->io.size,
                   run->io.direction == KVM_EXIT_IO_OUT);
    machine_unlock(vcpu->m);
}

static void
vcpu_exit_mmio(Vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;

    machine_lock(vcpu->m);
    bus_access(&vcpu->m->mmio, run->mmio.phys_addr, run->mmio.data,
               MIN(run->mmio.len, sizeof(run->mmio.data)), run->mmio.is_write);
    machine_unlock(vcpu->m);
}

static void
vcpu_exit_guest_gone(Vcpu *vcpu, MachineExit what)
{
    machine_lock(vcpu->m);
    machine_request_exit(vcpu->m, what);
    machine_unlock(vcpu->m);
}

static void
vcpu_exit_failed(Vcpu *vcpu, const char *why, uint64_t detail)
{
    struct kvm_regs regs = {0};

    ioctl(vcpu->fd, KVM_GET_REGS, &regs);
    machine_lock(vcpu->m);
    machine_fail(vcpu->m, "vCPU %u: %s (0x%" PRIx64 ") at guest rip 0x%" PRIx64, vcpu->id, why,
                 detail, (uint64_t)regs.rip);
    machine_unlock(vcpu->m);
}

static void
vcpu_exit_ring_full(Vcpu *vcpu)
{
    g_autoptr(GError) error = NULL;

    if (dirtylog_collect(vcpu->m->dirty, &error))
        return;
    machine_lock(vcpu->m);
    machine_fail(vcpu->m, "vCPU %u: dirty ring: %s", vcpu->id, error->message);
    machine_unlock(vcpu->m);
}

/* True if the vCPU can go on after this exit. */
static bool
vcpu_exit_handle(Vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;

    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        vcpu_exit_io(vcpu);
        return true;
    case KVM_EXIT_MMIO:
        vcpu_exit_mmio(vcpu);
        return true;
    case KVM_EXIT_DIRTY_RING_FULL:
        vcpu_exit_ring_full(vcpu);
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_HLT: /* the in-kernel LAPIC waits by itself; nothing to do here */
        return true;
    case KVM_EXIT_SHUTDOWN: /* triple fault: what a PC does is reset */
        vcpu_exit_guest_gone(vcpu, MACHINE_EXIT_RESET);
        return false;
    case KVM_EXIT_SYSTEM_EVENT:
        vcpu_exit_guest_gone(vcpu, run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN
                                       ? MACHINE_EXIT_SHUTDOWN
                                       : MACHINE_EXIT_RESET);
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        vcpu_exit_failed(vcpu, "KVM cannot emulate the guest's instruction, suberror",
                         run->internal.suberror);
        return false;
    case KVM_EXIT_FAIL_ENTRY:
        vcpu_exit_failed(vcpu, "the processor refuses the guest's state, reason",
                         run->fail_entry.hardware_entry_failure_reason);
        return false;
    default:
        vcpu_exit_failed(vcpu, "exit reason that this kernel should not give", run->exit_reason);
        return false;
    }
}

/* In the guest until a stop is wanted (true) or the vCPU cannot go on (false). */
static bool
vcpu_run(Vcpu *vcpu)
{
    for (;;) {
        if (ioctl(vcpu->fd, KVM_RUN, NULL) == 0) {
            if (!vcpu_exit_handle(vcpu))
                return false;
        } else if (errno == EINTR) {
            if (!g_atomic_int_get(&vcpu->set->running))
                return true;
        } else if (errno != EAGAIN) { /* EAGAIN: an AP was woken before its start-up IPI */
            vcpu_exit_failed(vcpu, g_strerror(errno), (uint64_t)errno);
            return false;
        }
    }
}

static void
vcpu_job_do(Vcpu *vcpu)
{
    VcpuSet *set = vcpu->set;
    VcpuJob job = set->job;
    void *opaque = set->job_opaque;
    g_autoptr(GError) error = NULL;

    vcpu->job_no = set->job_no;
    g_mutex_unlock(&set->lock);
    job(vcpu, opaque, &error);
    g_mutex_lock(&set->lock);
    g_clear_error(&vcpu->job_error);
    vcpu->job_error = g_steal_pointer(&error);
    if (--set->jobs_open == 0)
        g_cond_signal(&set->done);
}

/* The lock is held. */
static void
vcpus_job_begin(VcpuSet *set, VcpuJob job, void *opaque)
{
    g_assert(set->inside == 0 && set->jobs_open == 0);
    set->job = job;
    set->job_opaque = opaque;
    set->jobs_open = set->n;
    set->job_no++;
    g_cond_broadcast(&set->work);
}

/* In the guest and out of it again; the lock is held before and after. */
static void
vcpu_visit_guest(Vcpu *vcpu)
{
    VcpuSet *set = vcpu->set;

    bool urgent = vcpu->urgent;
    vcpu->urgent = false;
    vcpu->parked = false;
    set->inside++;
    g_mutex_unlock(&set->lock);
    if (urgent)
        urgent_set(0, false);
    bool alive = vcpu_run(vcpu);
    g_mutex_lock(&set->lock);
    vcpu->lame = !alive;
    vcpu->parked = true;
    set->inside--;
    if (set->inside > 0 || set->running)
        return;
    if (set->at_stop)
        vcpus_job_begin(set, set->at_stop, NULL);
    set->at_stop = NULL;
    g_cond_signal(&set->done);
}

static void *
vcpu_thread(void *opaque)
{
    Vcpu *vcpu = opaque;
    VcpuSet *set = vcpu->set;
    char name[16];

    g_snprintf(name, sizeof(name), "vcpu%u", vcpu->id);
    pthread_setname_np(pthread_self(), name);
    g_mutex_lock(&set->lock);
    vcpu->tid = gettid();
    g_cond_signal(&set->done);
    for (;;) {
        if (vcpu->job_no != set->job_no)
            vcpu_job_do(vcpu);
        else if (set->running && !vcpu->lame)
            vcpu_visit_guest(vcpu);
        else
            g_cond_wait(&set->work, &set->lock);
    }
    return NULL;
}

/* ---- Starting, stopping, jobs ---- */

/* Not limited: a job is a handful of ioctls on a vCPU that is not in the guest. The lock is held. */
static void
vcpus_job_await(VcpuSet *set)
{
    while (set->jobs_open > 0)
        g_cond_wait(&set->done, &set->lock);
}

/* The lock is held. */
static void
vcpus_run(VcpuSet *set)
{
    vcpus_job_await(set);
    for (unsigned i = 0; i < set->n; i++) {
        Vcpu *vcpu = &set->vcpu[i];

        vcpu->run->immediate_exit = 0;
        if (!vcpu->parked && vcpu->urgent)
            urgent_set(vcpu->tid, false);
    }
    set->at_stop = NULL;
    g_atomic_int_set(&set->running, 1);
    g_cond_broadcast(&set->work);
}

void
vcpus_start(VcpuSet *set)
{
    g_mutex_lock(&set->lock);
    vcpus_run(set);
    g_mutex_unlock(&set->lock);
}

static void
vcpus_kick(VcpuSet *set)
{
    for (unsigned i = 0; i < set->n; i++) {
        Vcpu *vcpu = &set->vcpu[i];

        vcpu->run->immediate_exit = 1;
        if (vcpu->parked)
            continue;
        vcpu->urgent = true;
        urgent_set(vcpu->tid, true);
        pthread_kill(vcpu->thread, VCPU_KICK_SIGNAL);
    }
}

static unsigned
vcpus_first_inside(const VcpuSet *set)
{
    unsigned i = 0;

    while (i + 1 < set->n && set->vcpu[i].parked)
        i++;
    return i;
}

gboolean
vcpus_stop(VcpuSet *set, VcpuJob job, GError **error)
{
    gint64 limit = g_get_monotonic_time() + VCPU_STOP_LIMIT_US;
    unsigned late = 0;

    g_mutex_lock(&set->lock);
    vcpus_job_await(set);
    g_atomic_int_set(&set->running, 0);
    if (set->inside == 0 && job)
        vcpus_job_begin(set, job, NULL);
    else
        set->at_stop = job;
    vcpus_kick(set);
    for (bool in_time = true; set->inside > 0 && in_time;)
        in_time = g_cond_wait_until(&set->done, &set->lock, limit);
    gboolean stopped = set->inside == 0;
    if (!stopped) {
        late = vcpus_first_inside(set);
        vcpus_run(set);
    }
    g_mutex_unlock(&set->lock);
    if (!stopped)
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_TIMEOUT,
                    "%s, vCPU %u did not leave the guest within %d s; the guest runs on",
                    set->m->name, late, (int)(VCPU_STOP_LIMIT_US / G_USEC_PER_SEC));
    return stopped;
}

void
vcpus_job_start(VcpuSet *set, VcpuJob job, void *opaque)
{
    g_mutex_lock(&set->lock);
    vcpus_job_await(set);
    vcpus_job_begin(set, job, opaque);
    g_mutex_unlock(&set->lock);
}

gboolean
vcpus_job_finish(VcpuSet *set, GError **error)
{
    GError *first = NULL;

    g_mutex_lock(&set->lock);
    vcpus_job_await(set);
    for (unsigned i = 0; i < set->n; i++) {
        GError *one = g_steal_pointer(&set->vcpu[i].job_error);

        if (first == NULL)
            first = one;
        else
            g_clear_error(&one);
    }
    g_mutex_unlock(&set->lock);
    if (first == NULL)
        return TRUE;
    g_propagate_error(error, first);
    return FALSE;
}

/* ---- Creation ---- */

/*
 * Memory type registers: part of every guest's state, but not on the list of kernels before 6.7.
 * Variable ranges, fixed ranges, default type (SDM vol. 3 §12.11.2).
 */
static const uint32_t msrs_unlisted[] = {
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209,
    0x20A, 0x20B, 0x20C, 0x20D, 0x20E, 0x20F, 0x250, 0x258, 0x259, 0x268,
    0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F, 0x2FF,
};

bool
vcpu_msr_is_state(uint32_t index)
{
    const uint32_t perf_capabilities = 0x345, vmx_first = 0x480, vmx_last = 0x491;

    return index != perf_capabilities && !(index >= vmx_first && index <= vmx_last);
}

/* Put TSC first and TSC_DEADLINE last: KVM reads the deadline against the TSC it has then. */
static void
msr_list_order(struct kvm_msr_list *list)
{
    for (uint32_t i = 0; i < list->nmsrs; i++) {
        uint32_t index = list->indices[i];

        if (index == 0x10 /* IA32_TSC */) {
            memmove(&list->indices[1], &list->indices[0], i * sizeof(list->indices[0]));
            list->indices[0] = index;
        }
    }
    for (uint32_t i = 0; i + 1 < list->nmsrs; i++) {
        if (list->indices[i] == 0x6e0 /* IA32_TSC_DEADLINE */) {
            list->indices[i] = list->indices[list->nmsrs - 1];
            list->indices[list->nmsrs - 1] = 0x6e0;
        }
    }
}

static bool
msr_list_has(const struct kvm_msr_list *list, uint32_t index)
{
    for (uint32_t i = 0; i < list->nmsrs; i++) {
        if (list->indices[i] == index)
            return true;
    }
    return false;
}

static void
msr_list_complete(struct kvm_msr_list *list)
{
    for (size_t i = 0; i < G_N_ELEMENTS(msrs_unlisted); i++) {
        if (!msr_list_has(list, msrs_unlisted[i]))
            list->indices[list->nmsrs++] = msrs_unlisted[i];
    }
}

static struct kvm_msr_list *
msr_list_get(Machine *m, GError **error)
{
    struct kvm_msr_list probe = {0};
    g_autofree struct kvm_msr_list *list = NULL;

    /* The first call fails with E2BIG and says how many there are (KVM API §4.3). */
    if (ioctl(m->kvm_fd, KVM_GET_MSR_INDEX_LIST, &probe) < 0 && errno != E2BIG) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s: cannot list MSRs: %s", m->name,
                    g_strerror(errno));
        return NULL;
    }
    list =
        g_malloc0(sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]) + sizeof(msrs_unlisted));
    list->nmsrs = probe.nmsrs;
    if (ioctl(m->kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s: cannot list MSRs: %s", m->name,
                    g_strerror(errno));
        return NULL;
    }
    msr_list_complete(list);
    msr_list_order(list);
    return g_steal_pointer(&list);
}

/* Keep what is state and can be read: the kernel's list depends neither on CPUID nor on use. */
static gboolean
vcpu_msrs_probe(Vcpu *vcpu, GError **error)
{
    g_autofree struct kvm_msr_list *list = msr_list_get(vcpu->m, error);
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } one;

    if (list == NULL)
        return FALSE;
    g_free(vcpu->msrs);
    vcpu->msrs = g_malloc0(sizeof(struct kvm_msrs) + list->nmsrs * sizeof(struct kvm_msr_entry));
    for (uint32_t i = 0; i < list->nmsrs; i++) {
        memset(&one, 0, sizeof(one));
        one.head.nmsrs = 1;
        one.entry.index = list->indices[i];
        if (vcpu_msr_is_state(list->indices[i]) && ioctl(vcpu->fd, KVM_GET_MSRS, &one) == 1)
            vcpu->msrs->entries[vcpu->msrs->nmsrs++].index = list->indices[i];
    }
    return TRUE;
}

gboolean
vcpu_cpuid_set(Vcpu *vcpu, const struct kvm_cpuid2 *cpuid, GError **error)
{
    size_t bytes = sizeof(*cpuid) + cpuid->nent * sizeof(cpuid->entries[0]);

    if (!vcpu_ioctl(vcpu, KVM_SET_CPUID2, cpuid, "set its CPUID", error))
        return FALSE;
    g_free(vcpu->cpuid);
    vcpu->cpuid = g_memdup2(cpuid, bytes);
    if (!vcpu_msrs_probe(vcpu, error))
        return FALSE;
    vcpu_state_prepare(vcpu);
    return TRUE;
}

static gboolean
vcpu_create(Vcpu *vcpu, GError **error)
{
    Machine *m = vcpu->m;
    int run_bytes = ioctl(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    g_autofree struct kvm_cpuid2 *cpuid = NULL;

    vcpu->fd = ioctl(m->vm_fd, KVM_CREATE_VCPU, vcpu->id);
    if (vcpu->fd < 0 || run_bytes < (int)sizeof(struct kvm_run)) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s: cannot create vCPU %u: %s",
                    m->name, vcpu->id, g_strerror(errno));
        return FALSE;
    }
    vcpu->run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM, "%s: cannot map vCPU %u: %s", m->name,
                    vcpu->id, g_strerror(errno));
        return FALSE;
    }
    vcpu->xsave = g_malloc0(vcpu->set->xsave_bytes);
    vcpu->saved = g_byte_array_sized_new(16384);
    vcpu->constant = g_byte_array_new();
    cpuid = cpuid_for_vcpu(m, vcpu->id, vcpu->set->n, error);
    return cpuid != NULL && vcpu_cpuid_set(vcpu, cpuid, error) &&
           dirtylog_add_vcpu(m->dirty, vcpu->fd, error);
}

static void
vcpu_kick_ignore(int signal_number)
{
    /* Its only purpose is to make KVM_RUN return EINTR. */
}

static gboolean
vcpu_thread_start(Vcpu *vcpu, GError **error)
{
    sigset_t kick, before;
    int result;

    /* Signals for the process go to the main thread; only the kick comes here. */
    sigfillset(&kick);
    sigdelset(&kick, VCPU_KICK_SIGNAL);
    pthread_sigmask(SIG_SETMASK, &kick, &before);
    result = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result == 0)
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM,
                "%s: cannot start the thread of vCPU %u: %s", vcpu->m->name, vcpu->id,
                g_strerror(result));
    return FALSE;
}

/* Not limited: all that they do before is to begin. */
static void
vcpus_await_threads(VcpuSet *set)
{
    g_mutex_lock(&set->lock);
    for (unsigned i = 0; i < set->n; i++) {
        while (set->vcpu[i].tid == 0)
            g_cond_wait(&set->done, &set->lock);
    }
    g_mutex_unlock(&set->lock);
}

VcpuSet *
vcpus_new(Machine *m, unsigned n, GError **error)
{
    struct sigaction kick = {.sa_handler = vcpu_kick_ignore}; /* no SA_RESTART: EINTR is wanted */
    VcpuSet *set = g_new0(VcpuSet, 1);
    int xsave = ioctl(m->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

    sigaction(VCPU_KICK_SIGNAL, &kick, NULL);
    set->m = m;
    set->n = n;
    set->vcpu = g_new0(Vcpu, n);
    set->xsave_bytes =
        xsave > (int)sizeof(struct kvm_xsave) ? (size_t)xsave : sizeof(struct kvm_xsave);
    set->has_xcrs = ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
    set->has_sregs2 = ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) > 0;
    g_mutex_init(&set->lock);
    g_cond_init(&set->work);
    g_cond_init(&set->done);
    for (unsigned i = 0; i < n; i++) {
        set->vcpu[i] = (Vcpu){.set = set, .m = m, .id = i, .fd = -1};
        if (!vcpu_create(&set->vcpu[i], error))
            return NULL;
    }
    for (unsigned i = 0; i < n; i++) {
        set->vcpu[i].parked = true;
        if (!vcpu_thread_start(&set->vcpu[i], error))
            return NULL;
    }
    vcpus_await_threads(set);
    return set;
}
