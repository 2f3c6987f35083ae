/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * virtio-rng (virtio 1.2 §5.4): the host's random numbers. Nothing of what was given is kept, so
 * two lives that go on from one checkpoint are given different numbers.
 */
#include "vmm/devices/state.h"
#include "vmm/devices/virtio_pci.h"

#include <sys/random.h>

/* Most bytes for one request; the driver asks again if it needs more. */
#define RNG_CHUNK 256
#define RNG_QUEUE_SIZE 64

typedef struct VirtioRng {
    Device device;
    VirtioDevice virtio;
    VirtChain chain;
} VirtioRng;

static void
rng_serve(VirtioDevice *virtio, unsigned index)
{
    VirtioRng *rng = virtio->opaque;
    VirtQueue *queue = virtio_queue(virtio, index);
    uint8_t bytes[RNG_CHUNK]; /* up to 256, getrandom gives all or nothing (getrandom(2)) */
    unsigned budget = queue->size;

    while (budget > 0 && virtqueue_pop(queue, &rng->chain) == VIRTQUEUE_CHAIN) {
        ssize_t n = getrandom(bytes, MIN(sizeof bytes, rng->chain.in_len), GRND_NONBLOCK);

        virtqueue_push(queue, &rng->chain,
                       virtchain_write(&rng->chain, 0, bytes, n > 0 ? (size_t)n : 0));
        budget--;
    }
    virtio_queue_done(virtio, index);
    if (budget == 0)
        virtio_again(virtio, index);
}

static const VirtioOps rng_virtio_ops = {
    .kind = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .class_code = 0x00FF00,
    .n_queues = 1,
    .queue_size = RNG_QUEUE_SIZE,
    .serve = rng_serve,
};

static void
rng_stop(Device *device)
{
    VirtioRng *rng = device->opaque;
    virtio_stop(&rng->virtio);
}

static void
rng_start(Device *device)
{
    VirtioRng *rng = device->opaque;
    virtio_start(&rng->virtio);
}

static void
rng_dump(Device *device, GByteArray *out)
{
    VirtioRng *rng = device->opaque;
    District__VirtioRngState state = DISTRICT__VIRTIO_RNG_STATE__INIT;
    VirtioDump dump;

    virtio_dump(&rng->virtio, &dump);
    state.virtio = &dump.state;
    state_append(out, &state.base);
}

STATE_DEFINE_AUTOPTR(District__VirtioRngState)

static gboolean
rng_restore(Device *device, const uint8_t *data, size_t len, GError **error)
{
    VirtioRng *rng = device->opaque;
    g_autoptr(District__VirtioRngState) state = (District__VirtioRngState *)state_parse(
        rng_virtio_ops.kind, &district__virtio_rng_state__descriptor, data, len, error);

    if (!state || !virtio_check_state(&rng->virtio, state->virtio, NULL, error))
        return FALSE;
    virtio_restore(&rng->virtio, state->virtio);
    return TRUE;
}

static const DeviceOps rng_ops = {
    .kind = "virtio-rng",
    .version = 1,
    .stop = rng_stop,
    .dump = rng_dump,
    .restore = rng_restore,
    .start = rng_start,
};

gboolean
virtio_rng_init(Machine *m, PciHost *pci, GError **error)
{
    static uint32_t instances;
    VirtioRng *rng = g_new0(VirtioRng, 1);

    rng->device.ops = &rng_ops;
    rng->device.opaque = rng;
    rng->device.instance = instances;
    if (!virtio_init(&rng->virtio, pci, &rng_virtio_ops, rng, error))
        return FALSE; /* sources refer to it: it stays; the process ends */
    instances++;
    machine_add_device(m, &rng->device);
    return TRUE;
}
