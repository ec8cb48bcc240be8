// What each schedule promises at its ends and turns; torch's own figures are in
// tests/schedule_parity_test.cc.
#include "train/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/for_test.h"

namespace skipway {
namespace {

constexpr double kRounding = 1e-12;

TEST(Schedule, LinearRisesFromATwentyFifthAndEndsAtFinalLr) {
  const ScheduleOptions options{
      .kind = ScheduleKind::kLinear, .lr = 0.5, .warmup_fraction = 0.2, .final_fraction = 0.01};
  EXPECT_DOUBLE_EQ(learning_rate(options, 0, 10), 0.02);
  EXPECT_DOUBLE_EQ(learning_rate(options, 1, 10), 0.26);
  EXPECT_DOUBLE_EQ(learning_rate(options, 2, 10), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(options, 6, 10), 0.2525);
  EXPECT_NEAR(learning_rate(options, 10, 10), 0.005, kRounding);
  EXPECT_NEAR(learning_rate(options, 11, 10), 0.005, kRounding);
  ScheduleOptions higher = options;
  higher.warmup_start = 0.2;
  EXPECT_DOUBLE_EQ(learning_rate(higher, 0, 10), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(higher, 2, 10), 0.5);
}

// Else a run of one epoch would have the rate of its first step throughout.
TEST(Schedule, TheWarmUpGoesStepByStepWhereTheRestGoesEpochByEpoch) {
  for (const ScheduleKind kind : {ScheduleKind::kLinear, ScheduleKind::kCosine, ScheduleKind::kStep,
                                  ScheduleKind::kMultistep}) {
    const ScheduleOptions options{.kind = kind,
                                  .lr = 1,
                                  .warmup_fraction = 0.25,
                                  .warmup_start = 0,
                                  .step_epochs = 3,
                                  .per_epoch = true};
    EXPECT_DOUBLE_EQ(learning_rate(options, 0.25, 2), 0.5);
    EXPECT_DOUBLE_EQ(learning_rate(options, 0.75, 2), 1);
  }
}

TEST(Schedule, CosineEndsAtFinalLrWhenTMaxIsTheRun) {
  const ScheduleOptions options{
      .kind = ScheduleKind::kCosine, .lr = 1, .warmup_fraction = 0.5, .final_fraction = 0.1};
  EXPECT_DOUBLE_EQ(learning_rate(options, 0, 8), 0);
  EXPECT_DOUBLE_EQ(learning_rate(options, 1, 8), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(options, 4, 8), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 6, 8), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate(options, 8, 8), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 9, 8), 0.1);
}

TEST(Schedule, CosineOfTwoHundredStoppedAtOneHundredIsStillAtHalf) {
  const ScheduleOptions options{.kind = ScheduleKind::kCosine, .t_max_epochs = 200};
  EXPECT_DOUBLE_EQ(learning_rate(options, 100, 100), 0.05);
}

TEST(Schedule, CosineRisesAgainBeyondTMax) {
  const ScheduleOptions options{.kind = ScheduleKind::kCosine, .lr = 1, .t_max_epochs = 10};
  EXPECT_NEAR(learning_rate(options, 10, 40), 0, kRounding);
  EXPECT_NEAR(learning_rate(options, 20, 40), 1, kRounding);
  EXPECT_NEAR(learning_rate(options, 25, 40), 0.5, kRounding);
}

TEST(Schedule, StepAndMultistepDecayAtTheirEpochsCountedFromTheStart) {
  ScheduleOptions options{
      .kind = ScheduleKind::kStep, .lr = 1, .warmup_fraction = 0.1, .step_epochs = 30};
  EXPECT_DOUBLE_EQ(learning_rate(options, 5, 100), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(options, 29.9, 100), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 30, 100), 0.1);
  options = {.kind = ScheduleKind::kMultistep, .lr = 1, .milestones = {4, 2}, .gamma = 0.5};
  EXPECT_DOUBLE_EQ(learning_rate(options, 1.9, 100), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 2, 100), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(options, 4, 100), 0.25);
}

TEST(Schedule, PerEpochKeepsTheRateInsideAnEpoch) {
  ScheduleOptions options{.kind = ScheduleKind::kCosine, .lr = 1, .per_epoch = true};
  EXPECT_EQ(learning_rate(options, 3.99, 10), learning_rate(options, 3, 10));
  EXPECT_LT(learning_rate(options, 4, 10), learning_rate(options, 3.99, 10));
}

TEST(Schedule, OneCyclePeaksAtItsShareAndEndsAtTheLastStep) {
  const ScheduleOptions options{.kind = ScheduleKind::kOneCycle, .lr = 1, .warmup_fraction = 0.25};
  EXPECT_NEAR(learning_rate(options, 0, 8, 1), 0.04, kRounding);
  EXPECT_DOUBLE_EQ(learning_rate(options, 1, 8, 1), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 7, 8, 1), 4e-6);
  EXPECT_DOUBLE_EQ(learning_rate(options, 2, 8), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 8, 8), 4e-6);
}

TEST(Schedule, IsFiniteAndWithinThePeakForEveryKindAndLength) {
  for (ScheduleKind kind : {ScheduleKind::kLinear, ScheduleKind::kCosine, ScheduleKind::kStep,
                            ScheduleKind::kMultistep, ScheduleKind::kOneCycle})
    for (double warmup : {0.0, 0.2, 0.99})
      for (double total : {0.0, 0.001, 1.0, 7.3})
        for (double part : {0.0, 0.5, 1.0, 1.5}) {
          const ScheduleOptions options{
              .kind = kind, .lr = 0.1, .warmup_fraction = warmup, .milestones = {1, 2}};
          const double lr = learning_rate(options, part * total, total, 0.01);
          EXPECT_GE(lr, 0) << static_cast<int>(kind) << ' ' << warmup << ' ' << total << ' '
                           << part;
          EXPECT_LE(lr, 0.1 + 1e-15)
              << static_cast<int>(kind) << ' ' << warmup << ' ' << total << ' ' << part;
        }
}

TEST(Schedule, PlateauDecaysAfterPatienceAndStartsCountingAnew) {
  const ScheduleOptions options{.kind = ScheduleKind::kPlateau, .lr = 1, .patience = 2};
  std::vector<double> accuracies{0.5, 0.6, 0.6, 0.59};
  EXPECT_DOUBLE_EQ(plateau_learning_rate(options, accuracies), 1);
  accuracies.push_back(0.60001);  // less than the threshold above 0.6
  EXPECT_DOUBLE_EQ(plateau_learning_rate(options, accuracies), 0.1);
  accuracies.insert(accuracies.end(), {0.6, 0.6});
  EXPECT_DOUBLE_EQ(plateau_learning_rate(options, accuracies), 0.1);
  accuracies.push_back(0.6);
  EXPECT_NEAR(plateau_learning_rate(options, accuracies), 0.01, kRounding);
  EXPECT_DOUBLE_EQ(plateau_learning_rate(options, {}), 1);
  EXPECT_THROW(learning_rate(options, 0, 1), Error);
}

TEST(Schedule, ParseListsTheNames) {
  EXPECT_EQ(parse_schedule("onecycle"), ScheduleKind::kOneCycle);
  const Error error = error_of([] { parse_schedule("cosin"); });
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_THAT(error.what(), testing::HasSubstr("multistep, onecycle or plateau, got \"cosin\""));
}

}  // namespace
}  // namespace skipway
