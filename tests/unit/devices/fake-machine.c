/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A machine without a VM; see fake-machine.h. */
#include "fake-machine.h"

#include "common/page.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct Region {
    IoSpace space;
    uint64_t base, size;
    IoHandler handler;
    void *opaque;
} Region;

typedef struct Ioeventfd {
    uint64_t address;
    int fd;
} Ioeventfd;

struct Machine {
    GMutex mutex;
    size_t ram_size;
    uint8_t *ram;
    uint8_t *shadow; /* RAM as of the last fake_unlogged_pages, and pokes */
    bool *dirty;     /* by page */
    GArray *regions;
    GArray *ioeventfds;
    bool take_ioeventfds;
    unsigned ioeventfd_hits;
    GPtrArray *devices;
    GArray *msis; /* of uint32_t data */
    bool irq[64];
    int exit_wanted;
    unsigned stirs;
    uint64_t elapsed_ns;
    bool goes_back;
    bool running;
};

/* Keeps all machines reachable, for the leak checker. */
static GPtrArray *machines;

Machine *
fake_machine_new(size_t ram_size)
{
    Machine *m = g_new0(Machine, 1);

    g_mutex_init(&m->mutex);
    m->ram_size = ram_size;
    m->ram = mmap(NULL, ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    m->shadow = mmap(NULL, ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert(m->ram != MAP_FAILED && m->shadow != MAP_FAILED);
    m->dirty = g_new0(bool, page_count(ram_size));
    m->regions = g_array_new(FALSE, FALSE, sizeof(Region));
    m->ioeventfds = g_array_new(FALSE, FALSE, sizeof(Ioeventfd));
    m->devices = g_ptr_array_new();
    m->msis = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    m->exit_wanted = -1;
    if (!machines)
        machines = g_ptr_array_new();
    g_ptr_array_add(machines, m);
    return m;
}

/* ---- machine.h ---- */

void
machine_lock(Machine *m)
{
    g_mutex_lock(&m->mutex);
}

void
machine_unlock(Machine *m)
{
    g_mutex_unlock(&m->mutex);
}

void
machine_add_device(Machine *m, Device *device)
{
    g_ptr_array_add(m->devices, device);
}

void *
machine_ram(Machine *m, uint64_t gpa, uint64_t len)
{
    return len > 0 && gpa < m->ram_size && len <= m->ram_size - gpa ? m->ram + gpa : NULL;
}

void
machine_mark_dirty(Machine *m, uint64_t gpa, uint64_t len)
{
    g_assert(machine_ram(m, gpa, len));
    for (uint64_t page = page_count(gpa); page <= page_count(gpa + len - 1); page++)
        m->dirty[page] = true;
}

bool
machine_ram_read(Machine *m, uint64_t gpa, void *buf, size_t len)
{
    void *ram = machine_ram(m, gpa, len);

    if (ram)
        memcpy(buf, ram, len);
    return ram;
}

bool
machine_ram_write(Machine *m, uint64_t gpa, const void *buf, size_t len)
{
    void *ram = machine_ram(m, gpa, len);

    if (!ram)
        return false;
    memcpy(ram, buf, len);
    machine_mark_dirty(m, gpa, len);
    return true;
}

bool
machine_io_add(Machine *m, IoSpace space, uint64_t base, uint64_t size, IoHandler handler,
               void *opaque)
{
    Region region = {space, base, size, handler, opaque};

    if (size == 0 || base + (size - 1) < base)
        return false;
    for (guint i = 0; i < m->regions->len; i++) {
        const Region *r = &g_array_index(m->regions, Region, i);
        if (r->space == space && base <= r->base + (r->size - 1) && r->base <= base + (size - 1))
            return false;
    }
    g_array_append_val(m->regions, region);
    return true;
}

void
machine_io_remove(Machine *m, IoSpace space, uint64_t base)
{
    for (guint i = 0; i < m->regions->len; i++) {
        const Region *r = &g_array_index(m->regions, Region, i);
        if (r->space == space && r->base == base) {
            g_array_remove_index_fast(m->regions, i);
            return;
        }
    }
}

void
machine_irq_level(Machine *m, uint32_t gsi, bool level)
{
    g_assert(gsi < G_N_ELEMENTS(m->irq));
    m->irq[gsi] = level;
}

void
machine_msi_send(Machine *m, uint64_t address, uint32_t data)
{
    if (m->msis->len < 4096)
        g_array_append_val(m->msis, data);
}

bool
machine_ioeventfd(Machine *m, IoSpace space, uint64_t address, unsigned len, int eventfd,
                  bool assign)
{
    Ioeventfd event = {address, eventfd};

    g_assert(space == IO_MMIO && len == 0);
    for (guint i = 0; i < m->ioeventfds->len; i++) {
        const Ioeventfd *e = &g_array_index(m->ioeventfds, Ioeventfd, i);
        if (e->address == address && !assign) {
            g_array_remove_index_fast(m->ioeventfds, i);
            return true;
        }
        g_assert(e->address != address);
    }
    g_assert(assign); /* nothing is taken away that is not there */
    if (m->take_ioeventfds)
        g_array_append_val(m->ioeventfds, event);
    return m->take_ioeventfds;
}

void
machine_stirs(Machine *m)
{
    m->stirs++;
}

void
machine_request_exit(Machine *m, MachineExit what)
{
    m->exit_wanted = (int)what;
}

bool
machine_restore_goes_back(Machine *m)
{
    return m->goes_back;
}

uint64_t
machine_restore_elapsed_ns(Machine *m)
{
    return m->elapsed_ns;
}

bool
machine_running(Machine *m)
{
    return m->running;
}

/* ---- The guest's side ---- */

static const Region *
find_region(Machine *m, IoSpace space, uint64_t address, unsigned len)
{
    for (guint i = 0; i < m->regions->len; i++) {
        const Region *r = &g_array_index(m->regions, Region, i);
        if (r->space == space && address >= r->base && address - r->base < r->size &&
            len <= r->size - (address - r->base))
            return r;
    }
    return NULL;
}

static void
access_region(Machine *m, IoSpace space, uint64_t address, uint8_t *data, unsigned len, bool write)
{
    const Region *found;

    machine_lock(m);
    found = find_region(m, space, address, len);
    if (found) {
        Region region = *found; /* the handler may remove it */
        region.handler(region.opaque, address - region.base, data, len, write);
    }
    machine_unlock(m);
}

uint32_t
fake_in(Machine *m, uint16_t port, unsigned len)
{
    uint32_t value = UINT32_MAX;

    access_region(m, IO_PORT, port, (uint8_t *)&value, len, false);
    return len == 4 ? value : value & ((1u << 8 * len) - 1);
}

void
fake_out(Machine *m, uint16_t port, uint32_t value, unsigned len)
{
    access_region(m, IO_PORT, port, (uint8_t *)&value, len, true);
}

uint64_t
fake_mmio_read(Machine *m, uint64_t address, unsigned len)
{
    uint64_t value = UINT64_MAX;

    access_region(m, IO_MMIO, address, (uint8_t *)&value, len, false);
    return len == 8 ? value : value & ((UINT64_C(1) << 8 * len) - 1);
}

void
fake_mmio_write(Machine *m, uint64_t address, uint64_t value, unsigned len)
{
    for (guint i = 0; i < m->ioeventfds->len; i++) {
        const Ioeventfd *e = &g_array_index(m->ioeventfds, Ioeventfd, i);
        uint64_t one = 1;
        if (e->address == address) {
            g_assert(write(e->fd, &one, sizeof one) == sizeof one);
            m->ioeventfd_hits++;
            return;
        }
    }
    access_region(m, IO_MMIO, address, (uint8_t *)&value, len, true);
}

bool
fake_mmio_mapped(Machine *m, uint64_t address)
{
    return find_region(m, IO_MMIO, address, 1);
}

void
fake_poke(Machine *m, uint64_t gpa, const void *data, size_t len)
{
    g_assert(machine_ram(m, gpa, len));
    memcpy(m->ram + gpa, data, len);
    memcpy(m->shadow + gpa, data, len);
}

void
fake_poke16(Machine *m, uint64_t gpa, uint16_t value)
{
    fake_poke(m, gpa, &value, sizeof value);
}

void
fake_poke64(Machine *m, uint64_t gpa, uint64_t value)
{
    fake_poke(m, gpa, &value, sizeof value);
}

void
fake_peek(Machine *m, uint64_t gpa, void *data, size_t len)
{
    g_assert(machine_ram_read(m, gpa, data, len));
}

uint16_t
fake_peek16(Machine *m, uint64_t gpa)
{
    uint16_t value;
    fake_peek(m, gpa, &value, sizeof value);
    return value;
}

uint32_t
fake_peek32(Machine *m, uint64_t gpa)
{
    uint32_t value;
    fake_peek(m, gpa, &value, sizeof value);
    return value;
}

unsigned
fake_unlogged_pages(Machine *m)
{
    unsigned n = 0;

    for (uint64_t page = 0; page < page_count(m->ram_size); page++) {
        size_t at = page * PAGE_BYTES;

        if (!m->dirty[page] && memcmp(m->ram + at, m->shadow + at, PAGE_BYTES) != 0)
            n++;
        m->dirty[page] = false;
    }
    memcpy(m->shadow, m->ram, m->ram_size);
    return n;
}

/* ---- What devices did ---- */

unsigned
fake_msi_count(Machine *m, uint32_t data)
{
    unsigned n = 0;

    for (guint i = 0; i < m->msis->len; i++)
        n += g_array_index(m->msis, uint32_t, i) == data;
    return n;
}

bool
fake_irq(Machine *m, uint32_t gsi)
{
    return m->irq[gsi];
}

int
fake_exit_wanted(Machine *m)
{
    return m->exit_wanted;
}

void
fake_take_ioeventfds(Machine *m, bool take)
{
    m->take_ioeventfds = take;
}

unsigned
fake_ioeventfd_hits(Machine *m)
{
    return m->ioeventfd_hits;
}

/* ---- Life ---- */

void
fake_start(Machine *m)
{
    machine_lock(m);
    for (guint i = 0; i < m->devices->len; i++) {
        Device *device = m->devices->pdata[i];
        device->ops->start(device);
    }
    m->running = true;
    machine_unlock(m);
}

void
fake_stop(Machine *m)
{
    machine_lock(m);
    m->running = false;
    for (guint i = 0; i < m->devices->len; i++) {
        Device *device = m->devices->pdata[i];
        device->ops->stop(device);
    }
    machine_unlock(m);
}

Device *
fake_device(Machine *m, const char *kind)
{
    for (guint i = 0; i < m->devices->len; i++) {
        Device *device = m->devices->pdata[i];
        if (strcmp(device->ops->kind, kind) == 0)
            return device;
    }
    g_error("no device \"%s\"", kind);
}

GByteArray *
fake_dump(Machine *m, const char *kind)
{
    GByteArray *out = g_byte_array_new();
    Device *device = fake_device(m, kind);

    machine_lock(m);
    device->ops->dump(device, out);
    machine_unlock(m);
    return out;
}

gboolean
fake_restore(Machine *m, const char *kind, const GByteArray *state, GError **error)
{
    Device *device = fake_device(m, kind);
    gboolean ok;

    machine_lock(m);
    ok = device->ops->restore(device, state->data, state->len, error);
    machine_unlock(m);
    g_assert(ok == (!error || !*error));
    return ok;
}

void
fake_set_elapsed(Machine *m, uint64_t ns)
{
    m->elapsed_ns = ns;
}

void
fake_set_goes_back(Machine *m, bool goes_back)
{
    m->goes_back = goes_back;
}

void
fake_move(Machine *from, Machine *to)
{
    if (from->running)
        fake_stop(from);
    g_assert_cmpuint(from->ram_size, ==, to->ram_size);
    fake_poke(to, 0, from->ram, from->ram_size);
    g_assert_cmpuint(from->devices->len, ==, to->devices->len);
    for (guint i = 0; i < from->devices->len; i++) {
        const Device *device = from->devices->pdata[i];
        g_autoptr(GByteArray) state = fake_dump(from, device->ops->kind);
        g_autoptr(GError) error = NULL;

        fake_restore(to, device->ops->kind, state, &error);
        g_assert_no_error(error);
    }
    fake_start(to);
}

static void
try_restore(Machine *m, const char *kind, const GByteArray *state)
{
    g_autoptr(GError) error = NULL;

    if (!fake_restore(m, kind, state, &error))
        g_assert_true(strstr(error->message, kind) != NULL);
}

void
fake_check_garbage(Machine *m, const char *kind)
{
    g_autoptr(GByteArray) good = fake_dump(m, kind);
    g_autoptr(GByteArray) bad = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);

    /* Field 1 with a group wire type, which protobuf 3 does not have. */
    g_byte_array_append(bad, (const uint8_t *)"\x0b\xff\xff", 3);
    g_assert_false(fake_restore(m, kind, bad, &error));
    for (guint len = 0; len < good->len; len++) {
        g_byte_array_set_size(bad, len);
        if (len > 0)
            memcpy(bad->data, good->data, len);
        try_restore(m, kind, bad);
    }
    for (int i = 0; i < 2000; i++) {
        g_byte_array_set_size(bad, 0);
        g_byte_array_append(bad, good->data, good->len);
        for (int k = g_rand_int_range(rand, 1, 4); k > 0 && bad->len > 0; k--)
            bad->data[g_rand_int_range(rand, 0, (gint32)bad->len)] = (uint8_t)g_rand_int(rand);
        try_restore(m, kind, bad);
    }
    g_assert_true(fake_restore(m, kind, good, NULL));
}

void
fake_pump(void)
{
    for (int i = 0; i < 1000 && g_main_context_iteration(NULL, FALSE); i++)
        ;
}

static gboolean
wake(gpointer opaque)
{
    return G_SOURCE_CONTINUE;
}

void
fake_wait(bool (*done)(void *opaque), void *opaque)
{
    gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;
    guint source = g_timeout_add(10, wake, NULL);

    while (!done(opaque)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_main_context_iteration(NULL, TRUE);
    }
    g_source_remove(source);
}
