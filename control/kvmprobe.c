/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small guests that find out what a KVM can run. */
#include "control/kvmprobe.h"

#include "common/clock.h"
#include "common/page.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Guest-physical layout, bytes. Everything lies below 2 MiB, identity mapped by one large page. */
#define PROBE_RAM (2 * 1024 * 1024)
#define PROBE_GDT 0x1000
#define PROBE_IDT 0x2000
#define PROBE_IDT_HANDLER 0x3000
#define PROBE_PML4 0x4000
#define PROBE_PDPT 0x5000
#define PROBE_PD 0x6000
#define PROBE_CODE 0x8000
#define PROBE_DATA 0x10000
#define PROBE_STACK 0x20000
#define PROBE_DIRTY 0x40000
#define PROBE_PORT 0xE9
#define PROBE_SIGNAL SIGUSR2

#define PROBE_ERROR g_quark_from_static_string("kvmprobe-error-quark")

typedef struct Probe {
    int kvm, vm, vcpu;
    uint8_t *ram;
    struct kvm_run *run;
    size_t run_size;
    struct kvm_cpuid2 *cpuid;
} Probe;

static void
probe_free(Probe *p)
{
    if (p->run)
        munmap(p->run, p->run_size);
    if (p->vcpu >= 0)
        close(p->vcpu);
    if (p->vm >= 0)
        close(p->vm);
    if (p->kvm >= 0)
        close(p->kvm);
    if (p->ram)
        munmap(p->ram, PROBE_RAM);
    g_free(p->cpuid);
    g_free(p);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Probe, probe_free)

/* ioctl, with an error that says what was attempted. */
static int
probe_ioctl(int fd, unsigned long request, const void *arg, const char *what, GError **error)
{
    int rc = ioctl(fd, request, arg);

    if (rc < 0)
        g_set_error(error, PROBE_ERROR, 0, "%s: %s", what, g_strerror(errno));
    return rc;
}

static gboolean
probe_cpuid(Probe *p, GError **error)
{
    const guint entries = 256;

    p->cpuid = g_malloc0(sizeof(*p->cpuid) + entries * sizeof(p->cpuid->entries[0]));
    p->cpuid->nent = entries;
    return probe_ioctl(p->kvm, KVM_GET_SUPPORTED_CPUID, p->cpuid, "KVM_GET_SUPPORTED_CPUID",
                       error) >= 0 &&
           probe_ioctl(p->vcpu, KVM_SET_CPUID2, p->cpuid, "KVM_SET_CPUID2", error) >= 0;
}

static void
probe_put64(Probe *p, uint32_t gpa, uint64_t value)
{
    memcpy(p->ram + gpa, &value, sizeof(value));
}

static void
probe_tables(Probe *p)
{
    probe_put64(p, PROBE_GDT + 8, 0x00AF9B000000FFFFULL);  /* 0x08: 64-bit code */
    probe_put64(p, PROBE_GDT + 16, 0x00CF93000000FFFFULL); /* 0x10: data */
    probe_put64(p, PROBE_PML4, PROBE_PDPT | 3);
    probe_put64(p, PROBE_PDPT, PROBE_PD | 3);
    probe_put64(p, PROBE_PD, 0x83); /* present, writable, 2 MiB page */
    /* #BP: an interrupt gate to a bare iretq (Intel SDM vol. 3 §6.14.1). */
    probe_put64(p, PROBE_IDT + 3 * 16, PROBE_IDT_HANDLER | 0x08ULL << 16 | 0x8E00ULL << 32);
    memcpy(p->ram + PROBE_IDT_HANDLER, "\x48\xcf", 2);
}

static void
probe_segment(struct kvm_segment *s, uint16_t selector, uint8_t type, gboolean code)
{
    *s = (struct kvm_segment){.limit = 0xFFFFFFFF,
                              .selector = selector,
                              .type = type,
                              .present = 1,
                              .db = !code,
                              .s = 1,
                              .l = code,
                              .g = 1};
}

static gboolean
probe_has_feature(const Probe *p, uint32_t leaf, int reg, int bit)
{
    for (uint32_t i = 0; i < p->cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &p->cpuid->entries[i];
        const uint32_t regs[] = {e->eax, e->ebx, e->ecx, e->edx};
        if (e->function == leaf && e->index == 0)
            return (regs[reg] >> bit) & 1;
    }
    return FALSE;
}

/* Put the vCPU into long mode at PROBE_CODE. */
static gboolean
probe_reset(Probe *p, GError **error)
{
    struct kvm_sregs s = {0};
    struct kvm_regs r = {
        .rip = PROBE_CODE, .rsp = PROBE_STACK, .rflags = 2, .rsi = PROBE_DATA, .rdi = PROBE_DATA};

    if (probe_ioctl(p->vcpu, KVM_GET_SREGS, &s, "KVM_GET_SREGS", error) < 0)
        return FALSE;
    probe_segment(&s.cs, 0x08, 0xB, TRUE);
    probe_segment(&s.ds, 0x10, 0x3, FALSE);
    s.es = s.fs = s.gs = s.ss = s.ds;
    s.gdt = (struct kvm_dtable){.base = PROBE_GDT, .limit = 23};
    s.idt = (struct kvm_dtable){.base = PROBE_IDT, .limit = 4 * 16 - 1};
    s.cr0 = 0x80000013; /* PG, ET, MP, PE */
    s.cr3 = PROBE_PML4;
    s.cr4 = 0x620; /* OSXMMEXCPT, OSFXSR, PAE */
    if (probe_has_feature(p, 1, 2, 26))
        s.cr4 |= 1 << 18; /* OSXSAVE */
    s.efer = 0x500;       /* LMA, LME */
    return probe_ioctl(p->vcpu, KVM_SET_SREGS, &s, "KVM_SET_SREGS", error) >= 0 &&
           probe_ioctl(p->vcpu, KVM_SET_REGS, &r, "KVM_SET_REGS", error) >= 0;
}

static gboolean
probe_open_vm(Probe *p, uint32_t memory_flags, GError **error)
{
    p->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (p->kvm < 0) {
        g_set_error(error, PROBE_ERROR, 0, "/dev/kvm: %s", g_strerror(errno));
        return FALSE;
    }
    p->vm = probe_ioctl(p->kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM", error);
    if (p->vm < 0)
        return FALSE;
    void *ram = mmap(NULL, PROBE_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED) {
        g_set_error(error, PROBE_ERROR, 0, "guest memory: %s", g_strerror(errno));
        return FALSE;
    }
    p->ram = ram;
    struct kvm_userspace_memory_region region = {
        .flags = memory_flags, .memory_size = PROBE_RAM, .userspace_addr = (uintptr_t)p->ram};
    ioctl(p->vm, KVM_SET_TSS_ADDR, 0xFFFBD000UL); /* needed by old Intel hosts only */
    return probe_ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION",
                       error) >= 0;
}

static Probe *
probe_new(uint32_t memory_flags, GError **error)
{
    g_autoptr(Probe) p = g_new0(Probe, 1);

    p->kvm = p->vm = p->vcpu = -1;
    if (!probe_open_vm(p, memory_flags, error))
        return NULL;
    p->vcpu = probe_ioctl(p->vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU", error);
    int size = p->vcpu < 0 ? -1
                           : probe_ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL,
                                         "KVM_GET_VCPU_MMAP_SIZE", error);
    if (size < 0)
        return NULL;
    p->run_size = (size_t)size;
    void *run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    if (run == MAP_FAILED) {
        g_set_error(error, PROBE_ERROR, 0, "vCPU mapping: %s", g_strerror(errno));
        return NULL;
    }
    p->run = run;
    if (!probe_cpuid(p, error))
        return NULL;
    probe_tables(p);
    return g_steal_pointer(&p);
}

/* ---- Running with a time limit ---- */

typedef struct ProbeRun {
    Probe *probe;
    int rc;
    int error;
    GMutex lock;
    GCond done_cond;
    gboolean done;
} ProbeRun;

static void
probe_signal(int signo)
{
}

static gpointer
probe_thread(gpointer data)
{
    ProbeRun *r = data;

    do
        r->rc = ioctl(r->probe->vcpu, KVM_RUN, 0);
    while (r->rc < 0 && errno == EAGAIN);
    r->error = errno;
    g_mutex_lock(&r->lock);
    r->done = TRUE;
    g_cond_signal(&r->done_cond);
    g_mutex_unlock(&r->lock);
    return NULL;
}

/* Run until the first exit. TRUE if that is the write to PROBE_PORT that ends every snippet. */
static gboolean
probe_run(Probe *p)
{
    struct sigaction action = {.sa_handler = probe_signal}, old;
    ProbeRun r = {.probe = p};
    pthread_t thread;

    g_mutex_init(&r.lock);
    g_cond_init(&r.done_cond);
    sigaction(PROBE_SIGNAL, &action, &old);
    p->run->immediate_exit = 0;
    gboolean started = pthread_create(&thread, NULL, probe_thread, &r) == 0;
    gint64 deadline = g_get_monotonic_time() + KVMPROBE_RUN_MS * 1000;
    g_mutex_lock(&r.lock);
    while (started && !r.done) {
        if (!g_cond_wait_until(&r.done_cond, &r.lock, deadline)) {
            /* Over time: a flag for before KVM_RUN, a signal for inside; again until it is out. */
            __atomic_store_n(&p->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
            pthread_kill(thread, PROBE_SIGNAL);
            deadline = g_get_monotonic_time() + 10 * 1000;
        }
    }
    g_mutex_unlock(&r.lock);
    if (started)
        pthread_join(thread, NULL);
    sigaction(PROBE_SIGNAL, &old, NULL);
    g_mutex_clear(&r.lock);
    g_cond_clear(&r.done_cond);
    return started && r.rc == 0 && p->run->exit_reason == KVM_EXIT_IO &&
           p->run->io.port == PROBE_PORT;
}

static void
probe_code(Probe *p, const void *code, size_t len)
{
    static const uint8_t end[] = {0xE6, PROBE_PORT, 0xF4}; /* out PROBE_PORT, al; hlt */

    memcpy(p->ram + PROBE_CODE, code, len);
    memcpy(p->ram + PROBE_CODE + len, end, sizeof(end));
}

/* ---- Instructions ---- */

typedef struct ProbeInstruction {
    const char *name;
    uint32_t leaf; /* CPUID bit that offers it; leaf 0: always there */
    int reg, bit;
    const char *code;
    size_t len;
} ProbeInstruction;

#define CODE(bytes) .code = (bytes), .len = sizeof(bytes) - 1

/* rsi and rdi point to 64 KiB of zero bytes, 16-byte aligned. */
static const ProbeInstruction probe_instructions[] = {
    {"int3", 0, 0, 0, CODE("\xcc")},
    {"cpuid", 0, 0, 0, CODE("\x31\xc0\x0f\xa2")},
    {"rdtsc", 1, 3, 4, CODE("\x0f\x31")},
    {"wrmsr", 1, 3, 5, CODE("\xb9\x82\x00\x00\xc0\x31\xc0\x31\xd2\x0f\x30")}, /* LSTAR = 0 */
    {"swapgs", 0, 0, 0, CODE("\x0f\x01\xf8\x0f\x01\xf8")},
    {"invlpg", 0, 0, 0, CODE("\x0f\x01\x3e")},
    {"mov-cr3", 0, 0, 0, CODE("\x0f\x20\xd8\x0f\x22\xd8")},
    {"rep-movs", 0, 0, 0, CODE("\xb9\x10\x00\x00\x00\xf3\xa4")},
    {"lock-cmpxchg", 0, 0, 0, CODE("\xf0\x48\x0f\xb1\x0e")},
    {"cmpxchg16b", 1, 2, 13, CODE("\x48\x0f\xc7\x0e")},
    {"popcnt", 1, 2, 23, CODE("\xf3\x48\x0f\xb8\xc0")},
    {"fxsave", 1, 3, 24, CODE("\x48\x0f\xae\x06")},
    {"movaps", 1, 3, 25, CODE("\x0f\x28\x06")},
    {"xsetbv", 1, 2, 26, CODE("\x31\xc9\x31\xd2\xb8\x01\x00\x00\x00\x0f\x01\xd1")},
    {"xsave", 1, 2, 26, CODE("\xb8\x01\x00\x00\x00\x31\xd2\x48\x0f\xae\x27")},
    {"clac-stac", 7, 1, 20, CODE("\x0f\x01\xcb\x0f\x01\xca")},
};

static gboolean
probe_offered(const Probe *p, const ProbeInstruction *i)
{
    return i->leaf == 0 || probe_has_feature(p, i->leaf, i->reg, i->bit);
}

/* A fresh VM for each: one that failed may have left the vCPU in any state. */
static gboolean
probe_instruction(const ProbeInstruction *i, gboolean *offered, gboolean *works, GError **error)
{
    g_autoptr(Probe) p = probe_new(0, error);

    if (!p || !probe_reset(p, error))
        return FALSE;
    *offered = probe_offered(p, i);
    if (!*offered)
        return TRUE;
    probe_code(p, i->code, i->len);
    *works = probe_run(p);
    return TRUE;
}

gboolean
kvmprobe_instructions(GString *lacking, guint *ran, GError **error)
{
    *ran = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(probe_instructions); i++) {
        gboolean offered = FALSE, works = FALSE;
        if (!probe_instruction(&probe_instructions[i], &offered, &works, error))
            return FALSE;
        if (!offered)
            continue;
        (*ran)++;
        if (!works)
            g_string_append_printf(lacking, " %s", probe_instructions[i].name);
    }
    return TRUE;
}

/* ---- Speed and dirty log ---- */

double
kvmprobe_speed(GError **error)
{
    const uint32_t loops = 200000;
    /* mov ecx, loops; 1: dec ecx; jnz 1b */
    uint8_t code[] = {0xB9, 0, 0, 0, 0, 0xFF, 0xC9, 0x75, 0xFC};
    g_autoptr(Probe) p = probe_new(0, error);

    if (!p || !probe_reset(p, error))
        return -1;
    memcpy(code + 1, &loops, sizeof(loops));
    probe_code(p, code, sizeof(code));
    int64_t start = clock_monotonic_ns();
    if (!probe_run(p)) {
        g_set_error(error, PROBE_ERROR, 0, "a guest loop did not end within %d ms",
                    KVMPROBE_RUN_MS);
        return -1;
    }
    return loops * (double)NS_PER_S / (double)(clock_monotonic_ns() - start);
}

int
kvmprobe_dirty(guint pages, GError **error)
{
    /* mov edi, PROBE_DIRTY; mov ecx, pages; 1: mov [rdi], ecx; add edi, 8192; dec ecx; jnz 1b */
    uint8_t code[] = {0xBF, 0,    0,    0,    0,    0xB9, 0,    0,    0,    0,    0x89,
                      0x0F, 0x81, 0xC7, 0x00, 0x20, 0x00, 0x00, 0xFF, 0xC9, 0x75, 0xF4};
    const uint32_t base = PROBE_DIRTY;
    uint64_t bitmap[PROBE_RAM / PAGE_BYTES / 64] = {0};
    struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bitmap};
    g_autoptr(Probe) p = probe_new(KVM_MEM_LOG_DIRTY_PAGES, error);

    if (!p || !probe_reset(p, error))
        return -1;
    memcpy(code + 1, &base, sizeof(base));
    memcpy(code + 6, &pages, sizeof(pages));
    probe_code(p, code, sizeof(code));
    /* What the set-up dirtied is not counted. */
    if (probe_ioctl(p->vm, KVM_GET_DIRTY_LOG, &log, "KVM_GET_DIRTY_LOG", error) < 0)
        return -1;
    if (!probe_run(p)) {
        g_set_error(error, PROBE_ERROR, 0, "a guest loop did not end within %d ms",
                    KVMPROBE_RUN_MS);
        return -1;
    }
    if (probe_ioctl(p->vm, KVM_GET_DIRTY_LOG, &log, "KVM_GET_DIRTY_LOG", error) < 0)
        return -1;
    int found = 0;
    for (guint i = 0; i < 2 * pages; i++) {
        guint page = PROBE_DIRTY / PAGE_BYTES + i;
        if (!((bitmap[page / 64] >> (page % 64)) & 1))
            continue;
        if (i % 2 == 1) {
            g_set_error(error, PROBE_ERROR, 0, "a page that was not written is logged as dirty");
            return -1;
        }
        found++;
    }
    return found;
}
