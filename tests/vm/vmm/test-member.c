/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The member protocol against a district-vmm process that runs the tiny guest. */
#include "check.h"
#include "member-rig.h"

#include "common/memfd.h"
#include "common/pbmsg.h"
#include "vmstate.pb-c.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUEST_LINE "pages=64 report=1"
#define TICK_REPORT 50

static const char *program, *guest;

static Rig *
rig_start_guest(const char *line, const char *option)
{
    const char *extra[] = {"--kernel", guest, "--append", line, option, NULL};

    return rig_start(program, extra);
}

static Rig *
rig_start_incoming(void)
{
    const char *extra[] = {"--incoming", NULL};

    return rig_start(program, extra);
}

/* Wait until the guest has said more than it had. */
static void
rig_wait_output(Rig *rig, gsize more_than)
{
    gint64 limit = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    while (rig_output(rig) <= more_than) {
        if (g_get_monotonic_time() > limit)
            g_error("the guest says nothing");
        g_usleep(1000);
    }
}

static void
check_output(Rig *rig, const char *before)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GuestChecker) checker = guest_checker_new(GUEST_LINE, &error);
    g_autofree char *after = rig_debugcon(rig);
    g_autofree char *all = g_strconcat(before, after, NULL);
    guint chains = 0;

    g_assert_no_error(error);
    guest_checker_output(checker, all, &chains, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(chains, >, 0);
}

static void
test_paused_waits(void)
{
    Rig *rig = rig_start_guest(GUEST_LINE, "--paused");

    rig_connect(rig);
    g_assert_cmpint(rig_state(rig), ==, DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED);
    g_usleep(50000);
    g_assert_cmpuint(rig_output(rig), ==, 0);
    rig_resume(rig);
    rig_wait_output(rig, 100);
    g_assert_cmpint(rig_state(rig), ==, DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING);
    rig_free(rig);
}

static void
test_pause_resume(void)
{
    Rig *rig = rig_start_guest(GUEST_LINE, NULL);

    rig_connect(rig);
    for (int i = 0; i < 20; i++) {
        gsize said;

        g_assert_cmpint(rig_pause(rig, i % 2) > 1000, ==, i % 2);
        said = rig_output(rig);
        g_usleep(2000);
        g_assert_cmpuint(rig_output(rig), ==, said);
        rig_resume(rig);
        rig_wait_output(rig, said);
    }
    check_output(rig, "");
    rig_free(rig);
}

/* The rig's engine has no thread with real-time priority, or will have none within 5 s. */
static void
wait_calm(Rig *rig)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", (int)rig->pid);

    for (int i = 0;; i++) {
        g_autoptr(GDir) tasks = g_dir_open(path, 0, NULL);
        const char *urgent = NULL;

        g_assert_nonnull(tasks);
        for (const char *tid; urgent == NULL && (tid = g_dir_read_name(tasks)) != NULL;) {
            int policy = sched_getscheduler((pid_t)g_ascii_strtoll(tid, NULL, 10));
            urgent = policy >= 0 && (policy & ~SCHED_RESET_ON_FORK) != SCHED_OTHER ? tid : NULL;
        }
        if (urgent == NULL)
            return;
        if (i == 5000)
            g_error("thread %s of process %d is still urgent", urgent, (int)rig->pid);
        g_usleep(1000);
    }
}

/* It could do a guest's bidding ahead of all others on the host. */
static void
test_not_urgent_for_long(void)
{
    Rig *rig = rig_start_guest(GUEST_LINE, NULL);

    rig_connect(rig);
    rig_pause(rig, TRUE);
    rig_resume(rig);
    wait_calm(rig);
    rig_pause(rig, FALSE);
    rig_disconnect(rig);
    wait_calm(rig);
    rig_free(rig);
}

static void
test_killed_client_resumes(void)
{
    Rig *rig = rig_start_guest(GUEST_LINE, NULL);
    gsize said;

    rig_connect(rig);
    rig_pause(rig, TRUE);
    said = rig_output(rig);
    rig_disconnect(rig);
    rig_wait_output(rig, said);
    rig_connect(rig);
    g_assert_cmpint(rig_state(rig), ==, DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING);
    rig_free(rig);
}

static void
test_held_guest_stays_paused(void)
{
    Rig *rig = rig_start_guest(GUEST_LINE, NULL);

    rig_connect(rig);
    rig_pause_held(rig, TRUE, TRUE);
    rig_disconnect(rig);
    rig_connect(rig);
    g_assert_cmpint(rig_state(rig), ==, DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED);
    rig_free(rig);
}

static void
test_never_started_stays_paused(void)
{
    Rig *rig = rig_start_guest(GUEST_LINE, "--paused");

    rig_connect(rig);
    rig_pause(rig, TRUE);
    rig_disconnect(rig);
    rig_connect(rig);
    g_assert_cmpint(rig_state(rig), ==, DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED);
    rig_free(rig);
}

static void
test_garbage_closes(void)
{
    Rig *rig = rig_start_guest(GUEST_LINE, NULL);
    char buf[64];
    gsize said;
    GPollFD closed = {.events = G_IO_IN};

    rig_connect(rig);
    rig_pause(rig, FALSE);
    said = rig_output(rig);
    g_assert_cmpint(write(rig->client, "\xff\xff\xff\xff garbage", 12), ==, 12);
    closed.fd = rig->client;
    g_assert_cmpint(g_poll(&closed, 1, 5000), ==, 1);
    g_assert_cmpint(read(rig->client, buf, sizeof(buf)), ==, 0);
    rig_wait_output(rig, said); /* and so the guest runs on */
    rig_free(rig);
}

/*
 * RESTORE into rig, or only ask whether it could be done if ram_fd is -1; the reply's error, empty
 * if it worked.
 */
static char *
rig_restore(Rig *rig, const uint8_t *state, uint64_t len, int ram_fd)
{
    static const uint8_t id[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    District__MemberRestoreRequest restore = DISTRICT__MEMBER_RESTORE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;
    char *error;

    memcpy(rig->state, state, len);
    restore.state_len = len;
    restore.vmgenid.data = (uint8_t *)id;
    restore.vmgenid.len = sizeof(id);
    restore.check_only = ram_fd < 0;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESTORE;
    request.restore = &restore;
    reply = rig_call(rig, &request, &ram_fd, ram_fd < 0 ? 0 : 1);
    error = g_strdup(reply->error);
    district__member_reply__free_unpacked(reply, NULL);
    return error;
}

/* A finished image: a copy of from's RAM, as a standby would hold it. */
static int
ram_copy(const Rig *from)
{
    void *ram = memfd_map(from->ram_fd, RIG_RAM, FALSE, NULL);
    int copy = memfd_from_data("copy", ram, RIG_RAM, NULL);

    g_assert_cmpint(copy, >=, 0);
    munmap(ram, RIG_RAM);
    return copy;
}

static void
test_restore_goes_on(void)
{
    Rig *from = rig_start_guest(GUEST_LINE, NULL), *to = rig_start_incoming();
    g_autofree char *before = NULL, *refused = NULL, *again = NULL;
    uint64_t len;
    int ram_fd;
    const uint8_t *ram;

    rig_connect(from);
    rig_connect(to);
    rig_wait_output(from, 500);
    len = rig_pause(from, TRUE);
    before = rig_debugcon(from);
    ram_fd = ram_copy(from);
    refused = rig_restore(to, from->state, len / 2, ram_fd);
    g_assert_cmpstr(refused, !=, "");
    g_free(refused);
    refused = rig_restore(to, from->state, len, ram_fd);
    g_assert_cmpstr(refused, ==, "");
    g_assert_cmpint(rig_state(to), ==, DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED);
    rig_resume(to);
    rig_wait_output(to, 500);
    check_output(to, before);
    ram = memfd_map(ram_fd, RIG_RAM, FALSE, NULL);
    g_assert_cmpint(ram[0xF0000], ==, 1);
    g_assert_cmpint(ram[0xF000F], ==, 16);
    munmap((void *)ram, RIG_RAM);
    again = rig_restore(to, from->state, len, ram_fd);
    g_assert_nonnull(strstr(again, "cannot be restored"));
    close(ram_fd);
    rig_free(from);
    rig_free(to);
}

/* Each line of op=tick counts on from the one before; how many lines. */
static guint
check_ticks(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    guint64 last = 0;
    guint n = 0;

    for (char **line = lines; *line != NULL && line[1] != NULL; line++) {
        guint64 count;

        if (!g_str_has_prefix(*line, "tick "))
            continue;
        count = g_ascii_strtoull(*line + strlen("tick "), NULL, 10);
        /* Two that come at once are told together. */
        g_assert_cmpuint(count, >=, last + TICK_REPORT);
        g_assert_cmpuint(count, <=, last + TICK_REPORT + 5);
        last = count;
        n++;
    }
    return n;
}

/* The guest's only source of time is its local APIC timer, and most of its life it is halted. */
static void
test_ticks_go_on(void)
{
    Rig *rig = rig_start_guest("op=tick report=" G_STRINGIFY(TICK_REPORT), NULL);
    g_autoptr(GString) text = g_string_new(NULL);
    int ram_fd;

    rig_connect(rig);
    ram_fd = dup(rig->ram_fd);
    for (int life = 0; life < 4; life++) {
        g_autofree char *more = NULL;
        g_autofree char *refused = NULL;
        Rig *next;
        uint64_t len;

        rig_wait_output(rig, 80);
        len = rig_pause_held(rig, TRUE, TRUE);
        more = rig_debugcon(rig);
        g_string_append(text, more);
        next = rig_start_incoming();
        rig_connect(next);
        refused = rig_restore(next, rig->state, len, ram_fd);
        g_assert_cmpstr(refused, ==, "");
        rig_free(rig);
        rig_resume(next);
        rig = next;
    }
    rig_wait_output(rig, 40);
    g_assert_cmpuint(check_ticks(text->str), >=, 12);
    close(ram_fd);
    rig_free(rig);
}

/* The saved state with one thing in it changed. */
static uint8_t *
state_changed(const Rig *from, uint64_t len, void (*change)(District__VmState *), size_t *changed)
{
    District__VmState *state = district__vm_state__unpack(NULL, len, from->state);
    uint8_t *out;

    g_assert_nonnull(state);
    change(state);
    *changed = district__vm_state__get_packed_size(state);
    out = g_malloc(*changed);
    district__vm_state__pack(state, out);
    district__vm_state__free_unpacked(state, NULL);
    return out;
}

static void
change_vendor(District__VmState *state)
{
    for (size_t i = 0; i < state->vcpus[0]->n_cpuid; i++) {
        if (state->vcpus[0]->cpuid[i]->function == 0)
            state->vcpus[0]->cpuid[i]->ebx ^= 1;
    }
}

static void
change_version(District__VmState *state)
{
    state->version++;
}

/* As a standby asks long before it has to take over. */
static void
test_restore_can_be_checked(void)
{
    Rig *from = rig_start_guest(GUEST_LINE, "--paused"), *to = rig_start_incoming();
    static const struct {
        void (*change)(District__VmState *);
        const char *why;
    } bad[] = {{change_vendor, "vendor"}, {change_version, "version"}};
    g_autofree char *fits = NULL, *again = NULL, *restored = NULL;
    uint64_t len;

    rig_connect(from);
    rig_connect(to);
    len = rig_pause(from, TRUE);
    fits = rig_restore(to, from->state, len, -1);
    g_assert_cmpstr(fits, ==, "");
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        size_t changed;
        g_autofree uint8_t *state = state_changed(from, len, bad[i].change, &changed);
        g_autofree char *refused = rig_restore(to, state, changed, -1);

        g_assert_nonnull(strstr(refused, bad[i].why));
    }
    /* Nothing has been loaded, and it still can be. */
    g_assert_cmpint(rig_state(to), ==, DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE);
    restored = rig_restore(to, from->state, len, from->ram_fd);
    g_assert_cmpstr(restored, ==, "");
    again = rig_restore(to, from->state, len, -1);
    g_assert_nonnull(strstr(again, "restored already"));
    rig_free(from);
    rig_free(to);
}

static void
test_power_off_ends(void)
{
    Rig *rig = rig_start_guest("pages=4 rounds=1 end=poweroff poweroff=0x604:0x3400", NULL);

    g_assert_cmpint(rig_wait_exit(rig), ==, 0);
    rig_free(rig);
}

static void
test_power_off_is_told(void)
{
    Rig *rig = rig_start_guest("pages=4 rounds=1 end=poweroff poweroff=0x604:0x3400", "--paused");
    gint64 limit = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    rig_connect(rig);
    rig_resume(rig);
    while (rig_state(rig) != DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN) {
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_usleep(1000);
    }
    g_assert_cmpint(rig_wait_exit(rig), ==, 0);
    rig_free(rig);
}

/* What it has to tell after that is asked for when it is known to be off. */
static void
test_power_off_waits_for_client(void)
{
    Rig *rig = rig_start_guest("pages=4 rounds=1 end=poweroff poweroff=0x604:0x3400", "--paused");
    gint64 limit = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    rig_connect(rig);
    rig_resume(rig);
    while (rig_state(rig) != DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN) {
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_usleep(1000);
    }
    g_assert_cmpint(rig_state(rig), ==, DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN);
    g_assert_cmpint(rig_wait_exit(rig), ==, 0);
    rig_free(rig);
}

/* Press the power button; whether the guest listens for it. */
static gboolean
rig_press(Rig *rig)
{
    District__MemberPowerButtonRequest button = DISTRICT__MEMBER_POWER_BUTTON_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;
    gboolean heard;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_POWER_BUTTON;
    request.power_button = &button;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpstr(reply->error, ==, "");
    heard = reply->power_button->heard;
    district__member_reply__free_unpacked(reply, NULL);
    return heard;
}

static void
test_button_powers_off(void)
{
    Rig *rig = rig_start_guest("pages=4 poweroff=0x604:0x3400 button=0x600", NULL);

    rig_connect(rig);
    rig_wait_output(rig, 100);
    g_assert_true(rig_press(rig));
    while (rig_state(rig) != DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN)
        g_usleep(1000); /* the process would end in 2 s, and the call fail */
    g_assert_cmpint(rig_wait_exit(rig), ==, 0);
    rig_free(rig);
}

static void
test_button_is_not_heard(void)
{
    Rig *rig = rig_start_guest(GUEST_LINE, NULL), *waiting = rig_start_incoming();
    District__MemberPowerButtonRequest button = DISTRICT__MEMBER_POWER_BUTTON_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;
    gsize said;

    rig_connect(rig);
    rig_wait_output(rig, 100);
    g_assert_false(rig_press(rig));
    said = rig_output(rig);
    rig_wait_output(rig, said + 100);
    check_output(rig, "");
    rig_connect(waiting);
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_POWER_BUTTON;
    request.power_button = &button;
    reply = rig_call(waiting, &request, NULL, 0);
    g_assert_nonnull(strstr(reply->error, "no guest"));
    district__member_reply__free_unpacked(reply, NULL);
    rig_free(rig);
    rig_free(waiting);
}

static guint
count(const char *text, const char *word)
{
    guint n = 0;

    for (; (text = strstr(text, word)) != NULL; text++)
        n++;
    return n;
}

static void
test_reset_boots_anew(void)
{
    Rig *rig = rig_start_guest("pages=4 rounds=20 end=reset", "--paused");
    gint64 limit = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    rig_connect(rig);
    rig_resume(rig);
    for (;;) {
        g_autofree char *text = rig_debugcon(rig);

        if (count(text, "ready") >= 3)
            break;
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        /* The connection outlives the reset, and so does a pause that meets one. */
        rig_pause(rig, TRUE);
        rig_resume(rig);
        g_usleep(500); /* for the guest to get on */
    }
    rig_free(rig);
}

/* HELLO once more, for the eventfd. */
static int
rig_ask_stir(Rig *rig)
{
    District__MemberHelloRequest hello = DISTRICT__MEMBER_HELLO_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    const int before[] = {rig->bitmap_fd, rig->state_fd, rig->ram_fd};
    District__MemberReply *reply;

    hello.version = 2;
    hello.stir = TRUE;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_HELLO;
    request.hello = &hello;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_true(reply->hello->can_stir);
    district__member_reply__free_unpacked(reply, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(before); i++)
        close(before[i]);
    g_assert_cmpuint(rig->n_disk_fds, ==, 1);
    rig->n_disk_fds = 0;
    return rig->disk_fds[0];
}

static void
test_reset_goes_on_watching(void)
{
    Rig *rig = rig_start_guest("pages=4 rounds=20 end=reset", "--paused");
    District__MemberResumeRequest resume = DISTRICT__MEMBER_RESUME_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    gint64 limit = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    rig_connect(rig);
    int stir = rig_ask_stir(rig);
    rig_resume(rig);
    for (guint seen = 0; seen < 3;) {
        g_autofree char *text = rig_debugcon(rig);
        seen = count(text, "ready");
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_usleep(1000);
    }
    /* The process that runs now has not been asked by HELLO whether it can. */
    rig_pause(rig, FALSE);
    resume.watch = TRUE;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESUME;
    request.resume = &resume;
    district__member_reply__free_unpacked(rig_call(rig, &request, NULL, 0), NULL);
    struct pollfd p = {.fd = stir, .events = POLLIN};
    g_assert_cmpint(poll(&p, 1, 10000), ==, 1);
    close(stir);
    rig_free(rig);
}

static void
guest_vmgenid(const Rig *rig, uint8_t id[16])
{
    g_assert_cmpint(pread(rig->ram_fd, id, 16, 0xF0000), ==, 16);
}

static void
test_reset_keeps_generation_id(void)
{
    Rig *rig = rig_start_guest("pages=4 rounds=20 end=reset", "--paused");
    gint64 limit = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;
    uint8_t before[16], after[16];

    rig_connect(rig);
    guest_vmgenid(rig, before);
    rig_resume(rig);
    for (;;) {
        g_autofree char *text = rig_debugcon(rig);

        if (count(text, "ready") >= 2)
            break;
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_usleep(500);
    }
    rig_pause(rig, FALSE);
    guest_vmgenid(rig, after);
    g_assert_cmpmem(before, 16, after, 16);
    rig_free(rig);
}

static void
test_reset_of_restored_guest(void)
{
    Rig *from = rig_start_guest("pages=4 rounds=20 end=reset", "--paused");
    Rig *to = rig_start_incoming();
    g_autofree char *refused = NULL;
    uint64_t len;

    rig_connect(from);
    rig_connect(to);
    len = rig_pause(from, TRUE);
    refused = rig_restore(to, from->state, len, from->ram_fd);
    g_assert_cmpstr(refused, ==, "");
    rig_resume(to);
    g_assert_cmpint(rig_wait_exit(to), ==, 3);
    rig_free(from);
    rig_free(to);
}

static void
test_quit(void)
{
    Rig *rig = rig_start_guest(GUEST_LINE, NULL);
    District__MemberQuitRequest quit = DISTRICT__MEMBER_QUIT_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    District__MemberReply *reply;

    rig_connect(rig);
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_QUIT;
    request.quit = &quit;
    reply = rig_call(rig, &request, NULL, 0);
    g_assert_cmpint(reply->op_case, ==, DISTRICT__MEMBER_REPLY__OP_QUIT);
    district__member_reply__free_unpacked(reply, NULL);
    g_assert_cmpint(rig_wait_exit(rig), ==, 0);
    rig_free(rig);
}

int
main(int argc, char **argv)
{
    if (access("/dev/kvm", R_OK | W_OK) != 0) {
        g_print("1..0 # SKIP /dev/kvm is not there: load the kvm module for this processor\n");
        return 77;
    }
    g_test_init(&argc, &argv, NULL);
    if (argc != 3)
        g_error("usage: %s DISTRICT-VMM TINY-GUEST", argv[0]);
    program = argv[1];
    guest = argv[2];
    g_test_add_func("/member/--paused waits for RESUME", test_paused_waits);
    g_test_add_func("/member/a guest paused and resumed often goes on right", test_pause_resume);
    g_test_add_func("/member/no thread stays urgent when the guest runs again",
                    test_not_urgent_for_long);
    g_test_add_func("/member/a client killed during a pause hangs no guest",
                    test_killed_client_resumes);
    g_test_add_func("/member/a held guest stays paused when the client goes",
                    test_held_guest_stays_paused);
    g_test_add_func("/member/a guest that never ran stays paused when the client goes",
                    test_never_started_stays_paused);
    g_test_add_func("/member/garbage closes the connection", test_garbage_closes);
    g_test_add_func("/member/a restored guest goes on where it was", test_restore_goes_on);
    g_test_add_func("/member/the timer of a restored guest ticks on", test_ticks_go_on);
    g_test_add_func("/member/a restore can be checked beforehand", test_restore_can_be_checked);
    g_test_add_func("/member/power-off ends the process with status 0", test_power_off_ends);
    g_test_add_func("/member/power-off is told to the client", test_power_off_is_told);
    g_test_add_func("/member/an engine whose guest is off answers until its client goes",
                    test_power_off_waits_for_client);
    g_test_add_func("/member/a guest that listens for the power button powers off",
                    test_button_powers_off);
    g_test_add_func("/member/a guest that does not listen for it goes on",
                    test_button_is_not_heard);
    g_test_add_func("/member/a reset boots the guest anew on the same connection",
                    test_reset_boots_anew);
    g_test_add_func("/member/a guest is watched after a reset on the same connection",
                    test_reset_goes_on_watching);
    g_test_add_func("/member/a reset keeps the VM generation id", test_reset_keeps_generation_id);
    g_test_add_func("/member/a restored guest without a kernel ends with status 3 on reset",
                    test_reset_of_restored_guest);
    g_test_add_func("/member/QUIT ends the process", test_quit);
    return g_test_run();
}
