#include "train/trainer.h"

#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "base/for_test.h"
#include "base/log.h"
#include "base/rng.h"
#include "data/grid.h"
#include "data/image.h"
#include "record/checkpoint.h"
#include "record/safetensors.h"
#include "train/evaluate.h"
#include "train/learner.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

// Two classes that differ in brightness, 8 x 8 pixels: a ResNet learns them in a few steps.
Split synthetic_split(int64_t n, uint64_t seed) {
  Split split;
  split.images = at::empty({n, 8, 8, 3}, at::kByte);
  split.labels = at::empty({n}, at::kLong);
  Rng rng(seed, RngUse::kSynthetic);
  uint8_t* pixel = split.images.data_ptr<uint8_t>();
  for (int64_t i = 0; i < n; ++i) {
    const auto label = static_cast<int64_t>(rng.below(2));
    split.labels[i] = label;
    for (int64_t p = 0; p < 8 * 8 * 3; ++p)
      *pixel++ = static_cast<uint8_t>(rng.below(156) + (label ? 100 : 0));
    split.names.push_back(std::to_string(i));
  }
  return split;
}

Dataset synthetic_dataset() {
  Dataset dataset;
  dataset.name = "synthetic";
  dataset.source = "synthetic";
  dataset.classes = {"dark", "bright"};
  dataset.image_size = 8;
  dataset.train = synthetic_split(40, 1);
  dataset.test = synthetic_split(20, 2);
  return dataset;
}

Config small_config(double epochs) {
  Config config;
  config.minutes = 0;
  config.epochs = epochs;
  config.batch = 16;
  config.lr = 0.02;
  config.optimizer = "sgd";
  config.bias_lr = 1;
  config.whiten_stem = false;
  config.schedule = "cosine";
  config.t_max = 4;
  config.crop_pad = 1;
  config.test_every = 1;
  config.precision = "fp32";
  config.kernel = kTestKernel;
  config.seed = 3;
  return config;
}

class TrainerTest : public testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(2); }

  RunFolder new_run(const std::string& name) { return RunFolder::create(folder_ / name); }

  TemporaryFolder folder_;
};

// Tests that are held to seconds of the clock: tests/CMakeLists.txt knows them by this name and
// lets nothing run beside them.
class TrainerClockTest : public TrainerTest {};

std::vector<std::string> epoch_lines(const RunFolder& run) {
  std::vector<std::string> lines;
  for (auto line : run.read_metrics()) {
    if (line["event"] != "epoch") continue;
    for (const char* clock : {"wall_s", "train_wall_s", "images_per_s"}) line.erase(clock);
    lines.push_back(line.dump());
  }
  return lines;
}

std::vector<nlohmann::ordered_json> events(const RunFolder& run, const std::string& event) {
  std::vector<nlohmann::ordered_json> lines;
  for (const auto& line : run.read_metrics())
    if (line["event"] == event) lines.push_back(line);
  return lines;
}

TEST_F(TrainerTest, LearnsTwoClasses) {
  Config config = small_config(4);
  config.lr = 0.01;  // at twice the rate some seeds are at chance after so few steps
  const TrainResult result = Trainer(config, "", synthetic_dataset(), new_run("a"), {}).run();
  EXPECT_GT(result.last.accuracy, 0.9);
  EXPECT_EQ(result.last.n, 20);
  EXPECT_EQ(result.images, 160);
  EXPECT_DOUBLE_EQ(result.epochs, 4);
}

TEST_F(TrainerTest, SameSeedGivesSameBitsAndAnotherSeedDoesNot) {
  Config config = small_config(1);
  const std::string a =
      Trainer(config, "", synthetic_dataset(), new_run("a"), {}).run().weights_sha256;
  const std::string b =
      Trainer(config, "", synthetic_dataset(), new_run("b"), {}).run().weights_sha256;
  config.seed = 4;
  const std::string c =
      Trainer(config, "", synthetic_dataset(), new_run("c"), {}).run().weights_sha256;
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
}

// Stops a run of four epochs after `step` steps and goes on with it in a second trainer.
void stop_and_resume(const Config& config, const RunFolder& run, int64_t step) {
  int64_t seen = 0;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport& report) { seen = report.step; };
  hooks.stop_signal = [&] { return seen >= step ? 15 : 0; };
  Trainer first(config, "", synthetic_dataset(), run, hooks);
  const TrainResult stopped = first.run();
  ASSERT_EQ(stopped.stop_signal, 15);
  ASSERT_EQ(stopped.images, step / 3 * 40 + step % 3 * 16);

  Trainer second(config, "", synthetic_dataset(), run, {});
  second.restore();
  ASSERT_EQ(second.run().stop_signal, 0);
}

TEST_F(TrainerTest, ResumedRunEqualsAnUninterruptedOneBitForBit) {
  const Config config = small_config(4);
  const RunFolder whole = new_run("whole");
  Trainer(config, "", synthetic_dataset(), whole, {}).run();
  for (const int64_t step : {6, 7}) {  // at the end of an epoch, and in the middle of one
    const RunFolder parts = new_run("parts" + std::to_string(step));
    stop_and_resume(config, parts, step);
    EXPECT_EQ(read_file(whole.model()), read_file(parts.model())) << "stopped after step " << step;
    EXPECT_EQ(epoch_lines(whole), epoch_lines(parts)) << "stopped after step " << step;
  }
}

// What was measured or found is kept: the same process would find it again, another might not.
TEST_F(TrainerTest, AResumedRunKeepsItsKernelsAndItsMicroBatch) {
  Config config = small_config(4);
  config.kernel = "auto";
  config.microbatch = "4";
  const RunFolder run = new_run("a");
  int64_t seen = 0;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport& report) { seen = report.step; };
  hooks.stop_signal = [&] { return seen >= 4 ? 15 : 0; };
  Trainer first(config, "", synthetic_dataset(), run, hooks);
  first.run();
  config.microbatch = "auto";
  Trainer second(config, "", synthetic_dataset(), run, hooks);
  second.restore();
  EXPECT_FALSE(first.model().kernels().chosen().empty());
  EXPECT_EQ(second.model().kernels().chosen(), first.model().kernels().chosen());
  second.run();  // which is stopped at once, and saves
  EXPECT_EQ(nlohmann::json::parse(load_checkpoint(run).metadata.at("progress")).at("micro_batch"),
            4);
}

TEST_F(TrainerTest, StagesAndAveragesAreResumedBitForBit) {
  Config config = small_config(4);
  config.resize = "4:0.5";
  config.shallow = 0.25;
  config.ema = 0.8;
  config.zero_gamma = config.whiten_stem = true;
  config.optimizer = "muon";
  const RunFolder whole = new_run("whole");
  Trainer(config, "", synthetic_dataset(), whole, {}).run();
  for (const int64_t step : {2, 8}) {  // shallow; whole model and images
    const RunFolder parts = new_run("parts" + std::to_string(step));
    stop_and_resume(config, parts, step);
    EXPECT_EQ(read_file(whole.model()), read_file(parts.model())) << "stopped after step " << step;
  }
}

TEST_F(TrainerTest, AStoppedRunSaysWhetherItsLastStateIsKept) {
  const RunFolder run = new_run("a");
  const Trainer* running = nullptr;
  int64_t seen = 0;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport& report) {
    const at::NoGradGuard no_grad;
    seen = report.step;
    if (seen == 4) at::Tensor(running->model().parameters().front().second).fill_(INFINITY);
  };
  hooks.stop_signal = [&] { return seen >= 4 ? 15 : 0; };
  Trainer trainer(small_config(4), "", synthetic_dataset(), run, hooks);
  running = &trainer;
  const LogLines log;
  const TrainResult stopped = trainer.run();
  EXPECT_EQ(stopped.stop_signal, 15);
  EXPECT_FALSE(stopped.state_is_saved);
  EXPECT_THAT(log.text(), testing::HasSubstr("after step 4 is not kept: conv1.weight"));
  for (const auto& [name, tensor] : load_checkpoint(run).model)
    EXPECT_TRUE(at::isfinite(tensor).all().item<bool>()) << name;
}

TEST_F(TrainerTest, LookaheadIsResumedBitForBit) {
  Config config = small_config(4);
  config.lookahead = true;
  const RunFolder whole = new_run("whole"), parts = new_run("parts");
  Trainer(config, "", synthetic_dataset(), whole, {}).run();
  stop_and_resume(config, parts, 7);
  EXPECT_EQ(read_file(whole.model()), read_file(parts.model()));
}

// The one schedule that follows what the run has seen.
TEST_F(TrainerTest, APlateauLowersTheRateAndIsResumedBitForBit) {
  Config config = small_config(8);
  config.schedule = "plateau";
  config.warmup = 0;
  config.patience = 0;  // two classes are soon learned, and no accuracy is above 100 %
  const RunFolder whole = new_run("whole"), parts = new_run("parts");
  Trainer(config, "", synthetic_dataset(), whole, {}).run();
  double best = -1, lr = config.lr;
  int decays = 0;
  for (const auto& line : whole.read_metrics()) {
    if (line["event"] != "epoch") continue;
    EXPECT_NEAR(line["lr"].get<double>(), lr, 1e-9 * lr) << line;
    if (!line.contains("test_accuracy")) continue;  // the run's own evaluation is at its end
    const double accuracy = line["test_accuracy"];
    if (accuracy <= best) lr *= config.gamma, ++decays;
    best = std::max(best, accuracy);
  }
  EXPECT_GE(decays, 1);
  stop_and_resume(config, parts, 7);
  EXPECT_EQ(read_file(whole.model()), read_file(parts.model()));
  EXPECT_EQ(epoch_lines(whole), epoch_lines(parts));
}

// Stopped behind its last step, before BatchNorm's statistics are taken anew.
TEST_F(TrainerTest, WhatIsFrozenToTheEndStaysSoWhereTheEndIsResumed) {
  Config config = small_config(2);
  config.freeze_epochs = 2;
  config.batch_norm_images = 40;
  const RunFolder whole = new_run("whole"), parts = new_run("parts");
  Trainer(config, "", synthetic_dataset(), whole, {}).run();
  stop_and_resume(config, parts, 6);
  EXPECT_EQ(read_file(whole.model()), read_file(parts.model()));
}

TEST_F(TrainerTest, BatchNormIsTakenAnewBeforeTheModelIsSaved) {
  Config config = small_config(2);
  const auto state = [&](const std::string& name, int64_t images) {
    config.batch_norm_images = images;
    Trainer trainer(config, "", synthetic_dataset(), new_run(name), {});
    trainer.run();
    std::map<std::string, at::Tensor> all;
    for (const auto& [key, tensor] : trainer.model().state()) all[key] = tensor.detach().clone();
    return all;
  };
  const auto running = state("a", 0), anew = state("b", 40);
  EXPECT_TRUE(anew.at("conv1.weight").equal(running.at("conv1.weight")));
  EXPECT_FALSE(anew.at("bn1.running_mean").equal(running.at("bn1.running_mean")));
}

TEST_F(TrainerTest, TheAverageIsEvaluatedAndSaved) {
  Config config = small_config(8);
  config.t_max = 8;
  const TrainResult plain = Trainer(config, "", synthetic_dataset(), new_run("a"), {}).run();
  config.ema = 0.8;  // which only looks on: the weights are those of the plain run
  const RunFolder run = new_run("b");
  const TrainResult averaged = Trainer(config, "", synthetic_dataset(), run, {}).run();
  EXPECT_NE(plain.weights_sha256, averaged.weights_sha256);
  EXPECT_GT(averaged.last.accuracy, 0.8);
  const double difference = std::abs(averaged.last.loss - plain.last.loss);
  EXPECT_GT(difference, 0);
  const std::unique_ptr<Model> saved = load_saved_model(run);
  EXPECT_NEAR(evaluate(*saved, synthetic_dataset().test, {}).loss, averaged.last.loss,
              0.01 * difference);
}

TEST_F(TrainerTest, ResumeForgetsMetricsWrittenAfterTheCheckpoint) {
  const Config config = small_config(4);
  const RunFolder run = new_run("a");
  int64_t seen = 0;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport& report) { seen = report.step; };
  hooks.stop_signal = [&] { return seen >= 4 ? 2 : 0; };
  Trainer(config, "", synthetic_dataset(), run, hooks).run();
  run.append_metrics(
      {{"event", "epoch"}, {"epoch", 2.0}, {"step", 6}});  // as a process killed later would have
  Trainer second(config, "", synthetic_dataset(), run, {});
  second.restore();
  second.run();
  EXPECT_EQ(epoch_lines(run).size(), 4u);
}

TEST_F(TrainerTest, ResumeRefusesOtherDataAndOtherSettings) {
  const Config config = small_config(1);
  const RunFolder run = new_run("a");
  Trainer(config, "seed = 3\nthreads = 2\n", synthetic_dataset(), run, {}).run();
  const auto refusal = [&](const std::string& config_toml, const Dataset& dataset) {
    Trainer second(config, config_toml, dataset, run, {});
    const Error error = error_of([&] { second.restore(); });
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
    return std::string(error.what());
  };
  Dataset other = synthetic_dataset();
  other.train = synthetic_split(41, 1);
  EXPECT_THAT(refusal("seed = 3\n", other), testing::HasSubstr("40 training images"));
  other = synthetic_dataset();
  other.train.labels = 1 - other.train.labels;
  EXPECT_THAT(refusal("seed = 3\n", other), testing::HasSubstr("labels"));
  EXPECT_THAT(refusal("seed = 4\n", synthetic_dataset()), testing::HasSubstr("`seed`"));
  Trainer(config, "seed = 3\nthreads = 1\n", synthetic_dataset(), run, {}).restore();
}

TEST_F(TrainerClockTest, FewerImagesThanABatchAreCountedAsTheyAre) {
  Config config = small_config(4);
  config.batch = 1000;
  TrainHooks hooks;
  double last = 0;
  const Stopwatch watch;
  std::vector<double> ends_s;
  hooks.on_step = [&](const StepReport& report) {
    last = report.images_per_s;
    ends_s.push_back(watch.seconds());
  };
  const TrainResult result = Trainer(config, "", synthetic_dataset(), new_run("a"), hooks).run();
  ASSERT_EQ(ends_s.size(), 4u);  // the first step is slow where LibTorch is still on the disk
  const double mean = 40 / std::min(ends_s[2] - ends_s[1], ends_s[3] - ends_s[2]);
  EXPECT_GT(last, 0);
  EXPECT_LT(last, 12 * mean);  // 25 times as many if the batch were full
  EXPECT_LT(result.images_per_s, 12 * mean);
}

TEST_F(TrainerTest, AShortRunAndAResumedOneSayHowFastTheyWere) {
  Config config = small_config(1. / 3);  // a step
  const RunFolder run = new_run("a");
  const double images_per_s = Trainer(config, "", synthetic_dataset(), run, {}).run().images_per_s;
  EXPECT_GT(images_per_s, 0);
  ASSERT_FALSE(events(run, "epoch").empty());
  for (const auto& line : events(run, "epoch")) EXPECT_GT(line["images_per_s"], 0);
  Trainer second(config, "", synthetic_dataset(), run, {});
  second.restore();
  EXPECT_DOUBLE_EQ(second.run().images_per_s, images_per_s);
}

TEST_F(TrainerTest, AfterThreeRollbacksTheBatchAndTheFirstLayerAreWrittenDown) {
  Config config = small_config(4);
  config.lr = 1e30;  // the weights overflow, an eighth of it too
  const RunFolder run = new_run("a");
  const Error error = error_of([&] { Trainer(config, "", synthetic_dataset(), run, {}).run(); });
  EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
  EXPECT_THAT(
      error.what(),
      testing::AllOf(testing::HasSubstr("after 3 rollbacks"), testing::HasSubstr("--lr"),
                     testing::HasSubstr("--clip-grad-norm 1"), testing::HasSubstr("mean and std")));
  EXPECT_EQ(events(run, "rollback").size(), 3u);
  ASSERT_EQ(events(run, "gave_up").size(), 1u);
  EXPECT_EQ(events(run, "gave_up")[0]["during"], "training");
  EXPECT_EQ(events(run, "gave_up")[0]["rollbacks"], 3);
  for (const auto& [name, tensor] : load_checkpoint(run).model)
    EXPECT_TRUE(at::isfinite(tensor).all().item<bool>()) << name;
  EXPECT_TRUE(fs::exists(run.trouble() / "batch.png"));
  const auto trouble = nlohmann::json::parse(read_file(run.trouble() / "trouble.json"));
  EXPECT_EQ(trouble.at("rollbacks"), 3);
  EXPECT_LE(trouble.at("images").size(), 16u);
  const auto& image = trouble.at("images").at(0);
  EXPECT_EQ(image.at("name"), std::to_string(image.at("row").get<int64_t>()));
  EXPECT_FALSE(trouble.at("first_not_finite").at("where").get<std::string>().empty());
  const Dataset data = synthetic_dataset();
  std::vector<at::Tensor> images;
  for (const auto& shown : trouble.at("images")) {
    const auto row = shown.at("row").get<int64_t>();
    images.push_back(data.train.images[row]);
    EXPECT_EQ(shown.at("label"), data.train.labels[row].item<int64_t>() ? "bright" : "dark");
  }
  const Image shown = decode_image(read_file(run.trouble() / "batch.png"), "batch.png");
  EXPECT_TRUE(shown.rgb == image_grid(at::stack(images), 16, 2).rgb);
}

TEST_F(TrainerTest, TheScheduleAndRollbacksChangeTheStepsThemselves) {
  Config config = small_config(4);
  config.momentum = config.weight_decay = 0;
  config.nesterov = false;
  for (const double warmup : {0.2, 0.}) {  // a warm-up begins at nothing with a cosine
    config.warmup = warmup;
    const RunFolder run = new_run(warmup > 0 ? "a" : "b");
    const Trainer* running = nullptr;
    std::vector<at::Tensor> firsts;  // the stem after step 1, before and after the rollback
    TrainHooks hooks;
    hooks.on_step = [&](const StepReport& report) {
      if (report.step == 1) firsts.push_back(running->model().stem_weight().detach().clone());
      if (report.step != 4 || !events(run, "rollback").empty()) return;
      for (const auto& [name, tensor] : running->model().parameters())
        if (name == "fc.weight") tensor.detach().mul_(1e6);
    };
    Trainer trainer(config, "", synthetic_dataset(), run, hooks);
    running = &trainer;
    const at::Tensor before = trainer.model().stem_weight().detach().clone();
    trainer.run();
    ASSERT_EQ(firsts.size(), 2u);
    EXPECT_EQ(firsts[0].equal(before), warmup > 0);
    EXPECT_TRUE(at::allclose(firsts[1] - before, (firsts[0] - before) / 2, 1e-3, 1e-7));
  }
}

TEST_F(TrainerTest, AnEpochsLossIsItsOwn) {
  Config config = small_config(2);
  config.lr = 1e-30;  // the weights stay
  config.augment = "none";
  const RunFolder run = new_run("a");
  Trainer(config, "", synthetic_dataset(), run, {}).run();
  Learner learner(config, synthetic_dataset());
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    double sum = 0;
    for (int64_t step = 3 * epoch; step < 3 * epoch + 3; ++step) {
      const Batch batch = learner.batches.at_step(step);
      sum += learner.backward(batch).loss * static_cast<double>(batch.labels.size(0));
    }
    EXPECT_NEAR(events(run, "epoch").at(static_cast<size_t>(epoch))["loss"].get<double>(), sum / 40,
                1e-5);
  }
}

TEST_F(TrainerTest, EvaluationsOnTheWaySeeTheAverageAndTheBestIsKept) {
  Config config = small_config(8);
  config.t_max = 8;
  const RunFolder plain = new_run("a"), averaged = new_run("b");
  const TrainResult result = Trainer(config, "", synthetic_dataset(), plain, {}).run();
  config.ema = 0.8;  // which only looks on
  Trainer(config, "", synthetic_dataset(), averaged, {}).run();
  const auto a = events(plain, "epoch"), b = events(averaged, "epoch");
  EXPECT_EQ(a.at(3)["loss"], b.at(3)["loss"]);
  EXPECT_NE(a.at(3)["test_loss"], b.at(3)["test_loss"]);
  double best = 0;
  for (const auto& line : a) best = std::max(best, line["test_accuracy"].get<double>());
  EXPECT_NEAR(result.best, best, 1e-6);
  EXPECT_GT(result.best_epoch, 0);
}

int64_t step_of(const Checkpoint& checkpoint) {
  return nlohmann::json::parse(checkpoint.metadata.at("progress")).at("step");
}

TEST_F(TrainerTest, AFiniteLossFarAboveGuessingIsRolledBack) {
  const RunFolder run = new_run("a");
  const Trainer* watched = nullptr;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport& report) {
    if (report.step != 4 || !events(run, "rollback").empty()) return;
    for (const auto& [name, tensor] : watched->model().parameters())
      if (name == "fc.weight") tensor.detach().mul_(1e6);
  };
  Trainer trainer(small_config(4), "", synthetic_dataset(), run, hooks);
  watched = &trainer;
  EXPECT_GT(trainer.run().last.accuracy, 0.5);
  ASSERT_EQ(events(run, "rollback").size(), 1u);
  EXPECT_EQ(events(run, "rollback")[0]["step"], 4);
  EXPECT_TRUE(events(run, "rollback")[0]["loss"].is_number());
}

// Its loss is not known when the state is saved.
TEST_F(TrainerTest, AStateThatWasSavedAfterItsStepWentWrongIsNotGoneBackTo) {
  const RunFolder run = new_run("a");
  const Trainer* watched = nullptr;
  bool is_spoilt = false;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport& report) {
    if (report.step != 4) return;
    is_spoilt = true;
    for (const auto& [name, tensor] : watched->model().parameters())
      if (name == "fc.weight") tensor.detach().mul_(1e30);
  };
  hooks.stop_signal = [&] { return is_spoilt ? 15 : 0; };
  Trainer first(small_config(4), "", synthetic_dataset(), run, hooks);
  watched = &first;
  EXPECT_EQ(first.run().stop_signal, 15);
  EXPECT_EQ(step_of(load_checkpoint(run)), 4);

  Trainer second(small_config(4), "", synthetic_dataset(), run, {});
  second.restore();
  EXPECT_GT(second.run().last.accuracy, 0.5);
  ASSERT_EQ(events(run, "rollback").size(), 1u);
  EXPECT_EQ(events(run, "rollback")[0]["to_step"], 0);
}

TEST_F(TrainerTest, AStopBeforeTheFirstStepOfAResumeKeepsWhatWasBefore) {
  const RunFolder run = new_run("a");
  int64_t steps = 0;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport& report) { steps = report.step; };
  hooks.stop_signal = [&] { return steps == 4 ? 15 : 0; };
  for (int time = 0; time < 3; ++time) {
    Trainer trainer(small_config(4), "", synthetic_dataset(), run, hooks);
    if (time > 0) trainer.restore();
    trainer.run();
  }
  EXPECT_EQ(step_of(load_checkpoint(run)), 4);
  EXPECT_EQ(step_of(*load_previous_checkpoint(run)), 0);
}

TEST_F(TrainerTest, AStateThatIsNotFiniteIsGoneBackFrom) {
  const RunFolder run = new_run("a");
  const Trainer* watched = nullptr;
  TrainHooks hooks;
  hooks.save_every_s = 0;
  hooks.on_step = [&](const StepReport& report) {
    if (report.step != 4 || !events(run, "rollback").empty()) return;
    for (const auto& [name, tensor] : watched->model().state())
      if (name == "bn1.running_var") tensor.fill_(INFINITY);
  };
  Trainer trainer(small_config(4), "", synthetic_dataset(), run, hooks);
  watched = &trainer;
  EXPECT_GT(trainer.run().last.accuracy, 0.5);
  ASSERT_EQ(events(run, "rollback").size(), 1u);
  EXPECT_EQ(events(run, "rollback")[0]["to_step"], 3);
}

TEST_F(TrainerTest, ALineOfTheMetricsThatAPowerCutSpoiltIsLeftOut) {
  const RunFolder run = new_run("a");
  TrainHooks hooks;
  int64_t steps = 0;
  hooks.on_step = [&](const StepReport& report) { steps = report.step; };
  hooks.stop_signal = [&] { return steps == 9 ? 15 : 0; };
  Trainer(small_config(4), "", synthetic_dataset(), run, hooks).run();
  std::string text = read_file(run.metrics_jsonl());
  const size_t line = text.find("\"event\":\"epoch\"");
  text[line] = '\0';
  write_file_atomic(run.metrics_jsonl(), text);
  Trainer second(small_config(4), "", synthetic_dataset(), run, {});
  second.restore();
  second.run();
  EXPECT_EQ(events(run, "end").size(), 1u);
}

TEST_F(TrainerTest, WhatIsKilledHasLostNoMoreThanTheTimeBetweenTwoSaves) {
  struct Killed {};
  const RunFolder run = new_run("a");
  TrainHooks hooks;
  hooks.on_step = [](const StepReport& report) {
    if (report.step == 8) throw Killed();
  };
  const auto saved_step = [&] {
    EXPECT_THROW(Trainer(small_config(4), "", synthetic_dataset(), run, hooks).run(), Killed);
    return step_of(load_checkpoint(run));
  };
  EXPECT_EQ(saved_step(), 0);
  hooks.save_every_s = 0;
  EXPECT_EQ(saved_step(), 7);

  Trainer second(small_config(4), "", synthetic_dataset(), run, {});
  second.restore();
  const TrainResult whole =
      Trainer(small_config(4), "", synthetic_dataset(), new_run("whole"), {}).run();
  EXPECT_EQ(second.run().weights_sha256, whole.weights_sha256);
}

TEST_F(TrainerTest, TensorBoardGetsStepsAndEpochs) {
  const RunFolder run = new_run("a");
  Trainer(small_config(4), "", synthetic_dataset(), run, {}).run();
  std::string bytes;
  for (const auto& file : fs::directory_iterator(run.tensorboard())) bytes += read_file(file);
  for (const char* tag : {"train/loss_of_batch", "train/grad_norm", "train/lr",
                          "train/images_per_s", "train/loss", "test/loss", "test/accuracy"})
    EXPECT_THAT(bytes, testing::HasSubstr(tag));
}

TEST_F(TrainerTest, ADivergedRunSaysSoWhereTheBatchCannotBeWritten) {
  Config config = small_config(4);
  config.lr = 1e30;
  const RunFolder run = new_run("a");
  write_file_atomic(run.trouble(), "in the way");
  const Error error = error_of([&] { Trainer(config, "", synthetic_dataset(), run, {}).run(); });
  EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
  EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("rollbacks; the last good state is"),
                                           testing::HasSubstr("--clip-grad-norm 1")));
}

TEST_F(TrainerTest, LookingAtTheLossSeldomChangesNothing) {
  Config config = small_config(4);
  config.ema = 0.8;
  TrainHooks hooks;
  const RunFolder often = new_run("often"), seldom = new_run("seldom");
  Trainer(config, "", synthetic_dataset(), often, hooks).run();
  hooks.steps_unread = 2;  // of the three steps of an epoch
  Trainer(config, "", synthetic_dataset(), seldom, hooks).run();
  EXPECT_EQ(read_file(often.model()), read_file(seldom.model()));
  EXPECT_EQ(epoch_lines(often), epoch_lines(seldom));
}

TEST_F(TrainerTest, WhatIsNotFiniteReachesNoWeightsInStepsThatAreNotLookedAt) {
  Config config = small_config(4);
  config.mean = "0,0,0";
  config.std = "1e-39,1e-39,1e-39";  // images that overflow
  TrainHooks hooks;
  hooks.steps_unread = 3;
  const RunFolder run = new_run("a");
  Trainer trainer(config, "", synthetic_dataset(), run, hooks);
  EXPECT_THROW(trainer.run(), Error);
  ASSERT_EQ(events(run, "rollback").size(), 3u);
  EXPECT_EQ(events(run, "rollback")[0]["step"], 0);  // the first of the three
  for (const auto& [name, tensor] : trainer.model().parameters())
    EXPECT_TRUE(at::isfinite(tensor).all().item<bool>()) << name;
}

TEST_F(TrainerTest, ImagesThatOverflowAreNamedAsTheFirst) {
  Config config = small_config(4);
  config.mean = "0,0,0";
  config.std = "1e-39,1e-39,1e-39";
  const RunFolder run = new_run("a");
  EXPECT_THROW(Trainer(config, "", synthetic_dataset(), run, {}).run(), Error);
  const auto trouble = nlohmann::json::parse(read_file(run.trouble() / "trouble.json"));
  EXPECT_THAT(trouble.at("first_not_finite").at("where").get<std::string>(),
              testing::HasSubstr("images"));
}

TEST_F(TrainerTest, TheBreakdownIsSoughtInPartsOfTheMicroBatch) {
  Config config = small_config(4);
  config.lr = 1e30;
  config.microbatch = "4";
  const RunFolder run = new_run("a");
  EXPECT_THROW(Trainer(config, "", synthetic_dataset(), run, {}).run(), Error);
  const auto trouble = nlohmann::json::parse(read_file(run.trouble() / "trouble.json"));
  EXPECT_FALSE(trouble.at("first_not_finite").at("where").get<std::string>().empty());
  EXPECT_GT(trouble.at("images").size(), 4u);  // the whole batch
}

// Training looks at the statistics of a batch, evaluation alone at the running ones.
TEST_F(TrainerTest, StatisticsThatAreNotFiniteAreNotSavedAndEndTheRunInItsEvaluation) {
  Config config = small_config(1. / 3);  // a single step
  config.kernel = "torch";
  const RunFolder run = new_run("a");
  const Trainer* watched = nullptr;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport&) {
    for (const auto& [name, tensor] : watched->model().state())
      if (name == "bn1.running_var") tensor.fill_(NAN);
  };
  Trainer trainer(config, "", synthetic_dataset(), run, hooks);
  watched = &trainer;
  EXPECT_EQ(error_of([&] { trainer.run(); }).kind(), ErrorKind::kDiverged);
  ASSERT_EQ(events(run, "gave_up").size(), 1u);
  EXPECT_EQ(events(run, "gave_up")[0]["during"], "evaluation");
  EXPECT_EQ(events(run, "gave_up")[0]["step"], 1);
  for (const auto& [name, tensor] : load_checkpoint(run).model)
    EXPECT_TRUE(at::isfinite(tensor).all().item<bool>()) << name;
}

TEST_F(TrainerTest, AResumeKeepsTheLoweredRateAndTheCountOfRollbacks) {
  Config config = small_config(4);
  config.lr = 1e30;
  const RunFolder run = new_run("a");
  TrainHooks hooks;
  hooks.stop_signal = [&] { return events(run, "rollback").empty() ? 0 : 15; };
  EXPECT_EQ(Trainer(config, "", synthetic_dataset(), run, hooks).run().stop_signal, 15);
  Trainer second(config, "", synthetic_dataset(), run, {});
  second.restore();
  EXPECT_THROW(second.run(), Error);
  const auto rollbacks = events(run, "rollback");
  ASSERT_EQ(rollbacks.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_DOUBLE_EQ(rollbacks[i]["lr_factor"], std::pow(0.5, static_cast<double>(i + 1)));
    EXPECT_NEAR(rollbacks[i]["lr"].get<double>(),
                rollbacks[0]["lr"].get<double>() * std::pow(0.5, static_cast<double>(i)), 1e20);
  }
}

TEST_F(TrainerTest, TheMetricsBeginWithWhatTheRunIsMadeOf) {
  Config config = small_config(1);
  config.mean = config.std = "0.5,0.5,0.5";
  config.augment = "crop";
  config.crop_pad = 0;  // by the length
  const RunFolder run = new_run("a");
  Trainer(config, "", synthetic_dataset(), run, {}).run();
  const auto begin = events(run, "begin");
  ASSERT_EQ(begin.size(), 1u);
  EXPECT_EQ(begin[0]["stem"], "cifar");
  EXPECT_EQ(begin[0]["mean"][0], 0.5);
  EXPECT_NE(begin[0]["data_std"][0], 0.5);
  EXPECT_EQ(begin[0]["passes"], 1);
  EXPECT_EQ(begin[0]["peak_lr"], 0.02);
  EXPECT_EQ(begin[0]["muon_lr"], 0);
  EXPECT_EQ(begin[0]["augment"], "crop");
  EXPECT_EQ(begin[0]["crop_pad"], 2);
  EXPECT_EQ(begin[0]["batch_norm_images"], 0);
  EXPECT_GT(events(run, "epoch").at(0)["grad_norm"].get<double>(), 0);
}

TEST_F(TrainerClockTest, MinutesEndTheRunInTime) {
  Config config = small_config(0);
  config.kernel = "torch";  // which sanitizers do not slow down
  const double begin_s = process_wall_s();
  const double budget_s = kSanitized ? 40 : 16;  // a step and its measurement take a few seconds
  config.minutes = (begin_s + budget_s) / 60;
  config.test_every = 0;
  const RunFolder run = new_run("a");
  const TrainResult result = Trainer(config, "", synthetic_dataset(), run, {}).run();
  // 1.5 s are kept for the files that end the run. On a busy machine they, and a single step,
  // take longer.
  EXPECT_GT(result.wall_s, begin_s + budget_s / 2);
  EXPECT_LT(result.wall_s, begin_s + budget_s + 3);
  EXPECT_GT(result.epochs, 0);
  EXPECT_TRUE(events(run, "epoch").back().contains("test_accuracy"));
}

TEST_F(TrainerTest, MinutesThatAreTooFewForAStepAreAnError) {
  Config config = small_config(0);
  config.kernel = "torch";
  config.minutes = (process_wall_s() + 0.5) / 60;  // the files at the end alone take longer
  Trainer trainer(config, "", synthetic_dataset(), new_run("a"), {});
  const Error error = error_of([&] { trainer.run(); });
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_THAT(error.what(),
              testing::AllOf(testing::HasSubstr("--minutes"), testing::HasSubstr("the evaluation"),
                             testing::HasSubstr("minutes or more")));
}

TEST_F(TrainerTest, ARunStoppedWhileItPlansBeginsWhenItIsResumed) {
  Config config = small_config(0);
  config.minutes = (process_wall_s() + 600) / 60;
  const RunFolder run = new_run("a");
  TrainHooks hooks;
  hooks.stop_signal = [] { return 15; };
  const TrainResult stopped = Trainer(config, "", synthetic_dataset(), run, hooks).run();
  EXPECT_EQ(stopped.stop_signal, 15);
  EXPECT_EQ(stopped.epochs, 0);
  config.minutes = (2 * process_wall_s() + 600) / 60;  // both processes are this one
  bool stepped = false;
  hooks.on_step = [&](const StepReport&) { stepped = true; };
  hooks.stop_signal = [&] { return stepped ? 15 : 0; };
  Trainer second(config, "", synthetic_dataset(), run, hooks);
  second.restore();
  EXPECT_GT(second.run().epochs, 0);
}

TEST_F(TrainerTest, AFrozenStartGoesWithMinutes) {
  Config config = small_config(0);
  config.minutes = (process_wall_s() + 600) / 60;
  config.freeze_epochs = 1;
  const Trainer* watched = nullptr;
  std::vector<at::Tensor> stems;  // after each step
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport& report) {
    stems.push_back(watched->model().stem_weight().detach().clone());
    EXPECT_GT(report.images_per_s, 0);
  };
  hooks.stop_signal = [&] { return stems.size() == 6 ? 15 : 0; };
  Trainer trainer(config, "", synthetic_dataset(), new_run("a"), hooks);
  watched = &trainer;
  EXPECT_EQ(trainer.run().epochs, 2);
  ASSERT_EQ(stems.size(), 6u);
  EXPECT_TRUE(stems[0].equal(stems[2]));
  EXPECT_FALSE(stems[2].equal(stems[3]));
}

// As one that is stopped during its last evaluation.
TEST_F(TrainerTest, AResumedRunKeepsItsViewsWhateverTimeIsLeft) {
  Config config = small_config(0);
  config.kernel = "torch";
  config.minutes = (process_wall_s() + 600) / 60;
  const RunFolder run = new_run("a");
  bool stepped = false;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport&) { stepped = true; };
  hooks.stop_signal = [&] { return stepped ? 15 : 0; };
  Trainer(config, "", synthetic_dataset(), run, hooks).run();
  config.minutes = 1e-3;
  Trainer late(config, "", synthetic_dataset(), run, {});
  late.restore();
  EXPECT_EQ(late.run().last.views, 2);
}

// Both processes of a resumed run are this one here, so that its clock counts twice: the second
// part begins at twice the time at which the first one stopped, and should end when the sum is up.
TEST_F(TrainerClockTest, AResumedRunDoesNotGetItsMinutesTwice) {
  if (kSanitized) GTEST_SKIP() << "steps are too slow under this sanitizer";
  Config config = small_config(0);
  config.kernel = "torch";
  config.test_every = 0;
  const double begin_s = process_wall_s(), budget_s = 2 * begin_s + 18;
  config.minutes = budget_s / 60;
  const RunFolder run = new_run("a");
  TrainHooks hooks;
  hooks.stop_signal = [&] { return process_wall_s() > begin_s + 6 ? 15 : 0; };
  ASSERT_EQ(Trainer(config, "", synthetic_dataset(), run, hooks).run().stop_signal, 15);
  const double stopped_s = process_wall_s();
  Trainer second(config, "", synthetic_dataset(), run, {});
  second.restore();
  EXPECT_GT(second.run().wall_s, stopped_s);
  // Where the earlier time is forgotten, some 1.5 s before budget_s. On a busy machine the first
  // part stops later, and the second may end later.
  EXPECT_LT(process_wall_s(), budget_s - stopped_s / 2);
}

TEST_F(TrainerClockTest, AnEvaluationThatTheTimeLeftDoesNotAllowIsLeftOut) {
  if (kSanitized) GTEST_SKIP() << "steps are too slow under this sanitizer";
  Config config = small_config(0);
  config.kernel = "torch";
  const double end_s = process_wall_s() + 40;
  config.minutes = end_s / 60;
  TrainHooks hooks;
  // The first evaluation takes more than half of the time left, whenever it comes: what it leaves
  // is enough for epochs of three steps, but not for another of its kind.
  bool slept = false;
  hooks.on_evaluate = [&](int64_t, int64_t) {
    const double left_s = end_s - process_wall_s();
    if (!std::exchange(slept, true))
      std::this_thread::sleep_for(std::chrono::duration<double>(0.55 * left_s));
  };
  bool said = false;
  const int handle = add_log_sink([&](LogLevel, std::string_view line) {
    said = said || line.starts_with("no evaluation after epoch");
  });
  hooks.stop_signal = [&] { return said ? 15 : 0; };
  Trainer(config, "", synthetic_dataset(), new_run("a"), hooks).run();
  remove_log_sink(handle);
  EXPECT_TRUE(said);
}

std::vector<std::string> warnings_of(const std::function<void()>& action) {
  std::vector<std::string> warnings;
  const int handle = add_log_sink([&](LogLevel level, std::string_view line) {
    if (level == LogLevel::kWarning) warnings.emplace_back(line);
  });
  action();
  remove_log_sink(handle);
  return warnings;
}

TEST_F(TrainerTest, WarnsOfAScheduleThatNeverAnnealsInTheMinutesGiven) {
  Config config = small_config(0);
  config.kernel = "torch";
  config.t_max = 1e6;
  config.minutes = (process_wall_s() + 600) / 60;
  bool stepped = false;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport&) { stepped = true; };
  hooks.stop_signal = [&] { return stepped ? 15 : 0; };
  EXPECT_THAT(
      warnings_of([&] { Trainer(config, "", synthetic_dataset(), new_run("a"), hooks).run(); }),
      testing::ElementsAre(testing::HasSubstr("--t-max 0 ends at --final-lr")));
}

TEST_F(TrainerTest, WarnsOfACosineThatRisesAgain) {
  Config config = small_config(4);
  config.warmup = 0;
  config.t_max = 2;  // back at the peak after four epochs
  EXPECT_THAT(warnings_of([&] { Trainer(config, "", synthetic_dataset(), new_run("a"), {}); }),
              testing::ElementsAre(testing::HasSubstr("rises again")));
  config.t_max = 4.4;  // longer than the run, but by little
  EXPECT_THAT(warnings_of([&] { Trainer(config, "", synthetic_dataset(), new_run("b"), {}); }),
              testing::IsEmpty());
}

TEST_F(TrainerTest, WarnsOfAMeanThatIsNotTheImages) {
  Config config = small_config(0.1);
  config.t_max = 0;
  const auto warnings = [&](const std::string& name) {
    return warnings_of([&] { Trainer(config, "", synthetic_dataset(), new_run(name), {}).run(); });
  };
  EXPECT_TRUE(warnings("a").empty());
  config.mean = "0.9,0.9,0.9";
  config.std = "0.25,0.25,0.25";
  EXPECT_THAT(warnings("b"), testing::ElementsAre(testing::HasSubstr("--mean auto --std auto")));
}

TEST_F(TrainerTest, WarnsWhereTheMinutesAreTooFewForTta) {
  Config config = small_config(0);
  config.kernel = "torch";
  config.minutes = (process_wall_s() + 60) / 60;
  Dataset dataset = synthetic_dataset();
  dataset.test.images = dataset.test.images.narrow(0, 0, 1).expand({10'000'000, 8, 8, 3});
  dataset.test.labels = dataset.test.labels.narrow(0, 0, 1).expand({10'000'000});
  Trainer trainer(config, "", std::move(dataset), new_run("a"), {});
  EXPECT_THAT(warnings_of([&] { error_of([&] { trainer.run(); }); }),
              testing::ElementsAre(testing::HasSubstr("1 in place of 2 views")));
}

TEST_F(TrainerTest, WarnsOfDecaysThatDoNotFallWithinTheRun) {
  Config config = small_config(2);
  const auto warnings = [&](const std::string& name) {
    return warnings_of([&] { Trainer(config, "", synthetic_dataset(), new_run(name), {}); });
  };
  config.schedule = "step";
  EXPECT_THAT(warnings("a"), testing::ElementsAre(testing::HasSubstr("earlier --step-epochs")));
  config.step_epochs = 1;
  EXPECT_TRUE(warnings("b").empty());
  config.schedule = "multistep";
  EXPECT_THAT(warnings("c"), testing::ElementsAre(testing::HasSubstr("first decays at epoch 60")));
  config.milestones = "1.5,2.5";
  EXPECT_TRUE(warnings("d").empty());
}

TEST_F(TrainerTest, AirbenchsWhiteningBiasIsTrainedInTheFirstEpochsOnly) {
  Config config = small_config(3);
  config.model = "airbench94";
  config.augment = "none";
  config.whiten_bias_epochs = 1;
  Dataset dataset = synthetic_dataset();
  dataset.image_size = 32;
  for (Split* split : {&dataset.train, &dataset.test})
    split->images = split->images.repeat_interleave(4, 1).repeat_interleave(4, 2).contiguous();
  std::vector<double> sums;  // after each step
  const Trainer* watched = nullptr;
  TrainHooks hooks;
  hooks.on_step = [&](const StepReport&) {
    for (const auto& [name, tensor] : watched->model().parameters())
      if (name == "0.bias") sums.push_back(tensor.abs().sum().item<double>());
  };
  Trainer trainer(config, "", dataset, new_run("a"), hooks);
  watched = &trainer;
  trainer.run();
  ASSERT_EQ(sums.size(), 9u);
  EXPECT_NE(sums[1], sums[2]);
  for (size_t i = 3; i < 9; ++i) EXPECT_EQ(sums[i], sums[2]) << i;
}

TEST_F(TrainerTest, ValidationSplitLeavesTheTestPartAlone) {
  Config config = small_config(1);
  config.val_split = 10;
  const TrainResult result = Trainer(config, "", synthetic_dataset(), new_run("a"), {}).run();
  EXPECT_EQ(result.last.n, 10);
  EXPECT_EQ(result.images, 30);
  EXPECT_EQ(result.split, "validation");
}

TEST_F(TrainerTest, DataWithoutATestPartNeedsAValidationSplit) {
  Dataset dataset = synthetic_dataset();
  dataset.test = {};
  const Error error = error_of([&] { Trainer(small_config(1), "", dataset, new_run("a"), {}); });
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.what(), testing::HasSubstr("--val-split"));
}

TEST_F(TrainerTest, WarnsOfACosineThatNeverAnnealsAndOfMuchRotation) {
  Config config = small_config(1);
  config.t_max = 200;
  config.augment = "rotate";
  config.rotate_degrees = 30;
  EXPECT_THAT(warnings_of([&] { Trainer(config, "", synthetic_dataset(), new_run("a"), {}); }),
              testing::ElementsAre(testing::HasSubstr("--t-max 0.8 ends at --final-lr"),
                                   testing::HasSubstr("up to 30 degrees")));
}

}  // namespace
}  // namespace skipway
