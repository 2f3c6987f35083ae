/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What programs of scripts/bench print: one JSON object of distributions and numbers. */
#ifndef DISTRICT_TESTS_BENCH_FIGURES_H
#define DISTRICT_TESTS_BENCH_FIGURES_H

#include "ckpt/histogram.h"

#include <json-glib/json-glib.h>

/* {"count", "p50", "p99", "max"} of the histogram under this name. */
void figures_add(JsonObject *object, const char *name, const Histogram *histogram);

/* Print on one line; takes object. */
void figures_print(JsonObject *object);

#endif
