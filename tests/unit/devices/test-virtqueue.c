/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Split virtqueues: what a good driver does, and what a hostile one tries. */
#include "fake-machine.h"

#include "common/page.h"
#include "vmm/devices/virtqueue.h"

#include <string.h>

#define RAM (1024 * PAGE_BYTES)
#define SIZE 8
#define DESC 0x10000
#define AVAIL 0x11000
#define USED 0x12000
#define TABLE 0x13000
#define DATA 0x20000

#define NEXT 1
#define WRITE 2
#define INDIRECT 4

typedef struct Fixture {
    Machine *m;
    VirtQueue queue;
    VirtChain chain;
    uint16_t avail_idx;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    f->m = fake_machine_new(RAM);
    virtqueue_init(&f->queue, f->m, 256);
    f->queue.size = SIZE;
    f->queue.desc_gpa = DESC;
    f->queue.avail_gpa = AVAIL;
    f->queue.used_gpa = USED;
    f->queue.enabled = true;
    f->queue.indirect = true;
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(fake_unlogged_pages(f->m), ==, 0);
}

static void
describe_at(Fixture *f, uint64_t table, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags,
            uint16_t next)
{
    fake_poke64(f->m, table + 16u * i, gpa);
    fake_poke(f->m, table + 16u * i + 8, &len, sizeof len);
    fake_poke16(f->m, table + 16u * i + 12, flags);
    fake_poke16(f->m, table + 16u * i + 14, next);
}

static void
describe(Fixture *f, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
    describe_at(f, DESC, i, gpa, len, flags, next);
}

static void
offer(Fixture *f, uint16_t head)
{
    fake_poke16(f->m, AVAIL + 4 + 2u * (f->avail_idx % SIZE), head);
    fake_poke16(f->m, AVAIL + 2, ++f->avail_idx);
}

static void
assert_broken(Fixture *f)
{
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_STOP);
    g_assert_true(f->queue.broken);
    /* And it stays so. */
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_STOP);
    virtqueue_reset(&f->queue);
    g_assert_false(f->queue.broken);
}

static void
chain_goes_round(Fixture *f, gconstpointer data)
{
    char text[8] = "";

    fake_poke(f->m, DATA, "request", 8);
    describe(f, 2, DATA, 4, NEXT, 5);
    describe(f, 5, DATA + 4, 4, NEXT, 1);
    describe(f, 1, DATA + 0x1000, 3, WRITE | NEXT, 0);
    describe(f, 0, DATA + 0x2000, 100, WRITE, 0);
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_EMPTY);
    offer(f, 2);
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_CHAIN);
    g_assert_cmpuint(f->chain.n_out, ==, 2);
    g_assert_cmpuint(f->chain.n_in, ==, 2);
    g_assert_cmpuint(f->chain.out_len, ==, 8);
    g_assert_cmpuint(f->chain.in_len, ==, 103);
    g_assert_cmpuint(virtchain_read(&f->chain, 0, text, sizeof text), ==, 8);
    g_assert_cmpstr(text, ==, "request");
    g_assert_cmpuint(virtchain_write(&f->chain, 0, "answer", 7), ==, 7);
    virtqueue_push(&f->queue, &f->chain, 7);
    g_assert_cmpuint(fake_peek16(f->m, USED + 2), ==, 1);
    g_assert_cmpuint(fake_peek32(f->m, USED + 4), ==, 2);
    g_assert_cmpuint(fake_peek32(f->m, USED + 8), ==, 7);
    fake_peek(f->m, DATA + 0x2000, text, 4);
    g_assert_cmpstr(text, ==, "wer");
}

static void
indices_wrap_around(Fixture *f, gconstpointer data)
{
    for (unsigned i = 0; i < 70000; i++) {
        describe(f, (uint16_t)(i % SIZE), DATA, 1, WRITE, 0);
        offer(f, (uint16_t)(i % SIZE));
        g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_CHAIN);
        g_assert_cmpuint(f->chain.head, ==, i % SIZE);
        virtqueue_push(&f->queue, &f->chain, 0);
        g_assert_true(virtqueue_interrupt_needed(&f->queue));
    }
    g_assert_cmpuint(fake_peek16(f->m, USED + 2), ==, 70000 % 65536);
}

static void
unpop_gives_the_chain_again(Fixture *f, gconstpointer data)
{
    describe(f, 3, DATA, 1, WRITE, 0);
    offer(f, 3);
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_CHAIN);
    virtqueue_unpop(&f->queue, 1);
    f->chain.head = 0;
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_CHAIN);
    g_assert_cmpuint(f->chain.head, ==, 3);
}

static void
loop_breaks_the_queue(Fixture *f, gconstpointer data)
{
    describe(f, 0, DATA, 1, NEXT, 1);
    describe(f, 1, DATA, 1, NEXT, 0);
    offer(f, 0);
    assert_broken(f);
}

static void
longest_chain_is_the_queue(Fixture *f, gconstpointer data)
{
    for (uint16_t i = 0; i < SIZE; i++)
        describe(f, i, DATA, 1, i < SIZE - 1 ? NEXT : 0, (uint16_t)(i + 1));
    offer(f, 0);
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_CHAIN);
    g_assert_cmpuint(f->chain.n_out, ==, SIZE);
}

static void
wild_address_breaks_the_queue(Fixture *f, gconstpointer data)
{
    static const struct {
        uint64_t gpa;
        uint32_t len;
    } wild[] = {
        {RAM, 1},        {RAM - 1, 2},          {UINT64_MAX, 1},
        {UINT64_MAX, 2}, {0xFEE00000, 4},       {DATA, UINT32_MAX},
        {DATA, 0},       {UINT64_MAX - 15, 16}, {UINT64_C(1) << 63, 16},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(wild); i++) {
        set_up(f, NULL);
        f->avail_idx = 0;
        describe(f, 0, wild[i].gpa, wild[i].len, WRITE, 0);
        offer(f, 0);
        assert_broken(f);
    }
}

static void
next_out_of_range_breaks_the_queue(Fixture *f, gconstpointer data)
{
    describe(f, 0, DATA, 1, NEXT, SIZE);
    offer(f, 0);
    assert_broken(f);
}

static void
head_out_of_range_breaks_the_queue(Fixture *f, gconstpointer data)
{
    offer(f, SIZE);
    assert_broken(f);
}

static void
index_jump_breaks_the_queue(Fixture *f, gconstpointer data)
{
    fake_poke16(f->m, AVAIL + 2, SIZE + 1);
    assert_broken(f);
}

static void
readable_after_writable_breaks_the_queue(Fixture *f, gconstpointer data)
{
    describe(f, 0, DATA, 1, WRITE | NEXT, 1);
    describe(f, 1, DATA, 1, 0, 0);
    offer(f, 0);
    assert_broken(f);
}

static void
rings_outside_ram_break_the_queue(Fixture *f, gconstpointer data)
{
    static const uint64_t wild[] = {RAM - 16, RAM, UINT64_MAX - 15, DESC + 1};

    for (unsigned i = 0; i < 3 * G_N_ELEMENTS(wild); i++) {
        uint64_t *ring = i % 3 == 0   ? &f->queue.desc_gpa
                         : i % 3 == 1 ? &f->queue.avail_gpa
                                      : &f->queue.used_gpa;
        set_up(f, NULL);
        *ring = wild[i / 3];
        assert_broken(f);
    }
}

static void
indirect_table_is_followed(Fixture *f, gconstpointer data)
{
    describe(f, 0, DATA, 2, NEXT, 1);
    describe(f, 1, TABLE + 1, 3 * 16, INDIRECT, 0); /* a table needs no alignment */
    describe_at(f, TABLE + 1, 0, DATA, 10, NEXT, 2);
    describe_at(f, TABLE + 1, 2, DATA, 20, WRITE, 0);
    offer(f, 0);
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_CHAIN);
    g_assert_cmpuint(f->chain.out_len, ==, 12);
    g_assert_cmpuint(f->chain.in_len, ==, 20);
}

static void
bad_indirect_tables_break_the_queue(Fixture *f, gconstpointer data)
{
    static const struct {
        uint64_t table;
        uint32_t len;
        uint16_t flags;       /* of the descriptor that names the table */
        uint16_t entry_flags; /* of the table's first entry */
        uint16_t entry_next;
    } bad[] = {
        {TABLE, 16, INDIRECT, INDIRECT, 0}, /* nested */
        {TABLE, 16, INDIRECT | NEXT, 0, 0}, /* goes on after the table */
        {TABLE, 32, INDIRECT, NEXT, 0},     /* loop */
        {TABLE, 32, INDIRECT, NEXT, 2},     /* leaves the table */
        {TABLE, 17, INDIRECT, 0, 0},        /* half an entry */
        {TABLE, 0, INDIRECT, 0, 0},         /* empty */
        {TABLE, 16 * 9, INDIRECT, 0, 0},    /* longer than the queue */
        {TABLE, UINT32_MAX & ~15u, INDIRECT, 0, 0},
        {RAM - 8, 16, INDIRECT, 0, 0}, /* not all RAM */
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        set_up(f, NULL);
        f->avail_idx = 0;
        describe(f, 0, bad[i].table, bad[i].len, bad[i].flags, 1);
        describe_at(f, TABLE, 0, DATA, 1, bad[i].entry_flags, bad[i].entry_next);
        offer(f, 0);
        assert_broken(f);
    }
}

static void
indirect_without_the_feature_breaks_the_queue(Fixture *f, gconstpointer data)
{
    f->queue.indirect = false;
    describe(f, 0, TABLE, 16, INDIRECT, 0);
    describe_at(f, TABLE, 0, DATA, 1, 0, 0);
    offer(f, 0);
    assert_broken(f);
}

static void
use_one(Fixture *f)
{
    describe(f, 0, DATA, 1, WRITE, 0);
    offer(f, 0);
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_CHAIN);
    virtqueue_push(&f->queue, &f->chain, 0);
}

static void
no_interrupt_flag_is_honoured(Fixture *f, gconstpointer data)
{
    g_assert_false(virtqueue_interrupt_needed(&f->queue)); /* nothing was pushed */
    use_one(f);
    g_assert_true(virtqueue_interrupt_needed(&f->queue));
    g_assert_false(virtqueue_interrupt_needed(&f->queue)); /* once is enough */
    fake_poke16(f->m, AVAIL, 1);
    use_one(f);
    g_assert_false(virtqueue_interrupt_needed(&f->queue));
}

static void
event_index_decides_on_interrupts(Fixture *f, gconstpointer data)
{
    f->queue.event_idx = true;
    fake_poke16(f->m, AVAIL + 4 + 2 * SIZE, 1); /* tell me when the second one is used */
    use_one(f);
    g_assert_false(virtqueue_interrupt_needed(&f->queue));
    use_one(f);
    g_assert_true(virtqueue_interrupt_needed(&f->queue));
    use_one(f);
    g_assert_false(virtqueue_interrupt_needed(&f->queue));
}

static void
empty_queue_asks_for_the_next_kick(Fixture *f, gconstpointer data)
{
    f->queue.event_idx = true;
    for (int i = 0; i < 3; i++)
        use_one(f);
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_EMPTY);
    g_assert_cmpuint(fake_peek16(f->m, USED + 4 + 8 * SIZE), ==, 3);
}

static void
state_goes_round(Fixture *f, gconstpointer data)
{
    District__VirtQueueState state;
    VirtQueue other;

    for (int i = 0; i < 11; i++)
        use_one(f);
    virtqueue_dump(&f->queue, &state);
    virtqueue_init(&other, f->m, 256);
    g_assert_true(virtqueue_check_state(&other, &state, 0, "test", NULL));
    virtqueue_restore(&other, &state);
    offer(f, 0);
    g_assert_cmpint(virtqueue_pop(&other, &f->chain), ==, VIRTQUEUE_CHAIN);
    virtqueue_push(&other, &f->chain, 1);
    g_assert_cmpuint(fake_peek16(f->m, USED + 2), ==, 12);
}

static void
impossible_state_is_refused(Fixture *f, gconstpointer data)
{
    static const uint32_t sizes[] = {0, 3, 512, 65536, UINT32_MAX};
    District__VirtQueueState state;

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(GError) error = NULL;

        virtqueue_dump(&f->queue, &state);
        state.size = sizes[i];
        g_assert_false(virtqueue_check_state(&f->queue, &state, 0, "test", &error));
        g_assert_true(g_str_has_prefix(error->message, "test: saved state refused: "));
    }
    virtqueue_dump(&f->queue, &state);
    state.last_avail = 65536;
    g_assert_false(virtqueue_check_state(&f->queue, &state, 0, "test", NULL));
    state.last_avail = 1; /* one taken, none returned */
    g_assert_false(virtqueue_check_state(&f->queue, &state, 0, "test", NULL));
}

static void
chains_in_flight_are_taken_by_head(Fixture *f, gconstpointer data)
{
    District__VirtQueueState state;
    VirtQueue other;

    describe(f, 3, DATA, 7, WRITE, 0);
    offer(f, 3);
    g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_CHAIN);
    virtqueue_dump(&f->queue, &state);
    virtqueue_init(&other, f->m, 256);
    g_assert_false(virtqueue_check_state(&other, &state, 0, "test", NULL));
    g_assert_true(virtqueue_check_state(&other, &state, 1, "test", NULL));
    g_assert_false(virtqueue_check_state(&other, &state, 2, "test", NULL));
    virtqueue_restore(&other, &state);
    g_assert_true(virtqueue_take_head(&other, &f->chain, 3));
    g_assert_cmpuint(f->chain.head, ==, 3);
    g_assert_cmpuint(f->chain.in_len, ==, 7);
    virtqueue_push(&other, &f->chain, 7);
    g_assert_cmpuint(fake_peek16(f->m, USED + 2), ==, 1);
    /* What is there no more breaks the queue. */
    describe(f, 3, UINT64_MAX, 7, WRITE, 0);
    g_assert_false(virtqueue_take_head(&other, &f->chain, 3));
    g_assert_true(other.broken);
}

static void
more_chains_out_than_descriptors_break_the_queue(Fixture *f, gconstpointer data)
{
    describe(f, 0, DATA, 1, WRITE, 0);
    for (int i = 0; i < SIZE; i++) {
        offer(f, 0);
        g_assert_cmpint(virtqueue_pop(&f->queue, &f->chain), ==, VIRTQUEUE_CHAIN);
    }
    offer(f, 0);
    assert_broken(f);
}

#define ADD(name, function)                                                                        \
    g_test_add("/virtqueue/" name, Fixture, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("a chain goes round", chain_goes_round);
    ADD("indices wrap around", indices_wrap_around);
    ADD("an unpopped chain is given again", unpop_gives_the_chain_again);
    ADD("a loop breaks the queue", loop_breaks_the_queue);
    ADD("a chain may be as long as the queue", longest_chain_is_the_queue);
    ADD("a wild address or length breaks the queue", wild_address_breaks_the_queue);
    ADD("a next out of range breaks the queue", next_out_of_range_breaks_the_queue);
    ADD("a head out of range breaks the queue", head_out_of_range_breaks_the_queue);
    ADD("an index that jumps breaks the queue", index_jump_breaks_the_queue);
    ADD("readable after writable breaks the queue", readable_after_writable_breaks_the_queue);
    ADD("rings outside RAM break the queue", rings_outside_ram_break_the_queue);
    ADD("an indirect table is followed", indirect_table_is_followed);
    ADD("bad indirect tables break the queue", bad_indirect_tables_break_the_queue);
    ADD("an indirect table that was not negotiated breaks the queue",
        indirect_without_the_feature_breaks_the_queue);
    ADD("the no-interrupt flag is honoured", no_interrupt_flag_is_honoured);
    ADD("the event index decides on interrupts", event_index_decides_on_interrupts);
    ADD("an empty queue asks for the next kick", empty_queue_asks_for_the_next_kick);
    ADD("state goes round", state_goes_round);
    ADD("impossible state is refused", impossible_state_is_refused);
    ADD("a chain in flight is taken again by its head", chains_in_flight_are_taken_by_head);
    ADD("more chains out than descriptors break the queue",
        more_chains_out_than_descriptors_break_the_queue);
    return g_test_run();
}
