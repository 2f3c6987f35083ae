/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A checkpoint file: a sink's transport to a descriptor. Complete and fsynced, or failed. */
#ifndef DISTRICT_CKPT_FILE_OUT_H
#define DISTRICT_CKPT_FILE_OUT_H

#include "ckpt/sink.h"

extern const SinkTransport file_out_transport;

/* The opaque for file_out_transport; fd is taken over. path is for messages only. */
gpointer file_out_new(int fd, const char *path);

#endif
