/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Saved states that somebody has made up. */
#include "vmm/devices/state.h"
#include "vmstate.pb-c.h"

#define MIB ((size_t)1 << 20)

/* Field 10 of VmState, a VcpuState of no bytes, again and again: two bytes for some two hundred. */
static void
test_bounded(void)
{
    g_autofree uint8_t *data = g_malloc0(4 * MIB);
    ProtobufCMessage *state;

    for (size_t i = 0; i < 4 * MIB; i += 2)
        data[i] = 10 << 3 | 2;
    state = state_unpack(&district__vm_state__descriptor, data, 4 * MIB);
    g_assert_null(state);
    state = state_unpack(&district__vm_state__descriptor, data, 2 * 64);
    g_assert_nonnull(state);
    g_assert_cmpuint(((District__VmState *)state)->n_vcpus, ==, 64);
    protobuf_c_message_free_unpacked(state, NULL);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state/one that would take many times its size is refused", test_bounded);
    return g_test_run();
}
