/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why a stream is turned away or ended, as the peer is told in a StreamError. */
#ifndef DISTRICT_STANDBY_ERROR_H
#define DISTRICT_STANDBY_ERROR_H

#include "stream.pb-c.h"

#include <glib.h>

/* Codes are District__StreamErrorCode. */
#define STANDBY_ERROR (standby_error_quark())
GQuark standby_error_quark(void);

/* The code for any error of this process: FORMAT_ERROR and the rest are translated. */
District__StreamErrorCode standby_error_code(const GError *error);

/* FALSE, with this error set. */
gboolean standby_refuse(District__StreamErrorCode code, GError **error, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* Short names for the codes. */
#define STANDBY_SUPERSEDED DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_SUPERSEDED
#define STANDBY_FULL DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_FULL
#define STANDBY_DAMAGED DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_DAMAGED
#define STANDBY_REFUSED DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_REFUSED

#endif
