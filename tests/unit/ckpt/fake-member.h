/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A member engine without a VM: it speaks the member protocol over a memfd that a thread keeps
 * writing to, with exact dirty tracking. At each PAUSE its state blob says what its RAM hashes to,
 * so whoever has a copy of the cut can check every byte of it.
 */
#ifndef DISTRICT_TESTS_FAKE_MEMBER_H
#define DISTRICT_TESTS_FAKE_MEMBER_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FakeMemberConfig {
    const char *name;
    const char *path;        /* of its socket */
    uint64_t ram_size;       /* bytes */
    bool awaiting_restore;   /* no RAM until RESTORE */
    unsigned writes_per_ms;  /* pages written while it runs */
    unsigned pause_delay_ms; /* answer PAUSE only after that long */
    bool lies;               /* about when each phase of a pause ended */
    bool powers_off;         /* when its power button is pressed; else it does not listen */
    bool watches;            /* its guest, when RESUME asks for it */
    unsigned span_pages;     /* write only the first so many pages; 0: all */
    const char *journal;     /* image of its journal, whose link the test serves; NULL: none */
    unsigned journal_bytes;
    bool journal_old;     /* it cannot be frozen */
    uint64_t disk_blocks; /* of its disk, which has an overlay and a raw home; 0: none */
    bool partial;         /* its RAM is said to be only in part there */
} FakeMemberConfig;

typedef struct FakeMember FakeMember;
FakeMember *fake_member_new(const FakeMemberConfig *config);
void fake_member_free(FakeMember *member);

/* Close all its sockets, as if the process had died. */
void fake_member_die(FakeMember *member);
/* The guest powers itself off: requests but DESCRIBE and HELLO are refused. What it has written
 * last is in the shared bitmap, where nobody has asked for it. */
void fake_member_power_off(FakeMember *member);
/* The engine's end of the journal's link; -1: HELLO has not been said. It stays the member's. */
int fake_member_link(FakeMember *member);
/* HELLO has been said n times, or will be within 10 s: the link is the n-th client's. */
void fake_member_wait_links(FakeMember *member, int n);
/* What it says of its journal's mode at the next HELLO. */
void fake_member_journal_mode(FakeMember *member, int mode);

/* The guest writes one page, which ends a watch. */
void fake_member_write(FakeMember *member);

/* The guest writes a block of its disk, all bytes alike. */
void fake_member_write_block(FakeMember *member, uint64_t block, uint8_t byte);
/* As a hand-over leaves it: paused, and it stays so without a client. */
void fake_member_hold(FakeMember *member);
/* How often it was asked to list all blocks of its overlay again, and has. */
unsigned fake_member_resends(FakeMember *member);
/* From now on DISKS is refused, or not any more. */
void fake_member_refuse_disks(FakeMember *member, bool refuse);

/* Refuse the next n PAUSEs; whether that has happened. */
void fake_member_refuse_pauses(FakeMember *member, int n);
bool fake_member_refused(FakeMember *member);

bool fake_member_running(FakeMember *member);
uint64_t fake_member_writes(FakeMember *member);
uint64_t fake_member_pauses(FakeMember *member);
/* Those in a PAUSE too. */
uint64_t fake_member_harvests(FakeMember *member);
/* How often it was asked whether it could be restored. */
uint64_t fake_member_checks(FakeMember *member);
/* Empty before RESTORE, else the generation id it was given. */
void fake_member_vmgenid(FakeMember *member, uint8_t out[16]);

/* The blob says that ram hashes to what it does hash to. */
bool fake_member_check(const void *blob, size_t blob_len, const void *ram, uint64_t ram_size);

#endif
