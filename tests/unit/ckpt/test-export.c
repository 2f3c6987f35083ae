/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checkpoints as one file: out of a store, into a new one, and what is refused on the way. */
#include "store-rig.h"

#include "ckpt/export.h"
#include "common/page.h"
#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const CkptStorePolicy keep_one = {.keep_last = 1};

/* ---- The rig's store and homes to a descriptor ---- */

#define RIG_DISKS (RIG_IMAGES - RIG_MEMBERS)
static const ExportHome rig_disks[RIG_DISKS] = {{"db", 0, NULL}, {"db", 1, NULL}, {"web", 0, NULL}};

typedef struct Homes {
    ExportHome homes[RIG_DISKS];
    char *names[RIG_DISKS];
} Homes;

static void
homes_init(Homes *homes, const Rig *rig)
{
    for (int i = 0; i < RIG_DISKS; i++) {
        homes->names[i] = g_strdup_printf("raw:%s/home-%d", rig->dir, i + RIG_MEMBERS);
        homes->homes[i] = rig_disks[i];
        homes->homes[i].home = homes->names[i];
    }
}

static void
homes_clear(Homes *homes)
{
    for (int i = 0; i < RIG_DISKS; i++)
        g_free(homes->names[i]);
}

/* Journals that go along; NULL: none. */
static const ExportJournal *rig_journals;
static uint32_t rig_n_journals;

/* By a reader of its own. */
static gboolean
try_export(const Rig *rig, uint64_t id, uint32_t n_homes, int fd, ExportResult *result,
           GError **error)
{
    g_autoptr(CkptStore) store = ckpt_store_open(rig->path, NULL, CKPT_STORE_READ, error);
    Homes homes;
    ExportConfig config = {.host = "h1",
                           .overlay_dir = rig->dir,
                           .homes = homes.homes,
                           .n_homes = n_homes,
                           .journals = rig_journals,
                           .n_journals = rig_n_journals};
    gboolean good;

    g_assert_nonnull(store);
    homes_init(&homes, rig);
    good = export_checkpoint(store, id, &config, fd, result, error);
    homes_clear(&homes);
    return good;
}

static int
scratch(void)
{
    int fd = memfd_create("export", MFD_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

/* At its start. */
static int
export_to_scratch(const Rig *rig, uint64_t id)
{
    g_autoptr(GError) error = NULL;
    ExportResult result;
    int fd = scratch();

    try_export(rig, id, RIG_DISKS, fd, &result, &error);
    g_assert_no_error(error);
    g_assert_cmpint(lseek(fd, 0, SEEK_CUR), ==, (off_t)result.bytes);
    g_assert_cmpint(lseek(fd, 0, SEEK_SET), ==, 0);
    return fd;
}

/* ---- Into a directory of its own ---- */

typedef struct Place {
    char *dir;
    char *store;
    char *disks;
} Place;

static void
place_init(Place *place)
{
    place->dir = g_dir_make_tmp("import-XXXXXX", NULL);
    place->store = g_build_filename(place->dir, "store", NULL);
    place->disks = g_build_filename(place->dir, "disks", NULL);
    g_assert_cmpint(g_mkdir(place->disks, 0700), ==, 0);
}

static void
place_clear(Place *place)
{
    rig_remove_tree(place->dir);
    g_free(place->dir);
    g_free(place->store);
    g_free(place->disks);
}

static gboolean
try_import(const Place *place, const char *name, int fd, GError **error)
{
    ImportConfig config = {
        .store_dir = place->store, .disk_dir = place->disks, .name = name, .beside = place->dir};
    ImportResult result;
    gboolean good = import_checkpoint(fd, &config, &result, error);

    if (good)
        g_assert_cmpstr(result.cut->definition, ==, RIG_DEFINITION);
    import_result_clear(&result);
    return good;
}

/* A rig over what was imported, for comparing. */
static Rig *
place_rig(const Rig *rig, const Place *place, const char *name)
{
    static const char *const files[RIG_DISKS] = {"db-0.raw", "db-1.raw", "web-0.raw"};
    Rig *copy = g_memdup2(rig, sizeof *rig);
    g_autoptr(GError) error = NULL;

    copy->dir = place->dir;
    copy->path = place->store;
    copy->store = ckpt_store_open(place->store, name, CKPT_STORE_WRITE, &error);
    g_assert_no_error(error);
    for (int i = 0; i < RIG_DISKS; i++) {
        g_autofree char *path = g_build_filename(place->disks, files[i], NULL);
        /* Where the next export looks for it. */
        g_autofree char *home = g_strdup_printf("%s/home-%d", place->dir, i + RIG_MEMBERS);
        copy->homes[i + RIG_MEMBERS] = open(path, O_RDWR | O_CLOEXEC);
        g_assert_cmpint(copy->homes[i + RIG_MEMBERS], >=, 0);
        g_assert_cmpint(symlink(path, home), ==, 0);
    }
    return copy;
}

static void
place_rig_free(Rig *copy)
{
    ckpt_store_close(copy->store);
    for (int i = RIG_MEMBERS; i < RIG_IMAGES; i++)
        close(copy->homes[i]);
    g_free(copy);
}

/* The only checkpoint there is, as checkpoint id of the rig. */
static void
assert_imported(Rig *copy, uint64_t id)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Image) image = ckpt_store_load(copy->store, 1, copy->dir, &error);

    g_assert_no_error(error);
    g_assert_true(rig_image_is(copy, image, id));
    for (uint32_t i = 0; i < image->n_disks; i++)
        g_assert_cmpuint(image->disks[i].entries, ==, 0); /* the homes have it */
    g_assert_cmpuint(rig_count(copy), ==, 1);
    rig_assert_clean(copy);
}

static void
round_trip(Rig *rig, uint64_t id)
{
    int fd = export_to_scratch(rig, id), again;
    g_autoptr(GError) error = NULL;
    Place first, second;
    Rig *copy;

    place_init(&first);
    try_import(&first, NULL, fd, &error);
    g_assert_no_error(error);
    copy = place_rig(rig, &first, "shop");
    assert_imported(copy, id);
    /* From there on again, under another name. */
    again = export_to_scratch(copy, 1);
    place_rig_free(copy);
    place_init(&second);
    try_import(&second, "shop2", again, &error);
    g_assert_no_error(error);
    copy = place_rig(rig, &second, "shop2");
    assert_imported(copy, id);
    place_rig_free(copy);
    place_clear(&first);
    place_clear(&second);
    close(fd);
    close(again);
}

static void
test_round_trip(void)
{
    Rig rig;

    rig_init(&rig);
    for (int i = 0; i < 5; i++)
        rig_commit(&rig, i == 2, NULL);
    for (uint64_t id = 1; id <= 5; id++)
        round_trip(&rig, id);
    rig_clear(&rig);
}

static void
test_merged(void)
{
    Rig rig;
    gboolean done = FALSE;

    rig_init(&rig);
    for (int i = 0; i < 3; i++)
        rig_commit(&rig, false, NULL);
    /* In the middle of a merge, after it, and when the root is another. */
    g_assert_true(
        ckpt_store_merge_some(rig.store, 10 * PAGE_BYTES, rig_find_home, &rig, &done, NULL));
    g_assert_false(done);
    round_trip(&rig, 3);
    rig_merge(&rig);
    round_trip(&rig, 1);
    round_trip(&rig, 3);
    rig_prune(&rig, &keep_one);
    g_assert_cmpuint(rig_count(&rig), ==, 1);
    round_trip(&rig, 3);
    rig_clear(&rig);
}

static void
test_abandoned(void)
{
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    rig_commit(&rig, false, NULL);
    g_assert_true(ckpt_store_set_head(rig.store, 1, NULL));
    rig_commit(&rig, false, NULL);
    round_trip(&rig, 2);
    round_trip(&rig, 3);
    rig_clear(&rig);
}

static void
test_label(void)
{
    Rig rig;
    Place place;
    int fd;
    uint64_t id = 0;

    rig_init(&rig);
    rig_commit(&rig, false, "before the upgrade");
    fd = export_to_scratch(&rig, 1);
    place_init(&place);
    g_assert_true(try_import(&place, NULL, fd, NULL));
    Rig *copy = place_rig(&rig, &place, "shop");
    g_assert_true(ckpt_store_find(copy->store, "before the upgrade", &id, NULL));
    g_assert_cmpuint(id, ==, 1);
    place_rig_free(copy);
    place_clear(&place);
    close(fd);
    rig_clear(&rig);
}

/* A home that is not raw and that no engine has open. */
static void
test_qcow2(void)
{
    Rig rig;
    Homes homes;
    ExportConfig config = {.host = "h1", .homes = homes.homes, .n_homes = RIG_DISKS};
    g_autoptr(GError) error = NULL;
    ExportResult result;
    Place place;
    int fd = scratch();

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    rig_commit(&rig, false, NULL);
    homes_init(&homes, &rig);
    g_autofree char *image = g_strdup_printf("%s/home.qcow2", rig.dir);
    const char *convert[] = {
        "qemu-img", "convert", "-f", "raw", "-O", "qcow2", homes.names[0] + strlen("raw:"),
        image,      NULL};
    g_assert_true(g_spawn_sync(NULL, (char **)convert, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, NULL, NULL));
    g_autofree char *home = g_strdup_printf("image:qcow2:%s", image);
    homes.homes[0].home = home;
    config.overlay_dir = config.socket_dir = rig.dir;
    g_autoptr(CkptStore) store = ckpt_store_open(rig.path, NULL, CKPT_STORE_READ, &error);
    g_assert_no_error(error);
    export_checkpoint(store, 2, &config, fd, &result, &error);
    g_assert_no_error(error);
    g_assert_cmpint(lseek(fd, 0, SEEK_SET), ==, 0);
    place_init(&place);
    try_import(&place, NULL, fd, &error);
    g_assert_no_error(error);
    Rig *copy = place_rig(&rig, &place, "shop");
    assert_imported(copy, 2);
    place_rig_free(copy);
    place_clear(&place);
    homes_clear(&homes);
    close(fd);
    rig_clear(&rig);
}

/* ---- Journals ---- */

#define JOURNAL_BYTES (JOURNAL_BYTES_MIN + PAGE_BYTES)

typedef struct JournalFiles {
    ExportJournal journals[2];
    char *paths[2];
} JournalFiles;

/* Of one there is something in the first and last sectors, and the middle; of the other nothing. */
static void
journal_files_init(JournalFiles *files, const Rig *rig)
{
    static const char *const members[] = {"db", "web"};
    g_autofree char *data = g_malloc0(JOURNAL_BYTES);

    memset(data, 'f', SECTOR_BYTES);
    memset(data + JOURNAL_BYTES / 2, 'm', 100);
    memset(data + JOURNAL_BYTES - SECTOR_BYTES, 'l', SECTOR_BYTES);
    for (int i = 0; i < 2; i++) {
        files->paths[i] = g_strdup_printf("%s/copy-%d", rig->dir, i);
        g_assert_true(g_file_set_contents(files->paths[i], data, JOURNAL_BYTES, NULL));
        files->journals[i] = (ExportJournal){members[i], files->paths[i]};
        memset(data, 0, JOURNAL_BYTES);
    }
    rig_journals = files->journals;
    rig_n_journals = 2;
}

static void
journal_files_clear(JournalFiles *files)
{
    rig_journals = NULL;
    rig_n_journals = 0;
    for (int i = 0; i < 2; i++)
        g_free(files->paths[i]);
}

static void
assert_journal(const Place *place, const char *member, const char *like)
{
    g_autofree char *file = g_strdup_printf("journal-%s.img", member);
    g_autofree char *path = g_build_filename(place->disks, file, NULL);
    g_autofree char *is = NULL, *was = NULL;
    gsize is_len = 0, was_len = 0;
    struct stat st;

    g_assert_true(g_file_get_contents(path, &is, &is_len, NULL));
    g_assert_true(g_file_get_contents(like, &was, &was_len, NULL));
    g_assert_cmpmem(is, is_len, was, was_len);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 0777, ==, 0600);
    g_assert_cmpuint((uint64_t)st.st_blocks * SECTOR_BYTES, >=, was_len); /* no guest lacks room */
}

static void
test_journals(void)
{
    Rig rig;
    JournalFiles files;
    g_autoptr(GError) error = NULL;
    Place place;
    int fd;

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    journal_files_init(&files, &rig);
    fd = export_to_scratch(&rig, 1);
    place_init(&place);
    try_import(&place, NULL, fd, &error);
    g_assert_no_error(error);
    assert_journal(&place, "db", files.paths[0]);
    assert_journal(&place, "web", files.paths[1]);
    Rig *copy = place_rig(&rig, &place, "shop");
    assert_imported(copy, 1);
    place_rig_free(copy);
    place_clear(&place);
    journal_files_clear(&files);
    close(fd);
    rig_clear(&rig);
}

/* version of a file's HELLO. */
static uint32_t
version_of(const GByteArray *file)
{
    RecordHeader header;
    District__StreamHello *hello;
    uint32_t version;

    g_assert_true(record_header_decode(file->data, &header, NULL));
    hello = district__stream_hello__unpack(NULL, header.length, file->data + RECORD_HEADER_BYTES);
    version = hello->version;
    district__stream_hello__free_unpacked(hello, NULL);
    return version;
}

/* ---- Beside a writer ---- */

typedef struct Exporting {
    const Rig *rig;
    int fd;
    gboolean good;
} Exporting;

static gpointer
export_run(gpointer data)
{
    Exporting *e = data;
    ExportResult result;

    e->good = try_export(e->rig, 1, RIG_DISKS, e->fd, &result, NULL);
    close(e->fd);
    return NULL;
}

/* A pipe that holds less than a file has: whoever writes to it waits until it is read. */
static void
small_pipe(int ends[2])
{
    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    g_assert_cmpint(fcntl(ends[0], F_SETPIPE_SZ, (int)PAGE_BYTES), ==, (int)PAGE_BYTES);
}

static void
test_held(void)
{
    Rig rig;
    int ends[2];
    uint8_t buf[4096];

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    small_pipe(ends);
    Exporting e = {&rig, ends[1], FALSE};
    GThread *thread = g_thread_new("export", export_run, &e);
    g_assert_cmpint(read(ends[0], buf, 1), ==, 1);
    g_assert_true(ckpt_store_is_read(rig.store));
    while (read(ends[0], buf, sizeof buf) > 0)
        ;
    g_thread_join(thread);
    g_assert_true(e.good);
    g_assert_false(ckpt_store_is_read(rig.store));
    close(ends[0]);
    rig_clear(&rig);
}

/* A writer that does not listen: the checkpoint is gone when the export comes to its end. */
static void
test_gone(void)
{
    Rig rig;
    int ends[2];
    uint8_t buf[4096];

    rig_init(&rig);
    for (int i = 0; i < 3; i++)
        rig_commit(&rig, false, NULL);
    small_pipe(ends);
    Exporting e = {&rig, ends[1], FALSE};
    GThread *thread = g_thread_new("export", export_run, &e);
    g_assert_cmpint(read(ends[0], buf, 1), ==, 1);
    rig_prune(&rig, &keep_one);
    g_assert_false(rig_has(&rig, 1));
    while (read(ends[0], buf, sizeof buf) > 0)
        ;
    g_thread_join(thread);
    g_assert_false(e.good);
    close(ends[0]);
    rig_clear(&rig);
}

/* ---- What fails ---- */

static void
export_fails(const Rig *rig, uint32_t n_homes, int fd, const char *why)
{
    g_autoptr(GError) error = NULL;
    ExportResult result;

    g_assert_false(try_export(rig, 1, n_homes, fd, &result, &error));
    if (strstr(error->message, why) == NULL)
        g_error("not \"%s\" but: %s", why, error->message);
    close(fd);
}

static void
test_export_fails(void)
{
    Rig rig;
    g_autofree char *home = NULL;

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    export_fails(&rig, RIG_DISKS, open("/dev/full", O_WRONLY | O_CLOEXEC), "free some space");
    export_fails(&rig, RIG_DISKS - 1, scratch(), "member web had a disk 0");
    home = g_strdup_printf("%s/home-%d", rig.dir, RIG_MEMBERS);
    g_assert_cmpint(truncate(home, 512), ==, 0);
    export_fails(&rig, RIG_DISKS, scratch(), "disk 0 of member db");
    rig_clear(&rig);
}

static void
import_refused(const uint8_t *data, size_t len, const char *why)
{
    g_autoptr(GError) error = NULL;
    int fd = scratch();
    Place place;

    g_assert_cmpint(write(fd, data, len), ==, (gssize)len);
    g_assert_cmpint(lseek(fd, 0, SEEK_SET), ==, 0);
    place_init(&place);
    g_assert_false(try_import(&place, NULL, fd, &error));
    if (strstr(error->message, why) == NULL)
        g_error("not \"%s\" but: %s", why, error->message);
    place_clear(&place);
    close(fd);
}

static GByteArray *
exported(Rig *rig)
{
    GByteArray *bytes = g_byte_array_new();
    int fd = export_to_scratch(rig, 1);
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_byte_array_set_size(bytes, (guint)st.st_size);
    g_assert_cmpint(read(fd, bytes->data, bytes->len), ==, (gssize)bytes->len);
    close(fd);
    return bytes;
}

static void
test_truncated(void)
{
    g_autoptr(GByteArray) file = NULL;
    JournalFiles files;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    journal_files_init(&files, &rig);
    file = exported(&rig);
    journal_files_clear(&files);
    for (size_t at = 0; at < file->len;) {
        RecordHeader header;
        import_refused(file->data, at, "truncated");
        import_refused(file->data, at + 1, "truncated");
        g_assert_true(record_header_decode(file->data + at, &header, NULL));
        at += RECORD_HEADER_BYTES + header.length;
        import_refused(file->data, at - 1, "truncated");
    }
    rig_clear(&rig);
}

static void
test_damaged(void)
{
    g_autoptr(GByteArray) file = NULL;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    file = exported(&rig);
    for (size_t at = 48; at < file->len; at += file->len / 20) {
        file->data[at] ^= 0x10;
        import_refused(file->data, file->len, "");
        file->data[at] ^= 0x10;
    }
    file->data[file->len - 20] ^= 1;
    import_refused(file->data, file->len, "checksum is wrong");
    import_refused((const uint8_t *)"QFI\xfb and what follows in such a file, which is not ours",
                   50, "not District's checkpoint format");
    rig_clear(&rig);
}

/* Older releases read what has no journal, and refuse the other by its version. */
static void
test_versions(void)
{
    g_autoptr(GByteArray) without = NULL, with = NULL;
    JournalFiles files;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    without = exported(&rig);
    journal_files_init(&files, &rig);
    with = exported(&rig);
    g_assert_cmpuint(version_of(without), ==, FILE_VERSION);
    g_assert_cmpuint(version_of(with), ==, FILE_VERSION_JOURNALS);
    journal_files_clear(&files);
    rig_clear(&rig);
}

static void
write_journal(Writer *w, uint64_t seq, District__StreamJournalKind kind, uint64_t size,
              uint64_t offset)
{
    District__StreamJournal record = DISTRICT__STREAM_JOURNAL__INIT;
    uint8_t data[SECTOR_BYTES] = {1};

    record.seq = seq;
    record.kind = kind;
    if (kind != DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_PUBLISH)
        record.member = (char *)"db";
    record.size = size;
    record.offset = offset;
    if (kind == DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA)
        record.data = (ProtobufCBinaryData){sizeof data, data};
    writer_message(w, RECORD_JOURNAL, 0, &record.base);
}

#define BEGIN DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_BEGIN
#define DATA DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_DATA
#define PUBLISH DISTRICT__STREAM_JOURNAL_KIND__STREAM_JOURNAL_PUBLISH

typedef struct JournalRecord {
    District__StreamJournalKind kind;
    uint64_t size;
    uint64_t offset;
} JournalRecord;

/* Up to 3 records before an epoch, and one after EPOCH_BEGIN. */
static void
journals_refused(uint32_t version, const JournalRecord *records, bool late, const char *why)
{
    Writer w;
    uint64_t seq = 0;

    writer_init(&w, 1, 8);
    w.version = version;
    writer_hello(&w);
    for (int i = 0; i < 3 && records[i].kind != 0; i++)
        write_journal(&w, ++seq, records[i].kind, records[i].size, records[i].offset);
    writer_begin(&w, 1, 0);
    if (late)
        write_journal(&w, ++seq, DATA, 0, 0);
    writer_state(&w);
    writer_end(&w);
    import_refused(w.out->data, w.out->len, why);
    writer_clear(&w);
}

static void
test_journals_refused(void)
{
    enum { SIZE = JOURNAL_BYTES_MIN };
    static const JournalRecord whole[3] = {{BEGIN, SIZE, 0}, {DATA, 0, 0}, {PUBLISH, 0, 0}},
                               open[3] = {{BEGIN, SIZE, 0}, {DATA, 0, 0}},
                               beyond[3] = {{BEGIN, SIZE, 0}, {DATA, 0, SIZE}},
                               nowhere[3] = {{DATA, 0, 0}},
                               twice[3] = {{BEGIN, SIZE, 0}, {BEGIN, SIZE, 0}},
                               small[3] = {{BEGIN, PAGE_BYTES, 0}}, none[3] = {{PUBLISH, 0, 0}},
                               after[3] = {{BEGIN, SIZE, 0}, {PUBLISH, 0, 0}, {DATA, 0, 0}},
                               empty[3] = {{0, 0, 0}};

    journals_refused(FILE_VERSION, whole, false, "in no file of this version");
    journals_refused(FILE_VERSION_JOURNALS, open, false, "not complete");
    journals_refused(FILE_VERSION_JOURNALS, empty, false, "not complete");
    journals_refused(FILE_VERSION_JOURNALS, beyond, false, "beyond the journal");
    journals_refused(FILE_VERSION_JOURNALS, nowhere, false, "beyond the journal");
    journals_refused(FILE_VERSION_JOURNALS, twice, false, "begins twice");
    journals_refused(FILE_VERSION_JOURNALS, small, false, "not possible");
    journals_refused(FILE_VERSION_JOURNALS, none, false, "no journals");
    journals_refused(FILE_VERSION_JOURNALS, after, false, "after the journals were complete");
    journals_refused(FILE_VERSION_JOURNALS, whole, true, "out of order");
}

static void
test_other_files(void)
{
    g_autofree char *path = NULL, *data = NULL;
    gsize len = 0;
    Writer w;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, true, NULL);
    path = rig_path_of(&rig, 1);
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    import_refused((const uint8_t *)data, len, "part of the store");
    rig_clear(&rig);
    writer_init(&w, 1, 8);
    writer_hello(&w);
    writer_epoch(&w, 1, 0, 0, 4, 1);
    writer_epoch(&w, 2, 1, 0, 4, 2);
    import_refused(w.out->data, w.out->len, "not one whole checkpoint");
    writer_clear(&w);
    writer_init(&w, 1, 8);
    writer_add_disk(&w, 0, (uint64_t)1 << 46);
    w.disk_data = (uint64_t)1 << 46;
    writer_hello(&w);
    writer_epoch(&w, 1, 0, 0, 4, 1);
    import_refused(w.out->data, w.out->len, "free some space");
    writer_clear(&w);
}

static void
test_name_taken(void)
{
    g_autoptr(GError) error = NULL;
    int fd;
    Place place;
    Rig rig;

    rig_init(&rig);
    rig_commit(&rig, false, NULL);
    fd = export_to_scratch(&rig, 1);
    place_init(&place);
    g_assert_false(try_import(&place, "disks", fd, &error));
    g_assert_nonnull(strstr(error->message, "import it --as another one"));
    place_clear(&place);
    close(fd);
    rig_clear(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_in_memory = true;
    g_test_add_func(
        "/export/memory and disks are the same after an export, an import, and both again",
        test_round_trip);
    g_test_add_func("/export/it does not matter how far the store has been merged", test_merged);
    g_test_add_func("/export/an abandoned checkpoint can be exported as well", test_abandoned);
    g_test_add_func("/export/a label goes along", test_label);
    g_test_add_func("/export/a qcow2 home of a district that is stopped is read by a qemu-nbd",
                    test_qcow2);
    g_test_add_func("/export/journals are the same after an export and an import", test_journals);
    g_test_add_func("/export/only a file with journals has the version of one", test_versions);
    g_test_add_func("/export/the writer is asked to wait until the file is complete", test_held);
    g_test_add_func("/export/a checkpoint that goes meanwhile is not exported", test_gone);
    g_test_add_func("/export/a full disk and a disk that is missing are named", test_export_fails);
    g_test_add_func("/import/a file that ends anywhere but at its end is refused", test_truncated);
    g_test_add_func("/import/damage anywhere is refused", test_damaged);
    g_test_add_func("/import/what is not one whole checkpoint is refused", test_other_files);
    g_test_add_func("/import/journals that are not whole, or out of order, are refused",
                    test_journals_refused);
    g_test_add_func("/import/the name of one that is there is refused", test_name_taken);
    return g_test_run();
}
