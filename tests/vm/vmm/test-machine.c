/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine on real KVM: a few bytes of real-mode code count, and tell each count to a port. The
 * counts seen must have no gap and no repetition, whatever is done to the machine meanwhile.
 */
#include "vmm/lifecycle.h"
#include "vmm/state.h"
#include "vmm/stir.h"
#include "vmm/vcpu.h"

#include "common/memfd.h"
#include "common/page.h"
#include "common/pagebits.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TEST_RAM (4ULL << 20)
#define CODE_GPA 0x1000
#define COUNTER_GPA(cpu) (0x2000 + 0x1000 * (cpu))
#define PORT(cpu) (0xE9 + (cpu))
#define STATE_ROOM (1 << 20)

/* What a CPU of the guest told. */
typedef struct Counts {
    gint seen;
    uint8_t last;
    bool broken;
} Counts;

/* Reachable until exit, as machines are. */
static GPtrArray *machines;

static void
counts_port(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    Counts *counts = opaque;

    if (!write)
        return;
    if (counts->seen > 0 && data[0] != (uint8_t)(counts->last + 1))
        counts->broken = true;
    counts->last = data[0];
    g_atomic_int_inc(&counts->seen);
}

static Machine *
machine_make(unsigned n_vcpus, bool incoming, DirtyLogSource source, Counts *counts)
{
    g_autoptr(GError) error = NULL;
    MachineConfig config = {.name = "test",
                            .stir_fd = -1,
                            .ram_size = TEST_RAM,
                            .n_vcpus = n_vcpus,
                            .dirty_source = source,
                            .ram_fd = -1,
                            .incoming = incoming};
    Machine *m = machine_new(&config, &error);

    g_assert_no_error(error);
    for (unsigned i = 0; i < n_vcpus; i++)
        g_assert_true(machine_io_add(m, IO_PORT, PORT(i), 1, counts_port, &counts[i]));
    g_ptr_array_add(machines, m);
    return m;
}

/* inc word [counter]; mov ax, [counter]; out port, al; jmp back */
static void
machine_program(Machine *m, unsigned cpu)
{
    uint16_t at = CODE_GPA + 0x100 * cpu, counter = COUNTER_GPA(cpu);
    const uint8_t code[] = {0xFF,         0x06, counter & 0xFF, counter >> 8, 0xA1, counter & 0xFF,
                            counter >> 8, 0xE6, PORT(cpu),      0xEB,         0xF5};
    Vcpu *vcpu = &m->vcpus->vcpu[cpu];
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = at, .rflags = 2};
    struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};

    g_assert_true(machine_ram_write(m, at, code, sizeof(code)));
    g_assert_cmpint(ioctl(vcpu->fd, KVM_GET_SREGS, &sregs), ==, 0);
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    g_assert_cmpint(ioctl(vcpu->fd, KVM_SET_SREGS, &sregs), ==, 0);
    g_assert_cmpint(ioctl(vcpu->fd, KVM_SET_REGS, &regs), ==, 0);
    g_assert_cmpint(ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp), ==, 0);
}

static void
counts_wait(const Counts *counts, gint more)
{
    gint64 limit = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;
    gint until = g_atomic_int_get(&counts->seen) + more;

    while (g_atomic_int_get(&counts->seen) < until) {
        if (g_get_monotonic_time() > limit)
            g_error("the guest made %d counts and no more", counts->seen);
        g_usleep(200);
    }
}

static void
machine_go(Machine *m)
{
    g_autoptr(GError) error = NULL;

    machine_resume(m, &error);
    g_assert_no_error(error);
}

static PauseResult
machine_halt(Machine *m, uint8_t *state, uint64_t *bits)
{
    g_autoptr(GError) error = NULL;
    PauseResult result;

    machine_pause(m, state, STATE_ROOM, bits, &result, &error);
    g_assert_no_error(error);
    return result;
}

static void
test_pauses_leave_no_gap(void)
{
    Counts counts = {0};
    Machine *m = machine_make(1, false, DIRTYLOG_BITMAP, &counts);
    g_autofree uint64_t *bits = g_malloc0(pagebits_bytes(page_count(TEST_RAM)));

    machine_program(m, 0);
    for (int i = 0; i < 50; i++) {
        machine_go(m);
        counts_wait(&counts, 5);
        machine_halt(m, NULL, bits);
        g_assert_false(counts.broken);
    }
}

static void
test_paused_guest_stands_still(void)
{
    Counts counts = {0};
    Machine *m = machine_make(1, false, DIRTYLOG_BITMAP, &counts);
    g_autofree uint64_t *bits = g_malloc0(pagebits_bytes(page_count(TEST_RAM)));
    gint seen;

    machine_program(m, 0);
    machine_go(m);
    counts_wait(&counts, 5);
    machine_halt(m, NULL, bits);
    seen = counts.seen;
    g_usleep(20000);
    g_assert_cmpint(counts.seen, ==, seen);
}

/* Save m (paused), and load it into a new machine on the same RAM. */
static Machine *
machine_move(Machine *m, const uint8_t *state, size_t len, unsigned n_vcpus, Counts *counts)
{
    g_autoptr(GError) error = NULL;
    Machine *to = machine_make(n_vcpus, true, DIRTYLOG_BITMAP, counts);

    state_restore(to, state, len, &(StateRestore){.ram_fd = dup(m->ram_fd)}, &error);
    g_assert_no_error(error);
    machine_restored(to);
    return to;
}

static void
check_restored_goes_on(unsigned n_vcpus)
{
    Counts counts[2] = {0};
    Machine *m = machine_make(n_vcpus, false, DIRTYLOG_BITMAP, counts);
    g_autofree uint64_t *bits = g_malloc0(pagebits_bytes(page_count(TEST_RAM)));
    g_autofree uint8_t *state = g_malloc(STATE_ROOM);

    for (unsigned i = 0; i < n_vcpus; i++)
        machine_program(m, i);
    for (int life = 0; life < 5; life++) {
        PauseResult result;

        machine_go(m);
        for (unsigned i = 0; i < n_vcpus; i++)
            counts_wait(&counts[i], 20);
        result = machine_halt(m, state, bits);
        g_assert_cmpuint(result.state_len, >, 1000);
        m = machine_move(m, state, result.state_len, n_vcpus, counts);
    }
    machine_go(m);
    for (unsigned i = 0; i < n_vcpus; i++) {
        counts_wait(&counts[i], 20);
        g_assert_false(counts[i].broken);
    }
    machine_halt(m, NULL, bits);
}

static void
test_restored_goes_on(void)
{
    check_restored_goes_on(1);
}

static void
test_restored_smp_goes_on(void)
{
    check_restored_goes_on(2);
}

static void
check_harvest(DirtyLogSource source)
{
    Counts counts = {0};
    Machine *m = machine_make(1, false, source, &counts);
    g_autofree uint64_t *bits = g_malloc0(pagebits_bytes(page_count(TEST_RAM)));

    machine_program(m, 0);
    machine_go(m);
    counts_wait(&counts, 5);
    machine_halt(m, NULL, bits);
    g_assert_true(pagebits_test(bits, page_count(COUNTER_GPA(0)))); /* the guest wrote it */
    g_assert_true(pagebits_test(bits, page_count(CODE_GPA)));       /* we did */
    memset(bits, 0, pagebits_bytes(page_count(TEST_RAM)));
    machine_go(m);
    counts_wait(&counts, 5);
    machine_halt(m, NULL, bits);
    g_assert_true(pagebits_test(bits, page_count(COUNTER_GPA(0))));
    g_assert_false(pagebits_test(bits, page_count(CODE_GPA)));
}

static void
test_harvest_bitmap(void)
{
    check_harvest(DIRTYLOG_BITMAP);
}

static void
test_harvest_ring(void)
{
    check_harvest(DIRTYLOG_RING);
}

/* A state to damage. */
static size_t
state_make(uint8_t *state, int *ram_fd)
{
    Counts counts = {0};
    Machine *m = machine_make(1, false, DIRTYLOG_BITMAP, &counts);
    g_autofree uint64_t *bits = g_malloc0(pagebits_bytes(page_count(TEST_RAM)));

    *ram_fd = m->ram_fd;
    machine_program(m, 0);
    return machine_halt(m, state, bits).state_len;
}

static void
state_refused(Machine *m, District__VmState *state, int ram_fd, const char *why)
{
    g_autoptr(GError) error = NULL;
    size_t len = district__vm_state__get_packed_size(state);
    g_autofree uint8_t *packed = g_malloc(len);

    district__vm_state__pack(state, packed);
    g_assert_false(state_restore(m, packed, len, &(StateRestore){.ram_fd = ram_fd}, &error));
    g_assert_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, why));
    /* Refused whole: nothing was loaded, another restore may follow. */
    g_assert_null(m->ram);
}

static void
test_wrong_states_refused(void)
{
    Counts counts = {0};
    g_autofree uint8_t *bytes = g_malloc(STATE_ROOM);
    int ram_fd;
    size_t len = state_make(bytes, &ram_fd);
    Machine *m = machine_make(1, true, DIRTYLOG_BITMAP, &counts);
    District__VmState *state = district__vm_state__unpack(NULL, len, bytes);
    District__X86Cpuid *leaf = NULL;
    size_t lapic_len = state->vcpus[0]->lapic.len;

    state->version++;
    state_refused(m, state, ram_fd, "version");
    state->version--;
    state->ram_size += 4096;
    state_refused(m, state, ram_fd, "RAM");
    state->ram_size -= 4096;
    state->vcpu_count++;
    state_refused(m, state, ram_fd, "vCPUs");
    state->vcpu_count--;
    state->vcpus[0]->lapic.len = 100;
    state_refused(m, state, ram_fd, "APIC");
    state->vcpus[0]->lapic.len = lapic_len;
    state->vcpus[0]->n_msr--;
    state_refused(m, state, ram_fd, "MSR");
    state->vcpus[0]->n_msr++;
    for (size_t i = 0; i < state->vcpus[0]->n_cpuid; i++) {
        if (state->vcpus[0]->cpuid[i]->function == 0x80000001)
            leaf = state->vcpus[0]->cpuid[i];
    }
    g_assert_nonnull(leaf);
    leaf->ecx |= 1u << 16 | 1u << 21; /* FMA4 and TBM: gone from all processors since 2017 */
    state_refused(m, state, ram_fd, "processor features");
    district__vm_state__free_unpacked(state, NULL);
}

static void
test_damaged_bytes_refused(void)
{
    Counts counts = {0};
    g_autofree uint8_t *bytes = g_malloc(STATE_ROOM);
    int ram_fd;
    size_t len = state_make(bytes, &ram_fd);
    Machine *m = machine_make(1, true, DIRTYLOG_BITMAP, &counts);

    for (size_t cut = 1; cut < len; cut += 97) {
        g_autoptr(GError) error = NULL;

        g_assert_false(
            state_restore(m, bytes, len - cut, &(StateRestore){.ram_fd = ram_fd}, &error));
        g_assert_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE);
        g_assert_null(m->ram);
    }
}

static void
test_unknown_field_refused(void)
{
    Counts counts = {0};
    g_autofree uint8_t *bytes = g_malloc(STATE_ROOM);
    /* Field 1000, a varint: from a later version. */
    const uint8_t unknown[] = {0xC0, 0x3E, 0x01};
    g_autoptr(GError) error = NULL;
    int ram_fd;
    size_t len = state_make(bytes, &ram_fd);
    Machine *m = machine_make(1, true, DIRTYLOG_BITMAP, &counts);

    memcpy(bytes + len, unknown, sizeof(unknown));
    g_assert_false(
        state_restore(m, bytes, len + sizeof(unknown), &(StateRestore){.ram_fd = ram_fd}, &error));
    g_assert_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "does not know"));
}

static void
test_clock_goes_on(void)
{
    Counts counts = {0};
    g_autofree uint8_t *bytes = g_malloc(STATE_ROOM);
    g_autoptr(GError) error = NULL;
    struct kvm_clock_data clock = {0};
    int ram_fd;
    size_t len = state_make(bytes, &ram_fd);
    Machine *m = machine_make(1, true, DIRTYLOG_BITMAP, &counts);
    District__VmState *state = district__vm_state__unpack(NULL, len, bytes);
    uint64_t saved = state->clock->kvmclock_ns;

    g_usleep(300000);
    state_restore(m, bytes, len, &(StateRestore){.ram_fd = dup(ram_fd)}, &error);
    g_assert_no_error(error);
    g_assert_cmpint(ioctl(m->vm_fd, KVM_GET_CLOCK, &clock), ==, 0);
    /* What has passed for us has passed for the guest. */
    g_assert_cmpuint(clock.clock, >=, saved + 300000000);
    g_assert_cmpuint(clock.clock, <, saved + 3000000000);
    district__vm_state__free_unpacked(state, NULL);
}

/* hlt without interrupts: nothing ends it */
static void
machine_program_halt(Machine *m, unsigned cpu)
{
    const uint8_t code[] = {0xFA, 0xF4};

    machine_program(m, cpu);
    g_assert_true(machine_ram_write(m, CODE_GPA + 0x100 * cpu, code, sizeof(code)));
}

/* Whether it has stirred within ms. */
static bool
machine_stirred(Machine *m, int ms)
{
    gint64 limit = g_get_monotonic_time() + ms * G_TIME_SPAN_MILLISECOND;
    uint64_t count;

    while (g_get_monotonic_time() < limit) {
        g_main_context_iteration(NULL, FALSE);
        if (read(stir_fd(m->stir), &count, sizeof(count)) == sizeof(count))
            return true;
        g_usleep(1000);
    }
    return false;
}

static Machine *
machine_make_watched(Counts *counts)
{
    Machine *m = machine_make(2, false, DIRTYLOG_BITMAP, counts);

    machine_program_halt(m, 0);
    machine_program_halt(m, 1);
    return m;
}

static void
test_idle_guest_does_not_stir(void)
{
    Counts counts[2] = {{0}};
    Machine *m = machine_make_watched(counts);
    g_autofree uint64_t *bits = g_malloc0(pagebits_bytes(page_count(TEST_RAM)));
    unsigned stirred = 0;

    for (int i = 0; i < 20; i++) {
        stir_arm(m->stir, m->vcpus);
        machine_go(m);
        stirred += machine_stirred(m, 50);
        stir_disarm(m->stir);
        machine_halt(m, NULL, bits);
    }
    /* A host that is short of CPU may make it look busy now and then. */
    g_test_message("of 20 times it stirred %u", stirred);
    g_assert_cmpuint(stirred, <, 10);
}

static void
test_busy_guest_stirs_once(void)
{
    Counts counts[2] = {{0}};
    Machine *m = machine_make_watched(counts);
    g_autofree uint64_t *bits = g_malloc0(pagebits_bytes(page_count(TEST_RAM)));

    machine_program(m, 1);
    for (int i = 0; i < 5; i++) {
        stir_arm(m->stir, m->vcpus);
        machine_go(m);
        g_assert_true(machine_stirred(m, 10000));
        counts_wait(&counts[1], 5);
        g_assert_false(machine_stirred(m, 50));
        machine_halt(m, NULL, bits);
    }
}

static void
test_device_work_stirs(void)
{
    Counts counts[2] = {{0}};
    Machine *m = machine_make_watched(counts);

    machine_stirs(m);
    g_assert_false(machine_stirred(m, 20));
    stir_arm(m->stir, m->vcpus);
    machine_stirs(m);
    g_assert_true(machine_stirred(m, 10000));
    stir_arm(m->stir, m->vcpus);
    stir_disarm(m->stir);
    machine_stirs(m);
    g_assert_false(machine_stirred(m, 20));
}

int
main(int argc, char **argv)
{
    if (access("/dev/kvm", R_OK | W_OK) != 0) {
        g_print("1..0 # SKIP /dev/kvm is not there: load the kvm module for this processor\n");
        return 77;
    }
    g_test_init(&argc, &argv, NULL);
    machines = g_ptr_array_new();
    g_test_add_func("/machine/fifty pauses lose and repeat no port access",
                    test_pauses_leave_no_gap);
    g_test_add_func("/machine/a paused guest stands still", test_paused_guest_stands_still);
    g_test_add_func("/machine/a restored guest goes on at the next instruction",
                    test_restored_goes_on);
    g_test_add_func("/machine/a restored guest with two vCPUs goes on", test_restored_smp_goes_on);
    g_test_add_func("/machine/a harvest of the bitmap has the guest's and our writes",
                    test_harvest_bitmap);
    g_test_add_func("/machine/a harvest of the ring has the guest's and our writes",
                    test_harvest_ring);
    g_test_add_func("/stir/a guest that waits for an interrupt does not stir",
                    test_idle_guest_does_not_stir);
    g_test_add_func("/stir/a guest that computes stirs, and is told of once",
                    test_busy_guest_stirs_once);
    g_test_add_func("/stir/what is given to a device is told of, while that is asked for",
                    test_device_work_stirs);
    g_test_add_func("/state/what does not fit this machine is refused whole",
                    test_wrong_states_refused);
    g_test_add_func("/state/a cut state is refused whole", test_damaged_bytes_refused);
    g_test_add_func("/state/an unknown field is refused", test_unknown_field_refused);
    g_test_add_func("/state/the clock of a restored guest has gone on", test_clock_goes_on);
    return g_test_run();
}
