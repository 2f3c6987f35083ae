/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A district "shop" on two hosts (pair.h), protected by cuts as fast as they can be made, whose guests
 * have little in common but that each shows what does not fit together:
 *
 *   db     two CPUs that write to their own halves of its memory, in a pattern that is chosen at random;
 *          each page of it is known at each step
 *   left   sends numbered frames, and reads each place of its disk before it writes there
 *   right  echoes them; or only takes them, in a shop that is to lose some (net_kills)
 *
 * They are looked at from outside, in their memory: nothing that a guest prints is needed.
 */
#ifndef DISTRICT_TESTS_VM_PIPELINE_STRESS_SHOP_H
#define DISTRICT_TESTS_VM_PIPELINE_STRESS_SHOP_H

#include "pair.h"

#define SHOP_MEMBERS 3
#define SHOP_FRESH "DurableEvery=1s\nKeep=10\n"

/* What only grows in the life of a guest. */
typedef enum ShopMark {
    MARK_DB_FIRST, /* steps of db's CPUs */
    MARK_DB_SECOND,
    MARK_LEFT_SENT, /* frames */
    MARK_LEFT_DISK, /* writes */
    MARK_RIGHT_SEEN,
    SHOP_MARKS,
} ShopMark;

typedef struct ShopMarks {
    guint64 at[SHOP_MARKS];
} ShopMarks;

typedef struct Shop {
    Pair *pair;
    gboolean net_kills; /* district-net may be killed, and frames be lost with it */
    char *commands[SHOP_MEMBERS];
    GuestChecker *checker; /* of db */
} Shop;

/* Create it on the pair's home, choices made by rand, start it and have it protected. */
Shop *shop_new(Pair *pair, GRand *rand, gboolean net_kills);
/* Destroy it on both hosts. */
void shop_free(Shop *shop);

/* The processes of its guests, or of those of a clone, on the home. */
void shop_guests(Shop *shop, const char *district, GPid guests[SHOP_MEMBERS]);
/* How far the guests are. FALSE: one of them has no memory yet. */
gboolean shop_marks(const GPid guests[SHOP_MEMBERS], ShopMarks *marks);
/* None of them is behind what was there before. who: for the message. */
void shop_check_marks(Shop *shop, const char *who, const ShopMarks *now, const ShopMarks *floor);
/* Wait until all of them have got further. */
void shop_wait_progress(Shop *shop, const char *district);
/*
 * All of db's memory is what it must be at some instant, and neither left nor right have seen anything
 * wrong. Each guest stands still for the time that it takes to read it.
 */
void shop_check_guests(Shop *shop, const char *district);

/* rig_fail, after what the guests have said last. */
void shop_fail(Pair *pair, const char *format, ...) G_GNUC_PRINTF(2, 3) G_GNUC_NORETURN;

#endif
