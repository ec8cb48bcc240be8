#include "train/lr_find.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/for_test.h"

namespace skipway {
namespace {

// Two classes that differ in brightness.
Dataset bright_and_dark() {
  Dataset data;
  data.classes = {"dark", "bright"};
  data.image_size = 8;
  data.train.labels = at::arange(64).remainder(2);
  data.train.images = (data.train.labels * 100 + 50)
                          .to(at::kByte)
                          .view({64, 1, 1, 1})
                          .expand({64, 8, 8, 3})
                          .contiguous();
  data.test = data.train;
  return data;
}

Config config() {
  Config c;
  c.batch = 16;
  c.precision = "fp32";
  c.kernel = "torch";
  return c;
}

// Falls from 2 around lr 0.1, and rises from lr 1 on.
std::vector<LrPoint> valley() {
  std::vector<LrPoint> points;
  for (int i = 0; i <= 80; ++i) {
    const double decades = -3 + 4 * i / 80.;
    const double loss = 2 - 1 / (1 + std::exp(-6 * (decades + 1))) + std::exp(4 * (decades - 0.6));
    points.push_back({std::pow(10, decades), loss, loss});
  }
  return points;
}

TEST(LrFind, TheSteepestPlaceLiesBeforeTheLowest) {
  const LrFindResult result = summarise(valley());
  EXPECT_NEAR(std::log10(result.steepest.value()), -1, 0.15);
  EXPECT_GT(result.lowest, 0.2);
  EXPECT_LT(result.lowest, 2);
}

TEST(LrFind, ALossThatNeverFallsOrFewPointsGiveNoRate) {
  std::vector<LrPoint> rising = valley();
  for (LrPoint& point : rising) point.smoothed = point.loss = point.lr;
  EXPECT_FALSE(summarise(rising).steepest.has_value());
  std::vector<LrPoint> few = valley();
  few.resize(10);
  EXPECT_FALSE(summarise(few).steepest.has_value());
}

TEST(LrFind, RatesRiseEvenlyFromTheFirstToTheLast) {
  Learner learner(config(), bright_and_dark());
  const LrFindResult result =
      lr_find(learner, {.from = 1e-4, .to = 1e-2, .steps = 5, .on_step = {}});
  ASSERT_EQ(result.points.size(), 5u);
  EXPECT_NEAR(result.points[0].lr, 1e-4, 1e-10);
  EXPECT_NEAR(result.points[2].lr, 1e-3, 1e-9);
  EXPECT_NEAR(result.points[4].lr, 1e-2, 1e-8);
  EXPECT_FALSE(result.diverged);
}

TEST(LrFind, StopsWhenItDiverges) {
  Learner learner(config(), bright_and_dark());
  const LrFindResult result =
      lr_find(learner, {.from = 1e-3, .to = 1e6, .steps = 60, .on_step = {}});
  EXPECT_TRUE(result.diverged);
  EXPECT_LT(result.points.size(), 60u);
}

TEST(LrFind, WithoutAFirstStepThereIsNoRateToName) {
  Config c = config();
  c.mean = "0,0,0";
  c.std = "1e-39,1e-39,1e-39";  // images that overflow
  Learner learner(c, bright_and_dark());
  const Error error = error_of([&] { lr_find(learner, {.steps = 5, .on_step = {}}); });
  EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
  EXPECT_NE(std::string(error.what()).find("--mean and --std"), std::string::npos);
}

}  // namespace
}  // namespace skipway
