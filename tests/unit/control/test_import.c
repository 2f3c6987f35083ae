/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is made of what district-ckpt has found in a file, which anybody may have made. */
#include "rig.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define LIMIT_US (5 * G_USEC_PER_SEC)
#define SAYS(incarnation)                                                                          \
    "cat <<END\ndistrict bank\nname bank\nepoch 7\nincarnation " incarnation                       \
    "\nmember db 2097152\ndisks db 0\ndefinition\n"                                                \
    "[District]\nName=bank\n[Member db]\nKernel=/boot/k\nInitrd=/boot/i\nMemory=2M\n"              \
    "Debugcon=/etc/cron.d/x\nConsole=file:/etc/passwd\nDisk=/b.img,readonly\nEND\n"

typedef struct Answer {
    gboolean came;
    char *error;
    JsonObject *result;
} Answer;

/* JobDone */
static void
on_done(JsonObject *result, const GError *error, gpointer data)
{
    Answer *answer = data;

    answer->came = TRUE;
    answer->error = error != NULL ? g_strdup(error->message) : NULL;
    answer->result = result != NULL ? json_object_ref(result) : NULL;
}

static void
import(Rig *rig, const char *script, Answer *answer)
{
    const int fds[2] = {open("/dev/null", O_RDONLY | O_CLOEXEC),
                        open("/dev/null", O_WRONLY | O_CLOEXEC)};
    gint64 end = g_get_monotonic_time() + LIMIT_US;

    rig_fake_ckpt(rig, script);
    operation_import(&rig->daemon, NULL, "bank.dcp", FALSE, fds, on_done, answer);
    while (!answer->came) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_main_context_iteration(NULL, FALSE);
        g_usleep(500);
    }
}

static void
answer_clear(Answer *answer)
{
    g_free(answer->error);
    if (answer->result != NULL)
        json_object_unref(answer->result);
}

/* "MEMBER KEY=VALUE" of all the paths of an answer, one after the other. */
static char *
paths_of(JsonObject *result, const char *which)
{
    JsonArray *paths = json_get_array(result, which);
    g_autoptr(GString) all = g_string_new(NULL);

    g_assert_nonnull(paths);
    for (guint i = 0; i < json_array_get_length(paths); i++) {
        JsonObject *item = json_array_get_object_element(paths, i);
        g_string_append_printf(all, "%s %s=%s;", json_get_string(item, "member", NULL),
                               json_get_string(item, "key", NULL),
                               json_get_string(item, "value", NULL));
    }
    return g_string_free(g_steal_pointer(&all), FALSE);
}

static void
test_writes(Rig *rig, gconstpointer data)
{
    g_autofree char *log = g_build_filename(rig->dir, "bank", "db.debugcon", NULL);
    Answer answer = {0};

    import(rig, SAYS("4"), &answer);
    g_assert_cmpstr(answer.error, ==, NULL);
    const District *d = g_hash_table_lookup(rig->daemon.districts, "bank");
    const DefinitionMember *db = d->definition->members->pdata[0];
    g_assert_cmpstr(db->debugcon, ==, log);
    g_assert_cmpstr(db->console, ==, "pty");
    answer_clear(&answer);
}

static void
test_told(Rig *rig, gconstpointer data)
{
    Answer answer = {0};

    import(rig, SAYS("4"), &answer);
    g_assert_cmpstr(answer.error, ==, NULL);
    g_autofree char *replaced = paths_of(answer.result, "replaced");
    g_autofree char *reads = paths_of(answer.result, "reads");
    g_assert_cmpstr(replaced, ==, "db Console=file:/etc/passwd;db Debugcon=/etc/cron.d/x;");
    g_assert_cmpstr(reads, ==, "db Kernel=/boot/k;db Initrd=/boot/i;db Disk=/b.img;");
    answer_clear(&answer);
}

static void
test_impossible(Rig *rig, gconstpointer data)
{
    Answer answer = {0};

    import(rig, SAYS("9223372036854775807"), &answer);
    g_assert_nonnull(answer.error);
    g_assert_nonnull(strstr(answer.error, "incarnation"));
    g_assert_null(g_hash_table_lookup(rig->daemon.districts, "bank"));
    answer_clear(&answer);
}

#define ADD(name, function) g_test_add(name, Rig, NULL, rig_set_up, function, rig_tear_down)

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/import/nothing is written to files that the file names", test_writes);
    ADD("/import/it is told which paths are not as in the file, and which are read", test_told);
    ADD("/import/an incarnation that cannot be is refused", test_impossible);
    return g_test_run();
}
