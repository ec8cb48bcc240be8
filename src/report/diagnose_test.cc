#include "report/diagnose.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace skipway {
namespace {

using Json = nlohmann::ordered_json;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// A run of 30 epochs on images of 32 pixels, in order in every respect.
RunRecord sound_run(double accuracy = 0.93) {
  RunRecord record;
  record.run = "runs/007";
  record.config.minutes = 0;
  record.config.epochs = 30;
  const Json channels = {0.49, 0.48, 0.45}, spread = {0.25, 0.24, 0.26};
  record.metrics = {
      {{"event", "begin"},
       {"stem", "cifar"},
       {"image_size", 32},
       {"device", "cpu"},
       {"mean", channels},
       {"std", spread},
       {"data_mean", channels},
       {"data_std", spread}},
      {{"event", "epoch"},
       {"epoch", 30},
       {"step", 11730},
       {"test_accuracy", accuracy},
       {"lr", 0.002}},
      {{"event", "end"}, {"result", {{"epochs", 30}, {"accuracy", {{"last", accuracy}}}}}}};
  record.env = {{"nvidia_driver", false}};
  return record;
}

std::vector<std::string> ids(const RunRecord& record) {
  std::vector<std::string> names;
  for (const Cause& finding : diagnose(record).findings) names.push_back(finding.id);
  return names;
}

TEST(Diagnose, ASoundRunIsCalledSound) {
  const Diagnosis diagnosis = diagnose(sound_run());
  EXPECT_TRUE(diagnosis.sound());
  EXPECT_THAT(diagnosis.findings, IsEmpty());
  EXPECT_DOUBLE_EQ(diagnosis.accuracy.value(), 0.93);
}

TEST(Diagnose, ALowAccuracyThatNothingExplainsIsNotSound) {
  const Diagnosis diagnosis = diagnose(sound_run(0.7));
  EXPECT_FALSE(diagnosis.sound());
  EXPECT_THAT(diagnosis.findings, IsEmpty());
}

TEST(Diagnose, RateAugmentationAndLengthExplainALowAccuracyOnly) {
  for (const bool low : {false, true}) {
    RunRecord record = sound_run(low ? 0.6 : 0.86);
    record.config.lr = 0.5;
    record.config.augment = "none";
    record.metrics.back()["result"]["epochs"] = 4;
    if (low)
      EXPECT_THAT(ids(record), ElementsAre("rate", "augmentation", "few_passes"));
    else
      EXPECT_THAT(ids(record), IsEmpty());
  }
}

TEST(Diagnose, ARateIsJudgedByThatOfItsRecipe) {
  for (const char* recipe : {"article", "best", "finetune", "airbench94"}) {
    RunRecord record = sound_run(0.6);
    record.config = recipe_config(recipe);
    const double own = record.config.lr;
    for (const double share : {0.11, 1., 1.9}) {
      record.config.lr = share * own;
      EXPECT_THAT(ids(record), Not(Contains("rate"))) << recipe << share;
    }
    for (const double share : {0.09, 2.1}) {
      record.config.lr = share * own;
      EXPECT_THAT(ids(record), Contains("rate")) << recipe << share;
      EXPECT_THAT(diagnose(record).findings[0].fix, HasSubstr(fmt::format("--lr {:.3g},", own)));
    }
  }
}

TEST(Diagnose, ARateForWeightsIsSmall) {
  RunRecord record = sound_run(0.6);
  record.config.weights = "torchvision:resnet50";
  record.config.lr = 0.005;
  record.metrics[1]["lr"] = 0.0005;
  EXPECT_THAT(ids(record), IsEmpty());
  record.config.lr = 0.1;
  EXPECT_THAT(diagnose(record).findings.at(0).fix, HasSubstr("--lr 0.01,"));
}

TEST(Diagnose, TheRateIsTheOneThatTheRunTook) {
  RunRecord record = sound_run(0.6);  // whose configuration leaves it to the length
  record.metrics[0]["peak_lr"] = 0.5;
  EXPECT_THAT(ids(record), ElementsAre("rate"));
}

TEST(Diagnose, MeanAndStdOfOtherDataAreSeenAndTheArticlesAreNot) {
  RunRecord record = sound_run();
  record.metrics[0]["std"] = {0.2023, 0.1994, 0.2010};
  EXPECT_THAT(ids(record), IsEmpty());
  record.metrics[0]["mean"] = {0., 0., 0.};
  EXPECT_THAT(ids(record), ElementsAre("mean_and_std"));
  EXPECT_THAT(diagnose(record).findings[0].evidence, HasSubstr("0.490,0.480,0.450"));
}

TEST(Diagnose, AScheduleThatNeverAnneals) {
  RunRecord record = sound_run();
  record.config = recipe_config("article");
  record.metrics[1]["lr"] = 0.05;  // half a cosine
  EXPECT_THAT(ids(record), ElementsAre("never_anneals"));
  record.metrics[1]["lr"] = 0.1;  // a step that would have come behind the end
  EXPECT_THAT(ids(record), ElementsAre("never_anneals"));
  record.metrics[1]["lr"] = 0.02;
  EXPECT_THAT(ids(record), IsEmpty());
  record.metrics[1]["lr"] = 0.05;
  record.metrics[1]["step"] = 3;  // so short a run cannot come down
  EXPECT_THAT(ids(record), IsEmpty());
}

TEST(Diagnose, WhatRollbacksTookFromTheRateIsNoSchedule) {
  RunRecord record = sound_run();
  record.config = recipe_config("article");
  record.metrics[1]["lr"] = 0.025;
  record.metrics.push_back(Json{{"event", "rollback"}, {"lr_factor", 0.25}});
  EXPECT_THAT(ids(record), ElementsAre("diverged", "never_anneals"));
}

TEST(Diagnose, APlateauThatNeverCameLeavesTheRateHigh) {
  RunRecord record = sound_run();
  record.config.schedule = "plateau";
  record.config.test_every = 1;
  record.config.lr = 0.1;
  record.metrics[1]["lr"] = 0.1;
  EXPECT_THAT(ids(record), ElementsAre("never_anneals"));
  record.metrics[1]["lr"] = 0.001;
  EXPECT_THAT(ids(record), IsEmpty());
}

TEST(Diagnose, AStemForImagesOfAnotherSize) {
  RunRecord record = sound_run();
  record.metrics[0]["stem"] = "imagenet";
  EXPECT_THAT(ids(record), ElementsAre("stem"));
  record.metrics[0]["image_size"] = 224;
  EXPECT_THAT(ids(record), IsEmpty());
  record.metrics[0]["stem"] = "cifar";
  EXPECT_THAT(ids(record), ElementsAre("stem"));
}

TEST(Diagnose, AGpuThatWasNotUsed) {
  RunRecord record = sound_run();
  record.env["nvidia_driver"] = true;
  EXPECT_THAT(ids(record), ElementsAre("device"));
  record.metrics[0]["device"] = "cuda:0";
  EXPECT_THAT(ids(record), IsEmpty());
}

TEST(Diagnose, ARunThatDidNotEnd) {
  RunRecord record = sound_run();
  record.metrics.pop_back();
  EXPECT_THAT(ids(record), ElementsAre("stopped"));
  EXPECT_EQ(diagnose(record).findings[0].fix, "skipway resume runs/007");
  record.metrics.clear();
  EXPECT_THAT(ids(record), ElementsAre("stopped"));
  EXPECT_FALSE(diagnose(record).accuracy.has_value());
}

TEST(Diagnose, RollbacksComeFirst) {
  RunRecord record = sound_run();
  record.metrics.pop_back();
  for (int i = 0; i < 3; ++i)
    record.metrics.push_back({{"event", "rollback"}, {"step", 12}, {"loss", nullptr}, {"lr", 0.4}});
  // The third rollback is not the end: a run that was stopped then can be resumed.
  EXPECT_THAT(ids(record), ElementsAre("diverged", "stopped"));
  EXPECT_THAT(diagnose(record).findings[0].evidence,
              AllOf(HasSubstr("step 12"), HasSubstr("not finite"), Not(HasSubstr("gave up"))));

  record.metrics.push_back({{"event", "gave_up"}, {"step", 15}});
  EXPECT_THAT(ids(record), ElementsAre("diverged"));
  EXPECT_THAT(diagnose(record).findings[0].evidence,
              AllOf(HasSubstr("gave up at step 15"), Not(HasSubstr("trouble"))));
  record.trouble = true;
  EXPECT_THAT(diagnose(record).findings[0].evidence, HasSubstr("trouble"));
  for (Json& line : record.metrics)
    if (line["event"] == "rollback") line["found"] = "bn1.running_var that is not finite";
  EXPECT_THAT(diagnose(record).findings[0].evidence, HasSubstr("running_var"));
}

TEST(Diagnose, ARunThatGaveUpAtItsEvaluationHasNoRollbacks) {
  RunRecord record = sound_run();
  record.metrics.back() = {{"event", "gave_up"}, {"step", 15}};
  EXPECT_THAT(ids(record), ElementsAre("diverged"));
  EXPECT_THAT(diagnose(record).findings[0].evidence,
              AllOf(HasSubstr("0 rollbacks"), HasSubstr("gave up")));
}

TEST(Diagnose, WhatCameWithWeightsIsNoFault) {
  RunRecord record = sound_run(0.6);
  record.config = recipe_config("finetune");
  record.config.weights = "torchvision:resnet50";
  record.metrics[0]["mean"] = {0., 0., 0.};
  record.metrics.back()["result"]["epochs"] = 10;
  EXPECT_THAT(ids(record), IsEmpty());
  record.metrics[0]["stem"] = "imagenet";
  EXPECT_THAT(ids(record), ElementsAre("stem"));
  EXPECT_THAT(diagnose(record).findings[0].fix, HasSubstr("--image-size"));
}

TEST(Diagnose, AMicroBatchThatMemoryMadeSmall) {
  RunRecord record = sound_run(0.8);
  record.log =
      "1 s  warning: out of memory: training goes on with 8 images at once in place of 16\n";
  EXPECT_THAT(ids(record), ElementsAre("micro_batch"));
  record.log +=
      "2 s  warning: out of memory: training goes on with 16 images at once in place of 32\n";
  EXPECT_THAT(ids(record), IsEmpty());  // the last line counts
}

TEST(Diagnose, TheObjectHoldsTheFindingsInOrder) {
  RunRecord record = sound_run(0.6);
  record.config.lr = 1;
  const Json object = to_json(record, diagnose(record));
  EXPECT_EQ(object.at("schema"), "skipway.diagnose/1");
  EXPECT_EQ(object.at("sound"), false);
  EXPECT_EQ(object.at("accuracy"), 0.6);
  EXPECT_EQ(object.at("findings").at(0).at("id"), "rate");
}

}  // namespace
}  // namespace skipway
