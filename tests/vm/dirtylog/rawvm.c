/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VM on the bare KVM API for tests; rawvm.h describes it. */
#include "rawvm.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define KICK_SIGNAL SIGUSR1
#define PORT_DEBUGCON 0xE9
#define START_INFO_GPA 0x6000
#define MEMMAP_GPA 0x6100
#define CMDLINE_GPA 0x7000
#define CMDLINE_MAX 1024
#define CPUID_MAX 256
#define TSS_GPA 0xfffbd000 /* Intel hosts need three pages there (KVM API §4.35) */

typedef struct Vcpu {
    RawVm *vm;
    unsigned index;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    gboolean started;
} Vcpu;

struct RawVm {
    int kvm_fd;
    int fd;
    size_t run_bytes;
    uint8_t *ram;
    uint64_t ram_pages;
    DirtyLog *log;
    uint32_t entry;
    unsigned n_vcpus;
    Vcpu vcpu[2];
    GMutex mutex; /* all below */
    GCond cond;
    GString *output;
    gboolean want_run;
    gboolean quit;
    unsigned n_parked;
    unsigned ring_fulls;
};

static gboolean
fail(GError **error, const char *what)
{
    g_set_error(error, G_IO_ERROR, (gint)g_io_error_from_errno(errno), "raw VM: %s: %s", what,
                g_strerror(errno));
    return FALSE;
}

static void
on_kick(int number)
{
}

static void
handle_io(RawVm *vm, struct kvm_run *run)
{
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    if (run->io.direction == KVM_EXIT_IO_IN) {
        memset(data, 0xFF, (size_t)run->io.size * run->io.count);
        return;
    }
    if (run->io.port != PORT_DEBUGCON)
        return;
    g_mutex_lock(&vm->mutex);
    g_string_append_len(vm->output, (const char *)data, (gssize)run->io.size * run->io.count);
    g_mutex_unlock(&vm->mutex);
}

static gboolean
handle_ring_full(RawVm *vm)
{
    g_autoptr(GError) error = NULL;
    gboolean ok = dirtylog_collect(vm->log, &error);

    g_mutex_lock(&vm->mutex);
    vm->ring_fulls++;
    if (!ok)
        g_string_append_printf(vm->output, "error %s\n", error->message);
    g_mutex_unlock(&vm->mutex);
    return ok;
}

/* FALSE once this vCPU shall not run any more. */
static gboolean
handle_exit(Vcpu *vcpu)
{
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_IO:
        handle_io(vcpu->vm, vcpu->run);
        return TRUE;
    case KVM_EXIT_DIRTY_RING_FULL:
        return handle_ring_full(vcpu->vm);
    case KVM_EXIT_MMIO:
        memset(vcpu->run->mmio.data, 0xFF, sizeof(vcpu->run->mmio.data));
        return TRUE;
    default:
        g_mutex_lock(&vcpu->vm->mutex);
        g_string_append_printf(vcpu->vm->output, "error vCPU %u: KVM exit %u\n", vcpu->index,
                               vcpu->run->exit_reason);
        g_mutex_unlock(&vcpu->vm->mutex);
        return FALSE;
    }
}

/* Wait until the vCPU may run. FALSE: the thread shall end. */
static gboolean
park(Vcpu *vcpu)
{
    RawVm *vm = vcpu->vm;
    gboolean go;

    g_mutex_lock(&vm->mutex);
    if (!vm->want_run) {
        vm->n_parked++;
        g_cond_broadcast(&vm->cond);
        while (!vm->want_run && !vm->quit)
            g_cond_wait(&vm->cond, &vm->mutex);
        vm->n_parked--;
    }
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_RELEASE);
    go = !vm->quit;
    g_mutex_unlock(&vm->mutex);
    return go;
}

static void *
vcpu_thread(void *opaque)
{
    Vcpu *vcpu = opaque;
    gboolean alive = TRUE;

    while (park(vcpu)) {
        if (!alive) {
            g_usleep(1000);
            continue;
        }
        if (ioctl(vcpu->fd, KVM_RUN, 0) == 0)
            alive = handle_exit(vcpu);
        else if (errno != EINTR && errno != EAGAIN)
            alive = handle_exit(vcpu);
    }
    return NULL;
}

void
rawvm_kick(RawVm *vm)
{
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        if (vm->vcpu[i].started)
            pthread_kill(vm->vcpu[i].thread, KICK_SIGNAL);
}

void
rawvm_resume(RawVm *vm)
{
    g_mutex_lock(&vm->mutex);
    vm->want_run = TRUE;
    g_cond_broadcast(&vm->cond);
    g_mutex_unlock(&vm->mutex);
}

void
rawvm_pause(RawVm *vm)
{
    g_mutex_lock(&vm->mutex);
    vm->want_run = FALSE;
    /* immediate_exit closes the gap between park() and KVM_RUN (KVM API §5). */
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        __atomic_store_n(&vm->vcpu[i].run->immediate_exit, 1, __ATOMIC_RELEASE);
    rawvm_kick(vm);
    while (vm->n_parked < vm->n_vcpus)
        g_cond_wait(&vm->cond, &vm->mutex);
    g_mutex_unlock(&vm->mutex);
}

int
rawvm_set_slot(RawVm *vm, uint32_t slot, uint64_t pages)
{
    uint64_t first = slot == RAWVM_SLOT0 ? 0 : RAWVM_SLOT0_PAGES;
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = KVM_MEM_LOG_DIRTY_PAGES,
        .guest_phys_addr = first * 4096,
        .memory_size = pages * 4096,
        .userspace_addr = (uint64_t)(uintptr_t)vm->ram + first * 4096,
    };

    return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static gboolean
setup_memory(RawVm *vm, const RawVmConfig *config, GError **error)
{
    const uint64_t pages1 = vm->ram_pages - RAWVM_SLOT0_PAGES;
    const DirtyLogSlot slots[] = {
        {.slot = RAWVM_SLOT0, .first_page = 0, .n_pages = RAWVM_SLOT0_PAGES},
        {.slot = RAWVM_SLOT1,
         .first_page = RAWVM_SLOT0_PAGES,
         .n_pages = pages1 - config->hide_pages},
    };
    void *map =
        mmap(NULL, vm->ram_pages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED)
        return fail(error, "RAM");
    vm->ram = map;
    if (rawvm_set_slot(vm, RAWVM_SLOT0, RAWVM_SLOT0_PAGES) < 0 ||
        rawvm_set_slot(vm, RAWVM_SLOT1, pages1) < 0)
        return fail(error, "KVM_SET_USER_MEMORY_REGION");
    return dirtylog_add_slot(vm->log, &slots[0], error) &&
           dirtylog_add_slot(vm->log, &slots[1], error);
}

/* Copy the loadable segments; the tiny guest has one PVH note of a known shape, at its start. */
static gboolean
load_elf(RawVm *vm, const char *path, GError **error)
{
    g_autofree char *file = NULL;
    gsize len;
    const Elf64_Ehdr *ehdr;
    const Elf64_Phdr *phdr;

    if (!g_file_get_contents(path, &file, &len, error))
        return FALSE;
    ehdr = (const Elf64_Ehdr *)file;
    phdr = (const Elf64_Phdr *)(file + ehdr->e_phoff);
    for (unsigned i = 0; i < ehdr->e_phnum; i++)
        if (phdr[i].p_type == PT_LOAD)
            memcpy(vm->ram + phdr[i].p_paddr, file + phdr[i].p_offset, phdr[i].p_filesz);
    vm->entry = (uint32_t)ehdr->e_entry;
    return TRUE;
}

static void
load_start_info(RawVm *vm, const char *command_line)
{
    const uint32_t info[] = {0x336ec578,   1, 0, 0, 0, 0, CMDLINE_GPA, 0, 0, 0, MEMMAP_GPA,
                             0 /* high */, 1, 0};
    const uint64_t memmap[] = {0, vm->ram_pages * 4096, 1 /* RAM */};

    memcpy(vm->ram + START_INFO_GPA, info, sizeof(info));
    memcpy(vm->ram + MEMMAP_GPA, memmap, sizeof(memmap));
    g_strlcpy((char *)vm->ram + CMDLINE_GPA, command_line, CMDLINE_MAX);
}

static struct kvm_segment
flat_segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){.limit = 0xFFFFFFFF,
                                .selector = selector,
                                .type = type,
                                .present = 1,
                                .s = 1,
                                .db = 1,
                                .g = 1};
}

/* The state PVH asks for: 32-bit protected mode, flat segments, paging off. */
static gboolean
setup_boot_cpu(RawVm *vm, GError **error)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = vm->entry, .rbx = START_INFO_GPA, .rflags = 2};

    if (ioctl(vm->vcpu[0].fd, KVM_GET_SREGS, &sregs) < 0)
        return fail(error, "KVM_GET_SREGS");
    sregs.cs = flat_segment(8, 11);
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = flat_segment(16, 3);
    sregs.cr0 = 0x11; /* PE, ET */
    if (ioctl(vm->vcpu[0].fd, KVM_SET_SREGS, &sregs) < 0 ||
        ioctl(vm->vcpu[0].fd, KVM_SET_REGS, &regs) < 0)
        return fail(error, "setting the boot registers");
    return TRUE;
}

static gboolean
setup_cpuid(RawVm *vm, Vcpu *vcpu, GError **error)
{
    size_t bytes = sizeof(struct kvm_cpuid2) + CPUID_MAX * sizeof(struct kvm_cpuid_entry2);
    g_autofree struct kvm_cpuid2 *cpuid = g_malloc0(bytes);

    cpuid->nent = CPUID_MAX;
    if (ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0 ||
        ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
        return fail(error, "CPUID");
    return TRUE;
}

static gboolean
setup_vcpu(RawVm *vm, unsigned index, GError **error)
{
    Vcpu *vcpu = &vm->vcpu[index];

    vcpu->vm = vm;
    vcpu->index = index;
    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
    if (vcpu->fd < 0)
        return fail(error, "KVM_CREATE_VCPU");
    vcpu->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED)
        return fail(error, "mapping kvm_run");
    return setup_cpuid(vm, vcpu, error) && dirtylog_add_vcpu(vm->log, vcpu->fd, error);
}

static gboolean
start_threads(RawVm *vm, GError **error)
{
    struct sigaction action = {.sa_handler = on_kick};

    sigaction(KICK_SIGNAL, &action, NULL);
    for (unsigned i = 0; i < vm->n_vcpus; i++) {
        errno = pthread_create(&vm->vcpu[i].thread, NULL, vcpu_thread, &vm->vcpu[i]);
        if (errno != 0)
            return fail(error, "vCPU thread");
        vm->vcpu[i].started = TRUE;
    }
    return TRUE;
}

static gboolean
setup_vm(RawVm *vm, const RawVmConfig *config, GError **error)
{
    vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (vm->kvm_fd < 0)
        return fail(error, "/dev/kvm");
    vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    if (vm->fd < 0)
        return fail(error, "KVM_CREATE_VM");
    vm->run_bytes = (size_t)ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    vm->log = dirtylog_new(vm->kvm_fd, vm->fd, config->source, config->ring_entries, error);
    if (!vm->log)
        return FALSE;
    if (ioctl(vm->fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_GPA) < 0 ||
        ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
        return fail(error, "interrupt controllers");
    if (!setup_memory(vm, config, error) || !load_elf(vm, config->elf, error))
        return FALSE;
    load_start_info(vm, config->command_line);
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        if (!setup_vcpu(vm, i, error))
            return FALSE;
    return setup_boot_cpu(vm, error) && start_threads(vm, error);
}

RawVm *
rawvm_new(const RawVmConfig *config, GError **error)
{
    g_autoptr(RawVm) vm = g_new0(RawVm, 1);

    vm->kvm_fd = vm->fd = -1;
    vm->n_vcpus = config->n_vcpus;
    vm->ram_pages = config->ram_pages ? config->ram_pages : RAWVM_RAM_PAGES;
    g_assert_cmpuint(vm->n_vcpus, <=, G_N_ELEMENTS(vm->vcpu));
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        vm->vcpu[i].fd = -1;
    vm->output = g_string_new(NULL);
    g_mutex_init(&vm->mutex);
    g_cond_init(&vm->cond);
    if (!setup_vm(vm, config, error))
        return NULL;
    return g_steal_pointer(&vm);
}

static void
stop_threads(RawVm *vm)
{
    if (!vm->vcpu[vm->n_vcpus - 1].started)
        return;
    rawvm_pause(vm);
    g_mutex_lock(&vm->mutex);
    vm->quit = TRUE;
    g_cond_broadcast(&vm->cond);
    g_mutex_unlock(&vm->mutex);
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        pthread_join(vm->vcpu[i].thread, NULL);
}

void
rawvm_free(RawVm *vm)
{
    if (!vm)
        return;
    stop_threads(vm);
    dirtylog_free(vm->log);
    for (unsigned i = 0; i < vm->n_vcpus; i++) {
        if (vm->vcpu[i].run)
            munmap(vm->vcpu[i].run, vm->run_bytes);
        if (vm->vcpu[i].fd >= 0)
            close(vm->vcpu[i].fd);
    }
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->kvm_fd >= 0)
        close(vm->kvm_fd);
    if (vm->ram)
        munmap(vm->ram, vm->ram_pages * 4096);
    g_string_free(vm->output, TRUE);
    g_mutex_clear(&vm->mutex);
    g_cond_clear(&vm->cond);
    g_free(vm);
}

uint8_t *
rawvm_ram(RawVm *vm)
{
    return vm->ram;
}

DirtyLog *
rawvm_log(RawVm *vm)
{
    return vm->log;
}

int
rawvm_fd(RawVm *vm)
{
    return vm->fd;
}

char *
rawvm_output(RawVm *vm)
{
    char *text;

    g_mutex_lock(&vm->mutex);
    text = g_strdup(vm->output->str);
    g_mutex_unlock(&vm->mutex);
    return text;
}

unsigned
rawvm_ring_fulls(RawVm *vm)
{
    unsigned n;

    g_mutex_lock(&vm->mutex);
    n = vm->ring_fulls;
    g_mutex_unlock(&vm->mutex);
    return n;
}
