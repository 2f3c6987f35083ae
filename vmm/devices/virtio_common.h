/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The common configuration structure (virtio 1.2 §4.1.4.3), for virtio_pci.c only. */
#ifndef DISTRICT_VMM_DEVICES_VIRTIO_COMMON_H
#define DISTRICT_VMM_DEVICES_VIRTIO_COMMON_H

#include "vmm/devices/virtio_pci.h"

#define VIRTIO_COMMON_BYTES 0x3A
#define VIRTIO_NO_VECTOR 0xFFFF

void virtio_common_access(VirtioDevice *device, uint64_t offset, uint8_t *data, unsigned len,
                          bool write);
/* All features this device offers. */
uint64_t virtio_offered_features(const VirtioDevice *device);
/* Back to the state after power-on (§2.4); buffers are forgotten. */
void virtio_reset(VirtioDevice *device);
/* INTA# follows the ISR status while MSI-X is off. In virtio_pci.c. */
void virtio_update_intx(VirtioDevice *device);
/* Give the rings the features that were negotiated. */
void virtio_apply_features(VirtioDevice *device);

#endif
