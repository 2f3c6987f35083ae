/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Constructors of all devices, in the order district-vmm calls them. */
#ifndef DISTRICT_VMM_DEVICES_DEVICES_H
#define DISTRICT_VMM_DEVICES_DEVICES_H

#include "vmm/machine.h"

typedef struct PciHost PciHost;
typedef struct Disk Disk;

/* MC146818-style CMOS clock at 0x70/0x71: wall clock time, RAM size fields; no alarms. */
gboolean cmos_init(Machine *m, uint64_t ram_size, GError **error);
/* i8042 reset line (0x64), port 0xCF9 and the ACPI reset register. */
gboolean reset_init(Machine *m, GError **error);
/*
 * ACPI fixed hardware (ACPI 6.4 §4.8): PM1a event/control, PM timer, GPE0, SCI on GSI_SCI, sleep
 * states S5 = power-off. Ports are in devices/acpi_pm.h, for the FADT.
 */
gboolean acpi_pm_init(Machine *m, GError **error);
/*
 * Press the power button (main thread, lock held). Returns whether the guest has enabled its event:
 * without, it will not notice.
 */
bool acpi_pm_power_button(Machine *m);
/* Raise the GPE that tells the guest of a new VM generation id (VMGENID specification). */
void acpi_pm_vmgenid_changed(Machine *m);
/*
 * 16550A at 0x3F8, GSI_SERIAL. spec: "none", "file:PATH" (append), "pty" or "pty:LINK" (LINK
 * becomes a symbolic link to the pty). log_path: everything the guest prints also goes there; may
 * be NULL.
 */
gboolean serial_init(Machine *m, const char *spec, const char *log_path, GError **error);
/* Path of the pty, NULL if the console is not one. */
const char *serial_pty_path(Machine *m);
/* Port 0xE9 write-only byte sink to file path, as QEMU's isa-debugcon; reads give 0xE9. */
gboolean debugcon_init(Machine *m, const char *path, GError **error);

/* PCI host bridge: 0xCF8/0xCFC and ECAM. */
PciHost *pci_host_init(Machine *m, GError **error);
/*
 * virtio-net (virtio 1.2 §5.1) behind a stream unix socket with QEMU's framing (32-bit big-endian
 * length, frame). The device connects to socket_path and, when the connection is lost, keeps trying
 * every 100 ms. mac: 6 bytes.
 */
gboolean virtio_net_init(Machine *m, PciHost *pci, const uint8_t mac[6], const char *socket_path,
                         GError **error);
/*
 * virtio-blk (§5.2) on disk, which stays the caller's and must live as long as the process. id: what
 * the guest is told as its serial number, at most 20 bytes. n_queues: one for each vCPU; no more
 * than the device can have are made.
 */
gboolean virtio_blk_init(Machine *m, PciHost *pci, Disk *disk, const char *id, unsigned n_queues,
                         GError **error);
/* The same for the member's journal (virtio_blk.c), whose serial number is "journal". */
gboolean virtio_blk_init_journal(Machine *m, PciHost *pci, Disk *disk, GError **error);
/* No request of any virtio-blk is with its disk (main thread). */
bool virtio_blk_idle(void);
/* virtio-console (§5.3), one port, on "file:PATH", "pty[:LINK]" or "none". */
gboolean virtio_console_init(Machine *m, PciHost *pci, const char *spec, GError **error);
/* virtio-rng (§5.4) from getrandom(2). */
gboolean virtio_rng_init(Machine *m, PciHost *pci, GError **error);

#endif
