/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The other end of a stream, built on ckpt/receive.h: keeps shadow RAM of fake members and checks
 * at the end of every epoch that it is, byte for byte, what the member had at the cut.
 */
#ifndef DISTRICT_TESTS_FAKE_STANDBY_H
#define DISTRICT_TESTS_FAKE_STANDBY_H

#include "stream.pb-c.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FakeStandby FakeStandby;

/* Listens on a free port of 127.0.0.1 with the certificates in pki_dir. */
FakeStandby *fake_standby_new(const char *pki_dir);
void fake_standby_free(FakeStandby *standby);
uint16_t fake_standby_port(FakeStandby *standby);

/* Epochs that were complete and right; epochs whose RAM was not what it should have been. */
unsigned fake_standby_good(FakeStandby *standby);
unsigned fake_standby_wrong(FakeStandby *standby);
unsigned fake_standby_full(FakeStandby *standby); /* of the good ones, full */
uint64_t fake_standby_committed(FakeStandby *standby);
/* Epochs of this connection that were complete and have not been acknowledged. */
unsigned fake_standby_unacknowledged(FakeStandby *standby);
unsigned fake_standby_members(FakeStandby *standby); /* in the last epoch */
/* First byte of a block of a disk of the last epoch; -1: it has no such disk. */
int fake_standby_block(FakeStandby *standby, unsigned disk, uint64_t block);
bool fake_standby_goodbye(FakeStandby *standby);
/* Why the last connection ended, newly allocated; NULL if by end of stream. */
char *fake_standby_error(FakeStandby *standby);

/* Close the connection now; the next one is served again. */
void fake_standby_drop(FakeStandby *standby);
/* From now on: do not acknowledge (but beat on); acknowledge only after so long. */
void fake_standby_hold_acks(FakeStandby *standby, bool hold);
void fake_standby_delay_acks(FakeStandby *standby, unsigned ms);
/* The same for JOURNAL records. */
void fake_standby_hold_journal(FakeStandby *standby, bool hold);
/* JOURNAL records of this connection, and those since PUBLISH. */
unsigned fake_standby_journal(FakeStandby *standby);
unsigned fake_standby_published(FakeStandby *standby);
/* The first byte of the last one with data. */
int fake_standby_journal_byte(FakeStandby *standby);
/* A byte of the journal that these records make; -1: there is none yet. */
int fake_standby_journal_at(FakeStandby *standby, uint64_t offset);
/* Read nothing any more, say nothing. */
void fake_standby_hang(FakeStandby *standby, bool hang);
/* Answer the next record with an ERROR of that code. 0: no more. */
void fake_standby_refuse(FakeStandby *standby, District__StreamErrorCode code);
/* The incarnation that it says is newer. */
#define FAKE_STANDBY_NEWER 41

#endif
