/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any text at all given as a district's definition: one line of error, or something sound. */
#include "control/definition.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) definition = definition_parse((const char *)data, size, "fuzz", &error);

    if ((definition == NULL) == (error == NULL))
        __builtin_trap();
    if (definition != NULL && (definition->name == NULL || definition->members->len == 0))
        __builtin_trap();
    return 0;
}
