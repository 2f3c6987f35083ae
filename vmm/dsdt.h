/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The AML body of the DSDT. */
#ifndef DISTRICT_VMM_DSDT_H
#define DISTRICT_VMM_DSDT_H

#include <glib.h>

void dsdt_append(GByteArray *aml);

#endif
