/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trace points: static probes (USDT, <sys/sdt.h>) of provider "district", for perf, bpftrace, gdb and
 * whatever else reads .note.stapsdt. docs/tracing.md has them as a table, and examples.
 *
 * One that nobody traces is a single nop; its arguments are at hand, or one reading of the clock. So there
 * is no switch: they are in every build. Names, order and units of arguments are an interface to the
 * scripts of users: add arguments at the end.
 *
 * All times are durations in nanoseconds of CLOCK_MONOTONIC; member is a C string, the member's name;
 * cut is the number of a cut, epoch that of an epoch on a stream or in a file.
 */
#ifndef DISTRICT_COMMON_TRACE_H
#define DISTRICT_COMMON_TRACE_H

#include <stdint.h>
#include <sys/sdt.h>

/* ---- district-vmm: the phases of a pause, in their order ---- */

/* A pause of the machine has been asked for, and begins. */
static inline void
trace_vmm_pause_asked(const char *member)
{
    DTRACE_PROBE1(district, vmm_pause_asked, member);
}

/* The last vCPU has left the guest, kick_ns after that. */
static inline void
trace_vmm_vcpus_out(const char *member, int64_t kick_ns)
{
    DTRACE_PROBE2(district, vmm_vcpus_out, member, kick_ns);
}

/* Devices are at rest: no access to guest memory is under way. */
static inline void
trace_vmm_devices_rest(const char *member, int64_t rest_ns)
{
    DTRACE_PROBE2(district, vmm_devices_rest, member, rest_ns);
}

/* The state of vCPUs and devices has been saved in so many bytes; 0: it was not asked for. */
static inline void
trace_vmm_state_saved(const char *member, uint64_t bytes, int64_t save_ns)
{
    DTRACE_PROBE3(district, vmm_state_saved, member, bytes, save_ns);
}

/* The last harvest has found so many pages. Not fired for a pause that has failed. */
static inline void
trace_vmm_harvested(const char *member, uint64_t pages, int64_t harvest_ns)
{
    DTRACE_PROBE3(district, vmm_harvested, member, pages, harvest_ns);
}

/* Devices and vCPUs have been started. */
static inline void
trace_vmm_resumed(const char *member)
{
    DTRACE_PROBE1(district, vmm_resumed, member);
}

/* ---- district-ckpt: harvests and cuts ---- */

/* All members are asked for their dirty pages; the epoch has so many pages so far. */
static inline void
trace_harvest_begin(uint64_t staged)
{
    DTRACE_PROBE1(district, harvest_begin, staged);
}

/* They have told of so many pages, and these have been copied; fresh are new to the epoch. */
static inline void
trace_harvest_end(uint64_t pages, uint64_t fresh, int64_t harvest_ns)
{
    DTRACE_PROBE3(district, harvest_end, pages, fresh, harvest_ns);
}

/* All members are about to be asked to pause. The harvests just before took precut_ns. */
static inline void
trace_cut_asked(uint64_t cut, uint32_t members, int64_t precut_ns)
{
    DTRACE_PROBE3(district, cut_asked, cut, members, precut_ns);
}

/* A member's answer has been taken in, asked_ns after it was asked. state_bytes: of its state. */
static inline void
trace_cut_answered(uint64_t cut, const char *member, int64_t asked_ns, uint64_t state_bytes)
{
    DTRACE_PROBE4(district, cut_answered, cut, member, asked_ns, state_bytes);
}

/* What it had dirtied since the last harvest has been copied. */
static inline void
trace_cut_residue(uint64_t cut, const char *member, uint64_t pages, int64_t copy_ns)
{
    DTRACE_PROBE4(district, cut_residue, cut, member, pages, copy_ns);
}

/* Its state has been copied. */
static inline void
trace_cut_state(uint64_t cut, const char *member, uint64_t bytes)
{
    DTRACE_PROBE3(district, cut_state, cut, member, bytes);
}

/* district-net has changed the colour of its port. net_ns: since the answer, copies included. */
static inline void
trace_cut_coloured(uint64_t cut, const char *member, int64_t net_ns)
{
    DTRACE_PROBE3(district, cut_coloured, cut, member, net_ns);
}

/* It runs again: fired when its answer to RESUME is in. It stood still for pause_ns. */
static inline void
trace_cut_resumed(uint64_t cut, const char *member, int64_t pause_ns)
{
    DTRACE_PROBE3(district, cut_resumed, cut, member, pause_ns);
}

/* All members and the network are cut, cut_ns after cut_asked. One that fails has no end. */
static inline void
trace_cut_end(uint64_t cut, int64_t cut_ns)
{
    DTRACE_PROBE2(district, cut_end, cut, cut_ns);
}

/* The cut is an epoch of so many pages and has been queued; epoch is 0 without a stream. */
static inline void
trace_epoch_frozen(uint64_t cut, uint64_t epoch, uint64_t pages)
{
    DTRACE_PROBE3(district, epoch_frozen, cut, epoch, pages);
}

/* ---- district-ckpt: encoding and sending, in threads beside the coordinator's ---- */

/* A worker has encoded a batch of pages: sent are in the record, the others were left out as
 * unchanged. bytes: of the record. Also fired for blocks of disks, full copies and checkpoint files,
 * and with no pages for the state of a cut. */
static inline void
trace_encode_batch(uint64_t epoch, uint32_t pages, uint32_t sent, uint64_t bytes, int64_t encode_ns)
{
    DTRACE_PROBE5(district, encode_batch, epoch, pages, sent, bytes, encode_ns);
}

/* A record (RecordType in ckpt/format.h) has been written to the stream or file. */
static inline void
trace_record_sent(uint64_t epoch, unsigned type, uint64_t bytes, int64_t write_ns)
{
    DTRACE_PROBE4(district, record_sent, epoch, type, bytes, write_ns);
}

/* The standby has acknowledged an epoch as committed, commit_ns after its cut. */
static inline void
trace_epoch_committed(uint64_t epoch, int64_t commit_ns)
{
    DTRACE_PROBE2(district, epoch_committed, epoch, commit_ns);
}

/* ---- district-standby ---- */

/* EPOCH_BEGIN has come. full: it starts from nothing. */
static inline void
trace_standby_begun(uint64_t epoch, int full)
{
    DTRACE_PROBE2(district, standby_begun, epoch, full);
}

/* All of it has come and been verified, receive_ns after standby_begun. */
static inline void
trace_standby_verified(uint64_t epoch, int64_t receive_ns)
{
    DTRACE_PROBE2(district, standby_verified, epoch, receive_ns);
}

/* It is committed, held by districtd as well if it is the first, and its acknowledgement queued. */
static inline void
trace_standby_committed(uint64_t epoch, int64_t commit_ns)
{
    DTRACE_PROBE2(district, standby_committed, epoch, commit_ns);
}

/* Its redo log has been applied to the images. */
static inline void
trace_standby_applied(uint64_t epoch, int64_t apply_ns)
{
    DTRACE_PROBE2(district, standby_applied, epoch, apply_ns);
}

/* The images have been handed to districtd, handed_ns after district-standby was asked to. */
static inline void
trace_standby_activated(uint64_t epoch, int64_t handed_ns)
{
    DTRACE_PROBE2(district, standby_activated, epoch, handed_ns);
}

#endif
