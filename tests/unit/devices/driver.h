/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's side of virtio over PCI, as small as a driver can be, for tests. */
#ifndef DISTRICT_TESTS_DRIVER_H
#define DISTRICT_TESTS_DRIVER_H

#include "fake-machine.h"

/* PCI configuration space through ECAM. */
uint32_t pci_read(Machine *m, unsigned slot, unsigned reg, unsigned len);
void pci_write(Machine *m, unsigned slot, unsigned reg, uint32_t value, unsigned len);
/* Offset of the capability with this id, and for id 9 this virtio cfg_type; 0 if there is none. */
unsigned pci_capability(Machine *m, unsigned slot, uint8_t id, uint8_t cfg_type);

typedef struct Driver {
    Machine *m;
    unsigned slot;
    uint64_t common, isr, config, notify, msix;
    uint32_t notify_multiplier;
    uint64_t features; /* negotiated */
} Driver;

#define DRIVER_DESC_NEXT 1
#define DRIVER_DESC_WRITE 2
#define DRIVER_DESC_INDIRECT 4

typedef struct DriverQueue {
    Driver *driver;
    unsigned index;
    uint16_t size;
    uint64_t desc, avail, used;
    uint16_t avail_idx;
    uint16_t last_used;
    uint16_t next_desc;
} DriverQueue;

/* Find BARs, switch on memory decoding, reset. */
void driver_init(Driver *driver, Machine *m, unsigned slot);
/* Acknowledge, negotiate all of wanted that is offered. Leaves FEATURES_OK set. */
void driver_negotiate(Driver *driver, uint64_t wanted);
/* Program vector i with data base + i, address 0xFEE00000, unmasked; use vector i for queue i and
 * the last one for configuration changes. */
void driver_use_msix(Driver *driver, unsigned n_queues, uint32_t base);
/* Set queue index up with size entries at gpa (three pages). */
void driver_queue_init(DriverQueue *queue, Driver *driver, unsigned index, uint16_t size,
                       uint64_t gpa);
void driver_ok(Driver *driver);
uint8_t driver_status(Driver *driver);

/* Write descriptor i. */
void driver_describe(DriverQueue *queue, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags,
                     uint16_t next);
/* Make the chain that starts at head available, without or with a notification. */
void driver_offer(DriverQueue *queue, uint16_t head);
void driver_kick(DriverQueue *queue);
/* One buffer: describe, offer, no kick. Returns the descriptor used. */
uint16_t driver_add(DriverQueue *queue, uint64_t gpa, uint32_t len, bool device_writes);
/* Next used element; false if there is none. */
bool driver_used(DriverQueue *queue, uint16_t *head, uint32_t *len);

#endif
