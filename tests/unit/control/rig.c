/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A districtd without its loop. */
#include "rig.h"

#include <string.h>

static void
add_district(Rig *rig)
{
    g_autoptr(GError) error = NULL;
    Definition *definition =
        definition_parse(RIG_DEFINITION, strlen(RIG_DEFINITION), "shop.district", &error);

    g_assert_no_error(error);
    rig->district = district_new(&rig->daemon, definition);
    rig->district->record = (Record){.role = ROLE_HOME, .uuid = g_strdup(RIG_UUID)};
    rig->district->incarnation = 3;
    store_create(rig->dir, "shop", RIG_DEFINITION, &rig->district->record, 3, &error);
    g_assert_no_error(error);
    g_hash_table_insert(rig->daemon.districts, rig->district->name, rig->district);
}

void
rig_set_up(Rig *rig, gconstpointer data)
{
    rig->dir = g_dir_make_tmp("control-XXXXXX", NULL);
    g_assert_nonnull(rig->dir);
    g_unsetenv("DISTRICT_LIBEXEC");
    /* What peers' threads have to say is said in iterations of our own only. */
    g_assert_true(g_main_context_acquire(NULL));
    rig->config = (Config){.host_name = (char *)"h1",
                           .state_dir = rig->dir,
                           .runtime_dir = rig->dir,
                           .log_dir = rig->dir,
                           .pki_dir = rig->dir,
                           .libexec_dir = rig->dir};
    rig->daemon.config = &rig->config;
    rig->daemon.districts =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)district_free);
    rig->daemon.peers =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)peer_free);
    add_district(rig);
}

void
rig_tear_down(Rig *rig, gconstpointer data)
{
    g_hash_table_unref(rig->daemon.peers);
    rig->daemon.peers = NULL;
    g_hash_table_unref(rig->daemon.districts);
    g_main_context_release(NULL);
    g_assert_true(store_remove_tree(rig->dir, NULL));
    g_free(rig->dir);
}

Peer *
rig_add_peer(Rig *rig, const char *name)
{
    const Host host = {.name = (char *)name, .address = (char *)"127.0.0.1", .port = 1};
    Peer *peer = peer_new(&rig->daemon, &host);

    g_hash_table_insert(rig->daemon.peers, (gpointer)peer_name(peer), peer);
    return peer;
}

void
rig_fake_ckpt(Rig *rig, const char *script)
{
    g_autofree char *path = g_build_filename(rig->dir, "district-ckpt", NULL);
    g_autofree char *text = g_strconcat("#!/bin/sh\n", script, NULL);

    g_assert_true(g_file_set_contents_full(path, text, -1, G_FILE_SET_CONTENTS_NONE, 0700, NULL));
}
