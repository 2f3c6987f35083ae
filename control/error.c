/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors of districtd: the quark and its class names. */
#include "control/error.h"

G_DEFINE_QUARK(control - error - quark, control_error)

static const char *const classes[] = {
    [CONTROL_ERROR_INVALID] = "InvalidArgument",
    [CONTROL_ERROR_NOT_FOUND] = "NotFound",
    [CONTROL_ERROR_EXISTS] = "Exists",
    [CONTROL_ERROR_STATE] = "WrongState",
    [CONTROL_ERROR_BUSY] = "Busy",
    [CONTROL_ERROR_UNREACHABLE] = "Unreachable",
    [CONTROL_ERROR_UNSUPPORTED] = "Unsupported",
    [CONTROL_ERROR_FAILED] = "Failed",
};

const char *
control_error_class(const GError *error)
{
    if (error->domain != CONTROL_ERROR || error->code < 0 ||
        (gsize)error->code >= G_N_ELEMENTS(classes))
        return "Failed";
    return classes[error->code];
}

ControlError
control_error_of_peer(const char *class)
{
    return g_strcmp0(class, classes[CONTROL_ERROR_NOT_FOUND]) == 0 ? CONTROL_ERROR_NOT_FOUND
                                                                   : CONTROL_ERROR_FAILED;
}
