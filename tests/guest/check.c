/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Host-side checker of the tiny guest; check.h describes it. */
#include "check.h"

#include "chain.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define HIGH_BASE 0x100000000ULL
/* More rounds than this from one question to the next are taken for a damaged header. */
#define ROUNDS_AHEAD_MAX 50000000ULL

typedef struct CpuModel {
    ChainPos pos;
    uint64_t first; /* page of the working set where the slice starts */
    uint64_t n_pages;
    uint64_t *slice;
} CpuModel;

struct GuestChecker {
    GuestParams params;
    CpuModel cpu[GUEST_CPUS_MAX];
};

static gboolean fail(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static gboolean
fail(GError **error, const char *format, ...)
{
    va_list args;
    g_autofree char *what = NULL;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "tiny guest: %s", what);
    return FALSE;
}

static void
model_unmap(CpuModel *model)
{
    if (model->slice)
        munmap(model->slice, model->n_pages * GUEST_PAGE_BYTES);
    model->slice = NULL;
}

/* Back to the state before the first step, all zeros. */
static gboolean
model_reset(GuestChecker *checker, unsigned cpu, GError **error)
{
    CpuModel *model = &checker->cpu[cpu];
    void *map;

    model_unmap(model);
    model->n_pages = chain_slice(&checker->params, cpu, &model->first);
    model->pos = chain_start(&checker->params, cpu);
    map = mmap(NULL, model->n_pages * GUEST_PAGE_BYTES, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return fail(error, "no memory for a model of %" PRIu64 " pages", model->n_pages);
    model->slice = map;
    return TRUE;
}

GuestChecker *
guest_checker_new(const char *command_line, GError **error)
{
    g_autoptr(GuestChecker) checker = g_new0(GuestChecker, 1);
    const char *bad = "";

    if (!guest_params_parse(&checker->params, command_line, &bad)) {
        fail(error, "option not understood: %s", bad);
        return NULL;
    }
    for (unsigned cpu = 0; cpu < checker->params.cpus; cpu++)
        if (!model_reset(checker, cpu, error))
            return NULL;
    return g_steal_pointer(&checker);
}

void
guest_checker_free(GuestChecker *checker)
{
    if (!checker)
        return;
    for (unsigned cpu = 0; cpu < GUEST_CPUS_MAX; cpu++)
        model_unmap(&checker->cpu[cpu]);
    g_free(checker);
}

const GuestParams *
guest_checker_params(const GuestChecker *checker)
{
    return &checker->params;
}

static bool
pos_before(const ChainPos *pos, uint64_t round, uint64_t step)
{
    return pos->round < round || (pos->round == round && pos->step < step);
}

/* Bring the model of cpu to just before (round, step). */
static gboolean
model_seek(GuestChecker *checker, unsigned cpu, uint64_t round, uint64_t step, GError **error)
{
    CpuModel *model = &checker->cpu[cpu];
    const ChainPos wanted = {.round = round, .step = step};

    if (pos_before(&wanted, model->pos.round, model->pos.step) && !model_reset(checker, cpu, error))
        return FALSE;
    if (round > model->pos.round && round - model->pos.round > ROUNDS_AHEAD_MAX)
        return fail(error, "cpu %u: round %" PRIu64 " is implausible", cpu, round);
    while (pos_before(&model->pos, round, step) && !chain_finished(&checker->params, &model->pos))
        chain_step(&checker->params, cpu, &model->pos, model->slice);
    if (model->pos.round != round || model->pos.step != step)
        return fail(error, "cpu %u: there is no step %" PRIu64 " of round %" PRIu64, cpu, step,
                    round);
    return TRUE;
}

gboolean
guest_checker_chain(GuestChecker *checker, unsigned cpu, uint64_t round, uint64_t *chain,
                    GError **error)
{
    if (cpu >= checker->params.cpus || round == 0 || round == UINT64_MAX)
        return fail(error, "there is no cpu %u, round %" PRIu64, cpu, round);
    if (!model_seek(checker, cpu, round + 1, 0, error))
        return FALSE;
    *chain = checker->cpu[cpu].pos.chain;
    return TRUE;
}

/* at: a line, or the half of one that a killed engine has left and the next one went on behind. Of a half
 * what is there must be right. */
static gboolean
check_chain(GuestChecker *checker, const char *at, bool half, guint *n_chains, GError **error)
{
    unsigned cpu;
    uint64_t round;
    uint64_t expected;
    char value[17];

    if (sscanf(at, "chain cpu=%u round=%" SCNu64 " value=%16[0-9a-f]", &cpu, &round, value) != 3)
        return half || fail(error, "garbled line: %s", at);
    if (!half && strlen(value) != 16)
        return fail(error, "garbled line: %s", at);
    if (!guest_checker_chain(checker, cpu, round, &expected, error))
        return FALSE;
    g_autofree char *wanted = g_strdup_printf("%016" PRIx64, expected);
    if (!g_str_has_prefix(wanted, value))
        return fail(error, "memory was lost or stale: \"%s\", expected %s", at, wanted);
    *n_chains += strlen(value) == 16;
    return TRUE;
}

static gboolean
check_line(GuestChecker *checker, const char *line, guint *n_chains, GError **error)
{
    if (g_str_has_prefix(line, "error"))
        return fail(error, "it says: %s", line);
    for (const char *at = strstr(line, "chain "), *next; at; at = next) {
        next = strstr(at + 1, "chain ");
        g_autofree char *part = next ? g_strndup(at, (gsize)(next - at)) : g_strdup(at);
        if (!check_chain(checker, part, next != NULL, n_chains, error))
            return FALSE;
    }
    return TRUE;
}

gboolean
guest_checker_output(GuestChecker *checker, const char *text, guint *n_chains, GError **error)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    guint seen = 0;

    /* What follows the last newline may be half a line. */
    for (guint i = 0; lines[i] && lines[i + 1]; i++)
        if (!check_line(checker, g_strchomp(lines[i]), &seen, error))
            return FALSE;
    if (n_chains)
        *n_chains = seen;
    return TRUE;
}

static const uint8_t *
image_at(const GuestImage *image, uint64_t gpa, uint64_t bytes)
{
    bool is_high = gpa >= HIGH_BASE;
    uint64_t size = is_high ? image->high_bytes : image->low_bytes;
    uint64_t offset = is_high ? gpa - HIGH_BASE : gpa;
    const uint8_t *base = is_high ? image->high : image->low;

    if (!base || bytes > size || offset > size - bytes)
        return NULL;
    return base + offset;
}

gboolean
guest_image_header(const GuestImage *image, GuestHeader *header, GError **error)
{
    const uint8_t *at = image_at(image, GUEST_HEADER_GPA, sizeof(*header));

    if (!at)
        return fail(error, "image has no page at 1 MiB");
    memcpy(header, at, sizeof(*header));
    if (header->magic != GUEST_MAGIC)
        return fail(error, "no header at 1 MiB: it has not started");
    return TRUE;
}

gboolean
guest_image_position(const GuestImage *image, unsigned cpu, ChainPos *pos, GError **error)
{
    GuestHeader header;

    if (!guest_image_header(image, &header, error))
        return FALSE;
    if (cpu >= GUEST_CPUS_MAX || header.cpu[cpu].seq == 0)
        return fail(error, "cpu %u has not started", cpu);
    *pos = header.cpu[cpu].pos[header.cpu[cpu].seq & 1];
    return TRUE;
}

/* The page of the step under way: each word as before or as after it. */
static gboolean
check_open_page(GuestChecker *checker, unsigned cpu, uint64_t index, const uint8_t *found,
                GError **error)
{
    CpuModel *model = &checker->cpu[cpu];
    const uint64_t *now = model->slice + index * GUEST_PAGE_WORDS;
    uint64_t before[GUEST_PAGE_WORDS];
    uint64_t word;

    memcpy(before, now, sizeof(before));
    if (!chain_finished(&checker->params, &model->pos))
        chain_step(&checker->params, cpu, &model->pos, model->slice);
    for (unsigned i = 0; i < GUEST_PAGE_WORDS; i++) {
        memcpy(&word, found + i * sizeof(word), sizeof(word));
        if (word != before[i] && word != now[i])
            return fail(error, "cpu %u: page %" PRIu64 ", being written, word %u is wrong", cpu,
                        model->first + index, i);
    }
    return TRUE;
}

static gboolean
check_slice(GuestChecker *checker, unsigned cpu, const uint8_t *found, GError **error)
{
    CpuModel *model = &checker->cpu[cpu];
    uint64_t open = chain_step_page(&checker->params, cpu, &model->pos);

    for (uint64_t i = 0; i < model->n_pages; i++) {
        const uint8_t *expected = (const uint8_t *)model->slice + i * GUEST_PAGE_BYTES;

        if (i != open && memcmp(expected, found + i * GUEST_PAGE_BYTES, GUEST_PAGE_BYTES) != 0)
            return fail(error,
                        "cpu %u: page %" PRIu64 " is not what round %" PRIu64 " step %" PRIu64
                        " leaves",
                        cpu, model->first + i, model->pos.round, model->pos.step);
    }
    return check_open_page(checker, cpu, open, found + open * GUEST_PAGE_BYTES, error);
}

static gboolean
check_cpu(GuestChecker *checker, unsigned cpu, const GuestImage *image, GError **error)
{
    CpuModel *model = &checker->cpu[cpu];
    uint64_t gpa = checker->params.base + model->first * GUEST_PAGE_BYTES;
    const uint8_t *found = image_at(image, gpa, model->n_pages * GUEST_PAGE_BYTES);
    ChainPos pos;

    if (!found)
        return fail(error, "cpu %u: its pages are not in the image", cpu);
    if (!guest_image_position(image, cpu, &pos, error) ||
        !model_seek(checker, cpu, pos.round, pos.step, error))
        return FALSE;
    if (pos.chain != model->pos.chain)
        return fail(error,
                    "cpu %u: round %" PRIu64 " step %" PRIu64 ": chain is %016" PRIx64
                    ", expected %016" PRIx64,
                    cpu, pos.round, pos.step, pos.chain, model->pos.chain);
    return check_slice(checker, cpu, found, error);
}

gboolean
guest_checker_image(GuestChecker *checker, const GuestImage *image, GError **error)
{
    GuestHeader header;

    if (!guest_image_header(image, &header, error))
        return FALSE;
    if (memcmp(&header.params, &checker->params, sizeof(header.params)) != 0)
        return fail(error, "the image is of a guest with another command line");
    for (unsigned cpu = 0; cpu < checker->params.cpus; cpu++)
        if (!check_cpu(checker, cpu, image, error))
            return FALSE;
    return TRUE;
}
