/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors and their class names. */
#include "control/error.h"

static void
assert_class(ControlError code, const char *class)
{
    g_autoptr(GError) error = g_error_new(CONTROL_ERROR, (gint)code, "why");

    g_assert_cmpstr(control_error_class(error), ==, class);
}

static void
test_classes(void)
{
    g_autoptr(GError) foreign = g_error_new(G_FILE_ERROR, G_FILE_ERROR_NOENT, "why");

    assert_class(CONTROL_ERROR_INVALID, "InvalidArgument");
    assert_class(CONTROL_ERROR_NOT_FOUND, "NotFound");
    assert_class(CONTROL_ERROR_UNREACHABLE, "Unreachable");
    assert_class(CONTROL_ERROR_FAILED, "Failed");
    g_assert_cmpstr(control_error_class(foreign), ==, "Failed");
}

static void
test_not_found_of_peer(void)
{
    g_assert_cmpint(control_error_of_peer("NotFound"), ==, CONTROL_ERROR_NOT_FOUND);
}

/* That a host could not be reached is for nobody to say but us. */
static void
test_others_of_peer(void)
{
    static const char *const classes[] = {"Unreachable", "WrongState", "Busy",
                                          "notfound",    "",           NULL};

    for (guint i = 0; i < G_N_ELEMENTS(classes); i++)
        g_assert_cmpint(control_error_of_peer(classes[i]), ==, CONTROL_ERROR_FAILED);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/error/each code has a class", test_classes);
    g_test_add_func("/error/what another host does not know is not found", test_not_found_of_peer);
    g_test_add_func("/error/another host's other errors are failures here", test_others_of_peer);
    return g_test_run();
}
