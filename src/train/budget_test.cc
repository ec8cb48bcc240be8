#include "train/budget.h"

#include <gtest/gtest.h>

#include <limits>

namespace skipway {
namespace {

// Plays a run against a clock of its own and returns the second at which training and what follows
// it end.
double end_of_run(Budget budget, double start_s, double reserve_steps,
                  double (*step_s)(double now_s)) {
  double now_s = start_s;
  int64_t step = 0;
  budget.set_reserve(reserve_steps, 0);
  while (step < budget.total_steps(step, now_s)) {
    const double duration_s = step_s(now_s);
    now_s += duration_s;
    ++step;
    budget.observe_step(duration_s);
  }
  return now_s + reserve_steps * step_s(now_s);
}

TEST(Budget, FixedStepsIgnoreTheClock) {
  Budget budget = Budget::of_steps(10);
  budget.observe_step(100);
  EXPECT_EQ(budget.total_steps(3, 1e9), 10);
  EXPECT_FALSE(budget.by_time());
}

TEST(Budget, IsUnboundedBeforeTheFirstMeasurement) {
  EXPECT_EQ(Budget::of_seconds(60).total_steps(0, 5), std::numeric_limits<int64_t>::max());
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

TEST(Budget, UsesTheTimeThatAFasterMachineLeaves) {
  const double end_s = end_of_run(Budget::of_seconds(900), 12, 30,
                                  [](double now_s) { return now_s < 450 ? 2.4 : 1.2; });
  EXPECT_NEAR(end_s, 900, 18);
}

TEST(Budget, NeverAsksForStepsWhenTimeIsUp) {
  Budget budget = Budget::of_seconds(60);
  budget.observe_step(1);
  EXPECT_EQ(budget.total_steps(7, 100), 7);
}

}  // namespace
}  // namespace skipway
