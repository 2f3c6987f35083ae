/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The TAP interface by which a district's switch reaches the outside. */
#ifndef DISTRICT_CONTROL_TAP_H
#define DISTRICT_CONTROL_TAP_H

#include <glib.h>

/* Interface name for district: "dst-shop", or with a hash if that would be too long; caller frees.
 */
char *tap_name(const char *district);

/*
 * Open the TAP interface (IFF_TAP | IFF_NO_PI), creating it persistent if it is not there, add it
 * to bridge and bring it up. Returns the descriptor (caller owns), or -1 with error set.
 */
int tap_open(const char *name, const char *bridge, GError **error);

/* Remove the interface if it is there. */
void tap_remove(const char *name);

#endif
