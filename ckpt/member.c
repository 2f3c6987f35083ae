/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Client of the member protocol: requests and replies. member-hello.c has HELLO and its checks. */
#include "ckpt/member.h"
#include "ckpt/member-hello.h"

#include "common/clock.h"
#include "common/memfd.h"
#include "common/pagebits.h"
#include "common/pbmsg.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SEND_TIMEOUT_MS 1000
#define WAITING_BYTES_MAX 400

G_DEFINE_QUARK(district - member - error - quark, member_error)

Member *
member_new(const char *name, const char *path)
{
    Member *member = g_new0(Member, 1);

    member->name = g_strdup(name);
    member->path = g_strdup(path);
    member->fd = -1;
    member->ram_fd = member->lazy_fd = member->stir_fd = -1;
    return member;
}

void
member_disconnect(Member *member)
{
    if (member->fd >= 0)
        close(member->fd);
    member->fd = -1;
}

void
member_retire(Member *member)
{
    member_disconnect(member);
    if (member->bitmap)
        munmap(member->bitmap, pagebits_bytes(member->n_pages));
    member->bitmap = NULL;
}

void
member_free(Member *member)
{
    member_disconnect(member);
    member_hello_clear(member);
    g_free(member->name);
    g_free(member->waiting);
    g_free(member->path);
    g_free(member);
}

/* What the socket layer says becomes MEMBER_ERROR_LOST, with the member's name in front. */
static gboolean
member_lost(Member *member, const char *doing, GError *cause, GError **error)
{
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_LOST, "member %s: lost during %s: %s",
                member->name, doing, cause->message);
    g_error_free(cause);
    member_disconnect(member);
    return FALSE;
}

gboolean
member_send(Member *member, District__MemberRequest *request, const char *doing, const int *fds,
            guint n_fds, GError **error)
{
    GError *cause = NULL;

    if (member->fd < 0) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_LOST, "member %s: not connected",
                    member->name);
        return FALSE;
    }
    request->id = ++member->last_id;
    member->sent_ns = clock_monotonic_ns();
    if (!pbmsg_send(member->fd, &request->base, fds, n_fds, SEND_TIMEOUT_MS, &cause))
        return member_lost(member, doing, cause, error);
    return TRUE;
}

District__MemberReply *
member_collect(Member *member, District__MemberReply__OpCase want, const char *doing, int *fds,
               guint *n_fds, int timeout_ms, GError **error)
{
    GError *cause = NULL;
    /* From when it was asked: members that hang at the same time do so for one time limit. */
    int64_t asked_ms = (clock_monotonic_ns() - member->sent_ns) / NS_PER_MS;
    int left_ms = (int)MAX(timeout_ms - asked_ms, 0);
    ProtobufCMessage *message =
        pbmsg_recv(member->fd, &district__member_reply__descriptor, fds, n_fds, left_ms, &cause);
    District__MemberReply *reply = (District__MemberReply *)message;

    if (!reply) {
        member_lost(member, doing, cause, error);
        return NULL;
    }
    if (reply->id != member->last_id || (reply->error[0] == '\0' && reply->op_case != want)) {
        cause = g_error_new_literal(MEMBER_ERROR, MEMBER_ERROR_LOST,
                                    "its reply does not fit the request; is it the same version?");
        member_lost(member, doing, cause, error);
    } else if (reply->error[0] != '\0') {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED, "member %s: %s failed: %s",
                    member->name, doing, reply->error);
    } else {
        return reply;
    }
    if (n_fds)
        fdmsg_close_fds(fds, *n_fds);
    district__member_reply__free_unpacked(reply, NULL);
    return NULL;
}

/* Collect a reply whose content does not matter. */
static gboolean
member_collect_done(Member *member, District__MemberReply__OpCase want, const char *doing,
                    int timeout_ms, GError **error)
{
    District__MemberReply *reply =
        member_collect(member, want, doing, NULL, NULL, timeout_ms, error);

    if (!reply)
        return FALSE;
    district__member_reply__free_unpacked(reply, NULL);
    return TRUE;
}

gboolean
member_send_harvest(Member *member, GError **error)
{
    District__MemberHarvestRequest harvest = DISTRICT__MEMBER_HARVEST_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_HARVEST;
    request.harvest = &harvest;
    return member_send(member, &request, "HARVEST", NULL, 0, error);
}

gboolean
member_collect_harvest(Member *member, GError **error)
{
    return member_collect_done(member, DISTRICT__MEMBER_REPLY__OP_HARVEST, "HARVEST",
                               MEMBER_CALL_TIMEOUT_MS, error);
}

gboolean
member_send_pause(Member *member, bool save_state, bool hold, GError **error)
{
    District__MemberPauseRequest pause = DISTRICT__MEMBER_PAUSE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    pause.save_state = save_state;
    pause.hold = hold;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_PAUSE;
    request.pause = &pause;
    return member_send(member, &request, "PAUSE", NULL, 0, error);
}

/* Each disk with an overlay has been cut. */
static gboolean
member_note_cuts(Member *member, District__MemberDiskCut *const *cuts, size_t n_cuts,
                 GError **error)
{
    size_t k = 0;

    for (unsigned i = 0; i < member->n_disks; i++) {
        if (!member->disks[i].overlay)
            continue;
        if (k == n_cuts)
            break;
        if (!member_disk_cut(&member->disks[i], cuts[k++], error))
            return FALSE;
    }
    if (k == n_cuts && k == member_overlays(member))
        return TRUE;
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_LOST,
                "member %s: it tells of the cuts of %zu disks, and has %u with an overlay",
                member->name, n_cuts, member_overlays(member));
    return FALSE;
}

/* Times are for statistics only; replace what cannot be true by what we saw, or by the one before. */
static void
member_clamp_times(const Member *member, District__MemberPauseReply *pause, int64_t now)
{
    uint64_t *const times[] = {&pause->requested_ns, &pause->vcpus_out_ns, &pause->devices_rest_ns,
                               &pause->saved_ns, &pause->harvested_ns};
    uint64_t least = (uint64_t)member->sent_ns;

    for (size_t i = 0; i < G_N_ELEMENTS(times); i++) {
        if (*times[i] < least || *times[i] > (uint64_t)now)
            *times[i] = least;
        least = *times[i];
    }
}

gboolean
member_collect_pause(Member *member, District__MemberPauseReply *pause, GError **error)
{
    District__MemberReply *reply = member_collect(member, DISTRICT__MEMBER_REPLY__OP_PAUSE, "PAUSE",
                                                  NULL, NULL, MEMBER_CALL_TIMEOUT_MS, error);
    int64_t now = clock_monotonic_ns();

    if (!reply)
        return FALSE;
    member->run_state = DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED;
    member->refuses = false;
    gboolean cut = member_note_cuts(member, reply->pause->disks, reply->pause->n_disks, error);
    *pause = *reply->pause;
    pause->base.n_unknown_fields = 0;
    pause->base.unknown_fields = NULL;
    pause->n_disks = 0;
    pause->disks = NULL;
    district__member_reply__free_unpacked(reply, NULL);
    if (!cut)
        return FALSE;
    if (pause->state_len > member->state_capacity) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_LOST,
                    "member %s: PAUSE says the state has %" G_GUINT64_FORMAT
                    " bytes, but its memfd has %" G_GUINT64_FORMAT,
                    member->name, pause->state_len, member->state_capacity);
        return FALSE;
    }
    member_clamp_times(member, pause, now);
    return TRUE;
}

gboolean
member_send_resume(Member *member, bool watch, GError **error)
{
    District__MemberResumeRequest resume = DISTRICT__MEMBER_RESUME_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESUME;
    resume.watch = watch;
    request.resume = &resume;
    return member_send(member, &request, "RESUME", NULL, 0, error);
}

gboolean
member_collect_resume(Member *member, int64_t *resumed_ns, GError **error)
{
    District__MemberReply *reply =
        member_collect(member, DISTRICT__MEMBER_REPLY__OP_RESUME, "RESUME", NULL, NULL,
                       MEMBER_CALL_TIMEOUT_MS, error);
    int64_t now = clock_monotonic_ns();

    if (!reply)
        return FALSE;
    member->run_state = DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING;
    *resumed_ns = (int64_t)reply->resume->resumed_ns;
    if (*resumed_ns < member->sent_ns || *resumed_ns > now)
        *resumed_ns = now;
    district__member_reply__free_unpacked(reply, NULL);
    return TRUE;
}

gboolean
member_send_power_button(Member *member, GError **error)
{
    District__MemberPowerButtonRequest button = DISTRICT__MEMBER_POWER_BUTTON_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_POWER_BUTTON;
    request.power_button = &button;
    return member_send(member, &request, "POWER_BUTTON", NULL, 0, error);
}

gboolean
member_collect_power_button(Member *member, bool *heard, GError **error)
{
    District__MemberReply *reply =
        member_collect(member, DISTRICT__MEMBER_REPLY__OP_POWER_BUTTON, "POWER_BUTTON", NULL, NULL,
                       MEMBER_CALL_TIMEOUT_MS, error);

    if (!reply)
        return FALSE;
    *heard = reply->power_button->heard;
    district__member_reply__free_unpacked(reply, NULL);
    return TRUE;
}

gboolean
member_send_quit(Member *member, GError **error)
{
    District__MemberQuitRequest quit = DISTRICT__MEMBER_QUIT_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_QUIT;
    request.quit = &quit;
    return member_send(member, &request, "QUIT", NULL, 0, error);
}

gboolean
member_collect_quit(Member *member, int timeout_ms, GError **error)
{
    return member_collect_done(member, DISTRICT__MEMBER_REPLY__OP_QUIT, "QUIT", timeout_ms, error);
}

/* Put the state where the engine reads it. */
static gboolean
member_pass_state(Member *member, const uint8_t *state, uint64_t state_len, GError **error)
{
    if (state_len > member->state_capacity) {
        g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                    "member %s: the saved state has %" G_GUINT64_FORMAT
                    " bytes, but this engine takes %" G_GUINT64_FORMAT
                    "; restore it with the engine that saved it",
                    member->name, state_len, member->state_capacity);
        return FALSE;
    }
    memcpy(member->state, state, state_len);
    return TRUE;
}

static gboolean
member_disks_fit(const Member *member, const MemberImage *image, GError **error)
{
    if (image->n_disks == 0 || image->n_disks == member_overlays(member))
        return TRUE;
    g_set_error(error, MEMBER_ERROR, MEMBER_ERROR_REFUSED,
                "member %s: the checkpoint has %u disks, but it has %u; use the definition it was "
                "saved with",
                member->name, image->n_disks, member_overlays(member));
    return FALSE;
}

/* RAM and state; or neither, for a member that is freshly booted. */
static gboolean
member_pass_ram(Member *member, const MemberImage *image, GError **error)
{
    return image->ram_fd < 0 || (member_pass_state(member, image->state, image->state_len, error) &&
                                 (image->lazy || member_map_ram(member, image->ram_fd, error)));
}

gboolean
member_send_restore(Member *member, const MemberImage *image, GError **error)
{
    District__MemberRestoreRequest restore = DISTRICT__MEMBER_RESTORE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    uint64_t entries[DISKS_MAX];
    protobuf_c_boolean lazy[DISKS_MAX];
    int fds[1 + (2 + LAZYDISK_FDS) * DISKS_MAX];
    guint n_fds = 0;

    if (!member_disks_fit(member, image, error) || !member_pass_ram(member, image, error) ||
        !member_disks_replace(member, image, error))
        return FALSE;
    if (image->ram_fd >= 0 && !image->lazy)
        fds[n_fds++] = image->ram_fd;
    for (unsigned i = 0; i < image->n_disks; i++) {
        entries[i] = image->disks[i].entries;
        fds[n_fds++] = image->disks[i].data_fd;
        fds[n_fds++] = image->disks[i].index_fd;
        lazy[i] = image->disks[i].lazy != NULL;
        restore.n_disk_lazy |= lazy[i];
    }
    for (unsigned i = 0; i < image->n_disks; i++) {
        for (int k = 0; lazy[i] && k < LAZYDISK_FDS; k++)
            fds[n_fds++] = lazydisk_fds(image->disks[i].lazy)[k];
    }
    restore.n_disk_lazy *= image->n_disks;
    restore.disk_lazy = lazy;
    restore.state_len = image->state_len;
    restore.ram_known = image->ram_known;
    restore.journal_current = image->journal_current;
    restore.disks_only = image->ram_fd < 0;
    restore.lazy = image->lazy;
    restore.vmgenid.len = MEMBER_VMGENID_BYTES;
    restore.vmgenid.data = (uint8_t *)image->vmgenid;
    restore.n_disk_entries = image->n_disks;
    restore.disk_entries = entries;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESTORE;
    request.restore = &restore;
    return member_send(member, &request, "RESTORE", fds, n_fds, error);
}

gboolean
member_send_lazy(Member *member, int ram_fd, GError **error)
{
    District__MemberLazyRequest lazy = DISTRICT__MEMBER_LAZY_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    if (!member_map_ram(member, ram_fd, error))
        return FALSE;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_LAZY;
    request.lazy = &lazy;
    return member_send(member, &request, "LAZY", &ram_fd, 1, error);
}

gboolean
member_collect_lazy(Member *member, GError **error)
{
    int fds[1] = {-1};
    guint n_fds = G_N_ELEMENTS(fds);
    District__MemberReply *reply = member_collect(member, DISTRICT__MEMBER_REPLY__OP_LAZY, "LAZY",
                                                  fds, &n_fds, MEMBER_CALL_TIMEOUT_MS, error);

    if (!reply)
        return FALSE;
    member->lazy_address = reply->lazy->ram_address;
    district__member_reply__free_unpacked(reply, NULL);
    if (n_fds == 1) {
        member->lazy_fd = fds[0];
        return TRUE;
    }
    return member_lost(
        member, "LAZY",
        g_error_new_literal(MEMBER_ERROR, MEMBER_ERROR_LOST, "it passed no descriptor"), error);
}

gboolean
member_send_lazy_done(Member *member, GError **error)
{
    District__MemberLazyRequest lazy = DISTRICT__MEMBER_LAZY_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    lazy.done = TRUE;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_LAZY;
    request.lazy = &lazy;
    return member_send(member, &request, "LAZY (done)", NULL, 0, error);
}

gboolean
member_collect_lazy_done(Member *member, GError **error)
{
    return member_collect_done(member, DISTRICT__MEMBER_REPLY__OP_LAZY, "LAZY (done)",
                               MEMBER_CALL_TIMEOUT_MS, error);
}

gboolean
member_send_disks(Member *member, District__MemberDiskNote *const *notes, size_t n_notes,
                  GError **error)
{
    District__MemberDisksRequest disks = DISTRICT__MEMBER_DISKS_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    disks.n_disks = n_notes;
    disks.disks = (District__MemberDiskNote **)notes;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_DISKS;
    request.disks = &disks;
    return member_send(member, &request, "DISKS", NULL, 0, error);
}

gboolean
member_collect_disks(Member *member, GError **error)
{
    return member_collect_done(member, DISTRICT__MEMBER_REPLY__OP_DISKS, "DISKS",
                               MEMBER_CALL_TIMEOUT_MS, error);
}

gboolean
member_collect_disks_off(Member *member, GError **error)
{
    District__MemberReply *reply = member_collect(member, DISTRICT__MEMBER_REPLY__OP_DISKS, "DISKS",
                                                  NULL, NULL, MEMBER_CALL_TIMEOUT_MS, error);

    if (!reply)
        return FALSE;
    gboolean cut = member_note_cuts(member, reply->disks->disks, reply->disks->n_disks, error);
    district__member_reply__free_unpacked(reply, NULL);
    return cut;
}

gboolean
member_collect_restore(Member *member, GError **error)
{
    if (!member_collect_done(member, DISTRICT__MEMBER_REPLY__OP_RESTORE, "RESTORE",
                             MEMBER_RESTORE_TIMEOUT_MS, error))
        return FALSE;
    member->run_state = DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED;
    return TRUE;
}

gboolean
member_send_restore_check(Member *member, const uint8_t *state, uint64_t state_len, GError **error)
{
    District__MemberRestoreRequest restore = DISTRICT__MEMBER_RESTORE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    if (!member_pass_state(member, state, state_len, error))
        return FALSE;
    restore.state_len = state_len;
    restore.check_only = TRUE;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_RESTORE;
    request.restore = &restore;
    return member_send(member, &request, "RESTORE (check)", NULL, 0, error);
}

gboolean
member_collect_restore_check(Member *member, GError **error)
{
    return member_collect_done(member, DISTRICT__MEMBER_REPLY__OP_RESTORE, "RESTORE (check)",
                               MEMBER_RESTORE_TIMEOUT_MS, error);
}

/* Said by the engine for people to read: one line, not too long. */
static void
member_note_waiting(Member *member, const char *text)
{
    g_free(member->waiting);
    member->waiting =
        *text ? g_utf8_make_valid(text, (gssize)strnlen(text, WAITING_BYTES_MAX)) : NULL;
    if (member->waiting)
        g_strdelimit(member->waiting, "\r\n", ' ');
}

gboolean
member_describe(Member *member, District__MemberState *state, uint64_t *pauses, GError **error)
{
    District__MemberDescribeRequest describe = DISTRICT__MEMBER_DESCRIBE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;

    request.op_case = DISTRICT__MEMBER_REQUEST__OP_DESCRIBE;
    request.describe = &describe;
    if (!member_send(member, &request, "DESCRIBE", NULL, 0, error))
        return FALSE;
    District__MemberReply *reply =
        member_collect(member, DISTRICT__MEMBER_REPLY__OP_DESCRIBE, "DESCRIBE", NULL, NULL,
                       MEMBER_CALL_TIMEOUT_MS, error);
    if (!reply)
        return FALSE;
    *state = reply->describe->state;
    if (pauses)
        *pauses = reply->describe->pauses;
    member_note_waiting(member, reply->describe->waiting);
    gboolean good = TRUE;
    if (*state == DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN)
        good = member_note_cuts(member, reply->describe->disks, reply->describe->n_disks, error);
    district__member_reply__free_unpacked(reply, NULL);
    return good;
}

gboolean
member_check_idle(Member *member, GError **error)
{
    GError *cause = NULL;
    ProtobufCMessage *message =
        pbmsg_recv(member->fd, &district__member_reply__descriptor, NULL, NULL, 0, &cause);

    if (message) {
        protobuf_c_message_free_unpacked(message, NULL);
        cause =
            g_error_new_literal(MEMBER_ERROR, MEMBER_ERROR_LOST, "it spoke without being asked");
    } else if (g_error_matches(cause, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT)) {
        g_error_free(cause);
        return TRUE;
    }
    return member_lost(member, "idle wait", cause, error);
}
