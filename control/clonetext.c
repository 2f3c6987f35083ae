/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The definitions of a clone and of a district that is imported, from that of the checkpoint. To its
 * guests everything is as it was. But nothing is written where the definition has it: of a clone that
 * is where its original writes to, and of a file whose maker need not be trusted any file of this host.
 * A clone has no way out either.
 */
#include "control/definition.h"

#include <string.h>

/* Of a clone, which takes no part in the life of a host. */
static const char *const dropped[] = {"Autostart", "AutoFailover"};

/* The devices stay, or what is saved of the guest would not fit. */
static void
change_member(GKeyFile *kf, const DefinitionMember *m, const char *log_dir)
{
    g_autofree char *section = g_strconcat("Member ", m->name, NULL);
    g_autofree char *file = g_strconcat(m->name, ".debugcon", NULL);
    g_autofree char *debugcon = g_build_filename(log_dir, file, NULL);

    if (m->console != NULL && strcmp(m->console, "none") != 0)
        g_key_file_set_string(kf, section, "Console", "pty");
    if (m->debugcon != NULL)
        g_key_file_set_string(kf, section, "Debugcon", debugcon);
}

/* For what is called name and writes to nothing of others. NULL with error set. */
static GKeyFile *
change(const Definition *definition, const char *name, gboolean isolated, const char *log_dir,
       GError **error)
{
    g_autofree char *text = definition_renamed(definition, name, isolated, error);
    g_autoptr(GKeyFile) kf = g_key_file_new();

    if (text == NULL ||
        !g_key_file_load_from_data(kf, text, strlen(text), G_KEY_FILE_KEEP_COMMENTS, error))
        return NULL;
    for (guint i = 0; i < definition->members->len; i++)
        change_member(kf, definition->members->pdata[i], log_dir);
    return g_steal_pointer(&kf);
}

char *
definition_clone_text(const Definition *definition, const char *name, const char *log_dir,
                      GError **error)
{
    g_autoptr(GKeyFile) kf = change(definition, name, TRUE, log_dir, error);

    if (kf == NULL)
        return NULL;
    for (gsize i = 0; i < G_N_ELEMENTS(dropped); i++)
        g_key_file_remove_key(kf, "District", dropped[i], NULL);
    return g_key_file_to_data(kf, NULL, error);
}

char *
definition_import_text(const Definition *definition, const char *name, gboolean isolated,
                       const char *log_dir, GError **error)
{
    g_autoptr(GKeyFile) kf = change(definition, name, isolated, log_dir, error);

    return kf != NULL ? g_key_file_to_data(kf, NULL, error) : NULL;
}
