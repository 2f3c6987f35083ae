/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Small guests that find out what a KVM can run: one vCPU in long mode, ring 0, paging on, no
 * interrupt controller. Every run is bounded by KVMPROBE_RUN_MS.
 */
#ifndef DISTRICT_CONTROL_KVMPROBE_H
#define DISTRICT_CONTROL_KVMPROBE_H

#include <glib.h>

#define KVMPROBE_RUN_MS 3000

/*
 * Run, one by one, instructions that a stock kernel executes when CPUID offers them. lacking: "
 * name" is appended for each that fails; *ran: how many were tried. FALSE with error set when no
 * guest can be set up at all.
 */
gboolean kvmprobe_instructions(GString *lacking, guint *ran, GError **error);

/* Iterations of a two-instruction loop per second; negative with error set on failure. */
double kvmprobe_speed(GError **error);

/*
 * Write to every second one of 2 * pages pages and compare with the dirty bitmap. Returns how many
 * of the pages written are in it, -1 with error set on failure or if others are in it as well.
 */
int kvmprobe_dirty(guint pages, GError **error);

#endif
