/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Errors of districtd as users see them. The message is one line that names the object and says
 * what to do; the code becomes the "class" of an API error.
 */
#ifndef DISTRICT_CONTROL_ERROR_H
#define DISTRICT_CONTROL_ERROR_H

#include <glib.h>

typedef enum {
    CONTROL_ERROR_INVALID,     /* an argument, file or message is not acceptable */
    CONTROL_ERROR_NOT_FOUND,   /* no such district, member, host or checkpoint */
    CONTROL_ERROR_EXISTS,      /* the name is taken */
    CONTROL_ERROR_STATE,       /* not possible in the state that the object is in */
    CONTROL_ERROR_BUSY,        /* another operation is under way */
    CONTROL_ERROR_UNREACHABLE, /* a host or process does not answer */
    CONTROL_ERROR_UNSUPPORTED, /* not in this version */
    CONTROL_ERROR_FAILED,      /* it was tried and did not work */
} ControlError;

#define CONTROL_ERROR (control_error_quark())
GQuark control_error_quark(void);

/* Class name of error for the API: "InvalidArgument", "NotFound", ... */
const char *control_error_class(const GError *error);
/* Code of an error that another host has answered with this class (NULL: none). Of its own failures only
 * NOT_FOUND says something here; UNREACHABLE above all is for a host that has not answered. */
ControlError control_error_of_peer(const char *class);

#endif
