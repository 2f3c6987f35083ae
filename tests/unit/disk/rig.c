/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk over a home in memory. */
#include "rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void
rig_open(Rig *rig)
{
    g_autoptr(GError) error = NULL;

    rig->home = fake_home_new(rig->home_bytes, rig->size);
    rig->disk = disk_new("db/0", &rig->home->backend, rig->dir, &error);
    g_assert_no_error(error);
}

Rig *
rig_new(uint64_t size, const char *overlay_dir)
{
    Rig *rig = g_new0(Rig, 1);

    rig->size = size;
    rig->dir = g_strdup(overlay_dir);
    rig->home_bytes = g_malloc(size);
    for (uint64_t i = 0; i < size; i++)
        rig->home_bytes[i] = (uint8_t)(1 + i % 251);
    rig_open(rig);
    return rig;
}

void
rig_free(Rig *rig)
{
    if (rig->disk != NULL)
        disk_free(rig->disk);
    g_free(rig->home_bytes);
    g_free(rig->dir);
    g_free(rig);
}

void
rig_reopen(Rig *rig)
{
    disk_free(rig->disk);
    rig_open(rig);
}

char *
rig_hand_on_text(Disk *disk)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = disk_hand_on(disk, &error);
    int data_fd, index_fd, state_fd;

    g_assert_no_error(error);
    g_assert_cmpint(
        sscanf(text, "overlay-1 data=%d index=%d state=%d", &data_fd, &index_fd, &state_fd), ==, 3);
    g_assert_cmpint(fcntl(data_fd, F_GETFD), ==, 0);
    g_assert_cmpint(fcntl(index_fd, F_GETFD), ==, 0);
    g_assert_cmpint(fcntl(state_fd, F_GETFD), ==, 0);
    return g_strdup_printf("overlay-1 data=%d index=%d state=%d", dup(data_fd), dup(index_fd),
                           dup(state_fd));
}

void
rig_hand_on(Rig *rig)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = rig_hand_on_text(rig->disk);

    rig_reopen(rig);
    disk_inherit(rig->disk, text, &error);
    g_assert_no_error(error);
}

static gboolean
on_timeout(gpointer opaque)
{
    g_error("the request did not end in time");
    return G_SOURCE_REMOVE;
}

void
wait_done(void *opaque, int error)
{
    Wait *wait = opaque;

    g_assert_false(wait->ended);
    wait->ended = true;
    wait->error = error;
}

int
wait_end(Wait *wait)
{
    guint timeout = g_timeout_add_seconds(20, on_timeout, NULL);

    while (!wait->ended)
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(timeout);
    return wait->error;
}

void
rig_turn(void)
{
    for (unsigned i = 0; i < 1000 && g_main_context_iteration(NULL, FALSE); i++)
        continue;
}

int
rig_write(Rig *rig, uint64_t offset, const void *buf, size_t len)
{
    Wait wait = {0};

    disk_write(rig->disk, offset, buf, len, wait_done, &wait);
    g_assert_false(wait.ended);
    return wait_end(&wait);
}

int
rig_fill(Rig *rig, uint64_t offset, size_t len, uint8_t value)
{
    g_autofree uint8_t *buf = g_malloc(len);

    memset(buf, value, len);
    return rig_write(rig, offset, buf, len);
}

int
rig_read(Rig *rig, uint64_t offset, void *buf, size_t len)
{
    Wait wait = {0};

    disk_read(rig->disk, offset, buf, len, wait_done, &wait);
    g_assert_false(wait.ended);
    return wait_end(&wait);
}

int
rig_zero(Rig *rig, uint64_t offset, uint64_t len)
{
    Wait wait = {0};

    disk_zero(rig->disk, offset, len, true, wait_done, &wait);
    g_assert_false(wait.ended);
    return wait_end(&wait);
}

int
rig_discard(Rig *rig, uint64_t offset, uint64_t len)
{
    Wait wait = {0};

    disk_discard(rig->disk, offset, len, wait_done, &wait);
    g_assert_false(wait.ended);
    return wait_end(&wait);
}

void
rig_check(Rig *rig, uint64_t offset, size_t len, uint8_t value)
{
    g_autofree uint8_t *buf = g_malloc(len);

    memset(buf, ~value, len);
    g_assert_cmpint(rig_read(rig, offset, buf, len), ==, 0);
    for (size_t i = 0; i < len; i++)
        g_assert_cmpuint(buf[i], ==, value);
}

DiskIndexEntry
rig_entry(Rig *rig, uint64_t index)
{
    DiskIndexEntry entry;
    int data_fd, index_fd;

    disk_overlay_fds(rig->disk, &data_fd, &index_fd);
    g_assert_cmpint(pread(index_fd, &entry, sizeof entry, (off_t)(index * sizeof entry)), ==,
                    sizeof entry);
    return entry;
}

void
rig_entry_data(Rig *rig, const DiskIndexEntry *entry, void *buf)
{
    int data_fd, index_fd;

    if (entry->offset == DISK_INDEX_ZERO) {
        memset(buf, 0, PAGE_BYTES);
        return;
    }
    disk_overlay_fds(rig->disk, &data_fd, &index_fd);
    g_assert_cmpint(pread(data_fd, buf, PAGE_BYTES, (off_t)entry->offset), ==, PAGE_BYTES);
}

static uint64_t
file_space(int fd)
{
    struct stat st;

    /* Delayed allocation is no allocation yet. */
    g_assert_cmpint(fsync(fd), ==, 0);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}

uint64_t
rig_data_space(Rig *rig)
{
    int data_fd, index_fd;

    disk_overlay_fds(rig->disk, &data_fd, &index_fd);
    return file_space(data_fd);
}

uint64_t
rig_index_space(Rig *rig)
{
    int data_fd, index_fd;

    disk_overlay_fds(rig->disk, &data_fd, &index_fd);
    return file_space(index_fd);
}
