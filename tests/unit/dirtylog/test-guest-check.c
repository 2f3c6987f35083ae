/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The checker of the tiny guest, against a guest that is played here on an array. */
#include "chain.h"
#include "check.h"

#include <gio/gio.h>
#include <string.h>

#define LINE "pages=64 dirty=16 verify=3 cpus=2 seed=7 base=0x200000"
#define BASE 0x200000
#define RAM_BYTES (BASE + 64 * 4096)

typedef struct Play {
    uint8_t *ram;
    GuestHeader *header;
    GuestImage image;
} Play;

static void
play_init(Play *play, const char *line)
{
    const char *bad;

    play->ram = g_malloc0(RAM_BYTES);
    play->header = (GuestHeader *)(play->ram + GUEST_HEADER_GPA);
    play->image = (GuestImage){.low = play->ram, .low_bytes = RAM_BYTES};
    play->header->magic = GUEST_MAGIC;
    g_assert_true(guest_params_parse(&play->header->params, line, &bad));
    for (unsigned cpu = 0; cpu < play->header->params.cpus; cpu++) {
        play->header->cpu[cpu].seq = 2;
        play->header->cpu[cpu].pos[0] = chain_start(&play->header->params, cpu);
    }
}

static void
play_steps(Play *play, unsigned cpu, unsigned n)
{
    uint64_t first;
    uint64_t *slice;

    chain_slice(&play->header->params, cpu, &first);
    slice = (uint64_t *)(play->ram + BASE) + first * GUEST_PAGE_WORDS;
    for (unsigned i = 0; i < n; i++)
        chain_step(&play->header->params, cpu, &play->header->cpu[cpu].pos[0], slice);
}

static void
test_true_images(void)
{
    g_autoptr(GuestChecker) checker = guest_checker_new(LINE, NULL);
    g_autoptr(GError) error = NULL;
    Play play;

    play_init(&play, LINE);
    for (unsigned i = 0; i < 300; i++) {
        guest_checker_image(checker, &play.image, &error);
        g_assert_no_error(error);
        play_steps(&play, 0, 1);
        play_steps(&play, 1, i % 3);
    }
    g_free(play.ram);
}

static void
test_stale_page(void)
{
    g_autoptr(GuestChecker) checker = guest_checker_new(LINE, NULL);
    Play play;
    unsigned noticed = 0;

    play_init(&play, LINE);
    play_steps(&play, 0, 200);
    play_steps(&play, 1, 200);
    for (unsigned page = 0; page < 64; page++) {
        uint64_t *word = (uint64_t *)(play.ram + BASE + page * 4096) + 511;

        *word ^= 1;
        noticed += guest_checker_image(checker, &play.image, NULL) ? 0 : 1;
        *word ^= 1;
    }
    g_assert_cmpuint(noticed, ==, 64);
    g_assert_true(guest_checker_image(checker, &play.image, NULL));
    g_free(play.ram);
}

static void
test_torn_step(void)
{
    g_autoptr(GuestChecker) checker = guest_checker_new(LINE, NULL);
    Play play;
    ChainPos before;

    play_init(&play, LINE);
    play_steps(&play, 1, 40);
    before = play.header->cpu[1].pos[0];
    play_steps(&play, 1, 1);
    /* The page is written, the header is not. */
    play.header->cpu[1].pos[0] = before;
    g_assert_true(guest_checker_image(checker, &play.image, NULL));
    /* Done once more on the page it wrote, the step gives another chain. */
    play_steps(&play, 1, 1);
    g_assert_false(guest_checker_image(checker, &play.image, NULL));
    g_free(play.ram);
}

static void
test_earlier_image(void)
{
    g_autoptr(GuestChecker) checker = guest_checker_new(LINE, NULL);
    Play late;
    Play early;

    play_init(&late, LINE);
    play_init(&early, LINE);
    play_steps(&late, 0, 500);
    play_steps(&early, 0, 20);
    g_assert_true(guest_checker_image(checker, &late.image, NULL));
    g_assert_true(guest_checker_image(checker, &early.image, NULL));
    g_free(late.ram);
    g_free(early.ram);
}

static void
test_output(void)
{
    g_autoptr(GuestChecker) checker = guest_checker_new(LINE, NULL);
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    uint64_t value;
    guint n;

    g_assert_true(guest_checker_chain(checker, 1, 5, &value, NULL));
    text = g_strdup_printf("ready\nchain cpu=1 round=5 value=%016" G_GINT64_MODIFIER
                           "x\nchain cpu=1 round=6 value=00",
                           value);
    g_assert_true(guest_checker_output(checker, text, &n, NULL));
    g_assert_cmpuint(n, ==, 1);
    text[strlen("ready\nchain cpu=1 round=5 value=")] ^= 1;
    g_assert_false(guest_checker_output(checker, text, &n, &error));
    g_assert_nonnull(strstr(error->message, "lost or stale"));
}

/* Both are looked at: what the half one has of its value, and the whole one. */
static void
test_output_half_line(void)
{
    g_autoptr(GuestChecker) checker = guest_checker_new(LINE, NULL);
    g_autofree char *whole = NULL;
    uint64_t value;
    guint n;

    g_assert_true(guest_checker_chain(checker, 1, 5, &value, NULL));
    whole = g_strdup_printf("chain cpu=1 round=5 value=%016" G_GINT64_MODIFIER "x", value);
    for (gsize cut = 0; cut < strlen(whole); cut++) {
        g_autofree char *text = g_strdup_printf("%.*s%s\n", (int)cut, whole, whole);
        g_assert_true(guest_checker_output(checker, text, &n, NULL));
        g_assert_cmpuint(n, ==, 1);
        text[strlen(text) - 2] = text[strlen(text) - 2] == '0' ? '1' : '0';
        g_assert_false(guest_checker_output(checker, text, &n, NULL));
    }
    g_autofree char *wrong = g_strdup_printf("%.30s%s\n", whole, whole);
    wrong[29] = wrong[29] == '0' ? '1' : '0';
    g_assert_false(guest_checker_output(checker, wrong, &n, NULL));
}

static void
assert_image_refused(const GuestImage *image)
{
    g_autoptr(GuestChecker) checker = guest_checker_new(LINE, NULL);
    g_autoptr(GError) error = NULL;

    g_assert_false(guest_checker_image(checker, image, &error));
    g_assert_nonnull(error);
}

static void
test_damaged_header(void)
{
    Play play;

    play_init(&play, LINE);
    play.image.low_bytes = GUEST_HEADER_GPA + 8;
    assert_image_refused(&play.image);
    play.image.low_bytes = RAM_BYTES - 1;
    assert_image_refused(&play.image);
    play.image.low_bytes = RAM_BYTES;
    play.header->cpu[0].pos[0].round = UINT64_MAX;
    assert_image_refused(&play.image);
    play.header->cpu[0].pos[0].round = 1;
    play.header->cpu[0].pos[0].step = UINT64_MAX;
    assert_image_refused(&play.image);
    play.header->magic++;
    assert_image_refused(&play.image);
    g_free(play.ram);
}

static void
test_options(void)
{
    static const char *const wrong[] = {"pages",
                                        "pages=",
                                        "pages=0",
                                        "pages=x",
                                        "page=1",
                                        "pattern=odd",
                                        "ring=2",
                                        "cpus=17",
                                        "cpus=4 pages=3",
                                        "peer=00:11:22:33:44",
                                        "base=0x200001",
                                        "poweroff=604",
                                        "seed=99999999999999999999"};
    GuestParams params;
    const char *bad;

    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++)
        g_assert_false(guest_params_parse(&params, wrong[i], &bad));
    g_assert_true(
        guest_params_parse(&params, "  pattern=hot,text peer=02:00:00:0a:0B:ff  ring=3", &bad));
    g_assert_cmpuint(params.order, ==, GUEST_ORDER_HOT);
    g_assert_cmpuint(params.fill, ==, GUEST_FILL_TEXT);
    g_assert_cmpuint(params.peer[4], ==, 0x0B);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest/a true image passes at every step", test_true_images);
    g_test_add_func("/guest/one wrong bit in any page is noticed", test_stale_page);
    g_test_add_func("/guest/a cut inside a step passes, a step done twice does not",
                    test_torn_step);
    g_test_add_func("/guest/an earlier image can be checked after a later one", test_earlier_image);
    g_test_add_func("/guest/a wrong chain value in the output is noticed", test_output);
    g_test_add_func("/guest/a line after half a line of a killed engine is checked",
                    test_output_half_line);
    g_test_add_func("/guest/a damaged header is refused", test_damaged_header);
    g_test_add_func("/guest/options are checked", test_options);
    return g_test_run();
}
