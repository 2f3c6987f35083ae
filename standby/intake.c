/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The intake: carries what a stream's Receiver has verified into the shadow. */
#include "standby/intake.h"

#include "common/clock.h"
#include "common/trace.h"
#include "standby/error.h"
#include "standby/journals.h"

#include <string.h>

struct Intake {
    Keeper *keeper;
    IntakeCommitted committed;
    gpointer opaque;
    uint64_t incarnation;
    uint32_t heartbeat_ms;
    Shadow *fresh;    /* of the open full epoch, not committed yet */
    int64_t begun_ns; /* when the open epoch began */
    Journals *journals;
};

Intake *
intake_new(Keeper *keeper, IntakeCommitted committed, IntakeJournaled journaled, gpointer opaque)
{
    Intake *intake = g_new0(Intake, 1);

    intake->keeper = keeper;
    intake->committed = committed;
    intake->opaque = opaque;
    intake->journals = journals_new(keeper_disk_dir(keeper), journaled, opaque);
    return intake;
}

void
intake_stop(Intake *intake)
{
    g_clear_pointer(&intake->journals, journals_free);
}

void
intake_free(Intake *intake)
{
    intake_stop(intake);
    shadow_free(intake->fresh);
    g_free(intake);
}

uint64_t
intake_incarnation(const Intake *intake)
{
    return intake->incarnation;
}

uint32_t
intake_heartbeat_ms(const Intake *intake)
{
    return intake->heartbeat_ms;
}

static gboolean
intake_hello(void *opaque, const District__StreamHello *hello, GError **error)
{
    Intake *intake = opaque;

    if (strcmp(hello->district, keeper_district(intake->keeper)) != 0) {
        g_set_error(error, STANDBY_ERROR, STANDBY_REFUSED,
                    "a stream of district %s came to the standby of district %s", hello->district,
                    keeper_district(intake->keeper));
        return FALSE;
    }
    intake->incarnation = hello->incarnation;
    intake->heartbeat_ms = hello->heartbeat_ms;
    return keeper_admit(intake->keeper, hello->incarnation, error);
}

/* Where the open epoch goes. */
static Shadow *
intake_target(Intake *intake)
{
    return intake->fresh != NULL ? intake->fresh : keeper_shadow(intake->keeper);
}

static gboolean
begin_increment(Intake *intake, const District__StreamEpochBegin *begin, GError **error)
{
    Shadow *shadow = keeper_shadow(intake->keeper);

    if (shadow == NULL || shadow_incarnation(shadow) != intake->incarnation) {
        g_set_error(error, STANDBY_ERROR, STANDBY_DAMAGED,
                    "epoch %" G_GUINT64_FORMAT " builds on epoch %" G_GUINT64_FORMAT
                    " of incarnation %" G_GUINT64_FORMAT ", which is not here: send a full epoch",
                    begin->epoch, begin->base_epoch, intake->incarnation);
        return FALSE;
    }
    return shadow_begin(shadow, begin, error);
}

/* A full epoch takes the place of what is committed: it must be newer. */
static gboolean
begin_full(Intake *intake, const District__StreamEpochBegin *begin, GError **error)
{
    const Shadow *shadow = keeper_shadow(intake->keeper);

    if (shadow != NULL && shadow_incarnation(shadow) == intake->incarnation &&
        begin->epoch <= shadow_committed(shadow)) {
        g_set_error(error, STANDBY_ERROR, STANDBY_DAMAGED,
                    "full epoch %" G_GUINT64_FORMAT " of incarnation %" G_GUINT64_FORMAT
                    " is not newer than epoch %" G_GUINT64_FORMAT ", which is committed here",
                    begin->epoch, intake->incarnation, shadow_committed(shadow));
        return FALSE;
    }
    if (!keeper_held(intake->keeper, error))
        return FALSE;
    intake->fresh = shadow_new(keeper_district(intake->keeper), intake->incarnation,
                               keeper_disk_dir(intake->keeper), begin, error);
    return intake->fresh != NULL;
}

static gboolean
intake_begin(void *opaque, const District__StreamEpochBegin *begin, GError **error)
{
    Intake *intake = opaque;

    intake->begun_ns = clock_monotonic_ns();
    trace_standby_begun(begin->epoch, begin->full);
    if (!keeper_admit(intake->keeper, intake->incarnation, error))
        return FALSE;
    return begin->full ? begin_full(intake, begin, error) : begin_increment(intake, begin, error);
}

static gboolean
intake_pages(void *opaque, uint32_t image, const DecodedPage *pages, uint32_t count, GError **error)
{
    return shadow_pages(intake_target(opaque), image, pages, count, error);
}

static gboolean
intake_state(void *opaque, const uint8_t *packed, size_t len, const District__CutState *state,
             GError **error)
{
    return shadow_state(intake_target(opaque), packed, len, state->realtime_ns, error);
}

static gboolean
intake_end(void *opaque, uint64_t epoch, GError **error)
{
    Intake *intake = opaque;
    int64_t verified_ns = clock_monotonic_ns();

    trace_standby_verified(epoch, verified_ns - intake->begun_ns);
    /* Superseded since it began? */
    if (!keeper_admit(intake->keeper, intake->incarnation, error))
        return FALSE;
    shadow_commit(intake_target(intake));
    if (intake->fresh != NULL)
        keeper_publish(intake->keeper, g_steal_pointer(&intake->fresh));
    intake->committed(epoch, intake->opaque);
    trace_standby_committed(epoch, clock_monotonic_ns() - verified_ns);
    return TRUE;
}

static gboolean
intake_journal(void *opaque, const District__StreamJournal *record, GError **error)
{
    Intake *intake = opaque;

    /* Superseded since it began? */
    return keeper_admit(intake->keeper, intake->incarnation, error) &&
           journals_push(intake->journals, record, error);
}

gboolean
intake_good(Intake *intake, GError **error)
{
    return journals_good(intake->journals, error);
}

static const uint8_t *
intake_content(void *opaque, uint32_t image, uint64_t page)
{
    return shadow_content(intake_target(opaque), image, page);
}

const ReceiverOps intake_ops = {
    .hello = intake_hello,
    .begin = intake_begin,
    .pages = intake_pages,
    .state = intake_state,
    .end = intake_end,
    .journal = intake_journal,
    .content = intake_content,
};
