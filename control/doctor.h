/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* district doctor: what this machine's KVM can really run, found out by running it. */
#ifndef DISTRICT_CONTROL_DOCTOR_H
#define DISTRICT_CONTROL_DOCTOR_H

#include <glib.h>

typedef enum { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL } DoctorVerdict;

typedef struct DoctorCheck {
    const char *name; /* "kvm-device", "guest-code-ring0", ... */
    DoctorVerdict verdict;
    char *found;  /* what was seen */
    char *remedy; /* what to do, NULL when OK */
} DoctorCheck;

/* Run all checks (a few seconds at most). Returns an array of DoctorCheck, caller unrefs. */
GPtrArray *doctor_run(void);

#endif
