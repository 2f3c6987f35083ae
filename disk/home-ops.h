/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The two kinds of homes, for home.c, home-raw.c and home-nbd.c. */
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

struct Home {
    const HomeOps *ops;
    char *name; /* "raw:PATH", "nbd:SOCKET" */
    uint64_t bytes;
};

/* Freed with g_free by close; name is home.c's. */
Home *home_raw_open(const char *path, uint64_t bytes, bool write, GError **error);
Home *home_nbd_open(const char *socket, uint64_t bytes, bool write, GError **error);

gboolean home_fail(const char *name, const char *doing, int code, GError **error);

#endif
