/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tiny guest's work; chain.h has the idea. Plain integer code: it may run on an emulated CPU.
 */
#include "chain.h"

#define MIX_A 0xff51afd7ed558ccdULL /* odd constants of MurmurHash3's finaliser */
#define MIX_B 0xc4ceb9fe1a85ec53ULL
#define LAST_WORD (GUEST_PAGE_WORDS - 1)

static uint64_t
mix(uint64_t x)
{
    x ^= x >> 33;
    x *= MIX_A;
    x ^= x >> 29;
    x *= MIX_B;
    return x ^ (x >> 32);
}

static uint64_t
fold(uint64_t chain, uint64_t word)
{
    chain = (chain ^ word) * MIX_A;
    return chain ^ (chain >> 29);
}

static uint64_t
step_random(const GuestParams *params, unsigned cpu, uint64_t round, uint64_t step)
{
    return mix(params->seed + ((uint64_t)cpu << 56) + (round << 24) + step + 1);
}

uint64_t
chain_slice(const GuestParams *params, unsigned cpu, uint64_t *first)
{
    uint64_t n = params->pages / params->cpus;

    *first = n * cpu;
    return n;
}

ChainPos
chain_start(const GuestParams *params, unsigned cpu)
{
    ChainPos pos = {.round = params->init ? 0 : 1};

    pos.chain = mix(params->seed + cpu + 1);
    return pos;
}

bool
chain_finished(const GuestParams *params, const ChainPos *pos)
{
    return params->rounds != 0 && pos->round > params->rounds;
}

static bool
round_verifies(const GuestParams *params, uint64_t round)
{
    return params->verify != 0 && params->op != GUEST_OP_TOUCH && round % params->verify == 0;
}

static uint64_t
round_writes(const GuestParams *params, uint64_t round, uint64_t n_pages)
{
    return round == 0 ? n_pages : params->dirty;
}

static uint64_t
round_steps(const GuestParams *params, uint64_t round, uint64_t n_pages)
{
    uint64_t verifies = round != 0 && round_verifies(params, round) ? n_pages : 0;

    return round_writes(params, round, n_pages) + verifies;
}

/* A number below n (n < 2^32) from the upper half of random. */
static uint64_t
scale(uint64_t random, uint64_t n)
{
    return ((random >> 32) * n) >> 32;
}

static uint64_t
pick_page(const GuestParams *params, const ChainPos *pos, uint64_t n_pages, uint64_t random)
{
    uint64_t writes = round_writes(params, pos->round, n_pages);
    uint64_t hot = n_pages / 16 ? n_pages / 16 : 1;

    if (pos->step >= writes)
        return pos->step - writes;
    if (pos->round == 0)
        return pos->step;
    if (params->order == GUEST_ORDER_SEQ)
        return ((pos->round - 1) * params->dirty + pos->step) % n_pages;
    if (params->order == GUEST_ORDER_HOT && (random & 7) != 0)
        return scale(random, hot);
    return scale(random, n_pages);
}

uint64_t
chain_step_page(const GuestParams *params, unsigned cpu, const ChainPos *pos)
{
    uint64_t first;
    uint64_t n_pages = chain_slice(params, cpu, &first);

    return pick_page(params, pos, n_pages, step_random(params, cpu, pos->round, pos->step));
}

static void
fill_words(uint64_t *page, uint64_t chain, uint64_t k)
{
    page[0] = chain;
    page[LAST_WORD] = ~chain;
    page[k] = chain * MIX_B;
}

static void
fill_noise(uint64_t *page, uint64_t x)
{
    x |= 1; /* xorshift has a fixed point at 0 */
    for (uint64_t i = 0; i < GUEST_PAGE_WORDS; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        page[i] = x;
    }
}

static void
fill_text(uint64_t *page, uint64_t x)
{
    static const char words[16][9] = {
        "district", " member ", "standby ", " commit ",  "rollback", " epochs ",
        "restores", " memory ", "the cut ", "harvest ",  "frames, ", "and the ",
        "guest is", " of the ", "switch. ", " it was\n",
    };

    for (uint64_t i = 0; i < GUEST_PAGE_WORDS; i++) {
        const char *s = words[(x >> ((i & 15) * 4)) & 15];
        uint64_t word = 0;

        for (unsigned b = 0; b < 8; b++)
            word |= (uint64_t)(unsigned char)s[b] << (b * 8);
        page[i] = word;
        if ((i & 15) == 15)
            x = mix(x);
    }
}

static void
fill_page(const GuestParams *params, uint64_t *page, uint64_t chain, uint64_t random)
{
    uint64_t k = random & LAST_WORD;

    switch (params->fill) {
    case GUEST_FILL_NOISE:
        fill_noise(page, chain);
        break;
    case GUEST_FILL_TEXT:
        fill_text(page, chain);
        break;
    case GUEST_FILL_ZERO:
        if (((random >> 9) & 3) == 0) {
            fill_words(page, chain, k);
            break;
        }
        for (uint64_t i = 0; i < GUEST_PAGE_WORDS; i++)
            page[i] = 0;
        break;
    default:
        fill_words(page, chain, k);
        break;
    }
}

static uint64_t
fold_page(const GuestParams *params, const uint64_t *page, uint64_t chain, uint64_t random)
{
    uint64_t at = random & LAST_WORD;
    uint64_t stride = GUEST_PAGE_WORDS / params->vwords;

    for (uint64_t i = 0; i < params->vwords; i++, at += stride)
        chain = fold(chain, page[at & LAST_WORD]);
    return chain;
}

static uint64_t
write_page(const GuestParams *params, uint64_t *page, uint64_t chain, uint64_t random)
{
    chain = fold(chain, page[0]);
    chain = fold(chain, page[LAST_WORD]);
    chain = fold(chain, page[random & LAST_WORD]);
    fill_page(params, page, chain, random);
    return chain;
}

void
chain_step(const GuestParams *params, unsigned cpu, ChainPos *pos, uint64_t *slice)
{
    uint64_t first;
    uint64_t n_pages = chain_slice(params, cpu, &first);
    uint64_t random = step_random(params, cpu, pos->round, pos->step);
    uint64_t index = pick_page(params, pos, n_pages, random);
    uint64_t *page = slice + index * GUEST_PAGE_WORDS;

    pos->chain = fold(pos->chain, index);
    if (params->op == GUEST_OP_TOUCH)
        page[0] = pos->chain;
    else if (pos->step < round_writes(params, pos->round, n_pages))
        pos->chain = write_page(params, page, pos->chain, random);
    else
        pos->chain = fold_page(params, page, pos->chain, random);
    if (++pos->step >= round_steps(params, pos->round, n_pages)) {
        pos->round++;
        pos->step = 0;
    }
}
