/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line of district-vmm. */
#include "vmm/options.h"
#include "vmm/vmgenid.h"

#include <string.h>

static void
refused(const char *why, ...)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    Options options;
    va_list args;

    g_ptr_array_add(argv, (char *)"district-vmm");
    va_start(args, why);
    for (char *arg = va_arg(args, char *); arg != NULL; arg = va_arg(args, char *))
        g_ptr_array_add(argv, arg);
    va_end(args);
    g_ptr_array_add(argv, NULL);
    g_assert_false(options_parse((int)argv->len - 1, (char **)argv->pdata, &options, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, why));
    options_clear(&options);
}

static void
test_sizes(void)
{
    g_assert_cmpuint(options_size_parse("512M"), ==, 512ULL << 20);
    g_assert_cmpuint(options_size_parse("4g"), ==, 4ULL << 30);
    g_assert_cmpuint(options_size_parse("8192"), ==, 8192);
    for (const char *const *bad = (const char *const[]){"", "M", "-1M", "12X", "12MB", "99999T",
                                                        "0", "18446744073709551616", NULL};
         *bad != NULL; bad++)
        g_assert_cmpuint(options_size_parse(*bad), ==, 0);
}

static void
test_macs(void)
{
    const uint8_t want[6] = {0x52, 0x54, 0x00, 0xAB, 0xCD, 0xEF};
    uint8_t mac[6];

    g_assert_true(options_mac_parse("52:54:00:ab:CD:ef", mac));
    g_assert_cmpmem(mac, 6, want, 6);
    g_assert_false(options_mac_parse("52:54:00:ab:cd", mac));
    g_assert_false(options_mac_parse("52-54-00-ab-cd-ef", mac));
    g_assert_false(options_mac_parse("01:00:5e:00:00:01", mac));
}

static void
test_vmgenid(void)
{
    /* The example of the specification's GUID notation: first three fields little-endian. */
    const uint8_t want[16] = {0xAF, 0x6E, 0x4E, 0x32, 0xD1, 0xD1, 0xF6, 0x4B,
                              0xBF, 0x41, 0xB9, 0xBB, 0x6C, 0x91, 0xFB, 0x87};
    uint8_t id[VMGENID_BYTES];

    g_assert_true(vmgenid_parse("324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87", id, NULL));
    g_assert_cmpmem(id, 16, want, 16);
    g_assert_false(vmgenid_parse("324e6eaf", id, NULL));
}

static void
test_combinations(void)
{
    refused("--kernel", NULL);
    refused("--member-socket", "--kernel", "k", "--paused", NULL);
    refused("--member-socket", "--incoming", NULL);
    refused("not a size", "--kernel", "k", "--memory", "lots", NULL);
    refused("--mac", "--kernel", "k", "--mac", "52:54:00:00:00:01", NULL);
    refused("dirty-source", "--kernel", "k", "--dirty-source", "magic", NULL);
    refused("UUID", "--kernel", "k", "--vmgenid", "1", NULL);
    refused("--disk", "--kernel", "k", "--overlay-dir", "/d", NULL);
    refused("at most 8", "--kernel", "k", "--disk", "1", "--disk", "2", "--disk", "3", "--disk",
            "4", "--disk", "5", "--disk", "6", "--disk", "7", "--disk", "8", "--disk", "9", NULL);
    refused("path is missing", "--kernel", "k", "--disk", ",format=raw", NULL);
    refused("format=", "--kernel", "k", "--disk", "/a,format=", NULL);
    refused("format=", "--kernel", "k", "--disk", "/a,format=a/b", NULL);
    refused("on or off", "--kernel", "k", "--disk", "/a,readonly=", NULL);
    refused("on or off", "--kernel", "k", "--disk", "/a,readonly=yes", NULL);
    refused("20", "--kernel", "k", "--disk", "/a,id=123456789012345678901", NULL);
    refused("doubled", "--kernel", "k", "--disk", "/a,b", NULL);
    refused("not expected", "--kernel", "k", "surplus", NULL);
    refused("Unknown option", "--kernell", "k", NULL);
}

static void
test_nets(void)
{
    char *argv[] = {(char *)"district-vmm",
                    (char *)"--kernel",
                    (char *)"k",
                    (char *)"--net",
                    (char *)"/a",
                    (char *)"--net",
                    (char *)"/b",
                    (char *)"--mac",
                    (char *)"52:54:00:00:00:01",
                    NULL};
    g_autoptr(GError) error = NULL;
    Options options;

    options_parse(G_N_ELEMENTS(argv) - 1, argv, &options, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(options.n_nets, ==, 2);
    g_assert_cmpstr(options.nets[1].socket, ==, "/b");
    g_assert_cmphex(options.nets[0].mac[5], ==, 1);
    g_assert_cmphex(options.nets[1].mac[0], ==, 0x52); /* derived */
    g_assert_cmpuint(options.ram_size, ==, 512ULL << 20);
    options_clear(&options);
}

static void
check_disk(const char *text, const char *path, const char *format, const char *id, bool read_only)
{
    g_autoptr(GError) error = NULL;
    OptionDisk disk;

    option_disk_parse(text, 3, &disk, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(disk.path, ==, path);
    g_assert_cmpstr(disk.format, ==, format);
    g_assert_cmpstr(disk.id, ==, id);
    g_assert_cmpint(disk.read_only, ==, read_only);
    option_disk_clear(&disk);
}

static void
test_disks(void)
{
    check_disk("/a/b.img", "/a/b.img", "raw", "disk3", false);
    check_disk("/a.qcow2/b", "/a.qcow2/b", "raw", "disk3", false);
    check_disk("/a/b.qcow2", "/a/b.qcow2", "qcow2", "disk3", false);
    check_disk("/a/b.VMDK", "/a/b.VMDK", "vmdk", "disk3", false);
    check_disk("/a/b.qcow2,format=raw", "/a/b.qcow2", "raw", "disk3", false);
    check_disk("/a,,b,readonly=on,id=root-1", "/a,b", "raw", "root-1", true);
    check_disk("/a,id=x,readonly=off,format=vpc", "/a", "vpc", "x", false);
}

static void
test_disk_list(void)
{
    char *argv[] = {(char *)"district-vmm",
                    (char *)"--kernel",
                    (char *)"k",
                    (char *)"--disk",
                    (char *)"/a",
                    (char *)"--disk",
                    (char *)"/b.qcow2",
                    (char *)"--overlay-dir",
                    (char *)"/store",
                    NULL};
    g_autoptr(GError) error = NULL;
    Options options;

    options_parse(G_N_ELEMENTS(argv) - 1, argv, &options, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(options.n_disks, ==, 2);
    g_assert_cmpstr(options.disks[1].format, ==, "qcow2");
    g_assert_cmpstr(options.disks[1].id, ==, "disk1");
    g_assert_cmpstr(options.overlay_dir, ==, "/store");
    options_clear(&options);
}

/* What is written to such a disk has to go somewhere. */
static void
test_disk_shared(void)
{
    char *argv[] = {
        (char *)"district-vmm", (char *)"--kernel",      (char *)"k",      (char *)"--disk",
        (char *)"/a,shared=on", (char *)"--overlay-dir", (char *)"/store", NULL};
    g_autoptr(GError) error = NULL;
    Options options;

    options_parse(G_N_ELEMENTS(argv) - 1, argv, &options, &error);
    g_assert_no_error(error);
    g_assert_true(options.disks[0].shared);
    options_clear(&options);
    refused("needs --overlay-dir", "--kernel", "k", "--disk", "/a,shared=on", NULL);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/options/sizes have units and limits", test_sizes);
    g_test_add_func("/options/MAC addresses are station addresses", test_macs);
    g_test_add_func("/options/a VM generation id is stored as a GUID", test_vmgenid);
    g_test_add_func("/options/what cannot work is refused with the reason", test_combinations);
    g_test_add_func("/options/each --net is a card, with its --mac or a derived one", test_nets);
    g_test_add_func("/options/a disk has a path, a format, an id", test_disks);
    g_test_add_func("/options/each --disk is a disk", test_disk_list);
    g_test_add_func("/options/a disk that is shared needs an overlay", test_disk_shared);
    return g_test_run();
}
