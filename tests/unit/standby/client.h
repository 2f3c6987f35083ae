/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A districtd and a primary for tests of district-standby: runs the real process, talks its control
 * protocol, connects streams over TLS with certificates made for the test.
 */
#ifndef DISTRICT_TESTS_UNIT_STANDBY_CLIENT_H
#define DISTRICT_TESTS_UNIT_STANDBY_CLIENT_H

#include "writer.h"

#include "common/fdmsg.h"
#include "common/tls.h"
#include "standby.pb-c.h"

/* Every wait in these tests. */
#define LIMIT_MS 10000

/* ---- Certificates: DIR/HOST/... for each host, one CA. ---- */
void certs_make(const char *dir, const char *const *hosts);

/* ---- The standby process and its control connection ---- */
typedef struct Held {
    int fds[FDMSG_FDS_MAX];
    guint n;
} Held;

typedef struct Rig {
    char *dir;
    char *control_path;
    char *disk_dir; /* NULL: none is given to the standby */
    GPid pid;       /* 0: not running */
    int control;
    uint64_t next_id;
    Held held;      /* from the last HOLD */
    GQueue events;  /* of District__StandbyMessage, events but HOLD, not looked at yet */
    Held reply_fds; /* of the last reply */
} Rig;

/* Directory and certificates of hosts "home", "spare" (the standby) and "other". */
void rig_init(Rig *rig);
void rig_clear(Rig *rig);
void rig_start(Rig *rig);
/* kill -9 and reap; what was sent to be held until then is kept. */
void rig_kill(Rig *rig);
/* districtd comes (again). */
void rig_connect(Rig *rig);
/* districtd goes; what it was given to hold is kept. */
void rig_disconnect(Rig *rig);

/* Send request (its id is set) with fds, wait for the reply; free with standby_message free. */
District__StandbyMessage *rig_call(Rig *rig, District__StandbyRequest *request, const int *fds,
                                   guint n_fds);
void rig_message_free(District__StandbyMessage *message);

/* The simple requests; each asserts success unless it returns the error (caller frees). */
void rig_config(Rig *rig, uint64_t min_incarnation, uint32_t silence_ms);
char *rig_adopt(Rig *rig);
/* On success *activated has the CutState memfd, RAM and disk fds in rig->reply_fds; its disk_files are
 * gone. */
char *rig_activate(Rig *rig, uint64_t incarnation, District__StandbyActivateReply *activated);
District__StandbyMessage *rig_status(Rig *rig);

/* Wait for an event of this kind; others before it are dropped. */
District__StandbyMessage *rig_event(Rig *rig, District__StandbyEventKind kind);

/* Open a TCP connection, give its far end to the standby; returns the near end, plain. */
int rig_tcp(Rig *rig, const char *peer_name);

/* ---- A primary ---- */
typedef struct Primary {
    Writer writer;
    TlsChannel *channel;
    uint64_t acked;
} Primary;

/* Connect as host over TLS and start a writer; nothing is sent yet. */
void primary_open(Primary *primary, Rig *rig, const char *host, uint32_t n_members,
                  uint64_t ram_pages);
void primary_close(Primary *primary);
/* Send what the writer has. FALSE: the connection broke. */
gboolean primary_flush(Primary *primary);
/* Receive one record. NULL header->type on a broken connection; payload: caller frees. */
gboolean primary_record(Primary *primary, RecordHeader *header, uint8_t **payload, int timeout_ms);
/* Say and hear HELLO; *held: what the standby says it holds. */
void primary_greet(Primary *primary, uint64_t *held);
/* Wait until epoch is acknowledged. FALSE: the connection broke or an ERROR came. */
gboolean primary_wait_ack(Primary *primary, uint64_t epoch, int timeout_ms);
/* Wait for an ERROR record; the caller frees it. */
District__StreamError *primary_wait_error(Primary *primary);

#endif
