// The loss of mixed batches. What a learner does otherwise: see trainer_test.cc and
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

}  // namespace
}  // namespace skipway
