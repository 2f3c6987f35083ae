/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing ACPI machine language (ACPI 6.4 §20.2) into a byte array. Terms that hold others are
 * opened and closed; the length in between is filled in at the close.
 */
#ifndef DISTRICT_VMM_AML_H
#define DISTRICT_VMM_AML_H

#include <glib.h>
#include <stdint.h>

/* Open a term; the mark goes to aml_close. */
guint aml_open_scope(GByteArray *aml, const char *path);
guint aml_open_device(GByteArray *aml, const char *name);
guint aml_open_method(GByteArray *aml, const char *name, unsigned args);
guint aml_open_package(GByteArray *aml, uint8_t elements);
void aml_close(GByteArray *aml, guint mark);

/* Name(name, what comes next). name: four characters, or \ and four. */
void aml_name(GByteArray *aml, const char *name);
void aml_integer(GByteArray *aml, uint64_t value);
void aml_string(GByteArray *aml, const char *text);
/* EISA id such as "PNP0A08" (ACPI 6.4 §19.3.4). */
void aml_eisaid(GByteArray *aml, const char *id);
void aml_notify(GByteArray *aml, const char *path, uint8_t value);

/* Resource template: open, descriptors (ACPI 6.4 §6.4), close. */
guint aml_open_resources(GByteArray *aml);
void aml_close_resources(GByteArray *aml, guint mark);
void aml_resource_io(GByteArray *aml, uint16_t base, uint8_t size);
void aml_resource_irq(GByteArray *aml, unsigned irq);
void aml_resource_memory(GByteArray *aml, uint32_t base, uint32_t size);
void aml_resource_bus_range(GByteArray *aml, uint16_t first, uint16_t last);
void aml_resource_io_range(GByteArray *aml, uint16_t first, uint16_t last);
void aml_resource_memory_range(GByteArray *aml, uint32_t first, uint32_t last);

#endif
