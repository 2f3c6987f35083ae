/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which life of which district: what one host may conclude from what the other one says. */
#include "pair.h"

#include <string.h>
#include <unistd.h>

#define SKIP 77

/* ---- Two districts of one name ---- */

static void
create_and_start(Pair *pair, const Host *host)
{
    const char *create[] = {"create", pair->definition, NULL}, *start[] = {"start", "shop", NULL};

    pair_must(pair, host, create);
    pair_must(pair, host, start);
}

/* Neither ends the other, whichever has the higher incarnation, and neither takes its place. */
static void
test_namesakes(void)
{
    Pair *pair = pair_new_empty();
    const Host *first = pair_home(pair), *second = pair_standby(pair);
    const char *stop[] = {"stop", "shop", NULL}, *start[] = {"start", "shop", NULL};
    const char *protect[] = {"protect", "shop", "--standby", "h2", NULL};
    g_autofree char *why = NULL;

    create_and_start(pair, first);
    create_and_start(pair, second);
    pair_must(pair, second, stop);
    pair_must(pair, second, start);
    g_assert_cmpint(pair_number(pair, second, "incarnation"), >,
                    pair_number(pair, first, "incarnation"));
    g_assert_true(pair_had_event(pair, first, "namesake"));
    pair_wait(pair, first, "state", "running");
    pair_must(pair, second, stop);
    g_assert_null(pair_command(pair, first, &why, protect));
    g_assert_nonnull(strstr(why, "host h2 has another district of this name: destroy that one"));
    pair_wait(pair, second, "role", "home");
    pair_wait_progress(pair);
    pair_free(pair);
}

int
main(int argc, char **argv)
{
    if (geteuid() != 0) {
        g_print("1..0 # SKIP mount namespaces are needed: run as root\n");
        return SKIP;
    }
    int result = pair_guard();
    if (result >= 0)
        return result;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/identity/two districts of one name leave each other alone", test_namesakes);
    return g_test_run();
}
