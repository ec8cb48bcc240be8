#include "train/plan.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace skipway {
namespace {

Dataset grey_images(int64_t n, int64_t side) {
  Dataset data;
  data.classes = {"a", "b"};
  data.image_size = side;
  data.train.labels = at::arange(n).remainder(2);
  data.train.images = at::full({n, side, side, 3}, 100, at::kByte);
  data.train.names.assign(static_cast<size_t>(n), "image");
  data.test = data.train;
  return data;
}

Config config() {
  Config c;
  c.minutes = 60;
  c.batch = 8;
  c.precision = "fp32";
  c.kernel = "torch";
  c.optimizer = "sgd";
  c.eval_batch = 8;
  return c;
}

TEST(Plan, MinutesBecomePassesWhichDecideTheShareOfHalfSizeImages) {
  const Dataset data = grey_images(16, 32);
  Learner learner(config(), data);
  const Plan plan = make_plan(config(), learner, data.test);
  EXPECT_GT(plan.passes, 100);  // an hour of 16 images
  ASSERT_EQ(plan.stages.size(), 2u);
  EXPECT_EQ(plan.stages[0].side, 16);
  EXPECT_EQ(plan.stages[0].end, rule_for(plan.passes).small_share);
  EXPECT_NEAR(plan.passes, 3600 / (2 * plan.steps_s[1]), 1e-6);
  EXPECT_TRUE(plan.budget.by_time());
  EXPECT_GT(plan.budget.total_steps(0, 0, 1), 100);
}

TEST(Plan, AResumedRunKeepsItsRuleAndMeasuresWhatIsLeft) {
  const Dataset data = grey_images(16, 32);
  Learner learner(config(), data);
  const Plan plan = make_plan(config(), learner, data.test, /*passes=*/4, /*stage=*/1);
  EXPECT_EQ(plan.passes, 4);
  EXPECT_EQ(plan.stages[0].end, rule_for(4).small_share);
  EXPECT_EQ(plan.steps_s[0], plan.steps_s[1]);
}

TEST(Plan, WithoutATestPartOneMustBeTaken) {
  Dataset data = grey_images(16, 8);
  data.test = Split();
  Config c = config();
  try {
    take_evaluation_split(c, data);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
  }
  c.val_split = 4;
  EXPECT_EQ(take_evaluation_split(c, data).size(), 4);
  EXPECT_EQ(data.train.size(), 12);
}

}  // namespace
}  // namespace skipway
