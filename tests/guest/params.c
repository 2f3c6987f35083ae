/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tiny guest's command line. Freestanding. */
#include "guest.h"

#define PAGES_MAX 0xFFFFFFFFULL

typedef struct Choice {
    const char *name;
    uint32_t value;
} Choice;

static const Choice op_choices[] = {
    {"dirty", GUEST_OP_DIRTY},     {"touch", GUEST_OP_TOUCH},
    {"devices", GUEST_OP_DEVICES}, {"tick", GUEST_OP_TICK},
    {"halt", GUEST_OP_HALT},       {"journal", GUEST_OP_JOURNAL},
    {"disk", GUEST_OP_DISK},       {NULL, 0},
};
static const Choice order_choices[] = {
    {"seq", GUEST_ORDER_SEQ},
    {"random", GUEST_ORDER_RANDOM},
    {"hot", GUEST_ORDER_HOT},
    {NULL, 0},
};
static const Choice fill_choices[] = {
    {"words", GUEST_FILL_WORDS},
    {"zero", GUEST_FILL_ZERO},
    {"text", GUEST_FILL_TEXT},
    {"incompressible", GUEST_FILL_NOISE},
    {NULL, 0},
};
static const Choice end_choices[] = {
    {"halt", GUEST_END_HALT},
    {"reset", GUEST_END_RESET},
    {"reset-writing", GUEST_END_RESET_WRITING},
    {"poweroff", GUEST_END_POWEROFF},
    {NULL, 0},
};
static const Choice out_choices[] = {
    {"debugcon", GUEST_OUT_DEBUGCON},
    {"serial", GUEST_OUT_SERIAL},
    {NULL, 0},
};
static const Choice io_choices[] = {
    {"read", GUEST_IO_READ},
    {"write", GUEST_IO_WRITE},
    {"randread", GUEST_IO_RANDREAD},
    {"randwrite", GUEST_IO_RANDWRITE},
    {"sync", GUEST_IO_SYNC},
    {"id", GUEST_IO_ID},
    {NULL, 0},
};
static const Choice net_choices[] = {
    {"none", GUEST_NET_NONE},
    {"send", GUEST_NET_SEND},
    {"echo", GUEST_NET_ECHO},
    {"recv", GUEST_NET_RECV},
    {NULL, 0},
};

/* A stretch of the command line. */
typedef struct Text {
    const char *at;
    size_t len;
} Text;

static bool
text_is(Text text, const char *name)
{
    size_t i = 0;

    for (; i < text.len && name[i] != '\0'; i++)
        if (text.at[i] != name[i])
            return false;
    return i == text.len && name[i] == '\0';
}

/* Cut text at the first c; *rest is what follows it, empty if there is none. */
static Text
text_cut(Text text, char c, Text *rest)
{
    size_t i = 0;

    while (i < text.len && text.at[i] != c)
        i++;
    *rest = i < text.len ? (Text){text.at + i + 1, text.len - i - 1} : (Text){text.at + i, 0};
    return (Text){text.at, i};
}

static int
digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

/* Digits in base 10, or 16 after 0x. */
static bool
text_number(Text text, uint64_t *value)
{
    uint64_t n = 0;
    unsigned base = 10;

    if (text.len > 2 && text.at[0] == '0' && text.at[1] == 'x') {
        base = 16;
        text = (Text){text.at + 2, text.len - 2};
    }
    if (text.len == 0 || text.len > 19)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        int digit = digit_value(text.at[i]);

        if (digit >= (int)base)
            return false;
        n = n * base + (unsigned)digit;
    }
    *value = n;
    return true;
}

static bool
text_choice(Text text, const Choice *choices, uint32_t *value)
{
    for (; choices->name; choices++) {
        if (text_is(text, choices->name)) {
            *value = choices->value;
            return true;
        }
    }
    return false;
}

/* An order, a fill, or both with a comma. */
static bool
parse_pattern(GuestParams *params, Text value)
{
    while (value.len > 0) {
        Text rest;
        Text part = text_cut(value, ',', &rest);

        if (!text_choice(part, order_choices, &params->order) &&
            !text_choice(part, fill_choices, &params->fill))
            return false;
        value = rest;
    }
    return true;
}

static bool
parse_io_job(GuestIoJob *job, Text text)
{
    Text text_bytes, text_depth;
    Text text_mode = text_cut(text, ':', &text_bytes);
    uint64_t bytes, depth;

    text_bytes = text_cut(text_bytes, ':', &text_depth);
    if (!text_choice(text_mode, io_choices, &job->mode) || !text_number(text_bytes, &bytes) ||
        !text_number(text_depth, &depth))
        return false;
    if (bytes == 0 || bytes % GUEST_PAGE_BYTES != 0 || bytes > GUEST_IO_BYTES_MAX || depth == 0 ||
        depth > GUEST_IO_DEPTH_MAX)
        return false;
    job->bytes = (uint32_t)bytes;
    job->depth = (uint32_t)depth;
    return true;
}

/* MODE:BYTES:DEPTH, separated by commas. */
static bool
parse_io(GuestParams *params, Text value)
{
    for (params->n_io = 0; value.len > 0; params->n_io++) {
        Text rest;
        Text part = text_cut(value, ',', &rest);

        if (params->n_io == GUEST_IO_JOBS_MAX || !parse_io_job(&params->io[params->n_io], part))
            return false;
        value = rest;
    }
    return true;
}

static bool
parse_mac(uint8_t mac[6], Text value)
{
    if (value.len != 17)
        return false;
    for (unsigned i = 0; i < 6; i++) {
        int high = digit_value(value.at[i * 3]);
        int low = digit_value(value.at[i * 3 + 1]);

        if (high > 15 || low > 15 || (i < 5 && value.at[i * 3 + 2] != ':'))
            return false;
        mac[i] = (uint8_t)(high * 16 + low);
    }
    return true;
}

static bool
parse_poweroff(GuestParams *params, Text value)
{
    Text text_value;
    Text text_port = text_cut(value, ':', &text_value);
    uint64_t port;
    uint64_t word;

    if (!text_number(text_port, &port) || !text_number(text_value, &word) || port > 0xFFFF ||
        word > 0xFFFF)
        return false;
    params->poweroff_port = (uint32_t)port;
    params->poweroff_value = (uint32_t)word;
    params->end = GUEST_END_POWEROFF;
    return true;
}

static bool
parse_word_option(GuestParams *params, Text key, Text value)
{
    if (text_is(key, "op"))
        return text_choice(value, op_choices, &params->op);
    if (text_is(key, "pattern"))
        return parse_pattern(params, value);
    if (text_is(key, "end"))
        return text_choice(value, end_choices, &params->end);
    if (text_is(key, "out"))
        return text_choice(value, out_choices, &params->out);
    if (text_is(key, "net"))
        return text_choice(value, net_choices, &params->net);
    if (text_is(key, "io"))
        return parse_io(params, value);
    if (text_is(key, "peer"))
        return parse_mac(params->peer, value);
    if (text_is(key, "poweroff"))
        return parse_poweroff(params, value);
    return false;
}

static bool
parse_option(GuestParams *params, Text key, Text value)
{
    struct {
        const char *name;
        uint64_t min, max;
        uint64_t *wide;
        uint32_t *narrow;
    } numbers[] = {
        {"base", 0x200000, 1ULL << 36, &params->base, NULL},
        {"pages", 1, PAGES_MAX, &params->pages, NULL},
        {"dirty", 0, PAGES_MAX, &params->dirty, NULL},
        {"seed", 0, UINT64_MAX, &params->seed, NULL},
        {"rounds", 0, UINT64_MAX >> 1, &params->rounds, NULL},
        {"delay", 0, UINT64_MAX, &params->delay, NULL},
        {"report", 0, UINT64_MAX, &params->report, NULL},
        {"verify", 0, UINT64_MAX, &params->verify, NULL},
        {"period", 0, UINT32_MAX, &params->period, NULL},
        {"vwords", 1, GUEST_PAGE_WORDS, &params->vwords, NULL},
        {"cpus", 1, GUEST_CPUS_MAX, NULL, &params->cpus},
        {"ring", 0, 3, NULL, &params->ring},
        {"init", 0, 1, NULL, &params->init},
        {"bytes", 46, 1500, NULL, &params->bytes},
        {"window", 0, 1024, NULL, &params->window},
        {"button", 0, 0xFFFF, NULL, &params->button},
        {"time", 1, 60000, NULL, &params->io_ms},
    };
    uint64_t n;

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (!text_is(key, numbers[i].name))
            continue;
        if (!text_number(value, &n) || n < numbers[i].min || n > numbers[i].max)
            return false;
        if (numbers[i].wide)
            *numbers[i].wide = n;
        else
            *numbers[i].narrow = (uint32_t)n;
        return true;
    }
    return parse_word_option(params, key, value);
}

static void
set_defaults(GuestParams *params)
{
    *params = (GuestParams){
        .base = GUEST_BASE_DEFAULT,
        .pages = 256,
        .dirty = 32,
        .seed = 1,
        .report = 1,
        .vwords = 16,
        .cpus = 1,
        .order = GUEST_ORDER_RANDOM,
        .fill = GUEST_FILL_WORDS,
        .bytes = 64,
        .window = 1,
        .io_ms = 500,
    };
}

bool
guest_params_parse(GuestParams *params, const char *line, const char **bad)
{
    set_defaults(params);
    while (*line != '\0') {
        Text word = {line, 0};
        Text value;
        Text key;

        while (line[word.len] != '\0' && line[word.len] != ' ')
            word.len++;
        key = text_cut(word, '=', &value);
        if (word.len > 0 && !parse_option(params, key, value)) {
            *bad = word.at;
            return false;
        }
        line += word.len;
        while (*line == ' ')
            line++;
    }
    *bad = "pages is less than cpus, ring not 0 or 3, or base not a multiple of 4096";
    return params->pages >= params->cpus && (params->ring == 0 || params->ring == 3) &&
           params->base % GUEST_PAGE_BYTES == 0;
}
