/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The definition file: what it means, and what is said about each thing that is wrong with it. */
#include "control/definition.h"
#include "control/error.h"

#include <string.h>

#define HEAD "[District]\nName=shop\n"
#define BODY "[Member db]\nKernel=/boot/k\nMemory=64M\n"

static Definition *
parse(const char *text, GError **error)
{
    return definition_parse(text, strlen(text), "shop.district", error);
}

static void
test_defaults(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) d = parse(HEAD BODY, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(d->pacing.interval_us, ==, 25000);
    g_assert_cmpuint(d->pacing.max_slowdown, ==, 10);
    g_assert_cmpuint(d->pacing.max_lag_us, ==, 1000000);
    g_assert_true(d->output_commit);
    g_assert_false(d->auto_failover);
    g_assert_false(d->autostart);
    g_assert_cmpuint(d->failover_after_ms, ==, 1000);
    g_assert_cmpuint(d->detach_after_ms, ==, 5000);
    g_assert_null(d->bridge);
    g_assert_true(d->durable_every_us == DEFINITION_NEVER);
    const DefinitionMember *m = d->members->pdata[0];
    g_assert_cmpuint(m->cpus, ==, 1);
    g_assert_cmpstr(m->dirty_source, ==, "auto");
    g_assert_cmpstr(m->command_line, ==, "");
}

/* Guests find everything as it was, and nothing leads out or to the files of the original. */
static void
test_clone(void)
{
    static const char text[] =
        "# ours\n[District]\nName=shop\nBridge=br0\nAutostart=yes\nAutoFailover=yes\nKeep=5\n"
        "[Member db]\nKernel=/boot/k\nMemory=64M\nDebugcon=/tmp/db\nConsole=file:/tmp/c\n"
        "CommandLine=a=\\\\b  c\nDisk=/a.qcow2;/b.img,readonly\n"
        "[Member app]\nKernel=/boot/k\nMemory=1G\nCPUs=3\nMAC=52:54:00:00:00:07\nConsole=none\n";
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) d = parse(text, &error);
    g_autofree char *changed = definition_clone_text(d, "peek", "/log/peek", &error);

    g_assert_no_error(error);
    g_autoptr(Definition) clone = parse(changed, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(clone->name, ==, "peek");
    g_assert_null(clone->bridge);
    g_assert_false(clone->autostart || clone->auto_failover);
    g_assert_cmpuint(clone->keep.last, ==, 5);
    g_assert_cmpuint(clone->members->len, ==, 2);
    for (guint i = 0; i < clone->members->len; i++) {
        const DefinitionMember *was = d->members->pdata[i], *is = clone->members->pdata[i];
        g_assert_cmpstr(is->name, ==, was->name);
        g_assert_cmpmem(is->mac, 6, was->mac, 6);
        g_assert_cmpuint(is->memory, ==, was->memory);
        g_assert_cmpuint(is->cpus, ==, was->cpus);
        g_assert_cmpuint(is->disks->len, ==, was->disks->len);
        g_assert_cmpstr(is->command_line, ==, was->command_line);
    }
    const DefinitionMember *db = clone->members->pdata[0], *app = clone->members->pdata[1];
    g_assert_cmpstr(db->debugcon, ==, "/log/peek/db.debugcon");
    g_assert_cmpstr(db->console, ==, "pty");
    g_assert_null(app->debugcon);
    g_assert_cmpstr(app->console, ==, "none");
}

/* Nothing is written where whoever made the file says; what takes part in the life of a host stays. */
static void
test_import(void)
{
    static const char text[] =
        HEAD "Bridge=br0\nAutostart=yes\n[Member db]\nKernel=/boot/k\nMemory=64M\n"
             "Debugcon=/etc/cron.d/x\nConsole=file:/etc/passwd\nDisk=/b.img,readonly\n"
             "[Member app]\nKernel=/boot/k\nMemory=2M\nConsole=pty:/dev/null\n"
             "[Member web]\nKernel=/boot/k\nMemory=2M\nConsole=pty\n";
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) d = parse(text, &error);
    g_autofree char *changed = definition_import_text(d, "two", FALSE, "/log/two", &error);

    g_assert_no_error(error);
    g_autoptr(Definition) two = parse(changed, &error);
    g_assert_no_error(error);
    const DefinitionMember *db = two->members->pdata[0], *app = two->members->pdata[1],
                           *web = two->members->pdata[2];
    g_assert_cmpstr(two->name, ==, "two");
    g_assert_cmpstr(two->bridge, ==, "br0");
    g_assert_true(two->autostart);
    g_assert_cmpstr(db->debugcon, ==, "/log/two/db.debugcon");
    g_assert_cmpstr(db->console, ==, "pty");
    g_assert_cmpstr(db->kernel, ==, "/boot/k");
    g_assert_cmpstr(app->console, ==, "pty");
    g_assert_null(app->debugcon);
    g_assert_cmpstr(web->console, ==, "pty");
    g_assert_null(strstr(changed, "/etc"));
}

static void
test_auto_interval(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) d =
        parse("[District]\nName=shop\nInterval=auto\nMaxSlowdown=50%\nMaxLag=4s\n"
              "[Member db]\nKernel=/k\nMemory=2M\n",
              &error);

    g_assert_no_error(error);
    g_assert_cmpuint(d->pacing.interval_us, ==, PACING_AUTO);
    g_assert_cmpuint(d->pacing.max_slowdown, ==, 50);
    g_assert_cmpuint(d->pacing.max_lag_us, ==, 4000000);
}

static void
test_all_keys(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) d =
        parse("# a "
              "shop\n[District]\nName=shop\nInterval=10ms\nOutputCommit=no\nAutoFailover="
              "yes\nAutostart=yes\n"
              "FailoverAfter=2s\nDetachAfter=1min\nBridge=br0\n\n[Member db]\nEngine=kvm\n"
              "Kernel=/k\nInitrd=/i\nCommandLine=console=ttyS0 quiet\nMemory=1G\nCPUs=2\n"
              "MAC=52:54:00:00:00:01\nDirtySource=ring\nRng=yes\nConsole=file:/tmp/c\n"
              "Debugcon=/tmp/d\n",
              &error);

    g_assert_no_error(error);
    g_assert_cmpuint(d->pacing.interval_us, ==, 10000);
    g_assert_true(d->auto_failover);
    g_assert_true(d->autostart);
    g_assert_cmpstr(d->bridge, ==, "br0");
    const DefinitionMember *m = d->members->pdata[0];
    g_assert_cmpstr(m->command_line, ==, "console=ttyS0 quiet");
    g_assert_cmpuint(m->memory, ==, 1ULL << 30);
    g_assert_cmpuint(m->cpus, ==, 2);
    g_assert_true(m->rng);
    g_assert_cmpint(m->mac[5], ==, 1);
}

static void
test_disks(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) d =
        parse(HEAD "DurableEvery=1s\nKeep=5 hourly:24 "
                   "daily:7\nSyncRate=8M\nLoadRate=4K\nDeltaCache=128M\n" BODY
                   "Disk=/srv/a.qcow2; /srv/b.img ;/srv/c,format=vmdk;/srv/iso,readonly\n",
              &error);
    static const char *const formats[] = {"qcow2", "raw", "vmdk", "raw"};

    g_assert_no_error(error);
    g_assert_cmpuint(d->durable_every_us, ==, 1000000);
    g_assert_cmpuint(d->keep.last, ==, 5);
    g_assert_cmpuint(d->keep.hourly, ==, 24);
    g_assert_cmpuint(d->keep.daily, ==, 7);
    g_assert_cmpuint(d->sync_rate, ==, 8 << 20);
    g_assert_cmpuint(d->load_rate, ==, 4 << 10);
    g_assert_cmpuint(d->delta_cache, ==, 128 << 20);
    const DefinitionMember *m = d->members->pdata[0];
    g_assert_cmpuint(m->disks->len, ==, G_N_ELEMENTS(formats));
    for (guint i = 0; i < m->disks->len; i++) {
        const DefinitionDisk *disk = m->disks->pdata[i];
        g_assert_cmpstr(disk->format, ==, formats[i]);
        g_assert_cmpint(disk->read_only, ==, i == 3);
    }
    g_assert_cmpstr(((DefinitionDisk *)m->disks->pdata[1])->path, ==, "/srv/b.img");
    g_assert_false(definition_has_journals(d));
}

static void
test_journal(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) d = parse(HEAD BODY "Journal=64M\n", &error);

    g_assert_no_error(error);
    g_assert_cmpuint(((DefinitionMember *)d->members->pdata[0])->journal, ==, 64 << 20);
    g_assert_true(definition_has_journals(d));
    g_assert_false(definition_has_disks(d));
}

static void
test_derived_mac(void)
{
    g_autoptr(Definition) a = parse(HEAD BODY, NULL);
    g_autoptr(Definition) b = parse(HEAD BODY "[Member app]\nKernel=/k\nMemory=2M\n", NULL);
    const DefinitionMember *db = a->members->pdata[0];
    const DefinitionMember *same = b->members->pdata[0];
    const DefinitionMember *app = b->members->pdata[1];

    g_assert_cmpmem(db->mac, 6, same->mac, 6);
    g_assert_cmpmem(db->mac, 3, "\x52\x54\x00", 3);
    g_assert_cmpint(memcmp(db->mac, app->mac, 6), !=, 0);
}

/* The guests are the same, so what follows from the name must not change with it. */
static void
test_renamed(void)
{
    static const char text[] = "# of the shop\n[District]\nName=shop\nBridge=br0\nKeep=5\n" BODY
                               "CommandLine=quiet a\\sb\nDisk=/srv/db.qcow2\n"
                               "[Member app]\nKernel=/k\nMemory=2M\nMAC=52:54:00:00:00:07\n";
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) a = parse(text, &error);
    g_assert_no_error(error);
    g_autofree char *same = definition_renamed(a, "shop2", FALSE, &error);
    g_autofree char *isolated = definition_renamed(a, "shop2", TRUE, &error);
    g_assert_no_error(error);
    g_autoptr(Definition) b = parse(same, &error);
    g_autoptr(Definition) c = parse(isolated, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < 2; i++) {
        const DefinitionMember *x = a->members->pdata[i], *y = b->members->pdata[i];
        g_assert_cmpstr(x->name, ==, y->name);
        g_assert_cmpmem(x->mac, 6, y->mac, 6);
        g_assert_cmpstr(x->command_line, ==, y->command_line);
        g_assert_cmpuint(x->disks->len, ==, y->disks->len);
    }
    g_assert_cmpstr(b->name, ==, "shop2");
    g_assert_cmpstr(b->bridge, ==, "br0");
    g_assert_cmpuint(b->keep.last, ==, 5);
    g_assert_nonnull(strstr(same, "# of the shop"));
    g_assert_null(c->bridge);
}

/* A text that is wrong, and words the one-line message must have. */
typedef struct Wrong {
    const char *name;
    const char *text;
    const char *words[4];
} Wrong;

static const Wrong wrongs[] = {
    {"no district section", BODY, {"shop.district", "[District]", "missing"}},
    {"no name", "[District]\n" BODY, {"shop.district", "[District]", "Name="}},
    {"no members", HEAD, {"shop.district", "[Member NAME]"}},
    {"unknown key", HEAD "Nmae=x\n" BODY, {"[District]", "Nmae=", "unknown key"}},
    {"unknown member key", HEAD BODY "Ram=1M\n", {"[Member db]", "Ram=", "unknown key"}},
    {"unknown section", HEAD BODY "[Disk]\n", {"[Disk]", "unknown section"}},
    {"bad name", "[District]\nName=Shop\n" BODY, {"Name=", "a-z"}},
    {"bad member name", HEAD "[Member D B]\nKernel=/k\nMemory=2M\n", {"[Member D B]", "a-z"}},
    {"interval without unit", HEAD "Interval=25\n" BODY, {"Interval=", "25ms"}},
    {"interval too long", HEAD "Interval=1min\n" BODY, {"Interval=", "range"}},
    {"interval of nothing", HEAD "Interval=0ms\n" BODY, {"Interval=", "range", "auto"}},
    {"slowdown without sign", HEAD "MaxSlowdown=10\n" BODY, {"MaxSlowdown=", "like 10%"}},
    {"no slowdown at all", HEAD "MaxSlowdown=0%\n" BODY, {"MaxSlowdown=", "range", "1% to 50%"}},
    {"slowdown too large",
     HEAD "MaxSlowdown=18446744073709551615%\n" BODY,
     {"MaxSlowdown=", "range", "1% to 50%"}},
    {"lag too short", HEAD "MaxLag=9ms\n" BODY, {"MaxLag=", "range", "10ms to 4s"}},
    {"lag too long", HEAD "MaxLag=5s\n" BODY, {"MaxLag=", "range", "10ms to 4s"}},
    {"failover too soon", HEAD "FailoverAfter=999ms\n" BODY, {"FailoverAfter=", "range"}},
    {"detached too soon", HEAD "DetachAfter=199ms\n" BODY, {"DetachAfter=", "range"}},
    {"neither yes nor no", HEAD "OutputCommit=maybe\n" BODY, {"OutputCommit=", "yes", "no"}},
    {"bad bridge", HEAD "Bridge=a/b\n" BODY, {"Bridge=", "interface"}},
    {"qemu engine", HEAD BODY "Engine=qemu\n", {"Engine=", "not available in this version"}},
    {"unknown engine", HEAD BODY "Engine=xen\n", {"Engine=", "kvm"}},
    {"relative disk", HEAD BODY "Disk=srv/d\n", {"Disk=", "not an absolute path"}},
    {"empty disk", HEAD BODY "Disk=;\n", {"Disk=", "no disk"}},
    {"disk option", HEAD BODY "Disk=/d,fast\n", {"Disk=", "fast", "readonly"}},
    {"disk format", HEAD BODY "Disk=/d,format=../x\n", {"Disk=", "format"}},
    {"small journal", HEAD BODY "Journal=512K\n", {"Journal=", "1M to 1G"}},
    {"large journal", HEAD BODY "Journal=2G\n", {"Journal=", "1M to 1G"}},
    {"odd journal", HEAD BODY "Journal=1025K\n", {"Journal=", "steps of 4K"}},
    {"no journal", HEAD BODY "Journal=yes\n", {"Journal=", "yes"}},
    {"nine disks", HEAD BODY "Disk=/1;/2;/3;/4;/5;/6;/7;/8;/9\n", {"Disk=", "more than 8"}},
    {"disk twice", HEAD BODY "Disk=/d;/d,readonly\n", {"Disk=/d", "twice"}},
    {"disk without checkpoints",
     HEAD "DurableEvery=never\n" BODY "Disk=/d\n",
     {"Disk=/d", "DurableEvery=never"}},
    {"durable too often", HEAD "DurableEvery=1ms\n" BODY, {"DurableEvery=", "out of range"}},
    {"rate too low", HEAD "LoadRate=1K\n" BODY, {"LoadRate=", "4K to 1T"}},
    {"cache too small", HEAD "DeltaCache=4K\n" BODY, {"DeltaCache=", "1M to 16G, or 0"}},
    {"keep nothing", HEAD "Keep=0\n" BODY, {"Keep=", "1 to 100000"}},
    {"keep yearly", HEAD "Keep=yearly:2\n" BODY, {"Keep=", "yearly", "daily:N"}},
    {"no kernel", HEAD "[Member db]\nMemory=2M\n", {"[Member db]", "Kernel=", "missing"}},
    {"no memory", HEAD "[Member db]\nKernel=/k\n", {"[Member db]", "Memory=", "missing"}},
    {"relative kernel", HEAD "[Member db]\nKernel=k\nMemory=2M\n", {"Kernel=", "absolute"}},
    {"memory without unit", HEAD "[Member db]\nKernel=/k\nMemory=512\n", {"Memory=", "512M"}},
    {"memory too small", HEAD "[Member db]\nKernel=/k\nMemory=1M\n", {"Memory=", "2M to 1T"}},
    {"memory too large", HEAD "[Member db]\nKernel=/k\nMemory=2T\n", {"Memory=", "range"}},
    {"no cpu", HEAD BODY "CPUs=0\n", {"CPUs=", "1 to"}},
    {"bad mac", HEAD BODY "MAC=01:00:00:00:00:00\n", {"MAC=", "52:54"}},
    {"same mac",
     HEAD BODY "MAC=52:54:00:00:00:01\n[Member b]\nKernel=/k\nMemory=2M\nMAC=52:54:00:00:00:01\n",
     {"[Member b]", "MAC=", "member db"}},
    {"bad dirty source", HEAD BODY "DirtySource=magic\n", {"DirtySource=", "bitmap"}},
    {"bad console", HEAD BODY "Console=tty\n", {"Console=", "pty"}},
    {"key twice", HEAD "Name=b\n" BODY, {"shop.district:3", "Name", "twice"}},
    {"section twice", HEAD BODY BODY, {"shop.district:6", "[Member db]", "twice"}},
    {"not a key file", "hello", {"shop.district"}},
    {"not text", "\xff\xfe", {"shop.district", "UTF-8"}},
};

static void
test_wrong(gconstpointer data)
{
    const Wrong *wrong = data;
    g_autoptr(GError) error = NULL;

    g_assert_null(parse(wrong->text, &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID);
    g_assert_null(strchr(error->message, '\n'));
    for (gsize i = 0; i < G_N_ELEMENTS(wrong->words) && wrong->words[i] != NULL; i++) {
        if (strstr(error->message, wrong->words[i]) == NULL)
            g_error("\"%s\" lacks \"%s\"", error->message, wrong->words[i]);
    }
}

static void
test_too_large(void)
{
    g_autofree char *text = g_strnfill(DEFINITION_BYTES_MAX + 1, '#');
    g_autoptr(GError) error = NULL;

    g_assert_null(parse(text, &error));
    g_assert_error(error, CONTROL_ERROR, CONTROL_ERROR_INVALID);
}

static void
test_missing_file(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) d = parse(HEAD "[Member db]\nKernel=/nowhere/k\nMemory=2M\n", NULL);

    g_assert_false(definition_check_files(d, 0, &error));
    g_assert_nonnull(strstr(error->message, "/nowhere/k"));
    g_assert_true(definition_check_files(d, DEFINITION_NO_BOOT, NULL));
}

static void
test_missing_disk(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Definition) d = parse(HEAD "[Member db]\nKernel=/dev/null\nMemory=2M\n"
                                         "Disk=/nowhere/a; /nowhere/b,readonly\n",
                                    NULL);

    g_assert_false(definition_check_files(d, 0, &error));
    g_assert_nonnull(strstr(error->message, "/nowhere/a"));
    g_clear_error(&error);
    g_assert_false(definition_check_files(d, DEFINITION_DISKS_MOVED, &error));
    g_assert_nonnull(strstr(error->message, "/nowhere/b"));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/definition/what is left out has a default", test_defaults);
    g_test_add_func("/definition/every key is understood", test_all_keys);
    g_test_add_func("/definition/the interval may be auto, within limits", test_auto_interval);
    g_test_add_func("/definition/disks, their formats and what is kept are understood", test_disks);
    g_test_add_func("/definition/a clone's is the same, but it is alone", test_clone);
    g_test_add_func("/definition/one that is imported writes to no file that it names",
                    test_import);
    g_test_add_func("/definition/a member may have a journal", test_journal);
    g_test_add_func("/definition/a derived mac is always the same", test_derived_mac);
    g_test_add_func("/definition/under another name the members are the same", test_renamed);
    for (gsize i = 0; i < G_N_ELEMENTS(wrongs); i++) {
        g_autofree char *path =
            g_strdup_printf("/definition/one line tells of an error: %s", wrongs[i].name);
        g_test_add_data_func(path, &wrongs[i], test_wrong);
    }
    g_test_add_func("/definition/a huge file is refused", test_too_large);
    g_test_add_func("/definition/a kernel that is not there is named", test_missing_file);
    g_test_add_func("/definition/a disk that is not there is named unless it is elsewhere",
                    test_missing_disk);
    return g_test_run();
}
