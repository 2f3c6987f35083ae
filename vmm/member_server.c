/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Serving the member protocol.
 *
 * Theory of operation. One client at a time; a new connection replaces the old one. As long as the
 * client's socket is open, what it paused stays paused (a planned migration keeps a member paused
 * for long). When the client goes while the guest is paused by it, the guest runs on by itself: a
 * killed district-ckpt never hangs a guest. Whoever hands a guest over to another host must
 * therefore QUIT this one.
 *
 * Everything a client sends is checked; a packet that does not parse closes the connection.
 */
#include "vmm/member_server.h"

#include "common/clock.h"
#include "common/memfd.h"
#include "common/page.h"
#include "common/pagebits.h"
#include "common/pbmsg.h"
#include "vmm/devices/devices.h"
#include "vmm/lazy_ram.h"
#include "vmm/lifecycle.h"
#include "vmm/member_disks.h"
#include "vmm/state.h"
#include "vmm/stir.h"
#include "vmm/vcpu.h"

#include "member.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

#define MEMBER_VERSION 2
#define SEND_LIMIT_MS 1000
/* For a guest reset, by a PAUSE: well below the time after which the client takes this engine for lost. */
#define RESET_WAIT_MS 1000

struct MemberServer {
    Machine *m;
    const Disks *disks;
    char *path;
    MemberServerHooks hooks;

    int listen_fd;
    int client_fd; /* -1: none */
    guint client_source;

    int bitmap_fd;
    uint64_t *bitmap;
    int state_fd;
    uint8_t *state;

    MemberHandover waiting; /* only its pause_* */
    guint wait_source;      /* ends the wait */
    bool reset_is_slow;     /* no PAUSE waits for it any more */
    bool paused_by_client;  /* it was running before: goes on if the client goes */
    bool quit;
    bool restore_tried; /* on RAM that is filled in */
    uint64_t harvests;
    uint64_t pauses;
};

/* A reply being made, with room for every kind. */
typedef struct Reply {
    District__MemberReply msg;
    union {
        District__MemberHelloReply hello;
        District__MemberHarvestReply harvest;
        District__MemberPauseReply pause;
        District__MemberResumeReply resume;
        District__MemberRestoreReply restore;
        District__MemberDescribeReply describe;
        District__MemberPowerButtonReply power_button;
        District__MemberQuitReply quit;
        District__MemberDisksReply noted;
        District__MemberLazyReply lazy;
    };
    MemberDiskReply disks;
    District__RamRegion regions[MACHINE_RAM_SLOTS];
    District__RamRegion *region_list[MACHINE_RAM_SLOTS];
    int fds[6 + MEMBER_DISK_FDS_MAX];
    guint n_fds;
} Reply;

static District__MemberState
member_state(const Machine *m)
{
    switch (m->state) {
    case MACHINE_AWAITING_RESTORE:
        return DISTRICT__MEMBER_STATE__MEMBER_STATE_AWAITING_RESTORE;
    case MACHINE_PAUSED:
        return DISTRICT__MEMBER_STATE__MEMBER_STATE_PAUSED;
    case MACHINE_RUNNING:
        return DISTRICT__MEMBER_STATE__MEMBER_STATE_RUNNING;
    default:
        return DISTRICT__MEMBER_STATE__MEMBER_STATE_SHUTDOWN;
    }
}

/* ---- Operations: each fills its reply or sets error ---- */

static void
reply_regions_fill(const Machine *m, Reply *reply)
{
    RamSlot slots[MACHINE_RAM_SLOTS];
    unsigned n = machine_ram_layout(m->ram_size, slots);

    for (unsigned i = 0; i < n; i++) {
        district__ram_region__init(&reply->regions[i]);
        reply->regions[i].gpa = slots[i].gpa;
        reply->regions[i].size = slots[i].size;
        reply->regions[i].offset = slots[i].offset;
        reply->region_list[i] = &reply->regions[i];
    }
    reply->hello.regions = reply->region_list;
    reply->hello.n_regions = n;
}

static gboolean
op_hello(MemberServer *s, const District__MemberHelloRequest *request, Reply *reply, GError **error)
{
    if (request->version != MEMBER_VERSION) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                    "%s: the client speaks version %u of the member protocol, this program %u",
                    s->m->name, request->version, MEMBER_VERSION);
        return FALSE;
    }
    district__member_hello_reply__init(&reply->hello);
    reply->hello.version = MEMBER_VERSION;
    reply->hello.engine = (char *)"kvm";
    /* The process is named DISTRICT/MEMBER; the protocol is inside one district. */
    const char *slash = strrchr(s->m->name, '/');
    reply->hello.name = slash ? (char *)slash + 1 : s->m->name;
    reply->hello.ram_size = s->m->ram_size;
    reply->hello.vcpus = s->m->vcpus->n;
    reply->hello.dirty_source = (char *)dirtylog_source_name(s->m->dirty);
    reply->hello.state = member_state(s->m);
    reply->hello.state_capacity = STATE_BYTES_MAX;
    reply_regions_fill(s->m, reply);
    reply->fds[reply->n_fds++] = s->bitmap_fd;
    reply->fds[reply->n_fds++] = s->state_fd;
    if (s->m->ram_fd >= 0)
        reply->fds[reply->n_fds++] = s->m->ram_fd;
    if (!member_disks_hello(s->disks, &reply->disks, &reply->hello, reply->fds, &reply->n_fds,
                            error))
        return FALSE;
    reply->hello.can_stir = request->stir && stir_possible(s->m->stir, s->m->vcpus);
    if (reply->hello.can_stir)
        reply->fds[reply->n_fds++] = stir_fd(s->m->stir);
    reply->hello.can_lazy = lazy_ram_possible();
    reply->hello.lazy = s->m->lazy_fd >= 0;
    reply->hello.ram_address = reply->hello.lazy ? (uint64_t)(uintptr_t)s->m->ram : 0;
    if (reply->hello.lazy)
        reply->fds[reply->n_fds++] = s->m->lazy_fd;
    reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_HELLO;
    reply->msg.hello = &reply->hello;
    return TRUE;
}

static gboolean
op_harvest(MemberServer *s, Reply *reply, GError **error)
{
    if (s->m->ram == NULL) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                    "%s has no memory yet: RESTORE it first", s->m->name);
        return FALSE;
    }
    district__member_harvest_reply__init(&reply->harvest);
    if (!dirtylog_harvest(s->m->dirty, s->bitmap, &reply->harvest.pages, error))
        return FALSE;
    s->harvests++;
    reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_HARVEST;
    reply->msg.harvest = &reply->harvest;
    return TRUE;
}

static gboolean
op_pause(MemberServer *s, const District__MemberPauseRequest *request, Reply *reply, GError **error)
{
    bool was_running = s->m->state == MACHINE_RUNNING;
    PauseResult result;

    stir_disarm(s->m->stir);
    if (!machine_pause(s->m, request->save_state ? s->state : NULL, STATE_BYTES_MAX, s->bitmap,
                       &result, error))
        return FALSE;
    /* held: a hand-over or an end; even if the client goes, it must not run again by itself */
    if (request->hold)
        s->paused_by_client = false;
    else if (was_running)
        s->paused_by_client = true;
    s->pauses++;
    s->harvests++;
    district__member_pause_reply__init(&reply->pause);
    reply->pause.state_len = result.state_len;
    reply->pause.pages = result.pages;
    reply->pause.requested_ns = (uint64_t)result.times.requested_ns;
    reply->pause.vcpus_out_ns = (uint64_t)result.times.vcpus_out_ns;
    reply->pause.devices_rest_ns = (uint64_t)result.times.devices_rest_ns;
    reply->pause.saved_ns = (uint64_t)result.times.saved_ns;
    reply->pause.harvested_ns = (uint64_t)result.times.harvested_ns;
    reply->pause.n_disks = member_disks_cut(s->disks, &reply->disks);
    reply->pause.disks = reply->disks.cut_list;
    reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_PAUSE;
    reply->msg.pause = &reply->pause;
    return TRUE;
}

static gboolean
op_resume(MemberServer *s, const District__MemberResumeRequest *request, Reply *reply,
          GError **error)
{
    if (request->watch && s->m->state == MACHINE_PAUSED)
        stir_arm(s->m->stir, s->m->vcpus);
    /* Not before: a client that comes while it is being restored may take it for another checkpoint. */
    if (s->m->state == MACHINE_PAUSED)
        lazy_ram_share(s->m, s->path);
    if (!machine_resume(s->m, error))
        return FALSE;
    s->paused_by_client = false;
    district__member_resume_reply__init(&reply->resume);
    reply->resume.resumed_ns = (uint64_t)clock_monotonic_ns();
    reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_RESUME;
    reply->msg.resume = &reply->resume;
    return TRUE;
}

/* Why the machine is not one that this request could be for, or NULL. */
static const char *
restore_check_state(const MemberServer *s, const District__MemberRestoreRequest *request)
{
    if (request->disks_only)
        return s->m->state == MACHINE_PAUSED && s->pauses == 0
                   ? NULL
                   : "only a member that waits for its first RESUME can be given disks alone";
    if (s->m->state != MACHINE_AWAITING_RESTORE)
        return "it was not started with --incoming, or has been restored already";
    if ((s->m->ram != NULL && s->m->lazy_fd < 0) || s->restore_tried)
        return "an earlier restore failed half-way; start a new process";
    if (request->lazy != (s->m->lazy_fd >= 0) && !request->check_only)
        return "its RAM comes with RESTORE or with LAZY, not both and not neither";
    return NULL;
}

/* What is wrong with what comes along, or NULL. */
static const char *
restore_check_load(const MemberServer *s, const District__MemberRestoreRequest *request,
                   guint n_fds)
{
    const char *wrong = NULL;
    guint disk_fds = member_disks_restore_fds(s->disks, request, &wrong);

    if (request->check_only && n_fds != 0)
        return "a request that only checks carries no descriptor";
    if (!request->check_only && wrong != NULL)
        return wrong;
    if (!request->check_only && n_fds != disk_fds + !(request->disks_only || request->lazy))
        return "the request must carry the guest's RAM and two descriptors for each overlay";
    if (request->disks_only)
        return NULL;
    if (request->state_len == 0 || request->state_len > STATE_BYTES_MAX)
        return "the length of its state is out of range";
    if (request->vmgenid.len != 0 && request->vmgenid.len != VMGENID_BYTES)
        return "the VM generation id must have 16 bytes";
    return NULL;
}

static gboolean
restore_check(const MemberServer *s, const District__MemberRestoreRequest *request, guint n_fds,
              GError **error)
{
    const char *wrong = restore_check_state(s, request);

    if (wrong == NULL)
        wrong = restore_check_load(s, request, n_fds);
    if (wrong == NULL)
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE, "%s cannot be restored: %s", s->m->name,
                wrong);
    return FALSE;
}

static gboolean
op_restore(MemberServer *s, const District__MemberRestoreRequest *request, int *fds, guint n_fds,
           Reply *reply, GError **error)
{
    g_autofree uint8_t *state = NULL;

    if (!restore_check(s, request, n_fds, error))
        return FALSE;
    district__member_restore_reply__init(&reply->restore);
    reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_RESTORE;
    reply->msg.restore = &reply->restore;
    if (request->disks_only)
        return member_disks_restore(s->disks, request, fds, error);
    /* A copy: the client can write the memfd while it is read. */
    state = g_memdup2(s->state, request->state_len);
    if (request->check_only)
        return state_check_blob(s->m, state, request->state_len, error);
    int *ram_fd = request->lazy ? NULL : fds++;
    StateRestore restore = {.ram_fd = ram_fd != NULL ? *ram_fd : -1,
                            .ram_known = request->ram_known,
                            .journal_current = request->journal_current,
                            .vmgenid = request->vmgenid.len > 0 ? request->vmgenid.data : NULL};
    s->restore_tried = request->lazy;
    gboolean restored = state_restore(s->m, state, request->state_len, &restore, error);
    if (ram_fd != NULL && s->m->ram_fd == *ram_fd)
        *ram_fd = -1; /* the machine's now */
    if (!restored || !member_disks_restore(s->disks, request, fds, error))
        return FALSE;
    machine_restored(s->m);
    return TRUE;
}

static gboolean
op_lazy(MemberServer *s, const District__MemberLazyRequest *request, int *fds, guint n_fds,
        Reply *reply, GError **error)
{
    gboolean done;

    if (n_fds != (request->done ? 0 : 1)) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                    "%s: LAZY begins with the guest's RAM, and ends without a descriptor",
                    s->m->name);
        return FALSE;
    }
    district__member_lazy_reply__init(&reply->lazy);
    reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_LAZY;
    reply->msg.lazy = &reply->lazy;
    if (request->done)
        return lazy_ram_end(s->m, error);
    done = lazy_ram_begin(s->m, fds[0], error);
    if (s->m->ram_fd == fds[0])
        fds[0] = -1; /* the machine's now */
    if (!done)
        return FALSE;
    reply->lazy.ram_address = (uint64_t)(uintptr_t)s->m->ram;
    reply->fds[reply->n_fds++] = s->m->lazy_fd;
    return TRUE;
}

/* Resident memory that is not shared memory (guest RAM is). */
static uint64_t
rss_beside_ram(void)
{
    g_autofree char *status = NULL;
    uint64_t kib = 0;

    if (!g_file_get_contents("/proc/self/status", &status, NULL, NULL))
        return 0;
    for (char *line = status; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (g_str_has_prefix(line, "RssAnon:") || g_str_has_prefix(line, "RssFile:"))
            kib += g_ascii_strtoull(line + strlen("RssAnon:"), NULL, 10);
    }
    return kib * 1024;
}

static void
op_describe(MemberServer *s, Reply *reply)
{
    const char *serial = s->hooks.serial_path(s->hooks.opaque);
    const char *waiting = disks_waiting(s->disks);

    district__member_describe_reply__init(&reply->describe);
    reply->describe.state = member_state(s->m);
    reply->describe.rss_bytes = rss_beside_ram();
    reply->describe.harvests = s->harvests;
    reply->describe.pauses = s->pauses;
    if (serial != NULL)
        reply->describe.serial_path = (char *)serial;
    if (waiting != NULL)
        reply->describe.waiting = (char *)waiting;
    if (s->m->state == MACHINE_SHUTDOWN) {
        reply->describe.n_disks = member_disks_cut(s->disks, &reply->disks);
        reply->describe.disks = reply->disks.cut_list;
    }
    reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_DESCRIBE;
    reply->msg.describe = &reply->describe;
}

static gboolean
op_power_button(MemberServer *s, Reply *reply, GError **error)
{
    if (s->m->state != MACHINE_RUNNING && s->m->state != MACHINE_PAUSED) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                    "%s is %s: there is no guest that could notice its power button", s->m->name,
                    machine_state_name(s->m->state));
        return FALSE;
    }
    district__member_power_button_reply__init(&reply->power_button);
    machine_lock(s->m);
    reply->power_button.heard = acpi_pm_power_button(s->m);
    machine_unlock(s->m);
    reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_POWER_BUTTON;
    reply->msg.power_button = &reply->power_button;
    return TRUE;
}

static gboolean
op_disks(MemberServer *s, const District__MemberDisksRequest *request, Reply *reply, GError **error)
{
    if (!member_disks_note(s->disks, request, error)) {
        g_prefix_error(error, "%s: ", s->m->name);
        return FALSE;
    }
    district__member_disks_reply__init(&reply->noted);
    if (s->m->state == MACHINE_SHUTDOWN) {
        reply->noted.n_disks = member_disks_cut(s->disks, &reply->disks);
        reply->noted.disks = reply->disks.cut_list;
    }
    reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_DISKS;
    reply->msg.disks = &reply->noted;
    return TRUE;
}

static gboolean
op_dispatch(MemberServer *s, const District__MemberRequest *request, int *fds, guint n_fds,
            Reply *reply, GError **error)
{
    switch (request->op_case) {
    case DISTRICT__MEMBER_REQUEST__OP_HELLO:
        return op_hello(s, request->hello, reply, error);
    case DISTRICT__MEMBER_REQUEST__OP_HARVEST:
        return op_harvest(s, reply, error);
    case DISTRICT__MEMBER_REQUEST__OP_PAUSE:
        return op_pause(s, request->pause, reply, error);
    case DISTRICT__MEMBER_REQUEST__OP_RESUME:
        return op_resume(s, request->resume, reply, error);
    case DISTRICT__MEMBER_REQUEST__OP_RESTORE:
        return op_restore(s, request->restore, fds, n_fds, reply, error);
    case DISTRICT__MEMBER_REQUEST__OP_DISKS:
        return op_disks(s, request->disks, reply, error);
    case DISTRICT__MEMBER_REQUEST__OP_LAZY:
        return op_lazy(s, request->lazy, fds, n_fds, reply, error);
    case DISTRICT__MEMBER_REQUEST__OP_DESCRIBE:
        op_describe(s, reply);
        return TRUE;
    case DISTRICT__MEMBER_REQUEST__OP_POWER_BUTTON:
        return op_power_button(s, reply, error);
    case DISTRICT__MEMBER_REQUEST__OP_QUIT:
        s->quit = true;
        district__member_quit_reply__init(&reply->quit);
        reply->msg.op_case = DISTRICT__MEMBER_REPLY__OP_QUIT;
        reply->msg.quit = &reply->quit;
        return TRUE;
    default:
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_CONFIG,
                    "%s: unknown request; district-ckpt and district-vmm differ in version",
                    s->m->name);
        return FALSE;
    }
}

/* ---- Connections ---- */

static void
client_drop(MemberServer *s)
{
    g_autoptr(GError) error = NULL;

    if (s->client_fd < 0)
        return;
    g_clear_handle_id(&s->client_source, g_source_remove);
    g_clear_handle_id(&s->wait_source, g_source_remove);
    close(s->client_fd);
    s->client_fd = -1;
    s->waiting.pause_waits = false; /* the next client has not asked for it */
    stir_disarm(s->m->stir);
    member_disks_bye(s->disks);
    if (s->paused_by_client && s->m->state == MACHINE_PAUSED) {
        if (machine_resume(s->m, &error))
            g_message("district-ckpt went away during a pause: the guest runs on");
        else
            g_warning("%s", error->message);
    }
    machine_calm(s->m);
    s->paused_by_client = false;
    if (s->m->state == MACHINE_SHUTDOWN)
        s->hooks.shutdown_seen(s->hooks.opaque);
}

static gboolean
client_waited(void *opaque)
{
    MemberServer *s = opaque;

    s->wait_source = 0;
    s->reset_is_slow = true;
    member_server_go_on(s);
    return G_SOURCE_REMOVE;
}

/*
 * A guest reset is none of the client's business: a PAUSE that meets one waits until the guest has
 * been booted anew. But the reset waits for disks, which may have no room for long, and the client
 * has other members: it is refused in the end, and the next one at once.
 */
static bool
client_must_wait(MemberServer *s, const District__MemberRequest *request)
{
    bool reset;

    if (request->op_case != DISTRICT__MEMBER_REQUEST__OP_PAUSE || s->reset_is_slow)
        return false;
    machine_lock(s->m);
    reset = s->m->exit_wanted == EXIT_RESET;
    machine_unlock(s->m);
    if (reset) {
        s->waiting.pause_waits = true;
        s->waiting.pause_save = request->pause->save_state;
        s->waiting.pause_hold = request->pause->hold;
        s->waiting.pause_id = request->id;
        if (s->wait_source == 0)
            s->wait_source = g_timeout_add(RESET_WAIT_MS, client_waited, s);
    }
    return reset;
}

static gboolean
client_answer(MemberServer *s, const District__MemberRequest *request, int *fds, guint n_fds,
              GError **error)
{
    g_autoptr(GError) failed = NULL;
    Reply reply = {.disks.link_fd = -1};
    gboolean sent;

    district__member_reply__init(&reply.msg);
    reply.msg.id = request->id;
    if (!op_dispatch(s, request, fds, n_fds, &reply, &failed)) {
        if (client_must_wait(s, request))
            return TRUE;
        reply.msg.error = failed->message;
        reply.msg.op_case = DISTRICT__MEMBER_REPLY__OP__NOT_SET;
        reply.n_fds = 0;
    }
    sent = pbmsg_send(s->client_fd, &reply.msg.base, reply.fds, reply.n_fds, SEND_LIMIT_MS, error);
    if (reply.disks.link_fd >= 0)
        close(reply.disks.link_fd);
    return sent;
}

static gboolean
client_request(MemberServer *s, GError **error)
{
    int fds[1 + MEMBER_DISK_FDS_MAX];
    guint n_fds = G_N_ELEMENTS(fds);
    District__MemberRequest *request;
    gboolean answered;

    request = (District__MemberRequest *)pbmsg_recv(
        s->client_fd, &district__member_request__descriptor, fds, &n_fds, 0, error);
    if (request == NULL)
        return FALSE;
    answered = client_answer(s, request, fds, n_fds, error);
    machine_calm(s->m);
    fdmsg_close_fds(fds, n_fds);
    district__member_request__free_unpacked(request, NULL);
    if (answered && s->quit)
        s->hooks.quit(s->hooks.opaque);
    return answered;
}

static gboolean
client_ready(int fd, GIOCondition condition, void *opaque)
{
    MemberServer *s = opaque;
    g_autoptr(GError) error = NULL;

    if (client_request(s, &error) || g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_TIMEOUT))
        return G_SOURCE_CONTINUE;
    if (!g_error_matches(error, FDMSG_ERROR, FDMSG_ERROR_CLOSED))
        g_warning("member socket: %s", error->message);
    s->client_source = 0;
    client_drop(s);
    return G_SOURCE_REMOVE;
}

static void
client_adopt(MemberServer *s, int fd)
{
    s->client_fd = fd;
    s->client_source = g_unix_fd_add_full(G_PRIORITY_HIGH, fd, G_IO_IN | G_IO_HUP | G_IO_ERR,
                                          client_ready, s, NULL);
}

static gboolean
listen_ready(int fd, GIOCondition condition, void *opaque)
{
    MemberServer *s = opaque;
    g_autoptr(GError) error = NULL;
    int client = fdmsg_accept(fd, &error);

    if (client < 0) {
        g_debug("member socket: %s", error->message);
        return G_SOURCE_CONTINUE;
    }
    if (s->client_fd >= 0)
        g_message("a new connection replaces the old one");
    client_drop(s);
    client_adopt(s, client);
    return G_SOURCE_CONTINUE;
}

/* ---- Creation ---- */

static gboolean
server_memory_init(MemberServer *s, const MemberHandover *inherited, GError **error)
{
    uint64_t bitmap_bytes = pagebits_bytes(page_count(s->m->ram_size));

    s->bitmap_fd = inherited->bitmap;
    s->state_fd = inherited->state;
    if (s->bitmap_fd < 0)
        s->bitmap_fd = memfd_create_sealed("dirty-bitmap", bitmap_bytes, error);
    if (s->bitmap_fd < 0)
        return FALSE;
    if (s->state_fd < 0)
        s->state_fd = memfd_create_sealed("vm-state", STATE_BYTES_MAX, error);
    if (s->state_fd < 0)
        return FALSE;
    s->bitmap = memfd_map(s->bitmap_fd, bitmap_bytes, TRUE, error);
    if (s->bitmap == NULL)
        return FALSE;
    s->state = memfd_map(s->state_fd, STATE_BYTES_MAX, TRUE, error);
    return s->state != NULL;
}

MemberServer *
member_server_new(Machine *m, const Disks *disks, const char *path, const MemberHandover *inherited,
                  const MemberServerHooks *hooks, GError **error)
{
    MemberServer *s = g_new0(MemberServer, 1);

    s->m = m;
    s->disks = disks;
    s->path = g_strdup(path);
    s->hooks = *hooks;
    s->client_fd = -1;
    if (!server_memory_init(s, inherited, error))
        return NULL;
    s->listen_fd = inherited->listen >= 0 ? inherited->listen : fdmsg_listen(path, error);
    if (s->listen_fd < 0)
        return NULL;
    g_unix_fd_add_full(G_PRIORITY_HIGH, s->listen_fd, G_IO_IN, listen_ready, s, NULL);
    if (inherited->client >= 0)
        client_adopt(s, inherited->client);
    s->waiting = *inherited;
    return s;
}

bool
member_server_has_client(const MemberServer *server)
{
    return server->client_fd >= 0;
}

MemberHandover
member_server_handover(const MemberServer *server)
{
    return (MemberHandover){
        .ram = server->m->ram_fd,
        .bitmap = server->bitmap_fd,
        .state = server->state_fd,
        .listen = server->listen_fd,
        .client = server->client_fd,
        .stir = stir_fd(server->m->stir),
        .pause_waits = server->waiting.pause_waits,
        .pause_save = server->waiting.pause_save,
        .pause_hold = server->waiting.pause_hold,
        .pause_id = server->waiting.pause_id,
    };
}

void
member_server_go_on(MemberServer *server)
{
    District__MemberPauseRequest pause = DISTRICT__MEMBER_PAUSE_REQUEST__INIT;
    District__MemberRequest request = DISTRICT__MEMBER_REQUEST__INIT;
    g_autoptr(GError) error = NULL;

    if (!server->waiting.pause_waits)
        return;
    server->waiting.pause_waits = false;
    request.id = server->waiting.pause_id;
    request.op_case = DISTRICT__MEMBER_REQUEST__OP_PAUSE;
    request.pause = &pause;
    pause.save_state = server->waiting.pause_save;
    pause.hold = server->waiting.pause_hold;
    bool answered = client_answer(server, &request, NULL, 0, &error);
    machine_calm(server->m);
    if (answered)
        return;
    g_warning("member socket: %s", error->message);
    client_drop(server);
}

void
member_server_close(MemberServer *server, bool ended)
{
    g_autofree char *mark = g_strconcat(server->path, ".ended", NULL);
    int fd = ended ? open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;

    if (fd >= 0)
        close(fd);
    else if (ended)
        g_warning("%s: %s", mark, g_strerror(errno));
    lazy_ram_unshare(server->m);
    unlink(server->path);
}
