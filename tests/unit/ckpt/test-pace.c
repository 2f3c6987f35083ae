/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pace of cuts against a simulated district: guests that write, pauses, a link and a standby, with
 * at most two epochs on their way, as in ckpt/coordinator.c.
 */
#include "ckpt/pace.h"

#include <glib.h>
#include <math.h>

#define IN_FLIGHT_MAX 2
/* By then it has followed any step here: from 2 ms to 1 s are 28 steps of a quarter. */
#define SETTLED 40
#define MS(x) ((int64_t)((x)*1e6))

typedef struct World {
    double writes_per_ms; /* of pages, at random among... */
    double working_set;   /* ...so many */
    double pause_ms;
    double pages_per_ms; /* that the link carries */
    double way_ms;       /* of each epoch, there and back, beside others */
    double noise;        /* of pause, way and link: up to this part more or less */
} World;

typedef struct Sim {
    Pace pace;
    World world;
    GRand *rand;
    double now_ms;                                       /* of the next cut */
    double last_cut_ms, stood_ms;                        /* the last pause */
    double cut_ms[IN_FLIGHT_MAX], ack_ms[IN_FLIGHT_MAX]; /* of those in flight, oldest first */
    unsigned in_flight;
    double link_free_ms, acked_ms;
    double acked_cut_ms;
    double hiccup_pause_ms, hiccup_way_ms; /* more, for the next epoch alone */
    /* Of the last cut */
    double interval_ms, lag_ms, pages;
} Sim;

static const World office = {.writes_per_ms = 20,
                             .working_set = 2000,
                             .pause_ms = 1,
                             .pages_per_ms = 250, /* 10 Gbit/s */
                             .way_ms = 1};

static void
sim_init(Sim *sim, const World *world, unsigned max_slowdown, double max_lag_ms)
{
    *sim = (Sim){.world = *world, .rand = g_rand_new_with_seed(7)};
    pace_init(&sim->pace, max_slowdown, MS(max_lag_ms));
}

static double
sim_interval(const Sim *sim)
{
    return (double)pace_interval_ns(&sim->pace) / 1e6;
}

static double
sim_noisy(Sim *sim, double value)
{
    return value * (1 + sim->world.noise * g_rand_double_range(sim->rand, -1, 1));
}

static double
sim_faults(const World *world, double ms)
{
    return world->working_set * (1 - exp(-world->writes_per_ms * ms / world->working_set));
}

static void
sim_take_ack(Sim *sim)
{
    double since = MAX(sim->cut_ms[0], sim->acked_ms);

    sim->lag_ms = MAX(sim->lag_ms, sim->ack_ms[0] - sim->acked_cut_ms);
    sim->acked_ms = sim->ack_ms[0];
    sim->acked_cut_ms = sim->cut_ms[0];
    pace_drained(&sim->pace, MS(sim->acked_ms - since));
    sim->cut_ms[0] = sim->cut_ms[1];
    sim->ack_ms[0] = sim->ack_ms[1];
    sim->in_flight--;
}

/* The epoch goes onto the link when that is free. */
static void
sim_send(Sim *sim)
{
    double begin = MAX(sim->now_ms, sim->link_free_ms);

    sim->link_free_ms = begin + sim->pages / sim_noisy(sim, sim->world.pages_per_ms);
    sim->cut_ms[sim->in_flight] = sim->now_ms;
    sim->ack_ms[sim->in_flight++] =
        sim->link_free_ms + sim_noisy(sim, sim->world.way_ms) + sim->hiccup_way_ms;
    sim->link_free_ms += sim->hiccup_way_ms;
}

static void
sim_epoch(Sim *sim)
{
    double pause = sim_noisy(sim, sim->world.pause_ms) + sim->hiccup_pause_ms;

    sim->lag_ms = 0;
    while (sim->in_flight > 0 &&
           (sim->ack_ms[0] <= sim->now_ms || sim->in_flight == IN_FLIGHT_MAX)) {
        sim->now_ms = MAX(sim->now_ms, sim->ack_ms[0]);
        sim_take_ack(sim);
    }
    sim->interval_ms = sim->now_ms - sim->last_cut_ms;
    sim->pages = sim_faults(&sim->world, sim->interval_ms - sim->stood_ms);
    sim_send(sim);
    pace_cut(&sim->pace, MS(pause), (uint64_t)sim->pages, MS(sim->interval_ms));
    sim->last_cut_ms = sim->now_ms;
    sim->stood_ms = pause;
    sim->now_ms += MAX(sim_interval(sim), pause + sim_interval(sim) / 2);
    sim->hiccup_pause_ms = sim->hiccup_way_ms = 0;
    g_assert_cmpint(pace_interval_ns(&sim->pace), >=, PACE_LEAST_NS);
    g_assert_cmpint(pace_interval_ns(&sim->pace), <=, PACE_MOST_NS);
}

/* So many epochs, none of which is told more than a quarter longer or shorter than the one before. */
static void
sim_run(Sim *sim, unsigned epochs)
{
    for (unsigned i = 0; i < epochs; i++) {
        double before = sim_interval(sim);
        sim_epoch(sim);
        /* A cut and the acknowledgements before it are up to three samples. */
        g_assert_cmpfloat(sim_interval(sim), <=, before * 1.25 * 1.25 * 1.25 + 1e-3);
        g_assert_cmpfloat(sim_interval(sim), >=, before * 0.75 * 0.75 * 0.75 - 1e-3);
    }
}

static void
assert_near(double value, double wanted, double part)
{
    if (fabs(value - wanted) > wanted * part)
        g_error("%.3f is not within %.0f %% of %.3f", value, part * 100, wanted);
}

/* What guests lose in an epoch of the simulation as it is now, in per cent. */
static double
sim_slowdown(const Sim *sim)
{
    double runs_ms = sim_interval(sim) - sim->world.pause_ms;
    double faults_ms = sim_faults(&sim->world, runs_ms) * PACE_FAULT_NS / 1e6;

    return 100 * (sim->world.pause_ms + faults_ms) / sim_interval(sim);
}

static void
test_slowdown(void)
{
    static const unsigned budgets[] = {1, 2, 5, 10, 25, 50};

    for (guint i = 0; i < G_N_ELEMENTS(budgets); i++) {
        Sim sim;
        World near = office;
        near.way_ms = 0.1;
        near.pages_per_ms = 1e6;
        sim_init(&sim, &near, budgets[i], 1000);
        sim_run(&sim, SETTLED);
        g_test_message("%u %%: %.2f ms, %.2f %%", budgets[i], sim_interval(&sim),
                       sim_slowdown(&sim));
        /* All of what is allowed is used, so that epochs are as short as can be... */
        assert_near(sim_slowdown(&sim), budgets[i], 0.02);
        /* ...and told. */
        sim_run(&sim, SETTLED);
        assert_near((double)sim.pace.slowdown_ppm / 1e4, budgets[i], 0.02);
        g_rand_free(sim.rand);
    }
}

static void
test_idle(void)
{
    const World idle = {.working_set = 1, .pause_ms = 0.01, .pages_per_ms = 250, .way_ms = 0.1};
    Sim sim;

    sim_init(&sim, &idle, 10, 1000);
    g_assert_cmpint(pace_interval_ns(&sim.pace), ==, PACE_START_NS);
    sim_run(&sim, SETTLED);
    g_assert_cmpint(pace_interval_ns(&sim.pace), ==, PACE_LEAST_NS);
    g_rand_free(sim.rand);
}

/* Runs epochs; the interval goes to where it stays without passing it by more than a tenth. */
static double
run_straight(Sim *sim)
{
    double from = sim_interval(sim), lowest = from, highest = from;

    for (unsigned i = 0; i < SETTLED; i++) {
        sim_run(sim, 1);
        lowest = MIN(lowest, sim_interval(sim));
        highest = MAX(highest, sim_interval(sim));
    }
    double to = sim_interval(sim);
    g_test_message("%.2f to %.2f ms, between %.2f and %.2f", from, to, lowest, highest);
    g_assert_cmpfloat(lowest, >=, MIN(from, to) * 0.9);
    g_assert_cmpfloat(highest, <=, MAX(from, to) * 1.1);
    sim_run(sim, SETTLED);
    assert_near(sim_interval(sim), to, 0.02);
    return to;
}

static void
test_dirty_steps(void)
{
    Sim sim;

    sim_init(&sim, &office, 10, 1000);
    double calm = run_straight(&sim);
    sim.world.writes_per_ms *= 20;
    sim.world.pause_ms *= 4;
    double busy = run_straight(&sim);
    g_assert_cmpfloat(busy, >, 2 * calm);
    sim.world = office;
    assert_near(run_straight(&sim), calm, 0.02);
    g_rand_free(sim.rand);
}

static void
test_link_steps(void)
{
    World thin = office;
    Sim sim;

    thin.pages_per_ms = 60;
    sim_init(&sim, &thin, 10, 1000);
    double quick = run_straight(&sim);
    sim.world.pages_per_ms /= 10;
    double slow = run_straight(&sim);
    g_assert_cmpfloat(slow, >, 2 * quick);
    /* The epoch is as long as makes it fit: what is written more than once goes out once. */
    g_assert_cmpfloat(sim.pages / sim.world.pages_per_ms, <, slow);
    g_assert_cmpfloat(sim.lag_ms, <=, 1000);
    sim.world = thin;
    assert_near(run_straight(&sim), quick, 0.02);
    g_rand_free(sim.rand);
}

static void
test_hiccups(void)
{
    Sim sim;

    sim_init(&sim, &office, 10, 1000);
    sim_run(&sim, SETTLED);
    double usual = sim_interval(&sim);
    for (int kind = 0; kind < 2; kind++) {
        if (kind == 0)
            sim.hiccup_pause_ms = 200;
        else
            sim.hiccup_way_ms = 500;
        double highest = 0;
        for (int i = 0; i < 5; i++) {
            sim_run(&sim, 1);
            highest = MAX(highest, sim_interval(&sim));
        }
        g_test_message("%.2f ms, at most %.2f", usual, highest);
        /* A quarter by itself, and one by the epoch after it, which has grown meanwhile. */
        g_assert_cmpfloat(highest, <=, usual * 1.25 * 1.25 + 0.1);
        sim_run(&sim, SETTLED / 2);
        assert_near(sim_interval(&sim), usual, 0.05);
    }
    g_rand_free(sim.rand);
}

/* A long way on which there is room: cutting faster than it is long would only fill it. */
static void
test_long_way(void)
{
    World far = office;
    Sim sim;

    far.way_ms = 60;
    sim_init(&sim, &far, 10, 1000);
    sim_run(&sim, 10);
    g_assert_cmpuint(sim.in_flight, ==, IN_FLIGHT_MAX);
    run_straight(&sim);
    assert_near(sim_interval(&sim), (60 + sim.pages / far.pages_per_ms) * 1.25, 0.05);
    g_assert_cmpuint(sim.in_flight, ==, 1);
    g_assert_cmpfloat(sim.lag_ms, <=, 2 * sim_interval(&sim));
    g_rand_free(sim.rand);
}

static void
test_noise(void)
{
    World noisy = office;
    Sim sim;
    double sum = 0, lowest = INFINITY, highest = 0;

    noisy.noise = 0.5;
    sim_init(&sim, &noisy, 10, 1000);
    sim_run(&sim, SETTLED);
    for (int i = 0; i < 1000; i++) {
        sim_run(&sim, 1);
        sum += sim_interval(&sim);
        lowest = MIN(lowest, sim_interval(&sim));
        highest = MAX(highest, sim_interval(&sim));
    }
    g_test_message("%.2f ms, between %.2f and %.2f", sum / 1000, lowest, highest);
    g_assert_cmpfloat(highest, <=, sum / 1000 * 1.35);
    g_assert_cmpfloat(lowest, >=, sum / 1000 * 0.65);
    assert_near((double)sim.pace.slowdown_ppm / 1e4, 10, 0.3);
    g_rand_free(sim.rand);
}

/* New pages at twice what the link carries: no length helps. */
static void
test_overload(void)
{
    const World flood = {
        .writes_per_ms = 20, .working_set = 1e9, .pause_ms = 1, .pages_per_ms = 10, .way_ms = 1};
    static const double lags[] = {20, 200, 1000};

    for (guint i = 0; i < G_N_ELEMENTS(lags); i++) {
        Sim sim;
        sim_init(&sim, &flood, 10, lags[i]);
        sim_run(&sim, 20);
        assert_near(sim_interval(&sim), lags[i] / 2, 0.001);
        sim.world = office;
        /* What has gathered must go first. */
        sim_run(&sim, 2 * SETTLED);
        g_assert_cmpfloat(sim_interval(&sim), <, 16);
        g_rand_free(sim.rand);
    }
}

static void
test_lag_kept(void)
{
    static const double lags[] = {20, 50, 200, 1000};

    for (guint i = 0; i < G_N_ELEMENTS(lags); i++) {
        /* Streaming at 70 % of the link: at 1.25 of what that takes, longer is as good as shorter. */
        const World stream = {.writes_per_ms = 7,
                              .working_set = 1e6,
                              .pause_ms = 0.3,
                              .pages_per_ms = 10,
                              .way_ms = 2};
        Sim sim;
        sim_init(&sim, &stream, 10, lags[i]);
        sim_run(&sim, 2 * SETTLED);
        for (int k = 0; k < SETTLED; k++) {
            sim_run(&sim, 1);
            g_assert_cmpfloat(sim.lag_ms, <=, lags[i] * 1.01);
        }
        g_rand_free(sim.rand);
    }
}

static void
test_precedence(void)
{
    const World heavy = {.working_set = 1, .pause_ms = 60, .pages_per_ms = 250, .way_ms = 1};
    const World faulty = {
        .writes_per_ms = 1000, .working_set = 1e9, .pause_ms = 1, .pages_per_ms = 1e6, .way_ms = 1};
    const World hopeless = {.working_set = 1, .pause_ms = 900, .pages_per_ms = 250, .way_ms = 1};
    Sim sim;

    /* What was seen to stand still wins over MaxLag... */
    sim_init(&sim, &heavy, 10, 200);
    sim_run(&sim, SETTLED);
    assert_near(sim_interval(&sim), 600, 0.02);
    g_rand_free(sim.rand);
    /* ...what is assumed of faults does not... */
    sim_init(&sim, &faulty, 10, 200);
    sim_run(&sim, SETTLED);
    assert_near(sim_interval(&sim), 100, 0.02);
    g_rand_free(sim.rand);
    /* ...and there is an end to it. */
    sim_init(&sim, &hopeless, 10, 200);
    sim_run(&sim, SETTLED);
    g_assert_cmpint(pace_interval_ns(&sim.pace), ==, PACE_MOST_NS);
    g_rand_free(sim.rand);
}

/* Times come from engines, which may be anything. */
static void
test_anything(void)
{
    static const int64_t times[] = {INT64_MIN, -1, 0, 1, 1000000, INT64_MAX};
    static const uint64_t faults[] = {0, 1, UINT64_MAX};
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    Pace pace;

    pace_init(&pace, PACE_SLOWDOWN_MIN, PACE_LAG_MIN_NS);
    for (int i = 0; i < 10000; i++) {
        pace_cut(&pace, times[g_rand_int_range(rand, 0, G_N_ELEMENTS(times))],
                 faults[g_rand_int_range(rand, 0, G_N_ELEMENTS(faults))],
                 times[g_rand_int_range(rand, 0, G_N_ELEMENTS(times))]);
        pace_drained(&pace, times[g_rand_int_range(rand, 0, G_N_ELEMENTS(times))]);
        g_assert_cmpint(pace_interval_ns(&pace), >=, PACE_LEAST_NS);
        g_assert_cmpint(pace_interval_ns(&pace), <=, PACE_MOST_NS);
        g_assert_cmpint(pace.slowdown_ppm, >=, 0);
        g_assert_cmpint(pace.slowdown_ppm, <=, 1000000);
    }
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pace/guests lose what they may lose and no more", test_slowdown);
    g_test_add_func("/pace/idle guests are cut at the least interval", test_idle);
    g_test_add_func("/pace/more dirty pages stretch it, fewer shorten it again", test_dirty_steps);
    g_test_add_func("/pace/a link ten times slower stretches it, and back", test_link_steps);
    g_test_add_func("/pace/a hiccup of one epoch is hardly felt", test_hiccups);
    g_test_add_func("/pace/a long way is not filled with epochs", test_long_way);
    g_test_add_func("/pace/noise does not make it swing", test_noise);
    g_test_add_func("/pace/what no epoch can carry ends at half the lag", test_overload);
    g_test_add_func("/pace/the lag is kept where the link carries it", test_lag_kept);
    g_test_add_func("/pace/pauses win over the lag, and the lag over faults", test_precedence);
    g_test_add_func("/pace/it stays within bounds whatever it is told", test_anything);
    return g_test_run();
}
