/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checkpoint files: one full epoch into a descriptor that the client passed along. */
#include "ckpt/coordinator-internal.h"

#include "ckpt/file-out.h"

static const char *
checkpoint_refuse(const Coordinator *c, const ControlRequest *request)
{
    if (c->run != RUN_RUNNING && c->run != RUN_THROTTLED)
        return "the district does not run";
    if (c->file)
        return "another checkpoint is being written; wait for it";
    if (c->n_disks > 0)
        return "it has disks, which a checkpoint file has no place for; take one in the store";
    if (lazy_under_way(c))
        return "its memory is still being read from the store; try again in a while";
    if (request->n_fds != 1)
        return "pass one descriptor, open for writing";
    return NULL;
}

void
checkpoint_request(Coordinator *c, ControlRequest *request)
{
    const char *refusal = checkpoint_refuse(c, request);
    District__StreamHello hello = DISTRICT__STREAM_HELLO__INIT;
    g_autofree uint32_t *wire_index = g_new0(uint32_t, c->n_members);

    if (refusal) {
        control_request_error(request, "district %s: no checkpoint: %s", c->district, refusal);
        return;
    }
    int fd = request->fds[0];
    request->fds[0] = -1;
    members_listed(c, wire_index);
    coordinator_hello(c, false, &hello);
    SinkConfig config = {.id = ++c->last_sink_id,
                         .transport = &file_out_transport,
                         .opaque = file_out_new(fd, request->message->checkpoint->path),
                         .inbox = c->inbox,
                         .pool = c->pool,
                         .hello = &hello,
                         .n_pages_of = c->n_pages_of,
                         .wire_index = wire_index,
                         .n_members = c->n_members};
    c->file = target_new(c, sink_new(&config));
    c->file->request = request;
}

void
checkpoint_up(Coordinator *c)
{
    target_begin(c, c->file);
}

/* The file's sink has gone; its request is the caller's to answer. */
static ControlRequest *
checkpoint_end(Coordinator *c)
{
    ControlRequest *request = g_steal_pointer(&c->file->request);
    SinkStats stats = sink_stats(c->file->sink);

    status_add_sink(c, &stats);
    target_free(c->file, false);
    c->file = NULL;
    coordinator_unstage(c);
    return request;
}

void
checkpoint_finished(Coordinator *c, uint64_t bytes)
{
    District__CkptReply reply = DISTRICT__CKPT_REPLY__INIT;

    reply.epoch = c->file->number;
    reply.bytes = bytes;
    g_message("checkpoint of epoch %" G_GUINT64_FORMAT ": %" G_GUINT64_FORMAT " bytes", reply.epoch,
              bytes);
    control_request_reply(checkpoint_end(c), &reply);
}

void
checkpoint_fail(Coordinator *c, const char *why)
{
    if (c->file)
        control_request_error(checkpoint_end(c), "district %s: no checkpoint: %s", c->district,
                              why);
}
