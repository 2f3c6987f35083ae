/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The processor model. */
#include "vmm/cpuid.h"
#include "vmm/vcpu.h"
#include "vmm/vcpu_state.h"

#include <string.h>

#define BIT32(n) ((uint32_t)1 << (n))

/* A host that has everything. */
static struct kvm_cpuid2 *
host_make(void)
{
    static const struct {
        uint32_t function, index;
        bool indexed;
    } leaves[] = {{0x0, 0, false},        {0x1, 0, false},        {0x4, 0, true},
                  {0x4, 3, true},         {0x6, 0, false},        {0x7, 0, true},
                  {0x7, 1, true},         {0x7, 2, true},         {0xA, 0, false},
                  {0xB, 0, true},         {0xD, 0, true},         {0xD, 1, true},
                  {0xD, 2, true},         {0xD, 17, true},        {0xD, 18, true},
                  {0x14, 0, true},        {0x40000000, 0, false}, {0x40000001, 0, false},
                  {0x80000000, 0, false}, {0x80000001, 0, false}, {0x80000007, 0, false},
                  {0x80000008, 0, false}, {0x8000000A, 0, false}, {0x8000001F, 0, false},
                  {0x80000021, 0, false}};
    struct kvm_cpuid2 *cpuid = g_malloc0(sizeof(*cpuid) + 64 * sizeof(cpuid->entries[0]));

    for (size_t i = 0; i < G_N_ELEMENTS(leaves); i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[cpuid->nent++];

        *entry = (struct kvm_cpuid_entry2){.function = leaves[i].function,
                                           .index = leaves[i].index,
                                           .flags = leaves[i].indexed ? 1 : 0,
                                           .eax = UINT32_MAX,
                                           .ebx = UINT32_MAX,
                                           .ecx = UINT32_MAX,
                                           .edx = UINT32_MAX};
    }
    return cpuid;
}

static const struct kvm_cpuid_entry2 *
leaf(const struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
            return &cpuid->entries[i];
    }
    return NULL;
}

static void
test_stateful_features_gone(void)
{
    g_autofree struct kvm_cpuid2 *cpuid = host_make();

    cpuid_model_apply(cpuid, 0, 1, true);
    g_assert_cmphex(leaf(cpuid, 1, 0)->ecx & (BIT32(3) | BIT32(5) | BIT32(15)), ==, 0);
    g_assert_cmphex(leaf(cpuid, 1, 0)->edx & (BIT32(7) | BIT32(14)), ==, 0);
    g_assert_cmphex(leaf(cpuid, 0x80000001, 0)->ecx & BIT32(2), ==, 0);
    g_assert_cmphex(leaf(cpuid, 7, 0)->edx & (BIT32(22) | BIT32(24) | BIT32(25)), ==, 0);
    g_assert_cmphex(leaf(cpuid, 7, 0)->ebx & (BIT32(2) | BIT32(25)), ==, 0);
    g_assert_cmphex(leaf(cpuid, 0x40000001, 0)->eax & (BIT32(4) | BIT32(6) | BIT32(7)), ==, 0);
    g_assert_null(leaf(cpuid, 0xA, 0));
    g_assert_null(leaf(cpuid, 0x14, 0));
    g_assert_null(leaf(cpuid, 0xD, 17));
    g_assert_null(leaf(cpuid, 0x8000000A, 0));
    g_assert_null(leaf(cpuid, 0x8000001F, 0));
}

static void
test_common_features_kept(void)
{
    g_autofree struct kvm_cpuid2 *cpuid = host_make();

    cpuid_model_apply(cpuid, 0, 1, true);
    /* SSE4.2, x2APIC, TSC deadline, AVX, hypervisor */
    g_assert_cmphex(~leaf(cpuid, 1, 0)->ecx &
                        (BIT32(20) | BIT32(21) | BIT32(24) | BIT32(28) | BIT32(31)),
                    ==, 0);
    /* NX, long mode */
    g_assert_cmphex(~leaf(cpuid, 0x80000001, 0)->edx & (BIT32(20) | BIT32(29)), ==, 0);
    /* kvmclock and its stable bit */
    g_assert_cmphex(~leaf(cpuid, 0x40000001, 0)->eax & (BIT32(3) | BIT32(24)), ==, 0);
    g_assert_nonnull(leaf(cpuid, 0xD, 2));
}

static void
test_topology(void)
{
    g_autofree struct kvm_cpuid2 *cpuid = host_make();

    cpuid_model_apply(cpuid, 5, 6, true);
    g_assert_cmpuint(leaf(cpuid, 1, 0)->ebx >> 24, ==, 5);
    g_assert_cmpuint((leaf(cpuid, 1, 0)->ebx >> 16) & 0xFF, ==, 6);
    g_assert_cmpuint(leaf(cpuid, 0xB, 0)->edx, ==, 5);
    g_assert_cmpuint(leaf(cpuid, 0xB, 0)->eax, ==, 0); /* no threads */
    g_assert_cmpuint(leaf(cpuid, 0xB, 1)->eax, ==, 3); /* ids of 6 cores take 3 bits */
    g_assert_cmpuint(leaf(cpuid, 0xB, 1)->ebx, ==, 6);
    g_assert_cmpuint(leaf(cpuid, 0x80000008, 0)->ecx & 0xFF, ==, 5);
}

static void
test_same_host_takes_back(void)
{
    g_autofree struct kvm_cpuid2 *saved = host_make(), *here = host_make();
    g_autoptr(GError) error = NULL;

    cpuid_model_apply(saved, 0, 2, true);
    cpuid_model_apply(here, 0, 2, true);
    cpuid_check(saved, here, &error);
    g_assert_no_error(error);
}

static void
test_lesser_host_refuses(void)
{
    g_autofree struct kvm_cpuid2 *saved = host_make(), *here = host_make();
    g_autoptr(GError) error = NULL;

    ((struct kvm_cpuid_entry2 *)leaf(here, 7, 0))->ebx &= ~BIT32(5); /* no AVX2 */
    cpuid_model_apply(saved, 0, 1, true);
    cpuid_model_apply(here, 0, 1, true);
    g_assert_false(cpuid_check(saved, here, &error));
    g_assert_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "leaf 0x7/0 EBX bits 0x20"));
    /* The other way round is fine. */
    g_assert_true(cpuid_check(here, saved, NULL));
}

/* A guest that switched on automatic IBRS cannot go where there is none. */
static void
test_late_leaves_are_compared(void)
{
    g_autofree struct kvm_cpuid2 *saved = host_make(), *here = host_make();
    g_autoptr(GError) error = NULL;

    ((struct kvm_cpuid_entry2 *)leaf(here, 0x80000021, 0))->eax &= ~BIT32(8);
    cpuid_model_apply(saved, 0, 1, true);
    cpuid_model_apply(here, 0, 1, true);
    g_assert_false(cpuid_check(saved, here, &error));
    g_assert_nonnull(strstr(error->message, "leaf 0x80000021/0 EAX bits 0x100"));
}

static void
test_other_vendor_refuses(void)
{
    g_autofree struct kvm_cpuid2 *saved = host_make(), *here = host_make();
    g_autoptr(GError) error = NULL;

    memcpy(&((struct kvm_cpuid_entry2 *)leaf(saved, 0, 0))->ebx, "Genu", 4);
    memcpy(&((struct kvm_cpuid_entry2 *)leaf(saved, 0, 0))->edx, "ineI", 4);
    memcpy(&((struct kvm_cpuid_entry2 *)leaf(saved, 0, 0))->ecx, "ntel", 4);
    cpuid_model_apply(saved, 0, 1, true);
    cpuid_model_apply(here, 0, 1, true);
    g_assert_false(cpuid_check(saved, here, &error));
    g_assert_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "of 'GenuineIntel'"));
    g_assert_true(cpuid_check(saved, saved, NULL));
}

/* Page tables of the guest may use address bits that are reserved on a lesser processor. */
static void
test_narrower_addresses_refuse(void)
{
    g_autofree struct kvm_cpuid2 *saved = host_make(), *here = host_make();
    g_autoptr(GError) error = NULL;

    ((struct kvm_cpuid_entry2 *)leaf(saved, 0x80000008, 0))->eax = 48;
    ((struct kvm_cpuid_entry2 *)leaf(here, 0x80000008, 0))->eax = 39;
    cpuid_model_apply(saved, 0, 1, true);
    cpuid_model_apply(here, 0, 1, true);
    g_assert_false(cpuid_check(saved, here, &error));
    g_assert_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "48 bits"));
    /* The other way round is fine. */
    g_assert_true(cpuid_check(here, saved, NULL));
}

static void
test_capability_msrs_are_no_state(void)
{
    static const uint32_t no_state[] = {0x345, 0x480, 0x48B, 0x491};
    static const uint32_t state[] = {0x10, 0x10A, 0x174, 0x277, 0x6E0, 0x4B564D01, 0xC0000080};

    for (size_t i = 0; i < G_N_ELEMENTS(no_state); i++)
        g_assert_false(vcpu_msr_is_state(no_state[i]));
    for (size_t i = 0; i < G_N_ELEMENTS(state); i++)
        g_assert_true(vcpu_msr_is_state(state[i]));
}

static void
test_tsc_ticks(void)
{
    static const struct {
        uint64_t ns;
        uint32_t khz;
        uint64_t ticks;
    } cases[] = {
        {0, 2000000, 0},
        {1, 2000000, 2},
        {999999, 3000000, 2999997}, /* less than the millisecond that it counts in */
        {1000000000, 2345678, 2345678000},
        {1500000001, 2000000, 3000000002},
        {1, 900000, 0},                                        /* a tick that is not over */
        {1000000000, 0, 0},                                    /* a rate that KVM did not tell */
        {3155760000000000000, 4000000, 12623040000000000000u}, /* a century */
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
        g_assert_cmpuint(vcpu_tsc_ticks(cases[i].ns, cases[i].khz), ==, cases[i].ticks);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cpuid/features whose state is not saved are not given",
                    test_stateful_features_gone);
    g_test_add_func("/cpuid/what guests need is given", test_common_features_kept);
    g_test_add_func("/cpuid/each vCPU is a core with its own id", test_topology);
    g_test_add_func("/cpuid/a like host takes a saved guest", test_same_host_takes_back);
    g_test_add_func("/cpuid/a lesser host refuses and names the bits", test_lesser_host_refuses);
    g_test_add_func("/cpuid/leaves of late processors are compared too",
                    test_late_leaves_are_compared);
    g_test_add_func("/cpuid/a processor of another vendor refuses", test_other_vendor_refuses);
    g_test_add_func("/cpuid/narrower physical addresses refuse", test_narrower_addresses_refuse);
    g_test_add_func("/tsc/ticks are exact for seconds and centuries", test_tsc_ticks);
    g_test_add_func("/msr/what features not offered could do is not saved",
                    test_capability_msrs_are_no_state);
    return g_test_run();
}
