#include "train/plan.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/for_test.h"
#include "train/rules.h"

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
  const Plan plan = make_plan(config(), learner, data.test, /*begun_s=*/0);
  EXPECT_GT(plan.passes, 100);  // an hour of 16 images
  ASSERT_EQ(plan.stages.size(), 2u);
  EXPECT_EQ(plan.stages[0].side, 16);
  EXPECT_EQ(plan.stages[0].end, rule_for(plan.passes).small_share);
  EXPECT_NEAR(plan.passes, 3600 / (2 * plan.steps_s[1]), plan.passes / 100);
  EXPECT_TRUE(plan.budget.by_time());
  EXPECT_GT(plan.budget.total_steps(0, 0, 1), 100);
}

TEST(Plan, ItsBudgetHasTheMeasuredCostsAndTheEvaluation) {
  const Dataset data = grey_images(16, 32);
  Learner learner(config(), data);
  const Plan plan = make_plan(config(), learner, data.test, 0);
  ASSERT_EQ(plan.steps_s.size(), 2u);
  for (size_t i = 0; i < 2; ++i)
    EXPECT_DOUBLE_EQ(plan.budget.step_s(/*step=*/0, i), plan.steps_s[i]);
  EXPECT_GT(plan.evaluation_s, 0);
  EXPECT_DOUBLE_EQ(plan.budget.reserve_left_s(), plan.evaluation_s + 1.5);  // and the last files
}

TEST(Plan, MeasuredLongerItHasNewCostsAndTheSameLayout) {
  const Dataset data = grey_images(16, 32);
  Config c = config();
  c.minutes = 1;
  Learner learner(c, data);
  Plan plan = make_plan(c, learner, data.test, 0);
  const Plan before = plan;
  plan.steps_s = {10, 100};  // as if the machine had been busy
  plan.early_step_s = 5;
  measure_longer(c, learner, plan);
  EXPECT_EQ(plan.passes, before.passes);
  ASSERT_EQ(plan.steps_s.size(), 2u);
  EXPECT_LT(plan.steps_s[0], plan.steps_s[1]);
  EXPECT_LT(plan.steps_s[1], 10);
  EXPECT_DOUBLE_EQ(plan.early_step_s, plan.steps_s[0] / 2);
  for (size_t i = 0; i < 2; ++i)
    EXPECT_DOUBLE_EQ(plan.budget.step_s(/*step=*/0, i), plan.steps_s[i]);
}

TEST(Plan, AResumedRunKeepsItsRuleAndMeasuresWhatIsLeft) {
  const Dataset data = grey_images(16, 32);
  Learner learner(config(), data);
  const Plan plan = make_plan(config(), learner, data.test, 0, /*passes=*/4, /*stage=*/1);
  EXPECT_EQ(plan.passes, 4);
  EXPECT_EQ(plan.stages[0].end, rule_for(4).small_share);
  EXPECT_EQ(plan.steps_s[0], plan.steps_s[1]);
}

TEST(Plan, GivesTheOptimizerMuonsFactorOfTheLength) {
  const auto filters_of_run = [](double passes, double muon_lr) {
    Dataset data = grey_images(16, 8);
    data.train.images.random_(0, 256, at::make_generator<at::CPUGeneratorImpl>(1));
    Config c = config();
    c.optimizer = "muon", c.muon_lr = muon_lr;
    Learner learner(c, data);
    make_plan(c, learner, data.test, 0, passes);
    learner.backward(learner.batches.at_step(0));
    learner.update(/*lr=*/0.1);
    return learner.model->parameters()[0].second.detach();
  };
  const at::Tensor of_long_run = filters_of_run(4, 0);
  EXPECT_FALSE(filters_of_run(0.1, 0).equal(of_long_run));
  EXPECT_TRUE(filters_of_run(0.1, rule_for(4).muon_lr).equal(of_long_run));
}

Plan plan_of(const Budget& budget) {
  Plan plan;
  plan.steps_s = {1};
  plan.test_s = 50;
  plan.budget = budget;
  plan.budget.set_reserve(10, 0);
  plan.budget.observe_step(0, 0, 1, 0);
  return plan;
}

TEST(Forecast, OfEpochsAddsTheEvaluationsDuringTheRun) {
  Config c = config();
  c.minutes = 0, c.epochs = 10, c.test_every = 2;
  const Plan plan = plan_of(Budget::of_steps(1000));
  const Forecast run = forecast(c, plan, 100, 5);
  EXPECT_EQ(run.steps, 1000);
  EXPECT_EQ(run.tests, 4);  // the one of epoch 10 is the last
  EXPECT_DOUBLE_EQ(run.wall_s, 5 + 1000 + 4 * 50 + 10);
  c.test_every = 0;
  EXPECT_DOUBLE_EQ(forecast(c, plan, 100, 5).wall_s, 1015);
}

TEST(Forecast, OfMinutesTakesTheEvaluationsFromTheTraining) {
  Config c = config();
  c.test_every = 1;
  const Plan plan = plan_of(Budget::of_seconds(1015));
  const Forecast run = forecast(c, plan, 100, 5);
  EXPECT_EQ(run.tests, 6);
  EXPECT_EQ(run.steps, 700);
  EXPECT_NEAR(run.wall_s, 1015, 1);
  c.test_every = 0;
  EXPECT_EQ(forecast(c, plan, 100, 5).steps, 1000);
}

TEST(Forecast, StepsOfAFrozenBackboneAreShorter) {
  Config c = config();
  c.minutes = 0, c.epochs = 10, c.freeze_epochs = 2;
  Plan plan = plan_of(Budget::of_steps(1000));
  plan.budget.set_early_steps(200, 0.25);
  EXPECT_DOUBLE_EQ(forecast(c, plan, 100, 5).wall_s, 1015 - 200 * 0.75);
}

TEST(Plan, MeasuresAnEarlyStepAndAnEvaluationWhereTheyWillCome) {
  const Dataset data = grey_images(16, 8);
  Config c = config();
  c.minutes = 0, c.epochs = 2, c.test_every = 1, c.freeze_epochs = 1;
  Learner learner(c, data);
  const Plan plan = make_plan(c, learner, data.test, 0);
  EXPECT_GT(plan.test_s, 0);
  EXPECT_GT(plan.early_step_s, 0);
  for (const auto& [name, parameter] : learner.model->parameters())
    EXPECT_TRUE(parameter.requires_grad()) << name;
  EXPECT_EQ(make_plan(c, learner, data.test, 0, 0, 0, /*step=*/2).early_step_s, 0);
}

TEST(Plan, MeasuresNothingMoreOnceCancelled) {
  const Dataset data = grey_images(16, 32);
  Learner learner(config(), data);
  int asked = 0;
  const Plan plan =
      make_plan(config(), learner, data.test, 0, 0, 0, 0, [&] { return asked++ > 0; });
  ASSERT_EQ(plan.steps_s.size(), 2u);
  EXPECT_GT(plan.steps_s[0], 0);
  EXPECT_EQ(plan.steps_s[1], 0);
}

TEST(Plan, MeasuresAnAirbenchsStepsWithoutItsWhiteningBias) {
  const Dataset data = grey_images(16, 32);
  Config c = config();
  c.model = "airbench94";
  c.minutes = 0, c.epochs = 8, c.whiten_bias_epochs = 3;
  Learner learner(c, data);
  EXPECT_GT(make_plan(c, learner, data.test, 0).early_step_s, 0);
  c.whiten_bias_epochs = 0;
  EXPECT_EQ(make_plan(c, learner, data.test, 0).early_step_s, 0);
}

TEST(Plan, ViewsAreThoseThatTheTimeIsEnoughFor) {
  Config c = config();
  c.tta_shift = true;
  EXPECT_EQ(affordable_views(c, 2, 12), 6);
  EXPECT_EQ(affordable_views(c, 2, 11), 2);
  EXPECT_EQ(affordable_views(c, 2, 1), 1);
  c.tta_shift = false;
  EXPECT_EQ(affordable_views(c, 2, 12), 2);
  c.tta = false;
  EXPECT_EQ(affordable_views(c, 2, 12), 1);
}

TEST(Plan, AMomentHasNoTimeForTta) {
  const Dataset data = grey_images(16, 8);
  Config c = config();
  Learner learner(c, data);
  EXPECT_EQ(make_plan(c, learner, data.test, 0).views, 2);
  EXPECT_EQ(make_plan(c, learner, data.test, /*begun_s=*/3600 - 1e-4).views, 1);
  // A run that goes on has found its views long before.
  EXPECT_EQ(make_plan(c, learner, data.test, 3600 - 1e-4, /*passes=*/4).views, 2);
  c.minutes = 0, c.epochs = 1e-5;
  EXPECT_EQ(make_plan(c, learner, data.test, 0).views, 2);
}

TEST(Plan, TheImagesForBatchNormAreNotMoreThanThereAre) {
  const Dataset data = grey_images(16, 8);
  Config c = config();
  Learner learner(c, data);
  EXPECT_EQ(images_for_batch_norm(c, learner, 0.1), 16);
  EXPECT_EQ(images_for_batch_norm(c, learner, 4), 0);
  // Two steps of eight images, a third of 3 s each, and two views.
  EXPECT_DOUBLE_EQ(last_evaluation_s(c, learner, 2, 0.1, /*test_s=*/5, /*step_s=*/3), 12);
}

TEST(Plan, TheLengthOfARunTakesOffTheEvaluationsStillToCome) {
  Config c = config();
  c.test_every = 2;
  Budget budget = Budget::of_seconds(1000);
  budget.observe_step(0, 0, 1, 0);
  const auto length = [&](int64_t step, double now_s) {
    return length_of_run(c, budget, /*steps_per_epoch=*/100, /*test_s=*/50, step, 0, now_s);
  };
  EXPECT_EQ(length(0, 0).steps, 850);  // tests after epochs 2, 4 and 6; after 8 there is no time
  EXPECT_EQ(length(0, 0).tests, 3);
  EXPECT_EQ(length(199, 199).tests, 3);
  EXPECT_EQ(length(200, 250).steps, 850);  // the first is done
  EXPECT_EQ(length(200, 250).tests, 2);
  EXPECT_EQ(length(650, 800).steps, 850);
  EXPECT_EQ(length(650, 800).tests, 0);
  c.test_every = 0;
  EXPECT_EQ(length(0, 0).steps, 1000);
}

TEST(Plan, WithoutATestPartOneMustBeTaken) {
  Dataset data = grey_images(16, 8);
  data.test = Split();
  Config c = config();
  EXPECT_EQ(error_of([&] { take_evaluation_split(c, data); }).kind(), ErrorKind::kData);
  c.val_split = 4;
  EXPECT_EQ(take_evaluation_split(c, data).size(), 4);
  EXPECT_EQ(data.train.size(), 12);
}

}  // namespace
}  // namespace skipway
