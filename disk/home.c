/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Home images for district-ckpt: which kind a name says, and calls to it. */
#include "disk/home.h"
#include "disk/home-ops.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>

gboolean
home_fail(const char *name, const char *doing, int code, GError **error)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code), "home image %s: cannot %s: %s%s",
                name, doing, g_strerror(code),
                code == ENOSPC || code == EDQUOT ? ": free some space there" : "");
    return FALSE;
}

Home *
home_open(const char *home, uint64_t bytes, bool write, GError **error)
{
    Home *h = NULL;

    if (g_str_has_prefix(home, "raw:"))
        h = home_raw_open(home + strlen("raw:"), bytes, write, error);
    else if (g_str_has_prefix(home, "nbd:"))
        h = home_nbd_open(home + strlen("nbd:"), bytes, write, error);
    else if (g_str_has_prefix(home, "image:"))
        h = home_own_open(home + strlen("image:"), bytes, write, error);
    else
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "home image %s: neither raw:PATH nor nbd:SOCKET; engine and district-ckpt "
                    "differ in version",
                    home);
    if (h == NULL)
        return NULL;
    h->name = g_strdup(home);
    h->bytes = bytes;
    return h;
}

void
home_close(Home *home)
{
    HomeServer *server = home->server;

    g_free(home->name);
    home->ops->close(home);
    if (server != NULL)
        home_server_release(server);
}

gboolean
home_read(Home *home, uint64_t offset, void *buf, size_t len, GError **error)
{
    return home->ops->read(home, offset, buf, len, error);
}

gboolean
home_write(Home *home, uint64_t offset, const void *buf, size_t len, GError **error)
{
    return home->ops->write(home, offset, buf, len, error);
}

gboolean
home_zero(Home *home, uint64_t offset, uint64_t len, GError **error)
{
    return home->ops->zero(home, offset, len, error);
}

gboolean
home_flush(Home *home, GError **error)
{
    return home->ops->flush(home, error);
}

gboolean
home_next_data(Home *home, uint64_t from, uint64_t *start, uint64_t *end, GError **error)
{
    if (from < home->bytes)
        return home->ops->next_data(home, from, start, end, error);
    *start = *end = home->bytes;
    return TRUE;
}
