/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * State of what KVM keeps for the whole VM: PICs, IOAPIC, PIT and kvmclock.
 *
 * The clock: kvmclock is saved together with the real time of that instant, and set to its saved
 * value plus the real time that has passed since. So guest time steps over the gap, as it does for
 * a machine that slept. The kernel does this sum by itself, and exactly, where it knows
 * KVM_CLOCK_REALTIME (5.16; KVM API §4.30); for older kernels it is done here, some microseconds
 * off.
 */
#include "vmm/state.h"

#include "common/clock.h"

#include <string.h>
#include <sys/ioctl.h>

static gboolean
pic_save(Machine *m, uint32_t chip, District__PicState *to, GError **error)
{
    struct kvm_irqchip irqchip = {.chip_id = chip};
    const struct kvm_pic_state *p = &irqchip.chip.pic;

    if (!machine_ioctl(m, KVM_GET_IRQCHIP, &irqchip, "read a PIC", error))
        return FALSE;
    *to = (District__PicState){
        .base = PROTOBUF_C_MESSAGE_INIT(&district__pic_state__descriptor),
        .last_irr = p->last_irr,
        .irr = p->irr,
        .imr = p->imr,
        .isr = p->isr,
        .priority_add = p->priority_add,
        .irq_base = p->irq_base,
        .read_reg_select = p->read_reg_select,
        .poll = p->poll,
        .special_mask = p->special_mask,
        .init_state = p->init_state,
        .auto_eoi = p->auto_eoi,
        .rotate_on_auto_eoi = p->rotate_on_auto_eoi,
        .special_fully_nested_mode = p->special_fully_nested_mode,
        .init4 = p->init4,
        .elcr = p->elcr,
        .elcr_mask = p->elcr_mask,
    };
    return TRUE;
}

static gboolean
pic_restore(Machine *m, uint32_t chip, const District__PicState *p, GError **error)
{
    struct kvm_irqchip irqchip = {
        .chip_id = chip,
        .chip.pic = {.last_irr = (uint8_t)p->last_irr,
                     .irr = (uint8_t)p->irr,
                     .imr = (uint8_t)p->imr,
                     .isr = (uint8_t)p->isr,
                     .priority_add = (uint8_t)p->priority_add,
                     .irq_base = (uint8_t)p->irq_base,
                     .read_reg_select = (uint8_t)p->read_reg_select,
                     .poll = (uint8_t)p->poll,
                     .special_mask = (uint8_t)p->special_mask,
                     .init_state = (uint8_t)p->init_state,
                     .auto_eoi = (uint8_t)p->auto_eoi,
                     .rotate_on_auto_eoi = (uint8_t)p->rotate_on_auto_eoi,
                     .special_fully_nested_mode = (uint8_t)p->special_fully_nested_mode,
                     .init4 = (uint8_t)p->init4,
                     .elcr = (uint8_t)p->elcr,
                     .elcr_mask = (uint8_t)p->elcr_mask},
    };

    return machine_ioctl(m, KVM_SET_IRQCHIP, &irqchip, "load a PIC", error);
}

static gboolean
ioapic_save(Machine *m, ChipFrame *f, GError **error)
{
    struct kvm_irqchip irqchip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    const struct kvm_ioapic_state *io = &irqchip.chip.ioapic;

    if (!machine_ioctl(m, KVM_GET_IRQCHIP, &irqchip, "read the IOAPIC", error))
        return FALSE;
    district__ioapic_state__init(&f->ioapic);
    f->ioapic.base_address = io->base_address;
    f->ioapic.ioregsel = io->ioregsel;
    f->ioapic.id = io->id;
    f->ioapic.irr = io->irr;
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        f->redirtbl[i] = io->redirtbl[i].bits;
    f->ioapic.redirtbl = f->redirtbl;
    f->ioapic.n_redirtbl = KVM_IOAPIC_NUM_PINS;
    return TRUE;
}

static gboolean
ioapic_restore(Machine *m, const District__IoapicState *io, GError **error)
{
    struct kvm_irqchip irqchip = {
        .chip_id = KVM_IRQCHIP_IOAPIC,
        .chip.ioapic = {.base_address = io->base_address,
                        .ioregsel = io->ioregsel,
                        .id = io->id,
                        .irr = io->irr},
    };

    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        irqchip.chip.ioapic.redirtbl[i].bits = io->redirtbl[i];
    return machine_ioctl(m, KVM_SET_IRQCHIP, &irqchip, "load the IOAPIC", error);
}

static gboolean
pit_save(Machine *m, ChipFrame *f, GError **error)
{
    struct kvm_pit_state2 pit = {0};

    if (!machine_ioctl(m, KVM_GET_PIT2, &pit, "read the PIT", error))
        return FALSE;
    district__pit_state__init(&f->pit);
    for (size_t i = 0; i < G_N_ELEMENTS(f->channels); i++) {
        const struct kvm_pit_channel_state *c = &pit.channels[i];

        f->channels[i] = (District__PitChannel){
            .base = PROTOBUF_C_MESSAGE_INIT(&district__pit_channel__descriptor),
            .count = c->count,
            .latched_count = c->latched_count,
            .count_latched = c->count_latched,
            .status_latched = c->status_latched,
            .status = c->status,
            .read_state = c->read_state,
            .write_state = c->write_state,
            .write_latch = c->write_latch,
            .rw_mode = c->rw_mode,
            .mode = c->mode,
            .bcd = c->bcd,
            .gate = c->gate,
        };
        f->channel_list[i] = &f->channels[i];
    }
    f->pit.channels = f->channel_list;
    f->pit.n_channels = G_N_ELEMENTS(f->channels);
    f->pit.flags = pit.flags;
    return TRUE;
}

static gboolean
pit_restore(Machine *m, const District__PitState *from, GError **error)
{
    struct kvm_pit_state2 pit = {.flags = from->flags};

    for (size_t i = 0; i < from->n_channels; i++) {
        const District__PitChannel *c = from->channels[i];

        /* count_load_time is this host's clock: the kernel sets it as it loads the count. */
        pit.channels[i] = (struct kvm_pit_channel_state){
            .count = c->count,
            .latched_count = (uint16_t)c->latched_count,
            .count_latched = (uint8_t)c->count_latched,
            .status_latched = (uint8_t)c->status_latched,
            .status = (uint8_t)c->status,
            .read_state = (uint8_t)c->read_state,
            .write_state = (uint8_t)c->write_state,
            .write_latch = (uint8_t)c->write_latch,
            .rw_mode = (uint8_t)c->rw_mode,
            .mode = (uint8_t)c->mode,
            .bcd = (uint8_t)c->bcd,
            .gate = (uint8_t)c->gate,
        };
    }
    return machine_ioctl(m, KVM_SET_PIT2, &pit, "load the PIT", error);
}

static gboolean
clock_save(Machine *m, ChipFrame *f, GError **error)
{
    struct kvm_clock_data clock = {0};

    if (!machine_ioctl(m, KVM_GET_CLOCK, &clock, "read the clock", error))
        return FALSE;
    district__clock_state__init(&f->clock);
    f->clock.kvmclock_ns = clock.clock;
    f->clock.realtime_ns =
        (clock.flags & KVM_CLOCK_REALTIME) ? (int64_t)clock.realtime : clock_realtime_ns();
    return TRUE;
}

gboolean
chip_state_save(Machine *m, District__VmState *state, ChipFrame *f, GError **error)
{
    if (!pic_save(m, KVM_IRQCHIP_PIC_MASTER, &f->pic[0], error) ||
        !pic_save(m, KVM_IRQCHIP_PIC_SLAVE, &f->pic[1], error) || !ioapic_save(m, f, error) ||
        !pit_save(m, f, error) || !clock_save(m, f, error))
        return FALSE;
    state->pic_master = &f->pic[0];
    state->pic_slave = &f->pic[1];
    state->ioapic = &f->ioapic;
    state->pit = &f->pit;
    state->clock = &f->clock;
    return TRUE;
}

gboolean
chip_state_check(const District__VmState *state, GError **error)
{
    const char *missing = NULL;

    if (state->pic_master == NULL || state->pic_slave == NULL)
        missing = "PIC";
    else if (state->ioapic == NULL || state->ioapic->n_redirtbl != KVM_IOAPIC_NUM_PINS)
        missing = "IOAPIC";
    else if (state->pit == NULL || state->pit->n_channels != 3)
        missing = "PIT";
    else if (state->clock == NULL)
        missing = "clock";
    if (missing == NULL)
        return TRUE;
    g_set_error(error, MACHINE_ERROR, MACHINE_ERROR_STATE, "its %s is missing or damaged", missing);
    return FALSE;
}

gboolean
chip_state_restore(Machine *m, const District__VmState *state, GError **error)
{
    return pic_restore(m, KVM_IRQCHIP_PIC_MASTER, state->pic_master, error) &&
           pic_restore(m, KVM_IRQCHIP_PIC_SLAVE, state->pic_slave, error) &&
           ioapic_restore(m, state->ioapic, error) && pit_restore(m, state->pit, error);
}

static uint64_t
elapsed_since(int64_t realtime_ns)
{
    int64_t now = clock_realtime_ns();

    return now > realtime_ns && realtime_ns > 0 ? (uint64_t)(now - realtime_ns) : 0;
}

uint64_t
clock_state_elapsed(const District__ClockState *clock)
{
    return elapsed_since(clock->realtime_ns);
}

uint64_t
machine_restore_elapsed_ns(Machine *m)
{
    return elapsed_since(m->saved_realtime_ns);
}

gboolean
clock_state_restore(Machine *m, const District__ClockState *from, GError **error)
{
    struct kvm_clock_data clock = {.clock = from->kvmclock_ns};
    uint64_t elapsed = clock_state_elapsed(from);

    /* With a host clock that is behind, guest time stands still rather than going back. */
    if (elapsed == 0) {
        /* as saved */
    } else if (ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_REALTIME) {
        clock.flags = KVM_CLOCK_REALTIME;
        clock.realtime = (uint64_t)from->realtime_ns;
    } else {
        clock.clock += elapsed;
    }
    return machine_ioctl(m, KVM_SET_CLOCK, &clock, "set the clock", error);
}
