/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The definition of a clone, from that of the checkpoint it runs. To its guests everything is as it was,
 * but nothing of it is where the original has it: no way out, no file that members of both would write
 * to.
 */
#include "control/definition.h"

#include <string.h>

/* What takes part in the life of a host. */
static const char *const dropped[] = {"Autostart", "AutoFailover"};

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

char *
definition_clone_text(const Definition *definition, const char *name, const char *log_dir,
                      GError **error)
{
    g_autofree char *isolated = definition_renamed(definition, name, TRUE, error);
    g_autoptr(GKeyFile) kf = g_key_file_new();

    if (isolated == NULL ||
        !g_key_file_load_from_data(kf, isolated, strlen(isolated), G_KEY_FILE_KEEP_COMMENTS, error))
        return NULL;
    for (gsize i = 0; i < G_N_ELEMENTS(dropped); i++)
        g_key_file_remove_key(kf, "District", dropped[i], NULL);
    for (guint i = 0; i < definition->members->len; i++)
        change_member(kf, definition->members->pdata[i], log_dir);
    return g_key_file_to_data(kf, NULL, error);
}
