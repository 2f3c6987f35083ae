/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * 16550A serial port (National Semiconductor PC16550D data sheet) at 0x3F8.
 *
 * The line has no speed: a byte written is sent at once, so the transmitter is always empty, and a
 * THRE interrupt is due after every write and when the interrupt is switched on. Received bytes go
 * through the 16-byte FIFO (one byte with FIFOs off); with fewer than the trigger level the
 * character time-out is reported at once, as nothing is gained by waiting.
 */
#include "vmm/devices/chardev.h"
#include "vmm/devices/devices.h"
#include "vmm/devices/state.h"

#include "devices.pb-c.h"

#include <string.h>

#define SERIAL_PORT 0x3F8
#define SERIAL_PORTS 8
#define FIFO_BYTES 16

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCRATCH };

#define IER_RDA 0x01
#define IER_THRE 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08
#define IER_BITS 0x0F

#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_THRE 0x02
#define IIR_RDA 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0C
#define IIR_FIFO 0xC0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_TRIGGER_SHIFT 6
#define FCR_KEPT 0xC9 /* enable, DMA mode, trigger */

#define LCR_DLAB 0x80

#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_BITS 0x1F

#define LSR_READY 0x01
#define LSR_OVERRUN 0x02
#define LSR_EMPTY 0x60 /* THRE and TEMT */
#define LSR_ERRORS 0x1E

#define MSR_TERI 0x04
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80
#define MSR_LINES 0xF0

typedef struct Serial {
    Device device;
    Machine *machine;
    Chardev *chardev;
    uint8_t ier, lcr, mcr, fcr, scratch;
    uint8_t lsr_errors;
    uint8_t msr_delta; /* low four bits of MSR */
    uint16_t divisor;
    bool thr_pending;
    bool irq_level; /* as last told to the machine */
    uint8_t fifo[FIFO_BYTES];
    unsigned fifo_count;
} Serial;

/* One process, one machine (machine.h); serial_pty_path finds it here. */
static Serial *the_serial;

static unsigned
fifo_size(const Serial *serial)
{
    return serial->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static unsigned
fifo_trigger(const Serial *serial)
{
    static const uint8_t level[] = {1, 4, 8, 14};

    return serial->fcr & FCR_ENABLE ? level[serial->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* Modem lines: the cable's far end is always there; in loopback they follow MCR. */
static uint8_t
modem_lines(const Serial *serial)
{
    uint8_t mcr = serial->mcr;

    if (!(mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (uint8_t)((mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
                     (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0));
}

/* Highest pending and enabled interrupt, in the order of the data sheet's table. */
static uint8_t
interrupt_id(const Serial *serial)
{
    if ((serial->ier & IER_LINE) && serial->lsr_errors)
        return IIR_LINE;
    if ((serial->ier & IER_RDA) && serial->fifo_count > 0)
        return serial->fifo_count >= fifo_trigger(serial) ? IIR_RDA : IIR_TIMEOUT;
    if ((serial->ier & IER_THRE) && serial->thr_pending)
        return IIR_THRE;
    if ((serial->ier & IER_MODEM) && serial->msr_delta)
        return IIR_MODEM;
    return IIR_NONE;
}

static void
update_irq(Serial *serial)
{
    bool level = interrupt_id(serial) != IIR_NONE;

    if (level != serial->irq_level)
        machine_irq_level(serial->machine, GSI_SERIAL, level);
    serial->irq_level = level;
}

static void
receive_byte(Serial *serial, uint8_t byte)
{
    if (serial->fifo_count >= fifo_size(serial)) {
        serial->lsr_errors |= LSR_OVERRUN;
        return;
    }
    serial->fifo[serial->fifo_count++] = byte;
}

static uint8_t
take_byte(Serial *serial)
{
    uint8_t byte = serial->fifo[0];

    if (serial->fifo_count == 0)
        return 0;
    serial->fifo_count--;
    memmove(serial->fifo, serial->fifo + 1, serial->fifo_count);
    if (serial->fifo_count == 0)
        chardev_input_resume(serial->chardev);
    return byte;
}

static uint8_t
serial_read(Serial *serial, unsigned reg)
{
    uint8_t value;

    if ((serial->lcr & LCR_DLAB) && reg <= REG_IER)
        return (uint8_t)(serial->divisor >> (reg == REG_IER ? 8 : 0));
    switch (reg) {
    case REG_DATA:
        return take_byte(serial);
    case REG_IER:
        return serial->ier;
    case REG_IIR_FCR:
        value = interrupt_id(serial);
        if (value == IIR_THRE)
            serial->thr_pending = false;
        return value | (serial->fcr & FCR_ENABLE ? IIR_FIFO : 0);
    case REG_LCR:
        return serial->lcr;
    case REG_MCR:
        return serial->mcr;
    case REG_LSR:
        value = LSR_EMPTY | serial->lsr_errors | (serial->fifo_count ? LSR_READY : 0);
        serial->lsr_errors = 0;
        return value;
    case REG_MSR:
        value = modem_lines(serial) | serial->msr_delta;
        serial->msr_delta = 0;
        return value;
    default:
        return serial->scratch;
    }
}

static void
write_data(Serial *serial, uint8_t value)
{
    if (serial->mcr & MCR_LOOP)
        receive_byte(serial, value);
    else
        chardev_write(serial->chardev, &value, 1);
    serial->thr_pending = true;
}

static void
write_ier(Serial *serial, uint8_t value)
{
    /* Switching the interrupt on with an empty transmitter raises it (drivers probe for this). */
    if ((value & IER_THRE) && !(serial->ier & IER_THRE))
        serial->thr_pending = true;
    serial->ier = value & IER_BITS;
}

static void
write_fcr(Serial *serial, uint8_t value)
{
    bool toggled = (value ^ serial->fcr) & FCR_ENABLE;

    if (toggled || (value & FCR_CLEAR_RX)) {
        serial->fifo_count = 0;
        chardev_input_resume(serial->chardev);
    }
    serial->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

static void
write_mcr(Serial *serial, uint8_t value)
{
    uint8_t before = modem_lines(serial), changed;

    serial->mcr = value & MCR_BITS;
    changed = before ^ modem_lines(serial);
    serial->msr_delta |= (changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4;
    if ((changed & MSR_RI) && (before & MSR_RI))
        serial->msr_delta |= MSR_TERI; /* trailing edge only */
    if (!(serial->mcr & MCR_LOOP))
        chardev_input_resume(serial->chardev);
}

static void
serial_write(Serial *serial, unsigned reg, uint8_t value)
{
    if ((serial->lcr & LCR_DLAB) && reg <= REG_IER) {
        unsigned shift = reg == REG_IER ? 8 : 0;
        serial->divisor = (uint16_t)((serial->divisor & ~(0xFF << shift)) | value << shift);
        return;
    }
    switch (reg) {
    case REG_DATA:
        write_data(serial, value);
        break;
    case REG_IER:
        write_ier(serial, value);
        break;
    case REG_IIR_FCR:
        write_fcr(serial, value);
        break;
    case REG_LCR:
        serial->lcr = value;
        break;
    case REG_MCR:
        write_mcr(serial, value);
        break;
    case REG_SCRATCH:
        serial->scratch = value;
        break;
    default: /* LSR and MSR are read-only */
        break;
    }
}

static void
serial_access(void *opaque, uint64_t offset, uint8_t *data, unsigned len, bool write)
{
    Serial *serial = opaque;

    for (unsigned i = 0; i < len && offset + i < SERIAL_PORTS; i++) {
        if (write)
            serial_write(serial, (unsigned)offset + i, data[i]);
        else
            data[i] = serial_read(serial, (unsigned)offset + i);
    }
    update_irq(serial);
}

static size_t
serial_room(void *opaque)
{
    Serial *serial = opaque;

    if (serial->mcr & MCR_LOOP)
        return 0;
    return serial->fifo_count < fifo_size(serial) ? fifo_size(serial) - serial->fifo_count : 0;
}

static void
serial_input(void *opaque, const uint8_t *data, size_t len)
{
    Serial *serial = opaque;

    for (size_t i = 0; i < len; i++)
        receive_byte(serial, data[i]);
    update_irq(serial);
}

static const ChardevOps serial_chardev_ops = {.room = serial_room, .input = serial_input};

static void
serial_stop(Device *device)
{
    Serial *serial = device->opaque;
    chardev_stop(serial->chardev);
}

static void
serial_start(Device *device)
{
    Serial *serial = device->opaque;

    chardev_start(serial->chardev);
    serial->irq_level = interrupt_id(serial) != IIR_NONE;
    machine_irq_level(serial->machine, GSI_SERIAL, serial->irq_level);
}

static void
serial_dump(Device *device, GByteArray *out)
{
    Serial *serial = device->opaque;
    District__SerialState state = DISTRICT__SERIAL_STATE__INIT;

    state.ier = serial->ier;
    state.lcr = serial->lcr;
    state.mcr = serial->mcr;
    state.lsr_errors = serial->lsr_errors;
    state.scratch = serial->scratch;
    state.fcr = serial->fcr;
    state.divisor = serial->divisor;
    state.thr_pending = serial->thr_pending;
    state.fifo.data = serial->fifo;
    state.fifo.len = serial->fifo_count;
    state.msr_delta = serial->msr_delta;
    state_append(out, &state.base);
}

STATE_DEFINE_AUTOPTR(District__SerialState)

static gboolean
serial_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    Serial *serial = device->opaque;
    g_autoptr(District__SerialState) state = (District__SerialState *)state_parse(
        "serial", &district__serial_state__descriptor, data, len, error);

    if (!state)
        return FALSE;
    if ((state->ier & ~IER_BITS) || state->lcr > UINT8_MAX || (state->mcr & ~MCR_BITS) ||
        (state->lsr_errors & ~LSR_ERRORS) || state->scratch > UINT8_MAX ||
        (state->fcr & ~FCR_KEPT) || state->divisor > UINT16_MAX || (state->msr_delta & MSR_LINES) ||
        state->msr_delta > UINT8_MAX)
        return state_refuse(error, "serial", "a register has bits that the hardware has not");
    if (state->fifo.len > (state->fcr & FCR_ENABLE ? FIFO_BYTES : 1))
        return state_refuse(error, "serial", "%zu bytes in the FIFO", state->fifo.len);
    serial->ier = (uint8_t)state->ier;
    serial->lcr = (uint8_t)state->lcr;
    serial->mcr = (uint8_t)state->mcr;
    serial->lsr_errors = (uint8_t)state->lsr_errors;
    serial->scratch = (uint8_t)state->scratch;
    serial->fcr = (uint8_t)state->fcr;
    serial->divisor = (uint16_t)state->divisor;
    serial->thr_pending = state->thr_pending;
    serial->msr_delta = (uint8_t)state->msr_delta;
    serial->fifo_count = (unsigned)state->fifo.len;
    if (state->fifo.len > 0)
        memcpy(serial->fifo, state->fifo.data, state->fifo.len);
    return TRUE;
}

static const DeviceOps serial_ops = {
    .kind = "serial",
    .version = 1,
    .stop = serial_stop,
    .dump = serial_dump,
    .restore = serial_restore,
    .start = serial_start,
};

gboolean
serial_init(Machine *m, const char *spec, const char *log_path, GError **error)
{
    Serial *serial = g_new0(Serial, 1);

    serial->device.ops = &serial_ops;
    serial->device.opaque = serial;
    serial->machine = m;
    serial->divisor = 1; /* 115200 */
    serial->chardev = chardev_open(m, spec, log_path, &serial_chardev_ops, serial, error);
    if (!serial->chardev) {
        g_prefix_error(error, "serial port: ");
        g_free(serial);
        return FALSE;
    }
    if (!machine_io_add(m, IO_PORT, SERIAL_PORT, SERIAL_PORTS, serial_access, serial)) {
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_CONFIG,
                    "serial port: ports 0x%x-0x%x are taken by another device", SERIAL_PORT,
                    SERIAL_PORT + SERIAL_PORTS - 1);
        chardev_free(serial->chardev);
        g_free(serial);
        return FALSE;
    }
    the_serial = serial;
    machine_add_device(m, &serial->device);
    return TRUE;
}

const char *
serial_pty_path(Machine *m)
{
    return the_serial && the_serial->machine == m ? chardev_pty_path(the_serial->chardev) : NULL;
}
