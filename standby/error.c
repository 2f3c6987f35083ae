/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why a stream is turned away or ended. */
#include "standby/error.h"

#include "ckpt/format.h"

G_DEFINE_QUARK(district - standby - error - quark, standby_error)

District__StreamErrorCode
standby_error_code(const GError *error)
{
    if (error->domain == STANDBY_ERROR)
        return (District__StreamErrorCode)error->code;
    if (error->domain != FORMAT_ERROR)
        return DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_UNKNOWN;
    switch ((FormatError)error->code) {
    case FORMAT_ERROR_FOREIGN:
        return DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_VERSION;
    case FORMAT_ERROR_LIMIT:
        return STANDBY_FULL;
    case FORMAT_ERROR_DAMAGED:
    case FORMAT_ERROR_TRUNCATED:
        return STANDBY_DAMAGED;
    }
    return DISTRICT__STREAM_ERROR_CODE__STREAM_ERROR_UNKNOWN;
}

gboolean
standby_refuse(District__StreamErrorCode code, GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, STANDBY_ERROR, (gint)code, text);
    return FALSE;
}
