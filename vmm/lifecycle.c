/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine's states and how it moves between them.
 *
 * Theory of operation. A pause has a fixed order: vCPUs out, devices at rest, state saved, last
 * harvest. Each step can only add to what the next one must see: devices may write guest memory
 * while they come to rest and while they are saved, so the harvest is last. What of it does not wait
 * for devices is done by the vCPUs' threads meanwhile: saving the vCPUs, emptying KVM's dirty log.
 */
#include "vmm/lifecycle.h"

#include "common/clock.h"
#include "common/trace.h"
#include "common/urgent.h"
#include "vmm/state.h"
#include "vmm/vcpu_state.h"

/* Allowed moves: moves[from][to]. */
static const bool moves[4][4] = {
    [MACHINE_AWAITING_RESTORE] = {[MACHINE_PAUSED] = true, [MACHINE_SHUTDOWN] = true},
    [MACHINE_PAUSED] = {[MACHINE_RUNNING] = true, [MACHINE_SHUTDOWN] = true},
    [MACHINE_RUNNING] = {[MACHINE_PAUSED] = true, [MACHINE_SHUTDOWN] = true},
};

static void
machine_state_set(Machine *m, MachineState to)
{
    g_assert(moves[m->state][to]);
    m->state = to;
}

/* Bring devices to rest; vCPUs are out. */
static void
devices_stop(Machine *m)
{
    machine_lock(m);
    for (guint i = 0; i < m->devices->len; i++) {
        Device *device = m->devices->pdata[i];

        device->ops->stop(device);
    }
    machine_unlock(m);
}

/* The guest is to stand still, and waits for this thread. */
static void
machine_hurry(Machine *m)
{
    if (!m->urgent)
        urgent_set(0, true);
    m->urgent = true;
}

void
machine_calm(Machine *m)
{
    if (m->urgent && m->state != MACHINE_PAUSED)
        urgent_set(0, false);
    m->urgent = m->urgent && m->state == MACHINE_PAUSED;
}

static void
machine_start(Machine *m)
{
    machine_state_set(m, MACHINE_RUNNING);
    machine_lock(m);
    for (guint i = 0; i < m->devices->len; i++) {
        Device *device = m->devices->pdata[i];

        device->ops->start(device);
    }
    machine_unlock(m);
    vcpus_start(m->vcpus);
    trace_vmm_resumed(m->name);
}

static gboolean
machine_guest_gone(Machine *m, GError **error)
{
    bool gone;

    machine_lock(m);
    gone = m->exit_wanted != EXIT_NONE;
    machine_unlock(m);
    if (gone)
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE,
                    "%s: its guest is just powering off or resetting; ask again", m->name);
    return gone;
}

/*
 * Job, as soon as all vCPUs are out: save it. Then one of them takes what KVM has logged, while the
 * main thread saves the rest: nothing of that writes memory without dirtylog_mark().
 */
static gboolean
machine_save_vcpu(Vcpu *vcpu, void *unused, GError **error)
{
    return vcpu_state_save(vcpu, unused, error) &&
           (vcpu->id != 0 || dirtylog_collect(vcpu->m->dirty, error));
}

/* vCPUs out, and saving what is theirs if save is wanted; devices at rest. */
static gboolean
machine_rest(Machine *m, bool save, PauseTimes *times, GError **error)
{
    if (m->state == MACHINE_RUNNING) {
        if (!vcpus_stop(m->vcpus, save ? machine_save_vcpu : NULL, error))
            return FALSE;
        times->vcpus_out_ns = clock_monotonic_ns();
        trace_vmm_vcpus_out(m->name, times->vcpus_out_ns - times->requested_ns);
        devices_stop(m);
        machine_state_set(m, MACHINE_PAUSED);
    } else {
        times->vcpus_out_ns = clock_monotonic_ns();
        if (save)
            vcpus_job_start(m->vcpus, machine_save_vcpu, NULL);
    }
    times->devices_rest_ns = clock_monotonic_ns();
    trace_vmm_devices_rest(m->name, times->devices_rest_ns - times->vcpus_out_ns);
    return TRUE;
}

gboolean
machine_pause(Machine *m, uint8_t *state, size_t capacity, uint64_t *bits, PauseResult *result,
              GError **error)
{
    bool was_running = m->state == MACHINE_RUNNING;
    gboolean done;

    *result = (PauseResult){.times.requested_ns = clock_monotonic_ns()};
    trace_vmm_pause_asked(m->name);
    if (m->state != MACHINE_RUNNING && m->state != MACHINE_PAUSED) {
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE, "%s is %s: it cannot be paused",
                    m->name, machine_state_name(m->state));
        return FALSE;
    }
    /* A guest that has gone stays out while its end is being dealt with. */
    if (machine_guest_gone(m, error))
        return FALSE;
    if (was_running)
        machine_hurry(m);
    if (!machine_rest(m, state != NULL, &result->times, error))
        return FALSE;
    done = !machine_guest_gone(m, error) &&
           (state == NULL || state_save(m, state, capacity, &result->state_len, error));
    result->times.saved_ns = clock_monotonic_ns();
    trace_vmm_state_saved(m->name, result->state_len,
                          result->times.saved_ns - result->times.devices_rest_ns);
    if (done && state != NULL)
        result->pages = dirtylog_hand_out(m->dirty, bits);
    else if (done)
        done = dirtylog_harvest(m->dirty, bits, &result->pages, error);
    result->times.harvested_ns = clock_monotonic_ns();
    if (done)
        trace_vmm_harvested(m->name, result->pages,
                            result->times.harvested_ns - result->times.saved_ns);
    else if (was_running)
        machine_start(m);
    return done;
}

void
machine_restored(Machine *m)
{
    machine_state_set(m, MACHINE_PAUSED);
}

gboolean
machine_resume(Machine *m, GError **error)
{
    switch (m->state) {
    case MACHINE_RUNNING:
        return TRUE;
    case MACHINE_PAUSED:
        machine_start(m);
        return TRUE;
    default:
        g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE, "%s is %s: it cannot run", m->name,
                    machine_state_name(m->state));
        return FALSE;
    }
}

void
machine_shut_down(Machine *m)
{
    g_autoptr(GError) error = NULL;

    if (m->state == MACHINE_RUNNING) {
        if (vcpus_stop(m->vcpus, NULL, &error))
            devices_stop(m);
        else
            g_warning("%s", error->message);
    }
    machine_state_set(m, MACHINE_SHUTDOWN);
}
