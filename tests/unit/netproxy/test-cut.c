/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cuts of the network: are they consistent, and can they always be got out of? */
#include "common/clock.h"
#include "netproxy/control.h"
#include "netstate.pb-c.h"
#include "wire.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- Three members that never stop talking, cut again and again --- */

#define N 3
#define CUTS 150

/* A member engine, reduced to counting frames. Channel i: to or from member i. */
typedef struct Engine {
    guint32 sent[N];     /* frames written whole */
    guint32 received[N]; /* frames read whole; the number of the last one */
    guint32 sent_at_cut[N];
    guint32 received_at_cut[N];
    gboolean cut;
    GByteArray *out; /* of a frame that the socket has not taken yet */
    guint out_to;
} Engine;

typedef struct World {
    Wire *wire;
    GRand *rand;
    Engine engines[N];
    guint32 outside_sent;
} World;

/* Push on with the frame being written. It is sent once its last byte is. */
static void
engine_write(World *world, guint me)
{
    Engine *engine = &world->engines[me];
    gsize len = engine->out->len;
    if (len == 0)
        return;

    /* Sometimes only a part, as a full socket would have it. */
    gsize want =
        g_rand_boolean(world->rand) ? len : (gsize)g_rand_int_range(world->rand, 1, (int)len + 1);
    ssize_t n = send(world->wire->fds[me], engine->out->data, want, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0)
        return;
    g_byte_array_remove_range(engine->out, 0, (guint)n);
    if (engine->out->len == 0)
        engine->sent[engine->out_to]++;
}

static void
engine_send(World *world, guint me)
{
    Engine *engine = &world->engines[me];
    static guint8 frame[20000];

    if (engine->out->len == 0) {
        guint to = (me + 1 + (guint)g_rand_int_range(world->rand, 0, N - 1)) % N;
        gsize len = (gsize)g_rand_int_range(world->rand, 60,
                                            g_rand_int_range(world->rand, 0, 4) ? 1500 : 20000);
        wire_make(frame, to, me, engine->sent[to] + 1, len);
        frame[18] = (guint8)me;
        guint32 prefix = GUINT32_TO_BE((guint32)len);
        g_byte_array_append(engine->out, (const guint8 *)&prefix, sizeof(prefix));
        g_byte_array_append(engine->out, frame, (guint)len);
        engine->out_to = to;
    }
    engine_write(world, me);
}

/* Read up to max whole frames. */
static void
engine_receive(World *world, guint me, guint max)
{
    Engine *engine = &world->engines[me];
    gsize len;

    for (guint i = 0; i < max; i++) {
        const guint8 *frame = wire_receive(world->wire, me, &len);
        if (!frame)
            return;
        guint from = frame[18];
        if (from >= N)
            continue; /* from the outside */
        /* In order, none lost, none twice. */
        g_assert_cmpuint(wire_number(frame), ==, engine->received[from] + 1);
        engine->received[from]++;
    }
}

static void
world_outside_sends(World *world)
{
    guint8 frame[100];

    wire_make(frame, (guint)g_rand_int_range(world->rand, 0, N), N, ++world->outside_sent,
              sizeof(frame));
    frame[18] = N;
    wire_send(world->wire, N, frame, sizeof(frame));
}

/* Something happens. */
static void
world_step(World *world)
{
    Wire *wire = world->wire;
    guint who = (guint)g_rand_int_range(world->rand, 0, N);

    switch (g_rand_int_range(world->rand, 0, 7)) {
    case 0:
    case 1:
        engine_send(world, who);
        break;
    case 2:
        engine_receive(world, who, (guint)g_rand_int_range(world->rand, 1, 20));
        break;
    case 3:
    case 4:
        switch_readable(wire->sw, who);
        break;
    case 5:
        switch_writable(wire->sw, who);
        switch_flush(wire->sw);
        break;
    default:
        if (g_rand_int_range(world->rand, 0, 10) == 0) {
            world_outside_sends(world);
            switch_readable(wire->sw, N);
        }
        break;
    }
}

/* The engine stops, drains its socket into its state, and is cut. */
static void
world_cut_member(World *world, guint me, guint64 epoch)
{
    static const char *const names[N] = {"a", "b", "c"};
    Engine *engine = &world->engines[me];
    g_autoptr(GError) error = NULL;

    engine_receive(world, me, G_MAXUINT);
    memcpy(engine->sent_at_cut, engine->sent, sizeof(engine->sent));
    memcpy(engine->received_at_cut, engine->received, sizeof(engine->received));
    switch_cut_member(world->wire->sw, epoch, names[me], &error);
    g_assert_no_error(error);
    engine->cut = TRUE;
}

/* What the receiver had at its cut, and after that the frames recorded, are what was sent. */
static void
world_check(const World *world, const District__NetState *state)
{
    guint64 recorded = 0;

    for (guint to = 0; to < N; to++) {
        guint32 expect[N];
        memcpy(expect, world->engines[to].received_at_cut, sizeof(expect));
        g_assert_cmpstr(state->ports[to]->name, ==, ((const char *const[]){"a", "b", "c"})[to]);
        for (gsize i = 0; i < state->ports[to]->n_frames; i++, recorded++) {
            const guint8 *frame = state->ports[to]->frames[i].data;
            g_assert_cmpuint(frame[18], <, N);
            g_assert_cmpuint(wire_number(frame), ==, ++expect[frame[18]]);
        }
        for (guint from = 0; from < N; from++)
            g_assert_cmpuint(expect[from], ==, world->engines[from].sent_at_cut[to]);
    }
    g_test_message("epoch %" G_GUINT64_FORMAT ": %" G_GUINT64_FORMAT " frames in flight",
                   state->epoch, recorded);
}

static void
world_cut(World *world, guint64 epoch)
{
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *packed = NULL;
    gsize len;
    guint left = N;

    g_assert_true(switch_cut_begin(world->wire->sw, epoch, &error));
    for (guint i = 0; i < N; i++)
        world->engines[i].cut = FALSE;
    while (left > 0) {
        for (int i = g_rand_int_range(world->rand, 0, 40); i > 0; i--)
            world_step(world);
        guint who = (guint)g_rand_int_range(world->rand, 0, N);
        if (!world->engines[who].cut) {
            world_cut_member(world, who, epoch);
            left--;
        }
    }
    for (int i = g_rand_int_range(world->rand, 0, 40); i > 0; i--)
        world_step(world);
    switch_cut_end(world->wire->sw, epoch, &packed, &len, &error);
    g_assert_no_error(error);
    District__NetState *state = district__net_state__unpack(NULL, len, packed);
    g_assert_nonnull(state);
    g_assert_cmpuint(state->epoch, ==, epoch);
    world_check(world, state);
    district__net_state__free_unpacked(state, NULL);
}

static void
test_consistent(void)
{
    g_autoptr(Wire) wire = wire_new(N, TRUE);
    World world = {.wire = wire, .rand = g_rand_new_with_seed((guint32)g_test_rand_int())};

    for (guint i = 0; i < N; i++) {
        wire_connect(wire, i, 8192); /* small: frames are written and read in parts */
        world.engines[i].out = g_byte_array_new();
        wire_send_number(wire, i, i, 0); /* its address is learned; the frame goes nowhere */
    }
    wire_pump(wire);
    for (guint64 epoch = 1; epoch <= CUTS; epoch++) {
        for (int i = g_rand_int_range(world.rand, 0, 300); i > 0; i--)
            world_step(&world);
        world_cut(&world, epoch);
    }
    for (guint i = 0; i < N; i++) {
        g_assert_cmpuint(wire_port_stats(wire, i).dropped, ==, 0);
        g_byte_array_unref(world.engines[i].out);
    }
    g_rand_free(world.rand);
}

/* --- One rule each --- */

static void
test_nothing_before_cut(void)
{
    g_autoptr(Wire) wire = wire_new(2, TRUE);

    g_assert_true(switch_cut_begin(wire->sw, 1, NULL));
    wire_send_number(wire, 0, WIRE_BROADCAST, 7);
    wire_send_number(wire, 2, WIRE_BROADCAST, 8);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 0);
    g_assert_true(switch_cut_member(wire->sw, 1, "b", NULL));
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 7);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 8);
    /* The outside is no member: it is never waited for. */
    g_assert_cmpuint(wire_receive_number(wire, 2), ==, 7);
}

static void
test_drains(void)
{
    g_autoptr(Wire) wire = wire_new(2, TRUE);
    g_autofree guint8 *packed = NULL;
    gsize len;

    g_assert_true(switch_cut_begin(wire->sw, 1, NULL));
    g_assert_true(switch_cut_member(wire->sw, 1, "b", NULL));
    /* Sent before a is cut, never polled for. */
    wire_send_number(wire, 0, WIRE_BROADCAST, 7);
    g_assert_true(switch_cut_member(wire->sw, 1, "a", NULL));
    wire_send_number(wire, 0, WIRE_BROADCAST, 8);
    wire_pump(wire);
    g_assert_true(switch_cut_end(wire->sw, 1, &packed, &len, NULL));
    District__NetState *state = district__net_state__unpack(NULL, len, packed);
    g_assert_cmpuint(state->ports[0]->n_frames, ==, 0);
    g_assert_cmpuint(state->ports[1]->n_frames, ==, 1);
    g_assert_cmpuint(wire_number(state->ports[1]->frames[0].data), ==, 7);
    district__net_state__free_unpacked(state, NULL);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 7);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 8);
}

static void
test_end_needs_all(void)
{
    g_autoptr(Wire) wire = wire_new(2, TRUE);
    g_autoptr(GError) error = NULL;
    guint8 *packed = NULL;
    gsize len;

    g_assert_true(switch_cut_begin(wire->sw, 1, NULL));
    g_assert_true(switch_cut_member(wire->sw, 1, "a", NULL));
    g_assert_false(switch_cut_end(wire->sw, 1, &packed, &len, &error));
    g_assert_error(error, SWITCH_ERROR, SWITCH_ERROR_REFUSED);
    g_assert_nonnull(strstr(error->message, "member b"));
}

static void
test_numbers_grow(void)
{
    g_autoptr(Wire) wire = wire_new(1, TRUE);
    gsize len;

    g_free(wire_cut(wire, 5, &len));
    g_assert_false(switch_cut_begin(wire->sw, 5, NULL));
    g_assert_false(switch_cut_begin(wire->sw, 0, NULL));
    g_assert_false(switch_cut_begin(wire->sw, G_MAXUINT64, NULL));
    g_assert_false(switch_cut_member(wire->sw, 5, "a", NULL));
    g_assert_false(switch_cut_abort(wire->sw, 0, NULL));
    g_assert_true(switch_cut_begin(wire->sw, 6, NULL));
    g_assert_false(switch_cut_begin(wire->sw, 7, NULL));
    g_assert_false(switch_cut_member(wire->sw, 6, "x", NULL));
    g_assert_false(switch_cut_member(wire->sw, 7, "a", NULL));
    g_assert_true(switch_cut_member(wire->sw, 6, "a", NULL));
    g_assert_false(switch_cut_member(wire->sw, 6, "a", NULL));
}

/* A cut of 1 is begun and a frame for the uncut member b waits. */
static Wire *
wire_with_cut(Control *control, int client)
{
    Wire *wire = wire_new(2, TRUE);
    District__NetRequest request = DISTRICT__NET_REQUEST__INIT;
    District__NetCutBeginRequest begin = DISTRICT__NET_CUT_BEGIN_REQUEST__INIT;
    District__NetReply reply;
    int fd;

    *control = (Control){.sw = wire->sw, .cutter = -1};
    begin.epoch = 1;
    request.id = 1;
    request.op_case = DISTRICT__NET_REQUEST__OP_CUT_BEGIN;
    request.cut_begin = &begin;
    switch_tick(wire->sw, wire->now_ns);
    control_handle(control, client, &request, NULL, 0, &reply, &fd);
    g_assert_cmpstr(reply.error, ==, "");
    control_reply_clear(&reply);
    wire_send_number(wire, 0, WIRE_BROADCAST, 7);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 0);
    return wire;
}

static void
test_abort(void)
{
    Control control;
    g_autoptr(Wire) wire = wire_with_cut(&control, 0);

    g_assert_true(switch_cut_abort(wire->sw, 1, NULL));
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 7);
    g_assert_false(switch_cut_member(wire->sw, 1, "a", NULL));
    gsize len;
    g_free(wire_cut(wire, 2, &len));
}

static void
test_client_dies(void)
{
    Control control;
    g_autoptr(Wire) wire = wire_with_cut(&control, 3);

    control_client_gone(&control, 2);
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 0);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*cut of epoch 1 abandoned*");
    control_client_gone(&control, 3);
    g_test_assert_expected_messages();
    wire_pump(wire);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 7);
}

static void
test_too_long(void)
{
    Control control;
    g_autoptr(Wire) wire = wire_with_cut(&control, 0);

    wire_wait(wire, 4 * NS_PER_S);
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 0);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*cut of epoch 1 abandoned*");
    wire_wait(wire, 2 * NS_PER_S);
    g_test_assert_expected_messages();
    g_assert_cmpuint(wire_receive_number(wire, 1), ==, 7);
}

/* b has stopped reading, and then its engine is gone: for all cuts to come, not for one. */
static void
test_member_gone(void)
{
    g_autoptr(Wire) wire = wire_new(2, TRUE);
    g_autofree guint8 *frame = g_malloc0(1500);
    gsize len;

    for (guint i = 1; i <= 2000; i++) {
        wire_send(wire, 0, frame, wire_make(frame, WIRE_BROADCAST, 0, i, 1500));
        wire_pump(wire);
    }
    close(wire->fds[1]);
    wire->fds[1] = -1;
    wire_pump(wire);
    g_autofree guint8 *packed = wire_cut(wire, 1, &len);
    District__NetState *state = district__net_state__unpack(NULL, len, packed);
    g_assert_cmpuint(state->ports[1]->n_frames, ==, 0);
    district__net_state__free_unpacked(state, NULL);
    g_assert_cmpuint(wire_port_stats(wire, 1).dropped, >, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cut/frames received and frames recorded are the frames sent",
                    test_consistent);
    g_test_add_func("/cut/nothing reaches a member that is about to be cut",
                    test_nothing_before_cut);
    g_test_add_func("/cut/what a stopped member has sent is read before its colour changes",
                    test_drains);
    g_test_add_func("/cut/it cannot end before every member is cut", test_end_needs_all);
    g_test_add_func("/cut/epoch numbers only grow and members are cut once", test_numbers_grow);
    g_test_add_func("/cut/an aborted cut delivers what it held", test_abort);
    g_test_add_func("/cut/the death of its client aborts it", test_client_dies);
    g_test_add_func("/cut/it does not last longer than five seconds", test_too_long);
    g_test_add_func("/cut/frames for a member that is gone are not in flight", test_member_gone);
    return g_test_run();
}
