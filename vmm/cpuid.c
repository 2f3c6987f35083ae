/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The processor model.
 *
 * Theory of operation. The guest gets what KVM supports here, cut down to a fixed list of features
 * (the masks below), so that two hosts of like processors give alike guests whatever their kernels
 * and microcode add. A feature is on the list only if all of its state is in what is saved
 * (vmstate.proto): registers, XSAVE area, the MSRs that KVM lists. So these are never given: nested
 * virtualization (SVM, VMX), performance counters and tracing (leaf 0xA, PT, LBR), MONITOR/MWAIT,
 * machine check banks, SGX, AMX, CET, MPX, thermal and power leaves, and of KVM's own features the
 * asynchronous page fault, PV EOI and PV unhalt, whose pending state KVM does not give out.
 *
 * Vendor, family, model and stepping stay the host's, because guests choose their mitigations by
 * them. Topology: one socket, one core per vCPU, no threads; APIC id = vCPU number.
 *
 * A saved guest keeps the CPUID it was started with. It may be restored where every feature bit it
 * has is offered too, on a processor of the same vendor (the two differ in instructions and MSRs
 * that no bit tells of) whose physical addresses are as wide or wider (cpuid_check).
 */
#include "vmm/cpuid.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define CPUID_ENTRIES_MAX 256
#define BIT32(n) ((uint32_t)1 << (n))

typedef enum { REG_EAX, REG_EBX, REG_ECX, REG_EDX } CpuidReg;

/* A register full of feature bits, and those the model allows. */
typedef struct FeatureWord {
    uint32_t function;
    uint32_t index;
    CpuidReg reg;
    uint32_t allowed;
} FeatureWord;

static const FeatureWord feature_words[] = {
    /* SSE3 PCLMUL SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 X2APIC MOVBE POPCNT TSC-deadline AES XSAVE
     * OSXSAVE AVX F16C RDRAND HYPERVISOR. Not: MONITOR VMX PDCM (performance). */
    {0x1, 0, REG_ECX, 0xFFFA3203},
    /* FPU VME DE PSE TSC MSR PAE CX8 APIC SEP MTRR PGE CMOV PAT PSE36 CLFLUSH MMX FXSR SSE SSE2 SS
     * HT. Not: MCE MCA (banks are not saved), DS, thermal. */
    {0x1, 0, REG_EDX, 0x1F8BBB7F},
    {0x6, 0, REG_EAX, BIT32(2)}, /* ARAT: the APIC timer never stops */
    {0x6, 0, REG_EBX, 0},
    {0x6, 0, REG_ECX, 0},
    /* FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID ZEROFPCSDS AVX512F/DQ RDSEED ADX SMAP
     * AVX512IFMA CLFLUSHOPT CLWB AVX512CD SHA AVX512BW/VL. Not: SGX HLE RTM MPX PT PQM. */
    {0x7, 0, REG_EBX, 0xF1BF27EB},
    /* AVX512VBMI UMIP PKU OSPKE AVX512VBMI2 GFNI VAES VPCLMUL AVX512VNNI/BITALG/VPOPCNT LA57 RDPID.
     * Not: WAITPKG CET ENQCMD SGX. */
    {0x7, 0, REG_ECX, 0x00415F5E},
    /* FSRM AVX512-VP2INTERSECT MD_CLEAR SERIALIZE SPEC_CTRL STIBP L1D_FLUSH ARCH_CAPABILITIES SSBD.
     * Not: AMX PCONFIG arch LBR. */
    {0x7, 0, REG_EDX, 0xBC004510},
    {0x7, 1, REG_EAX, BIT32(4) | BIT32(5)}, /* AVX-VNNI AVX512-BF16 */
    {0x7, 1, REG_EBX, 0},
    {0x7, 1, REG_ECX, 0},
    {0x7, 1, REG_EDX, 0},
    {0xD, 0, REG_EAX, 0x000002E7}, /* x87 SSE AVX AVX-512 PKRU; not MPX, AMX */
    {0xD, 1, REG_EAX, 0x00000007}, /* XSAVEOPT XSAVEC XGETBV1; not XSAVES (CET, PT) */
    {0xD, 1, REG_ECX, 0},
    {0xD, 1, REG_EDX, 0},
    {0x40000001, 0, REG_EAX,
     BIT32(KVM_FEATURE_CLOCKSOURCE) | BIT32(KVM_FEATURE_NOP_IO_DELAY) |
         BIT32(KVM_FEATURE_CLOCKSOURCE2) | BIT32(KVM_FEATURE_STEAL_TIME) |
         BIT32(KVM_FEATURE_PV_TLB_FLUSH) | BIT32(KVM_FEATURE_PV_SEND_IPI) |
         BIT32(KVM_FEATURE_PV_SCHED_YIELD) | BIT32(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT)},
    /* LAHF CR8_LEGACY LZCNT SSE4A MISALIGNSSE PREFETCHW FMA4 TBM XOP. Not: SVM IBS SKINIT LWP
     * PERFCTR. */
    {0x80000001, 0, REG_ECX, 0x002109F1},
    /* SYSCALL NX MMXEXT FXSR_OPT PDPE1GB RDTSCP LM 3DNOW and the copies of leaf 1. */
    {0x80000001, 0, REG_EDX, 0xEFD3BB7F},
    {0x80000007, 0, REG_EDX, BIT32(8)}, /* invariant TSC */
    /* CLZERO XSAVEERPTR WBNOINVD IBPB IBRS STIBP always-on SSBD VIRT_SSBD; */
    {0x80000008, 0, REG_EBX, 0x0702D205},
    /* NO_NESTED_DATA_BP LFENCE_SERIALIZING VERW_CLEAR NULL_SEL_CLR_BASE AUTO_IBRS SBPB IBPB_BRTYPE
     * SRSO_NO; TSA_SQ_NO TSA_L1_NO. */
    {0x80000021, 0, REG_EAX, 0x38000165},
    {0x80000021, 0, REG_EBX, 0},
    {0x80000021, 0, REG_ECX, BIT32(1) | BIT32(2)},
    {0x80000021, 0, REG_EDX, 0},
};

/* Leaves that are given at all; the rest is removed. */
static const struct {
    uint32_t first, last;
} leaves_kept[] = {
    {0x0, 0x2},
    {0x4, 0x4},
    {0x6, 0x7},
    {0xB, 0xB},
    {0xD, 0xD},
    {0x40000000, 0x40000001},
    {0x80000000, 0x80000008},
    {0x8000001D, 0x8000001D},
    {0x80000021, 0x80000021},
};

static uint32_t *
cpuid_reg(struct kvm_cpuid_entry2 *entry, CpuidReg reg)
{
    switch (reg) {
    case REG_EAX:
        return &entry->eax;
    case REG_EBX:
        return &entry->ebx;
    case REG_ECX:
        return &entry->ecx;
    default:
        return &entry->edx;
    }
}

static struct kvm_cpuid_entry2 *
cpuid_find(struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        bool indexed = entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

        if (entry->function == function && (!indexed || entry->index == index))
            return entry;
    }
    return NULL;
}

static bool
cpuid_leaf_kept(const struct kvm_cpuid_entry2 *entry)
{
    /* XSAVE components beyond the ones allowed: their sizes must not be there either. */
    if (entry->function == 0xD && entry->index >= 2)
        return entry->index < 32 && (0x2E7u & BIT32(entry->index)) != 0;
    if (entry->function == 0x7 && entry->index > 1)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(leaves_kept); i++) {
        if (entry->function >= leaves_kept[i].first && entry->function <= leaves_kept[i].last)
            return true;
    }
    return false;
}

static void
cpuid_leaves_filter(struct kvm_cpuid2 *cpuid)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < cpuid->nent; i++) {
        /* Topology is added below. */
        if (cpuid->entries[i].function != 0xB && cpuid_leaf_kept(&cpuid->entries[i]))
            cpuid->entries[kept++] = cpuid->entries[i];
    }
    cpuid->nent = kept;
}

static void
cpuid_features_mask(struct kvm_cpuid2 *cpuid)
{
    for (size_t i = 0; i < G_N_ELEMENTS(feature_words); i++) {
        const FeatureWord *word = &feature_words[i];
        struct kvm_cpuid_entry2 *entry = cpuid_find(cpuid, word->function, word->index);

        if (entry != NULL)
            *cpuid_reg(entry, word->reg) &= word->allowed;
    }
}

/* Bits needed to number n things. */
static unsigned
bits_for(unsigned n)
{
    return n <= 1 ? 0 : 32 - (unsigned)__builtin_clz(n - 1);
}

/* Leaf 0xB (Intel SDM vol. 2, CPUID): level 0 is the thread, level 1 the core. */
static void
cpuid_topology_add(struct kvm_cpuid2 *cpuid, unsigned id, unsigned n)
{
    const struct kvm_cpuid_entry2 levels[] = {
        {.index = 0, .eax = 0, .ebx = 1, .ecx = 0x100, .edx = id},
        {.index = 1, .eax = bits_for(n), .ebx = n, .ecx = 0x201, .edx = id},
        {.index = 2, .ecx = 0x002, .edx = id},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(levels); i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[cpuid->nent++];

        *entry = levels[i];
        entry->function = 0xB;
        entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    }
}

static void
cpuid_topology_set(struct kvm_cpuid_entry2 *entry, unsigned id, unsigned n)
{
    switch (entry->function) {
    case 0x0:
        entry->eax = MIN(MAX(entry->eax, 0xBu), 0xDu);
        break;
    case 0x1: /* EBX: APIC id, logical processors, CLFLUSH line, brand */
        entry->ebx = (entry->ebx & 0x0000FF00) | (id << 24) | (n << 16);
        entry->edx = n > 1 ? entry->edx | BIT32(28) : entry->edx & ~BIT32(28);
        entry->ecx |= BIT32(31); /* runs under a hypervisor */
        break;
    case 0x4: /* caches: private, except the last level, which all cores share */
        entry->eax &= 0x3FF;
        entry->eax |= (n - 1) << 26;
        if (((entry->eax >> 5) & 7) == 3)
            entry->eax |= (n - 1) << 14;
        break;
    case 0x7:
        if (entry->index == 0)
            entry->eax = MIN(entry->eax, 1u);
        break;
    case 0x8000001D:
        entry->eax &= 0x3FF;
        if (((entry->eax >> 5) & 7) == 3)
            entry->eax |= (n - 1) << 14;
        break;
    case 0x80000000:
        entry->eax = MIN(entry->eax, 0x80000021u);
        break;
    case 0x80000001: /* CmpLegacy: the cores are cores, not threads */
        entry->ecx = n > 1 ? entry->ecx | BIT32(1) : entry->ecx & ~BIT32(1);
        break;
    case 0x80000008: /* ECX: number of cores - 1, size of the core id */
        entry->ecx = (bits_for(n) << 12) | (n - 1);
        break;
    default:
        break;
    }
}

void
cpuid_model_apply(struct kvm_cpuid2 *cpuid, unsigned id, unsigned n, bool tsc_deadline)
{
    struct kvm_cpuid_entry2 *leaf1 = cpuid_find(cpuid, 0x1, 0);

    /* In-kernel APIC features that older kernels do not list (KVM API §4.46). */
    if (leaf1 != NULL) {
        leaf1->ecx |= BIT32(21);
        if (tsc_deadline)
            leaf1->ecx |= BIT32(24);
    }
    cpuid_leaves_filter(cpuid);
    cpuid_features_mask(cpuid);
    for (uint32_t i = 0; i < cpuid->nent; i++)
        cpuid_topology_set(&cpuid->entries[i], id, n);
    cpuid_topology_add(cpuid, id, n);
}

struct kvm_cpuid2 *
cpuid_for_vcpu(Machine *m, unsigned id, unsigned n, GError **error)
{
    g_autofree struct kvm_cpuid2 *cpuid =
        g_malloc0(sizeof(*cpuid) + (CPUID_ENTRIES_MAX + 3) * sizeof(cpuid->entries[0]));

    cpuid->nent = CPUID_ENTRIES_MAX;
    if (ioctl(m->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_KVM,
                    "%s: cannot ask KVM which processor features it supports: %s", m->name,
                    g_strerror(errno));
        return NULL;
    }
    cpuid_model_apply(cpuid, id, n,
                      ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0);
    return g_steal_pointer(&cpuid);
}

/* Bits the running guest sets itself: not features of the host. */
static uint32_t
cpuid_dynamic_bits(const FeatureWord *word)
{
    if (word->function == 0x1 && word->reg == REG_ECX)
        return BIT32(27) | BIT32(31); /* OSXSAVE, HYPERVISOR */
    if (word->function == 0x1 && word->reg == REG_EDX)
        return BIT32(9) | BIT32(28); /* APIC enabled, HT */
    if (word->function == 0x7 && word->reg == REG_ECX)
        return BIT32(4); /* OSPKE */
    if (word->function == 0x80000001 && word->reg == REG_ECX)
        return BIT32(1);
    if (word->function == 0x80000001 && word->reg == REG_EDX)
        return BIT32(9);
    return 0;
}

static const struct kvm_cpuid_entry2 *
cpuid_leaf(const struct kvm_cpuid2 *cpuid, uint32_t function)
{
    return cpuid_find((struct kvm_cpuid2 *)cpuid, function, 0);
}

/* Leaf 0: its name in EBX, EDX, ECX. */
static void
cpuid_vendor(const struct kvm_cpuid2 *cpuid, char name[static 13])
{
    const struct kvm_cpuid_entry2 *leaf = cpuid_leaf(cpuid, 0x0);

    memset(name, 0, 13);
    if (leaf == NULL)
        return;
    memcpy(name, &leaf->ebx, 4);
    memcpy(name + 4, &leaf->edx, 4);
    memcpy(name + 8, &leaf->ecx, 4);
}

/* MAXPHYADDR; without its leaf it is 36 (Intel SDM vol. 3, §4.1.4). */
static unsigned
cpuid_physical_bits(const struct kvm_cpuid2 *cpuid)
{
    const struct kvm_cpuid_entry2 *leaf = cpuid_leaf(cpuid, 0x80000008);

    return leaf == NULL ? 36 : leaf->eax & 0xFF;
}

static gboolean
cpuid_processor_check(const struct kvm_cpuid2 *wanted, const struct kvm_cpuid2 *offered,
                      GError **error)
{
    char want[13], have[13];
    unsigned bits = cpuid_physical_bits(wanted);

    cpuid_vendor(wanted, want);
    cpuid_vendor(offered, have);
    if (memcmp(want, have, sizeof(want)) != 0) {
        g_autofree char *shown = g_strescape(want, NULL);

        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                    "the guest was started on a processor of '%s', this host's is of '%s': "
                    "restore it on a host with a processor of the same vendor",
                    shown, have);
        return FALSE;
    }
    if (bits > cpuid_physical_bits(offered)) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                    "the guest uses physical addresses of %u bits, this host's processor has %u: "
                    "restore it on a host with at least the processor it was started on",
                    bits, cpuid_physical_bits(offered));
        return FALSE;
    }
    return TRUE;
}

gboolean
cpuid_check(const struct kvm_cpuid2 *wanted, const struct kvm_cpuid2 *offered, GError **error)
{
    static const char *const reg_names[] = {"EAX", "EBX", "ECX", "EDX"};

    if (!cpuid_processor_check(wanted, offered, error))
        return FALSE;
    for (size_t i = 0; i < G_N_ELEMENTS(feature_words); i++) {
        const FeatureWord *word = &feature_words[i];
        struct kvm_cpuid_entry2 *want =
            cpuid_find((struct kvm_cpuid2 *)wanted, word->function, word->index);
        struct kvm_cpuid_entry2 *have =
            cpuid_find((struct kvm_cpuid2 *)offered, word->function, word->index);
        uint32_t missing;

        if (want == NULL)
            continue;
        missing = *cpuid_reg(want, word->reg) & ~(have == NULL ? 0 : *cpuid_reg(have, word->reg)) &
                  ~cpuid_dynamic_bits(word);
        if (missing == 0)
            continue;
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                    "the guest uses processor features that this host does not offer (CPUID leaf "
                    "0x%x/%u %s bits 0x%x): restore it on a host with at least the processor it "
                    "was started on",
                    word->function, word->index, reg_names[word->reg], missing);
        return FALSE;
    }
    return TRUE;
}
