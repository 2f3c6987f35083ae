/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding the device behind a port or an MMIO address. */
#include "vmm/bus.h"

#include <string.h>

void
bus_init(Bus *bus)
{
    bus->regions = g_array_new(FALSE, FALSE, sizeof(BusRegion));
}

void
bus_clear(Bus *bus)
{
    g_clear_pointer(&bus->regions, g_array_unref);
}

/* Index of the first region whose base is above address. */
static guint
bus_upper_bound(const Bus *bus, uint64_t address)
{
    guint low = 0, high = bus->regions->len;

    while (low < high) {
        guint mid = low + (high - low) / 2;

        if (g_array_index(bus->regions, BusRegion, mid).base <= address)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool
bus_add(Bus *bus, uint64_t base, uint64_t size, IoHandler handler, void *opaque)
{
    BusRegion region = {.base = base, .size = size, .handler = handler, .opaque = opaque};
    guint at = bus_upper_bound(bus, base);

    if (size == 0 || base + (size - 1) < base)
        return false;
    if (at > 0) {
        const BusRegion *before = &g_array_index(bus->regions, BusRegion, at - 1);

        if (base - before->base < before->size)
            return false;
    }
    if (at < bus->regions->len && g_array_index(bus->regions, BusRegion, at).base - base < size)
        return false;
    g_array_insert_val(bus->regions, at, region);
    return true;
}

void
bus_remove(Bus *bus, uint64_t base)
{
    guint at = bus_upper_bound(bus, base);

    if (at > 0 && g_array_index(bus->regions, BusRegion, at - 1).base == base)
        g_array_remove_index(bus->regions, at - 1);
}

static const BusRegion *
bus_find(const Bus *bus, uint64_t address, unsigned len)
{
    guint at = bus_upper_bound(bus, address);
    const BusRegion *region;

    if (at == 0)
        return NULL;
    region = &g_array_index(bus->regions, BusRegion, at - 1);
    if (address - region->base >= region->size || region->size - (address - region->base) < len)
        return NULL;
    return region;
}

bool
bus_access(const Bus *bus, uint64_t address, uint8_t *data, unsigned len, bool write)
{
    const BusRegion *found = bus_find(bus, address, len);
    BusRegion region;

    if (!write)
        memset(data, 0xff, len);
    if (found == NULL)
        return false;
    /* A copy: the handler may move or remove its own region (PCI BARs). */
    region = *found;
    region.handler(region.opaque, address - region.base, data, len, write);
    return true;
}
