/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole pipeline as fast as it goes: a district (stress-shop.h) that is cut as often as can be, of
 * which every few seconds, at random moments, one process or all of the home is killed, or which is
 * moved, restarted or cloned; what comes back is looked at word for word, and has to be protected again.
 * Meanwhile epochs must go on committing, no process may end unasked, and none may grow without bound.
 *
 * STRESS_SECONDS=600 for longer than 20 s, SEED= for the choices of an earlier run.
 */
#include "stress-shop.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECONDS 20
#define SECONDS_MAX 100000
#define SCENE_MIN_S 30
#define SCENE_MAX_S 60
/* So much of a long run goes by without a kill: processes that get old show whether they grow. */
#define CALM_FROM_S 480
#define CALM_PART 4
#define GROWTH_AFTER_US (60 * G_TIME_SPAN_SECOND)
#define GROWTH_TIME_US (20 * G_TIME_SPAN_SECOND) /* in less than that it has no time to */
#define GROWTH_KIB 8192                          /* beside a quarter */
#define LOOK_US 200000
#define MEMORY_LOOK_US (5 * G_TIME_SPAN_SECOND)
#define COMMIT_LIMIT_US (10 * G_TIME_SPAN_SECOND)

typedef enum Action {
    FAIL_OVER_POWER,  /* the home is gone with all that it runs */
    FAIL_OVER_KILLED, /* all that it runs for the district; districtd is there and says so */
    FAIL_OVER_ALIVE,  /* nothing has failed */
    MIGRATE,
    RESTART,
    CLONE,
    KILL_CKPT,
    KILL_STANDBY,
    KILL_NET,
    ACTIONS,
} Action;

#define DECK (ACTIONS + 1)

static const char *const action_names[ACTIONS] = {
    "failover, the home without power",
    "failover, the home's processes killed",
    "failover, the home alive",
    "migrate",
    "restart",
    "clone",
    "kill district-ckpt",
    "kill district-standby",
    "kill district-net",
};

/* The processes that have to be there while nothing is done. */
typedef enum Crew { CKPT, NET, DB, LEFT, RIGHT, STANDBY, DAEMON_FIRST, DAEMON_SECOND, CREW } Crew;

static const struct {
    const char *name, *path;
} crew[CREW] = {
    [CKPT] = {"district-ckpt", "processes.ckpt"},
    [NET] = {"district-net", "processes.net"},
    [DB] = {"db", "members.0.pid"},
    [LEFT] = {"left", "members.1.pid"},
    [RIGHT] = {"right", "members.2.pid"},
    [STANDBY] = {"district-standby", "processes.standby"},
    [DAEMON_FIRST] = {"districtd of h1", NULL},
    [DAEMON_SECOND] = {"districtd of h2", NULL},
};

/* What a process has for itself, in KiB. */
typedef struct Memory {
    const char *name;
    gint64 since;
    guint64 first; /* when it was a minute old; 0: it is not */
    gint64 first_at;
    guint64 last;
    gint64 last_at;
} Memory;

typedef struct Stress {
    Pair *pair;
    Shop *shop;
    GRand *rand;
    gint64 begun, until; /* of the monotonic clock, in µs */
    Action deck[DECK];
    guint left_in_deck;
    gboolean net_kills; /* of every other district */

    GPid pids[CREW];
    gint64 committed, committed_at; /* the last epoch seen, and when it was new */
    gint64 wire;                    /* bytes that this district-ckpt has sent */
    GHashTable *memory;             /* by pid */
    gint64 memory_at;

    /* The guests had been so far when this epoch was cut, which was made durable. */
    ShopMarks floor;
    gint64 floor_epoch, floor_id;

    guint done[ACTIONS];
    guint restores, kills, aged, unprotected;
    gint64 cuts, protected_us, bytes, worst_pause_ns;
} Stress;

static double
seconds_gone(const Stress *s)
{
    return (double)(g_get_monotonic_time() - s->begun) / G_TIME_SPAN_SECOND;
}

/* ---- Memory ---- */

/* Without what it shares with others: guests' RAM and images of it. 0: the process has gone. */
static guint64
own_kib(GPid pid)
{
    static const char *const keys[] = {"\nRssAnon:", "\nRssFile:"};
    g_autofree char *path = g_strdup_printf("/proc/%d/status", pid);
    g_autofree char *text = NULL;
    guint64 kib = 0;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        const char *at = strstr(text, keys[i]);
        kib += at ? g_ascii_strtoull(at + strlen(keys[i]), NULL, 10) : 0;
    }
    return kib;
}

/* A process has come to its end, or the test has. */
static void
judge_memory(Stress *s, const Memory *m)
{
    if (m->first == 0 || m->last_at - m->first_at < GROWTH_TIME_US)
        return;
    s->aged++;
    g_test_message(
        "%s: %" G_GUINT64_FORMAT " KiB after a minute, %" G_GUINT64_FORMAT " KiB after %.0f s",
        m->name, m->first, m->last, (double)(m->last_at - m->since) / G_TIME_SPAN_SECOND);
    if (m->last > m->first + m->first / 4 + GROWTH_KIB)
        shop_fail(s->pair,
                  "%s grows: %" G_GUINT64_FORMAT
                  " KiB of its own after a minute, %" G_GUINT64_FORMAT " KiB now",
                  m->name, m->first, m->last);
}

static void
look_at_memory(Stress *s)
{
    gint64 now = g_get_monotonic_time();

    s->memory_at = now;
    for (Crew i = 0; i < CREW; i++) {
        Memory *m = g_hash_table_lookup(s->memory, GINT_TO_POINTER(s->pids[i]));
        guint64 kib = own_kib(s->pids[i]);
        if (!m) {
            m = g_new0(Memory, 1);
            *m = (Memory){.name = crew[i].name, .since = now};
            g_hash_table_insert(s->memory, GINT_TO_POINTER(s->pids[i]), m);
        }
        if (kib == 0)
            continue;
        m->last = kib;
        m->last_at = now;
        if (m->first == 0 && now - m->since >= GROWTH_AFTER_US) {
            m->first = kib;
            m->first_at = now;
        }
    }
}

/* Those that are no part of it any more; all: everyone. */
static void
forget_memory(Stress *s, gboolean all)
{
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, s->memory);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        gboolean there = FALSE;
        for (Crew i = 0; i < CREW; i++)
            there |= s->pids[i] == GPOINTER_TO_INT(key);
        if (there && !all)
            continue;
        judge_memory(s, value);
        g_hash_table_iter_remove(&iter);
    }
}

/* ---- Looking on ---- */

/* What the home and the standby say of shop; free with json_node_unref. */
typedef struct Sight {
    JsonNode *home, *standby;
} Sight;

static Sight
sight_new(Stress *s)
{
    Sight sight = {pair_show(s->pair, pair_home(s->pair), "shop"),
                   pair_show(s->pair, pair_standby(s->pair), "shop")};

    for (int i = 0; i < 2; i++) {
        Host *host = &s->pair->hosts[i];
        if (waitpid(host->daemon.pid, NULL, WNOHANG) != 0)
            shop_fail(s->pair, "districtd of %s has ended unasked", host->name);
    }
    if (!sight.home || !sight.standby)
        shop_fail(s->pair, "districtd of %s does not answer",
                  (sight.home ? pair_standby(s->pair) : pair_home(s->pair))->name);
    return sight;
}

static void
sight_clear(Sight *sight)
{
    json_node_unref(sight->home);
    json_node_unref(sight->standby);
}

static GPid
sight_pid(Stress *s, const Sight *sight, Crew who)
{
    if (who >= DAEMON_FIRST)
        return s->pair->hosts[who - DAEMON_FIRST].daemon.pid;
    return (GPid)pair_shown_number(who == STANDBY ? sight->standby : sight->home, crew[who].path);
}

static void
check_crew(Stress *s, const Sight *sight)
{
    for (Crew i = 0; i < CREW; i++) {
        GPid pid = sight_pid(s, sight, i);
        if (pid != s->pids[i])
            shop_fail(s->pair, "%s has ended unasked: it was process %d, now %d", crew[i].name,
                      s->pids[i], pid);
    }
}

static void
check_commit(Stress *s, const Sight *sight)
{
    gint64 committed = pair_shown_number(sight->home, "checkpointing.committed_epoch");
    gint64 wire = pair_shown_number(sight->home, "checkpointing.wire_bytes");
    gint64 pause = pair_shown_number(sight->home, "checkpointing.pause_ns.max");
    gint64 now = g_get_monotonic_time();
    g_autofree char *protection = pair_shown(sight->home, "protection");

    s->unprotected += g_strcmp0(protection, "protected") != 0;
    if (committed > s->committed) {
        s->cuts += committed - s->committed;
        s->committed = committed;
        s->committed_at = now;
    } else if (now - s->committed_at > COMMIT_LIMIT_US) {
        shop_fail(s->pair,
                  "no epoch was committed for %.1f s, the last is %" G_GINT64_FORMAT
                  "; protection: %s",
                  (double)(now - s->committed_at) / G_TIME_SPAN_SECOND, committed, protection);
    }
    s->bytes += wire - s->wire;
    s->wire = wire;
    s->worst_pause_ns = MAX(s->worst_pause_ns, pause);
}

/* It is protected: who is there now has to stay until the next action. */
static void
begin_watch(Stress *s)
{
    pair_wait_protected(s->pair);
    Sight sight = sight_new(s);
    gint64 wire = pair_shown_number(sight.home, "checkpointing.wire_bytes");
    GPid ckpt = sight_pid(s, &sight, CKPT);

    /* What it had sent before it was looked at first: the copy of everything. */
    s->bytes += ckpt == s->pids[CKPT] ? wire - s->wire : wire;
    s->wire = wire;
    for (Crew i = 0; i < CREW; i++) {
        s->pids[i] = sight_pid(s, &sight, i);
        if (s->pids[i] <= 1)
            shop_fail(s->pair, "%s is not there", crew[i].name);
    }
    s->committed = pair_shown_number(sight.home, "checkpointing.committed_epoch");
    s->committed_at = g_get_monotonic_time();
    sight_clear(&sight);
    forget_memory(s, FALSE);
}

/* Until so much time has gone, a moment more, or the end has come. */
static void
watch(Stress *s, gint64 us)
{
    gint64 begun = g_get_monotonic_time(), now;
    gint64 until = MIN(begun + us, s->until);

    begin_watch(s);
    do {
        Sight sight = sight_new(s);
        check_crew(s, &sight);
        check_commit(s, &sight);
        sight_clear(&sight);
        now = g_get_monotonic_time();
        if (now - s->memory_at > MEMORY_LOOK_US)
            look_at_memory(s);
        g_usleep((gulong)CLAMP(until - now, 0, LOOK_US));
    } while (now < until);
    s->protected_us += now - begun;
}

/* ---- What comes back ---- */

/* How far the guests are, and a durable checkpoint after that. */
static void
set_floor(Stress *s)
{
    const char *checkpoint[] = {"checkpoint", "shop", NULL};
    GPid guests[SHOP_MEMBERS];
    g_autofree char *why = NULL;
    ShopMarks marks;

    shop_guests(s->shop, "shop", guests);
    if (!shop_marks(guests, &marks))
        shop_fail(s->pair, "a guest of shop has no memory");
    g_autoptr(JsonNode) answer = pair_command(s->pair, pair_home(s->pair), &why, checkpoint);
    if (!answer)
        shop_fail(s->pair, "checkpoint: %s", why);
    s->floor = marks;
    s->floor_epoch = pair_shown_number(answer, "epoch");
    s->floor_id = pair_shown_number(answer, "id");
}

/* shop, or a clone of it, has come back, to a cut after the floor or not. */
static void
check_restored(Stress *s, const char *district, gboolean above)
{
    GPid guests[SHOP_MEMBERS];
    ShopMarks marks;

    shop_wait_progress(s->shop, district);
    shop_guests(s->shop, district, guests);
    if (!shop_marks(guests, &marks))
        shop_fail(s->pair, "a guest of %s has no memory", district);
    if (above)
        shop_check_marks(s->shop, district, &marks, &s->floor);
    shop_check_guests(s->shop, district);
    s->restores++;
}

/* ---- Actions ---- */

/* The home comes to its end in one way or another; the other host takes over. */
static void
end_home(Stress *s, Action how)
{
    const char *failover[] = {"failover", "shop", NULL};
    const char *migrate[] = {"migrate", "shop", "--to", pair_standby(s->pair)->name, NULL};

    if (how == MIGRATE) {
        pair_must(s->pair, pair_home(s->pair), migrate);
        return;
    }
    if (how == FAIL_OVER_POWER)
        pair_lose_power(s->pair);
    if (how == FAIL_OVER_KILLED)
        pair_kill_district(s->pair);
    s->kills += how != FAIL_OVER_ALIVE;
    pair_must(s->pair, pair_standby(s->pair), failover);
}

static void
move_home(Stress *s, Action how)
{
    Pair *pair = s->pair;

    end_home(s, how);
    pair_wait(pair, pair_standby(pair), "state", "running");
    gint64 epoch = pair_started_epoch(pair, pair_standby(pair));
    if (epoch < s->committed)
        shop_fail(pair,
                  "%s runs from epoch %" G_GINT64_FORMAT ", but %" G_GINT64_FORMAT
                  " had been committed",
                  pair_standby(pair)->name, epoch, s->committed);
    pair_swap(pair);
    check_restored(s, "shop", s->floor_epoch != 0 && epoch >= s->floor_epoch);
    s->floor_epoch = s->floor_id = 0; /* the store begins anew here */
    if (how == MIGRATE)
        return;
    const char *protect[] = {"protect", "shop", "--standby", pair_standby(pair)->name,
                             "--wait",  NULL};
    if (how == FAIL_OVER_POWER)
        pair_daemon_start(pair, pair_standby(pair));
    pair_wait(pair, pair_standby(pair), "state", "superseded");
    pair_must(pair, pair_home(pair), protect);
}

/* The newest durable checkpoint that anyone was told of; there is one. */
static gint64
told_id(Stress *s)
{
    pair_wait_above(s->pair, pair_home(s->pair), "checkpointing.durable_id", 0);
    return MAX(s->floor_id, pair_number(s->pair, pair_home(s->pair), "checkpointing.durable_id"));
}

static void
restart(Stress *s)
{
    const char *restart[] = {"restart", "shop", NULL};
    g_autofree char *why = NULL;
    gint64 told = told_id(s);
    g_autoptr(JsonNode) answer = pair_command(s->pair, pair_home(s->pair), &why, restart);

    if (!answer)
        shop_fail(s->pair, "restart: %s", why);
    if (pair_shown_number(answer, "checkpoint") < told)
        shop_fail(s->pair,
                  "restarted from checkpoint %" G_GINT64_FORMAT ", but %" G_GINT64_FORMAT
                  " was durable",
                  pair_shown_number(answer, "checkpoint"), told);
    /* Until then memory may still be read. */
    pair_wait_protected(s->pair);
    check_restored(s, "shop", s->floor_id != 0);
}

static void
run_clone(Stress *s)
{
    g_autofree char *id = g_strdup_printf("%" G_GINT64_FORMAT, told_id(s));
    const char *make[] = {"clone", "shop", "--at", id, "--as", "peek", NULL};
    const char *destroy[] = {"destroy", "peek", NULL};
    const char *stop[] = {"stop", "peek", "--force", NULL};

    pair_must(s->pair, pair_home(s->pair), make);
    check_restored(s, "peek", s->floor_id != 0);
    pair_must(s->pair, pair_home(s->pair), stop);
    pair_must(s->pair, pair_home(s->pair), destroy);
}

/* One that comes back, and protection with it. */
static void
kill_one(Stress *s, Crew who)
{
    Host *host = who == STANDBY ? pair_standby(s->pair) : pair_home(s->pair);
    gint64 limit = g_get_monotonic_time() + RIG_LIMIT_MS * G_TIME_SPAN_MILLISECOND;
    gint64 pid;

    kill(s->pids[who], SIGKILL);
    s->kills++;
    while ((pid = pair_number(s->pair, host, crew[who].path)) <= 1 || pid == s->pids[who]) {
        if (g_get_monotonic_time() > limit)
            shop_fail(s->pair, "%s, killed, was not started again", crew[who].name);
        g_usleep(LOOK_US / 10);
    }
    /* What is known of it first may be from before the kill. */
    for (int i = 0; i < 2; i++)
        pair_wait_above(s->pair, pair_home(s->pair), "checkpointing.committed_epoch",
                        pair_number(s->pair, pair_home(s->pair), "checkpointing.committed_epoch"));
    pair_wait_protected(s->pair);
    shop_wait_progress(s->shop, "shop");
}

static void
act(Stress *s, Action action)
{
    gint64 begun = g_get_monotonic_time();

    if (g_rand_boolean(s->rand))
        set_floor(s);
    g_usleep((gulong)g_rand_int_range(s->rand, 0, 30000));
    switch (action) {
    case RESTART:
        restart(s);
        break;
    case CLONE:
        run_clone(s);
        break;
    case KILL_CKPT:
    case KILL_STANDBY:
    case KILL_NET:
        kill_one(s, action == KILL_CKPT ? CKPT : action == KILL_NET ? NET : STANDBY);
        break;
    default:
        move_home(s, action);
        break;
    }
    s->done[action]++;
    g_test_message("at %.1f s: %s, %.1f s; epoch %" G_GINT64_FORMAT, seconds_gone(s),
                   action_names[action],
                   (double)(g_get_monotonic_time() - begun) / G_TIME_SPAN_SECOND, s->committed);
}

/* Each has its turn before any comes again, a restart two of them. */
static Action
draw(Stress *s)
{
    if (s->left_in_deck == 0) {
        for (guint i = 0; i < DECK; i++)
            s->deck[i] = i < ACTIONS ? (Action)i : RESTART;
        for (guint i = DECK - 1; i > 0; i--) {
            guint with = (guint)g_rand_int_range(s->rand, 0, (gint32)i + 1);
            Action held = s->deck[i];
            s->deck[i] = s->deck[with];
            s->deck[with] = held;
        }
        s->left_in_deck = DECK;
    }
    Action action = s->deck[--s->left_in_deck];
    if (action == KILL_NET || action == KILL_CKPT)
        return s->shop->net_kills ? KILL_NET : KILL_CKPT;
    return action;
}

/* ---- Scenes ---- */

/* One district, from its first boot to its end. calm: it only lives, and is cloned. */
static void
scene(Stress *s, gint64 until, gboolean calm)
{
    const char *check[] = {"store", "check", "shop", NULL};

    s->floor_epoch = s->floor_id = 0;
    s->net_kills = !s->net_kills;
    s->shop = shop_new(s->pair, s->rand, s->net_kills);
    shop_wait_progress(s->shop, "shop");
    watch(s, g_rand_int_range(s->rand, 500, 2000) * G_TIME_SPAN_MILLISECOND);
    while (g_get_monotonic_time() < until) {
        act(s, calm ? CLONE : draw(s));
        watch(s, g_rand_int_range(s->rand, 1000, 5000) * G_TIME_SPAN_MILLISECOND);
    }
    look_at_memory(s);
    shop_check_guests(s->shop, "shop");
    pair_must(s->pair, pair_home(s->pair), check);
    g_clear_pointer(&s->shop, shop_free);
}

static void
tell(Stress *s, guint seed)
{
    double protected_s = (double)s->protected_us / G_TIME_SPAN_SECOND;

    for (Action i = 0; i < ACTIONS; i++)
        g_test_message("%u times %s", s->done[i], action_names[i]);
    g_test_message("stress: seed %u, %.0f s, %.0f s of it looked on while protected", seed,
                   seconds_gone(s), protected_s);
    g_test_message("stress: %" G_GINT64_FORMAT " cuts, %.1f a second; worst pause %.3f ms; "
                   "%" G_GINT64_FORMAT " bytes to the standby",
                   s->cuts, (double)s->cuts / MAX(protected_s, 0.001),
                   (double)s->worst_pause_ns / 1e6, s->bytes);
    g_test_message("stress: %u restores verified, %u kills; %u processes watched for growth; "
                   "protection seen missing unasked %u times",
                   s->restores, s->kills, s->aged, s->unprotected);
}

/* A number from the environment. */
static guint
number_wanted(const char *name, guint64 max, guint otherwise)
{
    const char *text = g_getenv(name);
    guint64 n = otherwise;

    if (text && !g_ascii_string_to_unsigned(text, 10, 0, max, &n, NULL))
        g_error("%s=%s is no number up to %" G_GUINT64_FORMAT, name, text, max);
    return (guint)n;
}

static void
test_stress(void)
{
    guint seconds = number_wanted("STRESS_SECONDS", SECONDS_MAX, SECONDS);
    guint seed = number_wanted("SEED", G_MAXUINT32, g_random_int());
    Stress s = {.pair = pair_new_empty(PAIR_FAILOVER_AFTER)};
    gint64 calm_us = seconds >= CALM_FROM_S ? seconds * G_TIME_SPAN_SECOND / CALM_PART : 0;

    g_test_message("stress: SEED=%u STRESS_SECONDS=%u", seed, seconds);
    s.rand = g_rand_new_with_seed(seed);
    s.net_kills = g_rand_boolean(s.rand);
    s.memory = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    s.begun = g_get_monotonic_time();
    s.until = s.begun + seconds * G_TIME_SPAN_SECOND;
    for (gint64 now; (now = g_get_monotonic_time()) < s.until - calm_us;) {
        gint64 length = g_rand_int_range(s.rand, SCENE_MIN_S, SCENE_MAX_S) * G_TIME_SPAN_SECOND;
        scene(&s, MIN(now + length, s.until - calm_us), FALSE);
    }
    if (calm_us != 0)
        scene(&s, s.until, TRUE);
    forget_memory(&s, TRUE);
    tell(&s, seed);
    g_assert_cmpint(s.cuts, >, 0);
    g_assert_cmpuint(s.restores, >, 0);
    /* All of a calm scene got old. */
    g_assert_cmpuint(s.aged, >=, calm_us != 0 ? CREW : 0);
    g_hash_table_unref(s.memory);
    g_rand_free(s.rand);
    pair_free(s.pair);
}

int
main(int argc, char **argv)
{
    int result = pair_guard();
    if (result >= 0)
        return result;
    g_test_init(&argc, &argv, NULL);
    g_test_add_func(
        "/stress/at full speed, with everything killed in turn, what comes back is right",
        test_stress);
    return g_test_run();
}
