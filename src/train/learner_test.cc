// The loss of mixed batches, and BatchNorm's statistics taken anew. What a learner does otherwise: see trainer_test.cc and
// lr_find_test.cc.
#include "train/learner.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace skipway {
namespace {

Dataset noise() {
  Dataset data;
  data.classes = {"a", "b", "c"};
  data.image_size = 8;
  data.train.labels = at::arange(12).remainder(3);
  data.train.images = at::randint(0, 256, {12, 8, 8, 3}, at::kByte);
  data.test = data.train;
  return data;
}

TEST(Learner, TheLossOfAMixedBatchIsTheCrossEntropyWithMixedTargets) {
  Config config;
  config.batch = 12;
  config.precision = "fp32";
  config.kernel = "torch";
  config.augment = "mixup,cutmix";
  Learner learner(config, noise());
  const Batch batch = learner.batches.at_step(0);
  ASSERT_TRUE(batch.own_share.defined());
  EXPECT_TRUE(at::equal(batch.other_labels, batch.labels.roll(-1)));
  const at::Tensor share = batch.own_share.unsqueeze(1);
  const at::Tensor own = at::one_hot(batch.labels, 3), other = at::one_hot(batch.other_labels, 3);
  const at::Tensor targets = share * own + (1 - share) * other;
  const at::Tensor expected =
      at::cross_entropy_loss(learner.model->forward(batch.images, true), targets, {},
                             at::Reduction::Mean, -100, config.label_smoothing);
  EXPECT_NEAR(learner.backward(batch).loss, expected.item<float>(), 1e-5);
}

TEST(Learner, BatchNormTakenAnewHasTheMeanOfTheBatchesStatistics) {
  Config config;
  config.batch = 6;
  config.precision = "fp32";
  config.kernel = "torch";
  config.augment = "none";
  config.batch_norm_images = 7;  // two batches
  Learner learner(config, noise());
  const auto buffer = [&](const std::string& name) {
    for (const auto& [key, tensor] : learner.model->buffers())
      if (key == name) return tensor.clone();
    return at::Tensor();
  };
  learner.backward(learner.batches.at_step(0));  // running statistics that are to be forgotten
  at::Tensor mean = at::zeros({64}), variance = at::zeros({64});
  for (const int64_t step : {4, 5}) {
    const at::Tensor maps = at::conv2d(learner.batches.at_step(step).images,
                                       learner.model->stem_weight().detach(), {}, 1, 1);
    mean += maps.mean(at::IntArrayRef{0, 2, 3}) / 2;
    variance += maps.var(at::IntArrayRef{0, 2, 3}, /*unbiased=*/true) / 2;
  }
  learner.retake_batch_norm(/*step=*/4);
  EXPECT_TRUE(at::allclose(buffer("bn1.running_mean"), mean, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(buffer("bn1.running_var"), variance, 1e-4, 1e-5));
}

TEST(Learner, WithoutBatchNormImagesTheRunningStatisticsStay) {
  Config config;
  config.batch = 12;
  config.kernel = "torch";
  Learner learner(config, noise());
  learner.backward(learner.batches.at_step(0));
  const at::Tensor before = learner.model->buffers().front().second.clone();
  learner.retake_batch_norm(0);
  EXPECT_TRUE(at::equal(learner.model->buffers().front().second, before));
}

}  // namespace
}  // namespace skipway
