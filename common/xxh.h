/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* xxHash; where its library can choose by the CPU at run time (twice as fast with AVX2), that. */
#ifndef DISTRICT_COMMON_XXH_H
#define DISTRICT_COMMON_XXH_H

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#ifdef DISTRICT_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

#endif
