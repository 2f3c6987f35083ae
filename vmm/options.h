/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Command line of district-vmm. */
#ifndef DISTRICT_VMM_OPTIONS_H
#define DISTRICT_VMM_OPTIONS_H

#include "vmm/machine_priv.h"

typedef struct OptionNet {
    char *socket;
    uint8_t mac[6];
} OptionNet;

/* Longest serial number of a disk, and as virtio-blk has it. */
#define OPTION_DISK_ID_MAX 20

typedef struct OptionDisk {
    char *path;
    char *format; /* "raw", or as qemu-nbd knows it */
    char *id;
    bool read_only;
    bool shared; /* another engine has it open to write; here it is only read, below an overlay */
} OptionDisk;

typedef struct Options {
    char *name;
    uint64_t ram_size;
    int cpus;
    char *kernel;
    char *initrd;
    char *append;
    OptionNet *nets;
    guint n_nets;
    OptionDisk *disks;
    guint n_disks;
    char *overlay_dir;
    char *journal;
    char *serial;
    char *serial_log;
    char *console;
    gboolean rng;
    char *debugcon;
    char *member_socket;
    gboolean incoming;
    gboolean paused;
    gboolean version;
    DirtyLogSource dirty_source;
    bool has_vmgenid;
    uint8_t vmgenid[VMGENID_BYTES];
} Options;

/* Parse. options_clear frees what is in options, also after an error. */
gboolean options_parse(int argc, char **argv, Options *options, GError **error);
void options_clear(Options *options);

/* "512M", "2G", plain bytes; 0 if it is not a size. */
uint64_t options_size_parse(const char *text);
gboolean options_mac_parse(const char *text, uint8_t mac[6]);
/* "PATH[,format=F][,readonly=on|off][,shared=on|off][,id=SERIAL]" of disk number; a comma in PATH is
 * doubled. Free with option_disk_clear, also after an error. */
gboolean option_disk_parse(const char *text, guint number, OptionDisk *disk, GError **error);
void option_disk_clear(OptionDisk *disk);

#endif
