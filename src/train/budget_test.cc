#include "train/budget.h"

#include <gtest/gtest.h>

#include <limits>
#include <utility>

namespace skipway {
namespace {

// Plays a run against a clock of its own and returns the second at which training and what follows
// it end.
double end_of_run(Budget budget, double start_s, double reserve_steps,
                  double (*step_s)(double now_s)) {
  double now_s = start_s;
  int64_t step = 0;
  budget.set_reserve(reserve_steps, 0);
  while (step < budget.total_steps(step, 0, now_s)) {
    const double duration_s = step_s(now_s);
    now_s += duration_s;
    ++step;
    budget.observe_step(0, 0, duration_s, now_s);
  }
  return now_s + reserve_steps * step_s(now_s);
}

TEST(Budget, FixedStepsIgnoreTheClock) {
  Budget budget = Budget::of_steps(10);
  budget.observe_step(0, 0, 100, 0);
  EXPECT_EQ(budget.total_steps(3, 0, 1e9), 10);
  EXPECT_FALSE(budget.by_time());
}

TEST(Budget, IsUnboundedBeforeTheFirstMeasurement) {
  EXPECT_EQ(Budget::of_seconds(60).total_steps(0, 0, 5), std::numeric_limits<int64_t>::max());
}

TEST(Budget, EndsOnTimeAtAnEvenSpeed) {
  const double end_s = end_of_run(Budget::of_seconds(900), 12, 30, [](double) { return 1.2; });
  EXPECT_NEAR(end_s, 900, 1.2);
}

TEST(Budget, EndsWithinTwoPercentWhenACoreIsTakenAwayHalfWay) {
  const double end_s = end_of_run(Budget::of_seconds(900), 12, 30,
                                  [](double now_s) { return now_s < 450 ? 1.2 : 2.4; });
  EXPECT_NEAR(end_s, 900, 18);
}

TEST(Budget, GoesOnAfterAPause) {
  static bool paused;
  paused = false;
  const double end_s = end_of_run(Budget::of_seconds(900), 12, 30, [](double now_s) {
    if (now_s < 450 || paused) return 1.2;
    paused = true;
    return 300.0;
  });
  EXPECT_TRUE(paused);
  EXPECT_NEAR(end_s, 900, 1.2);
}

// From a minute to twelve hours, on machines whose speed halves or doubles half-way.
TEST(Budget, EndsWithinTwoPercentForAnyLength) {
  static double seconds, first_s, second_s;
  for (const auto& [minutes, step_s] :
       {std::pair{1, 0.05}, {1, 0.6}, {2, 0.6}, {7, 0.6}, {60, 0.6}, {300, 2.}, {720, 2.}})
    for (const double change : {0.5, 1., 2.}) {
      seconds = 60 * minutes, first_s = step_s, second_s = step_s * change;
      const double end_s = end_of_run(Budget::of_seconds(seconds), 5, 10, [](double now_s) {
        return now_s < seconds / 2 ? first_s : second_s;
      });
      EXPECT_NEAR(end_s, seconds, 0.02 * seconds)
          << minutes << " minutes, steps of " << first_s << " and " << second_s << " s";
    }
}

TEST(Budget, UsesTheTimeThatAFasterMachineLeaves) {
  const double end_s = end_of_run(Budget::of_seconds(900), 12, 30,
                                  [](double now_s) { return now_s < 450 ? 2.4 : 1.2; });
  EXPECT_NEAR(end_s, 900, 18);
}

TEST(Budget, EarlyStepsMayCostOtherwise) {
  Budget budget = Budget::of_seconds(100);
  budget.set_early_steps(20, 2);
  for (int64_t step = 0; step < 5; ++step) budget.observe_step(step, 0, 2, 0);
  EXPECT_EQ(budget.total_steps(0, 0, 0), 80);
  EXPECT_DOUBLE_EQ(budget.left_s(5, 0, 80), 2 * 15 + 60);
  for (int64_t step = 20; step < 25; ++step) budget.observe_step(step, 0, 1, 0);
  EXPECT_EQ(budget.total_steps(25, 0, 45), 80);
}

// Steps of small images first; four times as dear ones afterwards.
double end_of_run_in_parts(double second_cost, double known_cost,
                           double (*slowness)(double now_s)) {
  Budget budget = Budget::of_seconds(900, {{0.6, 1}, {1, known_cost}});
  budget.set_reserve(20, 1);
  budget.observe_step(0, 0, 0.3, 10);
  double now_s = 10;
  int64_t step = 0, total = budget.total_steps(0, 0, now_s);
  size_t part = 0;
  for (; step < total; ++step) {
    if (static_cast<double>(step) >= 0.6 * static_cast<double>(total)) part = 1;
    const double duration_s = 0.3 * (part == 0 ? 1 : second_cost) * slowness(now_s);
    now_s += duration_s;
    budget.observe_step(0, part, duration_s, now_s);
    total = budget.total_steps(step + 1, part, now_s);
  }
  return now_s + 20 * 0.3 * slowness(now_s) + 1;
}

// What is done of the run decides the part, and a part is not gone back to.
TEST(Budget, AStallDoesNotMakeTheRunLookNearItsEnd) {
  Budget budget = Budget::of_seconds(900, {{0.6, 1}, {1, 4}});
  budget.set_reserve(20, 1);
  for (int step = 0; step < 500; ++step) budget.observe_step(0, 0, 0.3, 0.3 * step);
  const int64_t before = budget.total_steps(500, 0, 160);
  budget.observe_step(0, 0, 10, 170);
  const int64_t after = budget.total_steps(501, 0, 170);
  EXPECT_LT(after, before);
  EXPECT_GT(static_cast<double>(after), 0.95 * static_cast<double>(before));
}

TEST(Budget, NorDoSecondsInWhichSomethingElseRan) {
  Budget budget = Budget::of_seconds(1800, {{0.55, 1}, {1, 2.7}});
  budget.set_reserve(60, 1);
  for (int step = 0; step < 1800; ++step) budget.observe_step(step, 0, 0.12, 0.12 * step);
  const auto before = static_cast<double>(budget.total_steps(1800, 0, 230));
  for (int step = 1800; step < 1824; ++step) budget.observe_step(step, 0, 0.4, 240);
  EXPECT_GT(static_cast<double>(budget.total_steps(1824, 0, 240)), 0.75 * before);
}

TEST(Budget, NorDoesABusyMinuteOfAnHour) {
  Budget budget = Budget::of_seconds(3600, {{0.4, 1}, {1, 2.6}});
  for (int step = 0; step < 3000; ++step) budget.observe_step(step, 0, 0.2, 0.2 * step);
  const auto before = static_cast<double>(budget.total_steps(3000, 0, 600));
  for (int step = 3000; step < 3150; ++step)
    budget.observe_step(step, 0, 0.4, 600 + 0.4 * (step - 3000));
  EXPECT_GT(static_cast<double>(budget.total_steps(3150, 0, 660)), 0.85 * before);
}

TEST(Budget, PartsOfOtherCostEndOnTimeToo) {
  EXPECT_NEAR(end_of_run_in_parts(4, 4, [](double) { return 1.0; }), 900, 1.3);
}

TEST(Budget, AWrongCostOfAPartIsCorrectedByTheClock) {
  EXPECT_NEAR(end_of_run_in_parts(4, 3, [](double) { return 1.0; }), 900, 5);
}

TEST(Budget, PartsEndWithinTwoPercentWhenACoreIsTakenAway) {
  EXPECT_NEAR(end_of_run_in_parts(4, 4, [](double now_s) { return now_s < 450 ? 1.0 : 2.0; }), 900,
              18);
}

TEST(Budget, AReserveMeasuredAgainKeepsItsSeconds) {
  Budget budget = Budget::of_seconds(900);
  budget.set_reserve(20, 1);
  budget.observe_step(0, 0, 2, 0);
  EXPECT_DOUBLE_EQ(budget.reserve_left_s(), 41);
  budget.observe_reserve(30);
  EXPECT_DOUBLE_EQ(budget.reserve_left_s(), 31);
  EXPECT_EQ(budget.total_steps(0, 0, 101), 384);  // (900 - 101 - 31) / 2
  EXPECT_DOUBLE_EQ(budget.left_s(380, 0, 384), 39);
}

TEST(Budget, NeverAsksForStepsWhenTimeIsUp) {
  Budget budget = Budget::of_seconds(60);
  budget.observe_step(0, 0, 1, 0);
  EXPECT_EQ(budget.total_steps(7, 0, 100), 7);
}

}  // namespace
}  // namespace skipway
