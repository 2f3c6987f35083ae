/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kinds of homes, for home.c, home-raw.c, home-nbd.c and home-own.c. */
#ifndef DISTRICT_DISK_HOME_OPS_H
#define DISTRICT_DISK_HOME_OPS_H

#include "disk/home.h"

typedef struct HomeOps {
    gboolean (*read)(Home *home, uint64_t offset, void *buf, size_t len, GError **error);
    gboolean (*write)(Home *home, uint64_t offset, const void *buf, size_t len, GError **error);
    gboolean (*zero)(Home *home, uint64_t offset, uint64_t len, GError **error);
    gboolean (*flush)(Home *home, GError **error);
    gboolean (*next_data)(Home *home, uint64_t from, uint64_t *start, uint64_t *end,
                          GError **error);
    void (*close)(Home *home);
} HomeOps;

/* A qemu-nbd of our own. */
typedef struct HomeServer HomeServer;

struct Home {
    const HomeOps *ops;
    char *name; /* "raw:PATH", "nbd:SOCKET", "image:FORMAT:PATH" */
    uint64_t bytes;
    HomeServer *server; /* that it is behind; NULL: another one's */
};

/* Freed with g_free by close; name is home.c's. */
Home *home_raw_open(const char *path, uint64_t bytes, bool write, GError **error);
Home *home_nbd_open(const char *socket, uint64_t bytes, bool write, GError **error);
Home *home_own_open(const char *image, uint64_t bytes, bool write, GError **error);
/* After the close. The last one waits until the image is closed, too. */
void home_server_release(HomeServer *server);

gboolean home_fail(const char *name, const char *doing, int code, GError **error);

#endif
