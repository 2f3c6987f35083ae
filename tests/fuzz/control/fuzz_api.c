/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any line at all given to the user API's parser. */
#include "control/apiparse.h"

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(ApiCall) call = api_call_parse((const char *)data, size, &error);

    if ((call == NULL) == (error == NULL))
        __builtin_trap();
    return 0;
}
