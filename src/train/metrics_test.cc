#include "train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/files.h"
#include "base/for_test.h"

namespace skipway {
namespace {

TrainResult result_of_three_classes() {
  TrainResult result;
  result.classes = {"ant", "bee", "cow"};
  result.last = {.n = 3,
                 .loss = 1,
                 .accuracy = 2. / 3,
                 .views = 2,
                 .accuracy_tta = 1,
                 .confusion = {{1, 1, 0}, {0, 0, 0}, {0, 0, 1}}};
  return result;
}

TEST(Metrics, AResultOfOneViewHasNoAccuracyWithTta) {
  TrainResult result = result_of_three_classes();
  EXPECT_EQ(to_json(result)["accuracy"]["last_tta"], 1);
  EXPECT_EQ(to_json(result)["accuracy"]["last"], 0.666667);
  result.last.views = 1;
  EXPECT_TRUE(to_json(result)["accuracy"]["last_tta"].is_null());
}

TEST(Metrics, TheEndHasTheAccuracyOfEachClassThatHasImages) {
  const auto line = end_line(result_of_three_classes());
  EXPECT_EQ(line["event"], "end");
  EXPECT_EQ(line["per_class"]["ant"], 0.5);
  EXPECT_TRUE(line["per_class"]["bee"].is_null());
  EXPECT_EQ(line["per_class"]["cow"], 1);
  EXPECT_EQ(line["confusion"][0][1], 1);
  EXPECT_EQ(line["result"]["schema"], "skipway.train/1");
}

TEST(Metrics, AnEpochHasTestResultsWhereItWasEvaluated) {
  EpochReport report;
  report.step = {.step = 7, .epoch = 1.23456};
  report.wall_s = 5.129;
  EXPECT_FALSE(epoch_line(report).contains("test_accuracy"));
  EXPECT_EQ(epoch_line(report)["epoch"], 1.2346);
  EXPECT_EQ(epoch_line(report)["wall_s"], 5.13);
  report.evaluation = result_of_three_classes().last;
  EXPECT_EQ(epoch_line(report)["test_accuracy"], 0.666667);
  EXPECT_EQ(epoch_line(report)["test_accuracy_tta"], 1);
  report.evaluation->views = 1;
  EXPECT_FALSE(epoch_line(report).contains("test_accuracy_tta"));
}

TEST(Metrics, NumbersThatAreNotFiniteAreNull) {
  const BadStep bad{.step = 12,
                    .loss = std::numeric_limits<double>::infinity(),
                    .grad_norm = NAN,
                    .lr = 0.1,
                    .lr_factor = 0.5,
                    .rollbacks = 1};
  const auto read = nlohmann::json::parse(rollback_line(bad, 10, "loss inf").dump());
  EXPECT_EQ(read["event"], "rollback");
  EXPECT_EQ(read["step"], 12);
  EXPECT_EQ(read["to_step"], 10);
  EXPECT_EQ(read["found"], "loss inf");
  EXPECT_EQ(read["lr_factor"], 0.5);
  EXPECT_TRUE(read["loss"].is_null());
  EXPECT_TRUE(read["grad_norm"].is_null());
  EXPECT_EQ(gave_up_line(bad, "training")["during"], "training");
}

TEST(Metrics, WhatWillBeWrittenAgainIsForgotten) {
  const TemporaryFolder folder;
  const RunFolder run = RunFolder::create(folder / "run");
  run.append_metrics({{"event", "begin"}});
  for (const int64_t step : {2, 4, 6}) run.append_metrics({{"event", "epoch"}, {"step", step}});
  run.append_metrics({{"event", "rollback"}, {"step", 5}});
  run.append_metrics({{"event", "gave_up"}, {"step", 6}});
  run.append_metrics({{"event", "end"}});
  forget_metrics_after(run, 4);
  EXPECT_EQ(read_file(run.metrics_jsonl()),
            "{\"event\":\"begin\"}\n{\"event\":\"epoch\",\"step\":2}\n"
            "{\"event\":\"epoch\",\"step\":4}\n{\"event\":\"rollback\",\"step\":5}\n");
}

}  // namespace
}  // namespace skipway
