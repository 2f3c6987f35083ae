/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cuts of a running tiny guest at random moments: each cut's RAM must be exactly one instant of the
 * guest's life, and a new engine restored from it must go on from there to the next instruction.
 */
#include "rig.h"

#include "common/memfd.h"
#include "tests/guest/check.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CUTS 200
#define GOES_ON_TRIES 100
#define RAM_BYTES (64ULL << 20)

#define ONE_CPU "pages=256 dirty=8 report=8 verify=16 seed=7"
#define TWO_CPUS "pages=256 dirty=8 report=8 verify=16 seed=7 cpus=2"

/* A cut: copies of RAM and state. */
typedef struct Cut {
    int ram_fd;
    uint8_t *ram;
    void *state;
    uint64_t state_len;
} Cut;

static void
cut_take(Cut *cut, Member *member)
{
    g_autoptr(GError) error = NULL;

    cut->state_len = member_pause(member);
    cut->state = g_malloc(cut->state_len);
    g_assert_cmpint(pread(member->state_fd, cut->state, cut->state_len, 0), ==,
                    (gssize)cut->state_len);
    cut->ram_fd = memfd_create_sealed("ram", RAM_BYTES, &error);
    cut->ram = memfd_map(cut->ram_fd, RAM_BYTES, TRUE, &error);
    g_assert_no_error(error);
    void *live = memfd_map(member->ram_fd, RAM_BYTES, FALSE, &error);
    g_assert_no_error(error);
    memcpy(cut->ram, live, RAM_BYTES);
    munmap(live, RAM_BYTES);
    member_resume(member);
}

static void
cut_clear(Cut *cut)
{
    munmap(cut->ram, RAM_BYTES);
    close(cut->ram_fd);
    g_free(cut->state);
}

/* The cut's RAM is an instant; the guest restored from it goes on right, and past that instant. */
static void
cut_verify(const Cut *cut, const char *dir, unsigned generation, GuestChecker *checker,
           const char *vmm_options)
{
    g_autoptr(GError) error = NULL;
    GuestImage image = {.low = cut->ram, .low_bytes = RAM_BYTES};
    ChainPos before, after;
    Vmm vmm = {0};
    Member member;

    guest_checker_image(checker, &image, &error);
    g_assert_no_error(error);
    g_assert_true(guest_image_position(&image, 0, &before, &error));
    vmm_start(&vmm, dir, "copy", generation, TRUE, NULL, vmm_options);
    member_open(&member, vmm.socket);
    g_assert_cmpint(member.ram_fd, ==, -1);
    member_restore(&member, cut->ram_fd, cut->state, cut->state_len);
    member_resume(&member);
    vmm_wait_lines(&vmm, 3);
    g_autofree char *text = vmm_report(&vmm);
    guest_checker_output(checker, text, NULL, &error);
    g_assert_no_error(error);
    member_pause(&member);
    guest_checker_image(checker, &image, &error);
    g_assert_no_error(error);
    g_assert_true(guest_image_position(&image, 0, &after, &error));
    /* On a busy host the lines may all be the other CPU's. */
    for (int i = 0; i < GOES_ON_TRIES && after.round == before.round; i++) {
        member_resume(&member);
        g_usleep(50000);
        member_pause(&member);
        g_assert_true(guest_image_position(&image, 0, &after, &error));
    }
    g_assert_cmpuint(after.round, >, before.round);
    member_close(&member);
    vmm_stop(&vmm);
    g_free(vmm.socket);
    g_free(vmm.debugcon);
    g_free(vmm.proc.name);
}

static void
run_cuts(const char *guest_options, const char *vmm_options, unsigned cuts)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("district-cuts-XXXXXX", &error);
    g_autoptr(GuestChecker) checker = guest_checker_new(guest_options, &error);
    Vmm vmm = {0};
    Member member;

    g_assert_no_error(error);
    vmm_start(&vmm, dir, "original", 0, FALSE, guest_options, vmm_options);
    member_open(&member, vmm.socket);
    g_assert_cmpuint(member.ram_size, ==, RAM_BYTES);
    member_resume(&member);
    vmm_wait_lines(&vmm, 2);
    for (unsigned i = 0; i < cuts; i++) {
        Cut cut;
        g_usleep((gulong)g_random_int_range(0, 8000));
        cut_take(&cut, &member);
        cut_verify(&cut, dir, i, checker, vmm_options);
        cut_clear(&cut);
    }
    g_autofree char *text = vmm_report(&vmm);
    guest_checker_output(checker, text, NULL, &error);
    g_assert_no_error(error);
    member_close(&member);
    vmm_stop(&vmm);
    const char *argv[] = {"rm", "-rf", dir, NULL};
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
                 NULL);
}

static void
test_bitmap(void)
{
    run_cuts(ONE_CPU, "--memory 64M --cpus 1 --dirty-source bitmap", CUTS);
}

static void
test_ring(void)
{
    run_cuts(ONE_CPU, "--memory 64M --cpus 1 --dirty-source ring", 20);
}

static void
test_two_cpus(void)
{
    run_cuts(TWO_CPUS, "--memory 64M --cpus 2", 40);
}

/* The proof that the verification can fail: one page of a good cut, taken back to zeros. */
static void
test_lost_page_is_noticed(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("district-cuts-XXXXXX", &error);
    g_autoptr(GuestChecker) checker = guest_checker_new(ONE_CPU, &error);
    Vmm vmm = {0};
    Member member;
    Cut cut;

    vmm_start(&vmm, dir, "original", 0, FALSE, ONE_CPU, "--memory 64M --cpus 1");
    member_open(&member, vmm.socket);
    member_resume(&member);
    vmm_wait_lines(&vmm, 8);
    cut_take(&cut, &member);
    GuestImage image = {.low = cut.ram, .low_bytes = RAM_BYTES};
    g_assert_true(guest_checker_image(checker, &image, &error));
    memset(cut.ram + guest_checker_params(checker)->base + 5 * GUEST_PAGE_BYTES, 0,
           GUEST_PAGE_BYTES);
    g_assert_false(guest_checker_image(checker, &image, &error));
    cut_clear(&cut);
    member_close(&member);
    vmm_stop(&vmm);
    const char *argv[] = {"rm", "-rf", dir, NULL};
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
                 NULL);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cuts/a page lost from a cut is noticed", test_lost_page_is_noticed);
    g_test_add_func("/cuts/200 cuts at random moments each restore to the next instruction",
                    test_bitmap);
    g_test_add_func("/cuts/cuts with the dirty ring restore as well", test_ring);
    g_test_add_func("/cuts/cuts of a guest with two CPUs restore both", test_two_cpus);
    return g_test_run();
}
