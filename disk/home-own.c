/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Home images that no engine has open any more, behind a qemu-nbd of our own. There is one for all
 * who have the image open at a time, because what is written to through one is not seen through
 * another. It is started for the first of them, and has ended when the last one has closed.
 *
 * A qemu-nbd ends with the thread that has started it, so each has a thread here.
 */
#include "disk/home-ops.h"
#include "disk/nbd-server.h"

#include <gio/gio.h>
#include <glib/gstdio.h>
#include <string.h>

struct HomeServer {
    char *image; /* "FORMAT:PATH" */
    GThread *thread;
    GMainContext *context; /* the thread's */
    unsigned users;
    bool tried;
    char *socket;  /* once tried; NULL: there is none */
    GError *error; /* why not */
};

static GMutex servers_lock; /* guards all of them but what is the thread's */
static GCond servers_cond;
static GList *servers;

static NbdServer *
server_start(const HomeServer *server, const char *dir, GError **error)
{
    g_auto(GStrv) words = g_strsplit(server->image, ":", 2);
    struct nbd_handle *nbd = NULL;
    NbdServer *started;

    if (g_strv_length(words) != 2) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "home image image:%s: not image:FORMAT:PATH", server->image);
        return NULL;
    }
    started = nbd_server_start(words[1], words[0], BLOCK_WRITE, dir, &nbd, error);
    if (started != NULL)
        nbd_close(nbd);
    return started;
}

static void
server_tell(HomeServer *server, const NbdServer *started, GError *error)
{
    g_mutex_lock(&servers_lock);
    server->tried = true;
    server->error = error;
    if (started != NULL)
        server->socket = g_strdup(nbd_server_socket(started));
    else
        servers = g_list_remove(servers, server); /* who comes next tries again */
    g_cond_broadcast(&servers_cond);
    g_mutex_unlock(&servers_lock);
}

static bool
server_used(const HomeServer *server)
{
    G_GNUC_UNUSED g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&servers_lock);

    return server->users > 0;
}

static gpointer
server_run(gpointer data)
{
    HomeServer *server = data;
    GError *error = NULL;
    g_autofree char *dir = g_dir_make_tmp("district-home-XXXXXX", &error);

    g_main_context_push_thread_default(server->context);
    NbdServer *started = dir != NULL ? server_start(server, dir, &error) : NULL;
    server_tell(server, started, error);
    /* What it says is logged meanwhile. */
    while (started != NULL && server_used(server))
        g_main_context_iteration(server->context, TRUE);
    if (started != NULL)
        nbd_server_stop(started);
    if (dir != NULL)
        g_rmdir(dir);
    g_main_context_pop_thread_default(server->context);
    return NULL;
}

/* With the lock. */
static HomeServer *
server_find(const char *image)
{
    for (GList *at = servers; at != NULL; at = at->next) {
        HomeServer *server = at->data;

        if (strcmp(server->image, image) == 0)
            return server;
    }
    HomeServer *server = g_new0(HomeServer, 1);
    server->image = g_strdup(image);
    server->context = g_main_context_new();
    server->thread = g_thread_new("home", server_run, server);
    servers = g_list_prepend(servers, server);
    return server;
}

void
home_server_release(HomeServer *server)
{
    bool last;

    g_mutex_lock(&servers_lock);
    last = --server->users == 0;
    if (last)
        servers = g_list_remove(servers, server);
    g_mutex_unlock(&servers_lock);
    if (!last)
        return;
    g_main_context_wakeup(server->context);
    g_thread_join(server->thread);
    g_main_context_unref(server->context);
    g_clear_error(&server->error);
    g_free(server->socket);
    g_free(server->image);
    g_free(server);
}

/* Waits for its start, which has a limit. */
static HomeServer *
server_get(const char *image, GError **error)
{
    HomeServer *server;
    bool good;

    g_mutex_lock(&servers_lock);
    server = server_find(image);
    server->users++;
    while (!server->tried)
        g_cond_wait(&servers_cond, &servers_lock);
    good = server->socket != NULL;
    if (!good)
        g_propagate_error(error, g_error_copy(server->error));
    g_mutex_unlock(&servers_lock);
    if (good)
        return server;
    home_server_release(server);
    return NULL;
}

Home *
home_own_open(const char *image, uint64_t bytes, bool write, GError **error)
{
    HomeServer *server = server_get(image, error);
    Home *home;

    if (server == NULL)
        return NULL;
    home = home_nbd_open(server->socket, bytes, write, error);
    if (home != NULL)
        home->server = server;
    else
        home_server_release(server);
    return home;
}
