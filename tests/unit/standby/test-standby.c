/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The real district-standby: streams, refusals, activation, silence. */
#include "client.h"

#include "ckpt/image.h"
#include "common/clock.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_MEMBERS 2
#define RAM_PAGES 512

#define EVENT(name) DISTRICT__STANDBY_EVENT_KIND__STANDBY_EVENT_##name
#define CODE(name) DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_##name

static void
set_up(Rig *rig, gconstpointer data)
{
    rig_init(rig);
    rig_start(rig);
}

static void
tear_down(Rig *rig, gconstpointer data)
{
    rig_clear(rig);
}

/* An event with a word in its text. */
static void
expect_event(Rig *rig, District__StandbyEventKind kind, const char *word)
{
    District__StandbyMessage *message = rig_event(rig, kind);

    if (word != NULL && strstr(message->event->text, word) == NULL)
        g_error("event says '%s', not '%s'", message->event->text, word);
    rig_message_free(message);
}

static void
expect_error(Primary *primary, District__StreamErrorCode code, const char *word)
{
    District__StreamError *error = primary_wait_error(primary);

    g_assert_cmpint(error->code, ==, code);
    if (strstr(error->text, word) == NULL)
        g_error("error says '%s', not '%s'", error->text, word);
    district__stream_error__free_unpacked(error, NULL);
}

/* Connect, greet and commit a full epoch of pages of fill. */
static void
protect(Primary *primary, Rig *rig, uint64_t epoch, uint8_t fill)
{
    primary_open(primary, rig, "home", N_MEMBERS, RAM_PAGES);
    primary_greet(primary, NULL);
    writer_epoch(&primary->writer, epoch, 0, 0, RAM_PAGES, fill);
    g_assert_true(primary_flush(primary));
    g_assert_true(primary_wait_ack(primary, epoch, LIMIT_MS));
}

static Image *
activate(Rig *rig, uint64_t incarnation, uint64_t epoch)
{
    District__StandbyActivateReply activated;
    g_autofree char *why = rig_activate(rig, incarnation, &activated);
    g_autoptr(GError) error = NULL;
    Image *image;

    g_assert_cmpstr(why, ==, NULL);
    g_assert_cmpuint(activated.epoch, ==, epoch);
    g_assert_cmpuint(activated.handed_ns, >=, activated.decided_ns);
    g_test_message("decided to handed: %" G_GUINT64_FORMAT " us",
                   (activated.handed_ns - activated.decided_ns) / 1000);
    g_assert_cmpuint(rig->reply_fds.n, ==, 1 + N_MEMBERS);
    image = image_from_fds(rig->reply_fds.fds[0], activated.state_len, rig->reply_fds.fds + 1,
                           N_MEMBERS, &error);
    g_assert_no_error(error);
    close(rig->reply_fds.fds[0]);
    rig->reply_fds.n = 0; /* the image's now */
    g_assert_cmpuint(image->cut->epoch, ==, epoch);
    return image;
}

static uint8_t
page_fill(const Image *image, uint32_t member, uint64_t page)
{
    uint8_t data[PAGE_BYTES];

    g_assert_cmpint(pread(image->ram_fds[member], data, PAGE_BYTES, (off_t)(page * PAGE_BYTES)), ==,
                    PAGE_BYTES);
    for (size_t i = 1; i < PAGE_BYTES; i++)
        g_assert_cmpuint(data[i], ==, data[0]);
    return data[0];
}

static void
test_commit_and_activate(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    Primary primary;

    protect(&primary, rig, 1, 0x11);
    expect_event(rig, EVENT(CONNECTED), "home");
    expect_event(rig, EVENT(COMMITTED_FIRST), NULL);
    writer_epoch(&primary.writer, 2, 1, 10, 5, 0x22);
    writer_epoch(&primary.writer, 3, 2, 12, 1, 0);
    writer_epoch(&primary.writer, 5, 3, 13, 1, 0x55);
    g_assert_true(primary_flush(&primary));
    g_assert_true(primary_wait_ack(&primary, 5, LIMIT_MS));
    image = activate(rig, 4, 5);
    for (uint32_t member = 0; member < N_MEMBERS; member++) {
        g_assert_cmpuint(page_fill(image, member, 9), ==, 0x11);
        g_assert_cmpuint(page_fill(image, member, 10), ==, 0x22);
        g_assert_cmpuint(page_fill(image, member, 12), ==, 0);
        g_assert_cmpuint(page_fill(image, member, 13), ==, 0x55);
        g_assert_cmpuint(page_fill(image, member, 14), ==, 0x22);
    }
    primary_close(&primary);
}

static void
test_unfinished_epoch_is_not_activated(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    Primary primary;

    protect(&primary, rig, 1, 0x11);
    writer_begin(&primary.writer, 2, 1);
    writer_page(&primary.writer, 0, 7, 0x22);
    writer_state(&primary.writer);
    g_assert_true(primary_flush(&primary));
    g_usleep(50000);
    image = activate(rig, 4, 1);
    g_assert_cmpuint(page_fill(image, 0, 7), ==, 0x11);
    primary_close(&primary);
}

static void
test_unfinished_resync_keeps_the_old(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    Primary primary;

    protect(&primary, rig, 1, 0x11);
    writer_begin(&primary.writer, 2, 0);
    writer_page(&primary.writer, 0, 7, 0x22);
    g_assert_true(primary_flush(&primary));
    primary_close(&primary);
    expect_event(rig, EVENT(LOST), NULL);
    image = activate(rig, 4, 1);
    g_assert_cmpuint(page_fill(image, 0, 7), ==, 0x11);
}

static void
test_resync_replaces(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    Primary first, second;

    protect(&first, rig, 1, 0x11);
    protect(&second, rig, 8, 0x88);
    expect_event(rig, EVENT(LOST), "replaced");
    image = activate(rig, 4, 8);
    g_assert_cmpuint(page_fill(image, 1, RAM_PAGES - 1), ==, 0x88);
    primary_close(&first);
    primary_close(&second);
}

/* A primary that counts from an old number again must not take newer state away. */
static void
test_old_full_epoch(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    Primary primary;

    protect(&primary, rig, 8, 0x88);
    primary_close(&primary);
    for (uint64_t old = 7; old <= 8; old++) {
        primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
        primary_greet(&primary, NULL);
        writer_epoch(&primary.writer, old, 0, 0, RAM_PAGES, 0x11);
        g_assert_true(primary_flush(&primary));
        expect_error(&primary, CODE(DAMAGED), "not newer than epoch 8");
        primary_close(&primary);
    }
    image = activate(rig, 4, 8);
    g_assert_cmpuint(page_fill(image, 0, 0), ==, 0x88);
}

static void
test_reconnect_goes_on(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    Primary primary;
    uint64_t held;

    protect(&primary, rig, 1, 0x11);
    primary_close(&primary);
    primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
    primary_greet(&primary, &held);
    g_assert_cmpuint(held, ==, 1);
    writer_epoch(&primary.writer, 2, 1, 3, 1, 0x22);
    g_assert_true(primary_flush(&primary));
    g_assert_true(primary_wait_ack(&primary, 2, LIMIT_MS));
    image = activate(rig, 4, 2);
    g_assert_cmpuint(page_fill(image, 0, 3), ==, 0x22);
    primary_close(&primary);
}

static void
test_wrong_base(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    Primary primary;

    protect(&primary, rig, 4, 0x11);
    primary_close(&primary);
    primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
    primary_greet(&primary, NULL);
    writer_epoch(&primary.writer, 6, 5, 3, 1, 0x22);
    g_assert_true(primary_flush(&primary));
    expect_error(&primary, CODE(DAMAGED), "send a full epoch");
    image = activate(rig, 4, 4);
    primary_close(&primary);
}

static void
test_bit_flip(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    Primary primary;

    protect(&primary, rig, 1, 0x11);
    writer_epoch(&primary.writer, 2, 1, 0, RAM_PAGES, 0x22);
    primary.writer.out->data[primary.writer.out->len / 2] ^= 0x10;
    g_assert_true(primary_flush(&primary));
    expect_error(&primary, CODE(DAMAGED), "damaged");
    expect_event(rig, EVENT(LOST), "damaged");
    image = activate(rig, 4, 1);
    for (uint64_t page = 0; page < RAM_PAGES; page++)
        g_assert_cmpuint(page_fill(image, 0, page), ==, 0x11);
    primary_close(&primary);
}

static void
test_wrong_peer(Rig *rig, gconstpointer data)
{
    Primary primary, good;

    protect(&good, rig, 1, 0x11);
    primary_open(&primary, rig, "other", N_MEMBERS, RAM_PAGES);
    expect_error(&primary, CODE(REFUSED), "other is not home");
    expect_event(rig, EVENT(REFUSED), "other");
    primary_close(&primary);
    /* The right one goes on undisturbed. */
    writer_epoch(&good.writer, 2, 1, 3, 1, 0x22);
    g_assert_true(primary_flush(&good));
    g_assert_true(primary_wait_ack(&good, 2, LIMIT_MS));
    primary_close(&good);
}

static void
test_plaintext(Rig *rig, gconstpointer data)
{
    int fd = rig_tcp(rig, "home");
    char end;
    Writer writer;

    writer_init(&writer, N_MEMBERS, RAM_PAGES);
    writer_hello(&writer);
    writer_epoch(&writer, 1, 0, 0, 1, 1);
    g_assert_cmpint(send(fd, writer.out->data, writer.out->len, MSG_NOSIGNAL), >, 0);
    expect_event(rig, EVENT(REFUSED), "TLS");
    while (recv(fd, &end, 1, 0) > 0)
        ;
    close(fd);
    writer_clear(&writer);
}

static void
test_old_incarnation(Rig *rig, gconstpointer data)
{
    District__StreamError *error;
    Primary primary;

    rig_config(rig, 10, 0);
    primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
    writer_hello(&primary.writer);
    g_assert_true(primary_flush(&primary));
    error = primary_wait_error(&primary);
    g_assert_cmpint(error->code, ==, CODE(SUPERSEDED));
    g_assert_cmpuint(error->incarnation, ==, 10);
    district__stream_error__free_unpacked(error, NULL);
    expect_event(rig, EVENT(REFUSED), "superseded");
    primary_close(&primary);
}

static void
test_superseded_in_an_epoch(Rig *rig, gconstpointer data)
{
    District__StandbyMessage *status;
    District__StreamError *error;
    Primary primary;

    protect(&primary, rig, 1, 0x11);
    writer_begin(&primary.writer, 2, 1);
    g_assert_true(primary_flush(&primary));
    g_usleep(200000);
    rig_config(rig, 10, 0);
    writer_state(&primary.writer);
    writer_end(&primary.writer);
    g_assert_true(primary_flush(&primary));
    error = primary_wait_error(&primary);
    g_assert_cmpint(error->code, ==, CODE(SUPERSEDED));
    district__stream_error__free_unpacked(error, NULL);
    status = rig_status(rig);
    g_assert_cmpuint(status->reply->status->committed_epoch, ==, 1);
    rig_message_free(status);
    primary_close(&primary);
}

static void
test_superseded_after_activation(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    District__StreamError *error;
    Primary primary;

    protect(&primary, rig, 1, 0x11);
    image = activate(rig, 7, 1);
    primary_close(&primary);
    primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
    writer_hello(&primary.writer);
    g_assert_true(primary_flush(&primary));
    error = primary_wait_error(&primary);
    g_assert_cmpint(error->code, ==, CODE(SUPERSEDED));
    g_assert_cmpuint(error->incarnation, ==, 7);
    district__stream_error__free_unpacked(error, NULL);
    primary_close(&primary);
}

/* Whoever is killed before the members run, the image can be had again; afterwards never. */
static void
test_activated_again_until_run(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    g_autoptr(Image) again = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *why = NULL;
    District__StandbyActivateReply reply;
    Primary primary;

    protect(&primary, rig, 1, 0x11);
    image = activate(rig, 7, 1);
    again = activate(rig, 8, 1);
    g_assert_true(image_mark_spent(image, &error));
    why = rig_activate(rig, 9, &reply);
    g_assert_nonnull(strstr(why, "have run from this copy"));
    primary_close(&primary);
}

static void
test_other_version(Rig *rig, gconstpointer data)
{
    Primary primary;

    primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
    primary.writer.version = STREAM_VERSION - 1;
    writer_hello(&primary.writer);
    g_assert_true(primary_flush(&primary));
    expect_error(&primary, CODE(VERSION), "version 3");
    primary_close(&primary);
}

static void
test_other_district(Rig *rig, gconstpointer data)
{
    Primary primary;

    primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
    primary.writer.district = "bank";
    writer_hello(&primary.writer);
    g_assert_true(primary_flush(&primary));
    expect_error(&primary, CODE(REFUSED), "bank");
    primary_close(&primary);
}

static void
test_full(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    Primary primary;

    protect(&primary, rig, 1, 0x11);
    primary.writer.ram_pages = RAM_BYTES_MAX / PAGE_BYTES;
    writer_begin(&primary.writer, 2, 0);
    g_assert_true(primary_flush(&primary));
    expect_error(&primary, CODE(FULL), "2097152 MiB needed");
    primary.writer.ram_pages = RAM_PAGES;
    image = activate(rig, 4, 1);
    primary_close(&primary);
}

static void
test_nothing_to_activate(Rig *rig, gconstpointer data)
{
    District__StandbyActivateReply reply;
    g_autofree char *why = rig_activate(rig, 4, &reply);

    g_assert_nonnull(strstr(why, "nothing"));
}

static void
test_activation_needs_a_newer_incarnation(Rig *rig, gconstpointer data)
{
    g_autoptr(Image) image = NULL;
    g_autofree char *why = NULL;
    District__StandbyActivateReply reply;
    Primary primary;

    protect(&primary, rig, 1, 0x11);
    why = rig_activate(rig, primary.writer.incarnation, &reply);
    g_assert_nonnull(strstr(why, "newer"));
    /* Refusing has changed nothing: the stream goes on. */
    writer_epoch(&primary.writer, 2, 1, 3, 1, 0x22);
    g_assert_true(primary_flush(&primary));
    g_assert_true(primary_wait_ack(&primary, 2, LIMIT_MS));
    image = activate(rig, primary.writer.incarnation + 1, 2);
    primary_close(&primary);
}

static void
test_status(Rig *rig, gconstpointer data)
{
    District__StandbyMessage *message = rig_status(rig);
    District__StandbyStatusReply *status = message->reply->status;
    Primary primary;

    g_assert_false(status->connected);
    g_assert_cmpuint(status->committed_epoch, ==, 0);
    rig_message_free(message);

    protect(&primary, rig, 6, 0x11);
    message = rig_status(rig);
    status = message->reply->status;
    g_assert_true(status->connected);
    g_assert_cmpuint(status->committed_epoch, ==, 6);
    g_assert_cmpuint(status->incarnation, ==, 3);
    g_assert_cmpuint(status->epochs, ==, 1);
    g_assert_cmpuint(status->received_bytes, >, 1000);
    g_assert_cmpuint(status->ram_bytes, ==, N_MEMBERS * RAM_PAGES * PAGE_BYTES);
    g_assert_cmpint(status->committed_realtime_ns, ==, 6000);
    g_assert_cmpstr(status->peer, ==, "home");
    g_assert_cmpstr(status->error, ==, "");
    rig_message_free(message);

    primary_close(&primary);
    expect_event(rig, EVENT(LOST), NULL);
    message = rig_status(rig);
    g_assert_false(message->reply->status->connected);
    g_assert_cmpuint(strlen(message->reply->status->error), >, 0);
    g_assert_cmpuint(message->reply->status->committed_epoch, ==, 6);
    rig_message_free(message);
}

static void
test_silence(Rig *rig, gconstpointer data)
{
    Primary primary;
    int64_t start;

    rig_config(rig, 0, 150);
    protect(&primary, rig, 1, 0x11);
    start = clock_monotonic_ns();
    expect_event(rig, EVENT(SILENT), "home");
    g_assert_cmpint(clock_monotonic_ns() - start, >, 100 * NS_PER_MS);
    g_assert_cmpint(clock_monotonic_ns() - start, <, 1000 * NS_PER_MS);
    writer_record(&primary.writer, RECORD_HEARTBEAT, 0, NULL, 0, 0);
    g_assert_true(primary_flush(&primary));
    expect_event(rig, EVENT(HEARD), NULL);
    expect_event(rig, EVENT(SILENT), NULL);
    primary_close(&primary);
}

static void
test_silence_after_loss(Rig *rig, gconstpointer data)
{
    Primary primary;

    rig_config(rig, 0, 100);
    protect(&primary, rig, 1, 0x11);
    primary_close(&primary);
    expect_event(rig, EVENT(LOST), NULL);
    expect_event(rig, EVENT(SILENT), NULL);
}

static void
test_goodbye(Rig *rig, gconstpointer data)
{
    Primary primary;
    District__StandbyMessage *message;

    rig_config(rig, 0, 100);
    protect(&primary, rig, 1, 0x11);
    writer_record(&primary.writer, RECORD_BYE, 0, NULL, 0, 0);
    g_assert_true(primary_flush(&primary));
    expect_event(rig, EVENT(LOST), "ended protection");
    g_usleep(250000);
    message = rig_status(rig);
    rig_message_free(message);
    while ((message = g_queue_pop_head(&rig->events)) != NULL) {
        g_assert_cmpint(message->event->kind, !=, EVENT(SILENT));
        rig_message_free(message);
    }
    primary_close(&primary);
}

static void
test_heartbeats(Rig *rig, gconstpointer data)
{
    Primary primary;
    unsigned beats = 0;
    int64_t start;

    protect(&primary, rig, 1, 0x11);
    start = clock_monotonic_ns();
    while (beats < 5) {
        g_autofree uint8_t *payload = NULL;
        RecordHeader header;

        g_assert_true(primary_record(&primary, &header, &payload, LIMIT_MS));
        beats += header.type == RECORD_HEARTBEAT;
    }
    g_assert_cmpint(clock_monotonic_ns() - start, <, 1500 * NS_PER_MS);
    primary_close(&primary);
}

static void
test_new_districtd_gets_the_hold(Rig *rig, gconstpointer data)
{
    Primary primary;
    District__StandbyMessage *message;

    protect(&primary, rig, 1, 0x11);
    rig_connect(rig);
    fdmsg_close_fds(rig->held.fds, rig->held.n);
    rig->held.n = 0;
    message = rig_status(rig);
    g_assert_cmpuint(message->reply->status->committed_epoch, ==, 1);
    rig_message_free(message);
    g_assert_cmpuint(rig->held.n, ==, 3 + N_MEMBERS);
    /* The stream has not noticed. */
    writer_epoch(&primary.writer, 2, 1, 3, 1, 0x22);
    g_assert_true(primary_flush(&primary));
    g_assert_true(primary_wait_ack(&primary, 2, LIMIT_MS));
    primary_close(&primary);
}

/* With nobody to hold it, an epoch would be lost with this process: it must not be acknowledged. */
static void
test_acknowledged_when_held(Rig *rig, gconstpointer data)
{
    Primary primary;

    primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
    primary_greet(&primary, NULL);
    rig_disconnect(rig);
    writer_epoch(&primary.writer, 1, 0, 0, RAM_PAGES, 0x11);
    writer_epoch(&primary.writer, 2, 1, 3, 1, 0x22);
    g_assert_true(primary_flush(&primary));
    g_assert_false(primary_wait_ack(&primary, 1, 500));
    g_assert_cmpuint(primary.acked, ==, 0);
    rig_connect(rig);
    g_assert_true(primary_wait_ack(&primary, 2, LIMIT_MS));
    rig_message_free(rig_status(rig));
    g_assert_cmpuint(rig->held.n, ==, 3 + N_MEMBERS);
    primary_close(&primary);
}

/* A stream that ends while an epoch of it waits to be held. */
static void
test_never_acknowledged(Rig *rig, gconstpointer data)
{
    District__StandbyMessage *message;
    Primary primary;

    primary_open(&primary, rig, "home", N_MEMBERS, RAM_PAGES);
    primary_greet(&primary, NULL);
    rig_disconnect(rig);
    writer_epoch(&primary.writer, 1, 0, 0, RAM_PAGES, 0x11);
    g_assert_true(primary_flush(&primary));
    g_assert_false(primary_wait_ack(&primary, 1, 200));
    primary_close(&primary);
    rig_connect(rig);
    message = rig_status(rig);
    g_assert_cmpuint(message->reply->status->committed_epoch, ==, 1);
    rig_message_free(message);
    g_assert_cmpuint(rig->held.n, ==, 3 + N_MEMBERS);
}

/* Connections that never show a certificate, as many as there may be. */
static void
test_strangers(Rig *rig, gconstpointer data)
{
    int strangers[8], more;
    Primary primary;
    char end;

    protect(&primary, rig, 1, 0x11);
    for (guint i = 0; i < G_N_ELEMENTS(strangers); i++)
        strangers[i] = rig_tcp(rig, "home");
    primary_close(&primary);
    more = rig_tcp(rig, "home");
    protect(&primary, rig, 2, 0x22);
    /* The oldest ones had to go. */
    g_assert_cmpint(recv(strangers[0], &end, 1, 0), <=, 0);
    for (guint i = 0; i < G_N_ELEMENTS(strangers); i++)
        close(strangers[i]);
    close(more);
    primary_close(&primary);
}

static void
test_quit(Rig *rig, gconstpointer data)
{
    District__StandbyRequest request = DISTRICT__STANDBY_REQUEST__INIT;
    District__StandbyQuitRequest quit = DISTRICT__STANDBY_QUIT_REQUEST__INIT;
    Primary primary;
    int status;

    protect(&primary, rig, 1, 0x11);
    writer_begin(&primary.writer, 2, 0);
    g_assert_true(primary_flush(&primary));
    request.op_case = DISTRICT__STANDBY_REQUEST__OP_QUIT;
    request.quit = &quit;
    rig_message_free(rig_call(rig, &request, NULL, 0));
    g_assert_cmpint(waitpid(rig->pid, &status, 0), ==, rig->pid);
    rig->pid = 0;
    /* A sanitizer's leak report would show here too. */
    g_assert_true(g_spawn_check_wait_status(status, NULL));
    g_assert_false(g_file_test(rig->control_path, G_FILE_TEST_EXISTS));
    primary_close(&primary);
}

#define ADD(path, function) g_test_add(path, Rig, NULL, set_up, function, tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/standby/activates the last committed epoch", test_commit_and_activate);
    ADD("/standby/an epoch without its end is not activated",
        test_unfinished_epoch_is_not_activated);
    ADD("/standby/a broken resynchronisation keeps the old state",
        test_unfinished_resync_keeps_the_old);
    ADD("/standby/a full epoch on a new connection replaces the old state", test_resync_replaces);
    ADD("/standby/a full epoch that is not newer is refused", test_old_full_epoch);
    ADD("/standby/a primary that reconnects goes on where it was", test_reconnect_goes_on);
    ADD("/standby/an increment on another base is refused", test_wrong_base);
    ADD("/standby/a flipped bit is refused and the state kept", test_bit_flip);
    ADD("/standby/another host is told that it is the wrong one", test_wrong_peer);
    ADD("/standby/a peer without TLS is refused", test_plaintext);
    ADD("/standby/an older incarnation is told of the newer", test_old_incarnation);
    ADD("/standby/an epoch superseded while it arrives is not committed",
        test_superseded_in_an_epoch);
    ADD("/standby/after activation the old primary is told", test_superseded_after_activation);
    ADD("/standby/can be activated again until its members have run, never after",
        test_activated_again_until_run);
    ADD("/standby/another version is refused by its number", test_other_version);
    ADD("/standby/another district is refused by name", test_other_district);
    ADD("/standby/too much RAM is refused with the numbers", test_full);
    ADD("/standby/with nothing committed there is nothing to activate", test_nothing_to_activate);
    ADD("/standby/activation needs a newer incarnation", test_activation_needs_a_newer_incarnation);
    ADD("/standby/status tells the truth", test_status);
    ADD("/standby/silence is noticed, and its end", test_silence);
    ADD("/standby/silence counts on when the connection is lost", test_silence_after_loss);
    ADD("/standby/after a goodbye there is no silence", test_goodbye);
    ADD("/standby/it sends heartbeats", test_heartbeats);
    ADD("/standby/a new districtd is given what to hold", test_new_districtd_gets_the_hold);
    ADD("/standby/nothing is acknowledged before districtd holds it", test_acknowledged_when_held);
    ADD("/standby/a stream may end before what it brought is held", test_never_acknowledged);
    ADD("/standby/strangers do not keep the primary out", test_strangers);
    ADD("/standby/quits cleanly in the middle of an epoch", test_quit);
    return g_test_run();
}
