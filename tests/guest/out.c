/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text output of the tiny guest: the debug console at 0xE9, or the first serial port. */
#include "cpu.h"

#define PORT_DEBUGCON 0xE9
#define PORT_SERIAL 0x3F8
#define SERIAL_LSR 5
#define LSR_THR_EMPTY 0x20

static volatile uint32_t out_lock;

static uint32_t
lock_exchange(uint32_t value)
{
    __asm__ volatile("xchgl %0, %1" : "+r"(value), "+m"(out_lock) : : "memory");
    return value;
}

static void
out_char(char c)
{
    if (header->params.out == GUEST_OUT_DEBUGCON) {
        port_out8(PORT_DEBUGCON, (uint8_t)c);
        return;
    }
    while (!(port_in8(PORT_SERIAL + SERIAL_LSR) & LSR_THR_EMPTY))
        ;
    port_out8(PORT_SERIAL, (uint8_t)c);
}

void
out_begin(void)
{
    while (lock_exchange(1) != 0)
        __asm__ volatile("pause");
}

void
out_text(const char *text)
{
    while (*text != '\0')
        out_char(*text++);
}

void
out_number(uint64_t n)
{
    char digits[20];
    unsigned len = 0;

    do {
        digits[len++] = (char)('0' + n % 10);
        n /= 10;
    } while (n != 0);
    while (len > 0)
        out_char(digits[--len]);
}

void
out_hex(uint64_t n, unsigned digits)
{
    while (digits-- > 0)
        out_char("0123456789abcdef"[(n >> (digits * 4)) & 15]);
}

void
out_end(void)
{
    out_char('\n');
    lock_exchange(0);
}

void
guest_fail(const char *text)
{
    out_begin();
    out_text("error ");
    out_text(text);
    out_end();
    cpu_halt();
}
