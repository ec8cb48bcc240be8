// The loss of mixed batches, BatchNorm's statistics taken anew, gradients of a batch in parts, and
// what happens when memory runs out. The last in processes of their own, whose address space is
// limited: allocations then fail for real.
#include "train/learner.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/for_test.h"
#include "base/log.h"
#include "model/threads.h"

namespace skipway {
namespace {

Dataset noise_dataset(int64_t images) {
  Dataset dataset;
  dataset.name = dataset.source = "noise";
  dataset.classes = {"a", "b", "c"};
  dataset.image_size = 8;
  const at::Generator random = at::detail::createCPUGenerator(1);
  dataset.train.images = at::randint(256, {images, 8, 8, 3}, random, at::kByte);
  dataset.train.labels = at::randint(3, {images}, random, at::kLong);
  dataset.train.names.resize(static_cast<size_t>(images));
  return dataset;
}

Config small_config(int64_t batch, const std::string& microbatch) {
  Config config;
  config.minutes = 0;
  config.epochs = 1;
  config.batch = batch;
  config.microbatch = microbatch;
  config.optimizer = "sgd";
  config.whiten_stem = false;
  config.augment = "none";
  config.precision = "fp32";
  config.kernel = "winograd";
  return config;
}

at::Tensor state_of(const Learner& learner, const std::string& name) {
  for (const auto& [key, tensor] : learner.model->state())
    if (key == name) return tensor;
  return {};
}

// One convolution and a linear layer, in fp64: nothing in it looks at other images of the batch.
class WithoutBatchNorm : public Model {
 public:
  explicit WithoutBatchNorm(const ModelSpec& spec) : Model(spec, at::kCPU) {
    const at::Generator random = at::detail::createCPUGenerator(2);
    conv_ = add_parameter("conv.weight", at::randn({8, 3, 3, 3}, random, at::kDouble));
    fc_ = add_parameter("fc.weight", at::randn({3, 8}, random, at::kDouble));
  }
  at::Tensor forward(const at::Tensor& images, bool /*training*/) override {
    return at::linear(at::conv2d(images.to(at::kDouble), conv_).relu().mean({2, 3}), fc_);
  }
  void set_batch_norm_momentum(double /*momentum*/) override {}
  at::Tensor stem_weight() const override { return conv_; }

 private:
  at::Tensor conv_, fc_;
};

TEST(Learner, ItsModelBeginsAsTheFlagsSay) {
  const auto make = [](double momentum, bool is_initialised) {
    Config config = small_config(12, "auto");
    config.batch_norm_momentum = momentum;
    config.whiten_stem = config.zero_gamma = is_initialised;
    return std::make_unique<Learner>(config, noise_dataset(12));
  };
  const auto slow = make(0.1, false), fast = make(0.4, false), initialised = make(0.1, true);
  for (Learner* learner : {slow.get(), fast.get()}) learner->backward(learner->batches.at_step(0));
  EXPECT_TRUE(at::allclose(state_of(*fast, "bn1.running_mean"),
                           4 * state_of(*slow, "bn1.running_mean"), 1e-4, 1e-6));
  const at::Tensor stem = initialised->model->stem_weight().detach();  // each filter with its sign
  EXPECT_TRUE(at::allclose(stem.narrow(0, 0, 27), -stem.narrow(0, 27, 27)));
  EXPECT_EQ(state_of(*initialised, "layer1.0.bn2.weight").abs().max().item<float>(), 0);
}

TEST(Learner, GradientsAddedUpInPartsAreThoseOfTheBatch) {
  const Dataset dataset = noise_dataset(40);
  const auto make = [&](const std::string& microbatch) {
    auto learner = std::make_unique<Learner>(small_config(16, microbatch), dataset);
    learner->model = std::make_unique<WithoutBatchNorm>(learner->model->spec());
    learner->optimizer = Optimizer(learner->model->parameters(), {});
    return learner;
  };
  const auto whole = make("auto"), parts = make("6");
  EXPECT_EQ(whole->micro_batch, 16);
  EXPECT_EQ(parts->micro_batch, 6);
  for (int64_t step = 0; step < 3; ++step) {  // of 16, 16 and 8 images: parts of 6, 6, 4 and 4, 4
    const LossAndNorm a = whole->backward(whole->batches.at_step(step));
    const LossAndNorm b = parts->backward(parts->batches.at_step(step));
    EXPECT_NEAR(a.loss, b.loss, 1e-12 * a.loss);
    EXPECT_NEAR(a.norm, b.norm, 1e-12 * a.norm);
    for (size_t i = 0; i < whole->model->parameters().size(); ++i)
      EXPECT_TRUE(at::allclose(whole->model->parameters()[i].second.grad(),
                               parts->model->parameters()[i].second.grad(), 1e-12, 1e-14))
          << "step " << step;
    whole->optimizer.step(0.1);
    parts->optimizer.step(0.1);
  }
}

// For a process that a death test starts: from now on it gets so much more address space than
// `size` says, "VmSize:", what it has, or "VmPeak:", the most it had: then what it did with few
// images it can do again.
void limit_address_space_to_more(const std::string& size, rlim_t bytes) {
  add_log_sink([](LogLevel, std::string_view line) { std::cerr << line << std::endl; });
  rlim_t kilobytes = 0;
  std::ifstream status("/proc/self/status");  // "VmSize:   1000 kB"
  for (std::string word; kilobytes == 0 && status >> word;)
    if (word == size) status >> kilobytes;
  rlimit limit{};
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = kilobytes * 1024 + bytes;
  setrlimit(RLIMIT_AS, &limit);
}

constexpr int64_t kBatch = 1024;  // takes some 90 MB more than the most that one image took

// Exits with 0 after a step with fewer images at once, else with an Error's code. `warm`: after one
// of one image at a time.
[[noreturn]] void step_in_little_memory(bool warm) {
  at::set_num_threads(1);  // a thread's stack counts too
  Learner learner(small_config(kBatch, "auto"), noise_dataset(kBatch));
  const Batch batch = learner.batches.at_step(0);
  if (warm) {
    Learner few(small_config(2, "1"), noise_dataset(2));
    few.backward(few.batches.at_step(0));
  }
  if (warm)
    limit_address_space_to_more("VmPeak:", 32 << 20);
  else
    limit_address_space_to_more("VmSize:", 8 << 20);
  try {
    const LossAndNorm seen = learner.backward(batch);
    std::_Exit(std::isfinite(seen.loss) && learner.micro_batch < kBatch ? 0 : 100);
  } catch (const Error& error) {
    std::cerr << error.what() << std::endl;
    std::_Exit(error.exit_code());
  }
}

// Exits with 0 after an evaluation with fewer images at once.
[[noreturn]] void evaluate_in_little_memory() {
  at::set_num_threads(1);
  const Dataset dataset = noise_dataset(4000);
  Learner learner(small_config(16, "auto"), dataset);
  EvaluateOptions options;
  options.batch = 100;
  const Evaluation expected = evaluate(*learner.model, dataset.train, options);
  options.batch = 4000;
  limit_address_space_to_more("VmPeak:", 32 << 20);
  const Evaluation evaluation = evaluate(*learner.model, dataset.train, options);
  std::_Exit(evaluation.n == 4000 && std::abs(evaluation.loss - expected.loss) < 1e-4 ? 0 : 100);
}

TEST(LearnerDeathTest, OutOfMemoryHalvesTheMicroBatchAndGoesOn) {
  if (kSanitized) GTEST_SKIP() << "address space cannot be limited under this sanitizer";
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(step_in_little_memory(true), testing::ExitedWithCode(0),
              "out of memory: training goes on with 512 images at once in place of 1024");
}

TEST(LearnerDeathTest, WithoutMemoryForOneImageTheErrorSaysSo) {
  if (kSanitized) GTEST_SKIP() << "address space cannot be limited under this sanitizer";
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(step_in_little_memory(false), testing::ExitedWithCode(5),
              "expected memory for training one image at a time");
}

int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// What a step frees holds the next.
TEST(Learner, LaterStepsTakeNoMemoryFromTheSystem) {
  if (kSanitized) GTEST_SKIP() << "sanitizers keep what is freed for a while";
  prepare_process(/*threads=*/0);
  Config config = small_config(64, "auto");
  config.optimizer = "muon";
  config.precision = "auto";
  Learner learner(config, noise_dataset(64));
  const auto make_step = [&] {
    learner.backward(learner.batches.at_step(0, 32));
    learner.update(0.01);
  };
  const int64_t before = page_faults();
  for (int step = 0; step < 3; ++step) make_step();
  const int64_t first = page_faults() - before;
  for (int step = 0; step < 3; ++step) make_step();
  const int64_t later = page_faults() - before - first;
  EXPECT_GT(first, 10000);  // 40 MB
  EXPECT_LT(later, 100);
}

TEST(LearnerDeathTest, OutOfMemoryInAnEvaluationTakesFewerImagesAtOnce) {
  if (kSanitized) GTEST_SKIP() << "address space cannot be limited under this sanitizer";
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(evaluate_in_little_memory(), testing::ExitedWithCode(0),
              "out of memory: evaluation goes on with 2000 images at once in place of 4000");
}

TEST(Learner, TheLossOfAMixedBatchIsTheCrossEntropyWithMixedTargets) {
  Config config;
  config.batch = 12;
  config.precision = "fp32";
  config.kernel = "torch";
  config.augment = "mixup,cutmix";
  Learner learner(config, noise_dataset(12));
  const Batch batch = learner.batches.at_step(0);
  ASSERT_TRUE(batch.own_share.defined());
  EXPECT_TRUE(at::equal(batch.other_labels, batch.labels.roll(-1)));
  const at::Tensor share = batch.own_share.unsqueeze(1);
  const at::Tensor own = at::one_hot(batch.labels, 3), other = at::one_hot(batch.other_labels, 3);
  const at::Tensor targets = share * own + (1 - share) * other;
  const at::Tensor expected =
      at::cross_entropy_loss(learner.model->forward(learner.batches.input(batch), true), targets,
                             {}, at::Reduction::Mean, -100, config.label_smoothing);
  EXPECT_NEAR(learner.backward(batch).loss, expected.item<float>(), 1e-5);
}

TEST(Learner, BatchNormTakenAnewHasTheMeanOfTheBatchesStatistics) {
  Config config;
  config.batch = 6;
  config.precision = "fp32";
  config.kernel = "torch";
  config.augment = "none";
  Learner learner(config, noise_dataset(12));
  learner.backward(learner.batches.at_step(0));  // running statistics that are to be forgotten
  at::Tensor mean = at::zeros({64}), variance = at::zeros({64});
  for (const int64_t step : {4, 5}) {
    const at::Tensor maps = at::conv2d(learner.batches.input(learner.batches.at_step(step)),
                                       learner.model->stem_weight().detach(), {}, 1, 1);
    mean += maps.mean(at::IntArrayRef{0, 2, 3}) / 2;
    variance += maps.var(at::IntArrayRef{0, 2, 3}, /*unbiased=*/true) / 2;
  }
  learner.retake_batch_norm(/*step=*/4, /*images=*/7);  // two batches
  EXPECT_TRUE(at::allclose(state_of(learner, "bn1.running_mean"), mean, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(state_of(learner, "bn1.running_var"), variance, 1e-4, 1e-5));
}

TEST(Learner, BatchNormTakenAnewWeighsBatchesByTheirImages) {
  Config config = small_config(8, "auto");
  config.augment = "none";
  const Dataset dataset = noise_dataset(12);  // a batch of 8 and one of 4
  Learner parts(config, dataset);
  parts.retake_batch_norm(/*step=*/0, /*images=*/12);
  config.batch = 12;
  Learner whole(config, dataset);
  whole.retake_batch_norm(/*step=*/0, /*images=*/12);
  EXPECT_TRUE(at::allclose(state_of(parts, "bn1.running_mean"), state_of(whole, "bn1.running_mean"),
                           1e-4, 1e-5));
}

TEST(Learner, BatchNormTakenAnewStopsBetweenBatches) {
  Learner learner(small_config(8, "auto"), noise_dataset(12));
  int asked = 0;
  learner.retake_batch_norm(/*step=*/0, /*images=*/12, [&] { return asked++ > 0; });
  EXPECT_EQ(asked, 2);
}

TEST(Learner, AnEpochsSmallLastBatchMakesItsStepsShorterOnAverage) {
  EXPECT_DOUBLE_EQ(Learner(small_config(8, "auto"), noise_dataset(12)).share_of_full_step(), 0.75);
  EXPECT_DOUBLE_EQ(Learner(small_config(8, "auto"), noise_dataset(16)).share_of_full_step(), 1);
}

TEST(Learner, WithoutBatchNormImagesTheRunningStatisticsStay) {
  Config config;
  config.batch = 12;
  config.kernel = "torch";
  Learner learner(config, noise_dataset(12));
  learner.backward(learner.batches.at_step(0));
  const at::Tensor before = state_of(learner, "bn1.running_mean").clone();
  learner.retake_batch_norm(0, 0);
  EXPECT_TRUE(at::equal(state_of(learner, "bn1.running_mean"), before));
}

TEST(Learner, MeasuringAStepLeavesItAsItWas) {
  for (const char* optimizer : {"sgd", "muon"}) {
    Config config;
    config.batch = 16;
    config.precision = "fp32";
    config.kernel = "torch";
    config.optimizer = optimizer;
    Learner learner(config, noise_dataset(64));
    // A step first, so that the optimizer has a state to lose.
    learner.backward(learner.batches.at_step(0));
    learner.optimizer.step(0.1);
    NamedTensors before;
    for (const NamedTensors& state : {learner.model->state(), learner.optimizer.state()})
      for (const auto& [name, tensor] : state) before.emplace_back(name, tensor.detach().clone());
    EXPECT_GT(learner.measure_step_s({1, 8, false}, 0, /*most_s=*/10, /*enough_s=*/0.01), 0);
    size_t i = 0;
    for (const NamedTensors& state : {learner.model->state(), learner.optimizer.state()})
      for (const auto& [name, tensor] : state)
        EXPECT_TRUE(at::equal(tensor, before[i++].second)) << optimizer << " " << name;
    for (const auto& [name, parameter] : learner.model->parameters())
      EXPECT_FALSE(parameter.grad().defined()) << name;
  }
}

TEST(Learner, AColourThatNeverVariesIsNoDivisionByZero) {
  Dataset dataset = noise_dataset(12);
  dataset.train.images.select(3, 2).fill_(100);
  Learner learner(small_config(12, "auto"), dataset);
  EXPECT_DOUBLE_EQ(learner.model->spec().normalisation.std[2], 1. / 255);
  EXPECT_TRUE(std::isfinite(learner.backward(learner.batches.at_step(0)).loss));
}

TEST(Learner, DeterministicAsksLibTorchForIt) {
  ASSERT_FALSE(at::globalContext().deterministicAlgorithms());
  Config config = small_config(12, "auto");
  config.deterministic = true;
  config.augment = "flip,crop,mixup";
  Learner learner(config, noise_dataset(12));
  EXPECT_TRUE(at::globalContext().deterministicAlgorithms());
  EXPECT_TRUE(std::isfinite(learner.backward(learner.batches.at_step(0)).loss));
  learner.update(0.1);
  at::globalContext().setDeterministicAlgorithms(false, false);
}

TEST(Learner, BlocksThatAShallowStageSkipsBeginAsIdentities) {
  Config config = small_config(12, "auto");
  config.shallow = 0.5;
  Learner learner(config, noise_dataset(12));
  for (const auto& [name, parameter] : learner.model->parameters()) {
    if (!name.starts_with("layer") || !name.ends_with(".bn2.weight")) continue;
    const bool begins_stage = name.find(".0.") != std::string::npos;
    EXPECT_EQ(parameter.sum().item<float>() != 0, begins_stage) << name;
  }
}

}  // namespace
}  // namespace skipway
