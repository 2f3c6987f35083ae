/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A district's image, one committed cut as memfds: taking one over from another process. */
#include "ckpt/image.h"

#include "ckpt/layout.h"
#include "common/memfd.h"

#include <sys/mman.h>
#include <unistd.h>

void
image_free(Image *image)
{
    if (image == NULL)
        return;
    for (uint32_t i = 0; i < image->n_members; i++) {
        if (image->ram_fds[i] >= 0)
            close(image->ram_fds[i]);
    }
    for (uint32_t i = 0; i < image->n_disks; i++) {
        if (image->disks[i].data_fd >= 0)
            close(image->disks[i].data_fd);
        if (image->disks[i].index_fd >= 0)
            close(image->disks[i].index_fd);
        lazydisk_free(image->disks[i].lazy);
    }
    g_free(image->ram_fds);
    g_free(image->disks);
    if (image->cut != NULL)
        district__cut_state__free_unpacked(image->cut, NULL);
    g_free(image);
}

static gboolean
check_ram_fds(const District__CutState *cut, const Image *image, GError **error)
{
    if (cut->n_members != image->n_members) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                    "%u RAM images for a cut of %zu members", image->n_members, cut->n_members);
        return FALSE;
    }
    for (uint32_t i = 0; i < image->n_members; i++) {
        g_autofree char *what = g_strdup_printf("RAM image of member %s", cut->members[i]->name);
        if (!memfd_check(image->ram_fds[i], cut->members[i]->ram_size, what, error))
            return FALSE;
        if (memfd_is_spent(image->ram_fds[i])) {
            g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_DAMAGED,
                        "%s has been run already and is no checkpoint any more", what);
            return FALSE;
        }
    }
    return TRUE;
}

District__CutState *
image_cut_from_fd(int state_fd, uint64_t state_len, GError **error)
{
    District__CutState *cut;
    void *packed;

    if (!memfd_check(state_fd, 0, "cut state", error))
        return NULL;
    if (state_len == 0 || state_len > CUT_STATE_BYTES_MAX || state_len > memfd_size(state_fd)) {
        g_set_error(error, FORMAT_ERROR, FORMAT_ERROR_LIMIT,
                    "%" G_GUINT64_FORMAT " bytes of cut state in a memfd of %" G_GUINT64_FORMAT,
                    state_len, memfd_size(state_fd));
        return NULL;
    }
    packed = memfd_map(state_fd, state_len, FALSE, error);
    if (packed == NULL)
        return NULL;
    cut = (District__CutState *)layout_unpack(&district__cut_state__descriptor, packed, state_len,
                                              "cut state", error);
    munmap(packed, state_len);
    if (cut != NULL && !layout_check_cut(cut, error)) {
        district__cut_state__free_unpacked(cut, NULL);
        cut = NULL;
    }
    return cut;
}

gboolean
image_mark_spent(const Image *image, GError **error)
{
    for (uint32_t i = 0; i < image->n_members; i++) {
        if (!memfd_mark_spent(image->ram_fds[i], error))
            return FALSE;
    }
    return TRUE;
}

Image *
image_from_fds(int state_fd, uint64_t state_len, int *ram_fds, uint32_t n_fds, GError **error)
{
    g_autoptr(Image) image = g_new0(Image, 1);

    image->n_members = n_fds;
    image->ram_fds = g_memdup2(ram_fds, n_fds * sizeof *ram_fds);
    image->cut = image_cut_from_fd(state_fd, state_len, error);
    if (image->cut == NULL || !check_ram_fds(image->cut, image, error))
        return NULL;
    return g_steal_pointer(&image);
}
