#include "train/evaluate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/for_test.h"
#include "model/resnet.h"

namespace skipway {
namespace {

ModelSpec small_spec() {
  ModelSpec spec;
  spec.num_classes = 3;
  spec.image_size = 8;
  spec.classes = {"a", "b", "c"};
  spec.normalisation = {{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};
  return spec;
}

Split random_split(int64_t n) {
  at::manual_seed(0);
  Split split;
  split.images = at::randint(0, 256, {n, 8, 8, 3}, at::kByte);
  split.labels = at::randint(0, 3, {n}, at::kLong);
  return split;
}

TEST(Evaluate, IntervalIsWilsons) {
  // Values of the closed form, computed apart from this program.
  const auto interval = interval95(0.9042, 10000);
  EXPECT_NEAR(interval[0], 0.898275, 1e-6);
  EXPECT_NEAR(interval[1], 0.909814, 1e-6);
  EXPECT_NEAR(interval95(1.0, 10)[0], 0.722467, 1e-6);
  EXPECT_DOUBLE_EQ(interval95(1.0, 10)[1], 1.0);
  for (const int64_t n : {11, 21, 5000}) {  // rounding would take these out of [0, 1]
    EXPECT_GE(interval95(0, n)[0], 0);
    EXPECT_LE(interval95(1, n)[1], 1);
  }
}

TEST(Evaluate, CountsAgreeWithLogitsAndDoNotDependOnBatchSize) {
  ResNet model(small_spec(), 1);
  const Split split = random_split(25);
  EvaluateOptions options;
  options.batch = 25;
  const at::Tensor predictions = predict_logits(model, split.images, options).argmax(1);
  const double expected = predictions.eq(split.labels).sum().item<double>() / 25;
  for (const int64_t batch : {25, 7, 1}) {
    options.batch = batch;
    const Evaluation result = evaluate(model, split, options);
    EXPECT_EQ(result.n, 25);
    EXPECT_DOUBLE_EQ(result.accuracy, expected);
    int64_t diagonal = 0;
    for (size_t c = 0; c < 3; ++c) diagonal += result.confusion[c][c];
    EXPECT_DOUBLE_EQ(static_cast<double>(diagonal) / 25, expected);
  }
}

TEST(Evaluate, TtaGivesMirrorImagesTheSameLogits) {
  ResNet model(small_spec(), 1);
  const Split split = random_split(4);
  EvaluateOptions options;
  options.views = 2;
  const at::Tensor straight = predict_logits(model, split.images, options);
  const at::Tensor mirrored = predict_logits(model, split.images.flip({2}), options);
  EXPECT_TRUE(at::allclose(straight, mirrored, 1e-5, 1e-5));
  options.views = 1;
  EXPECT_FALSE(at::allclose(predict_logits(model, split.images, options), straight, 1e-5, 1e-5));
}

// Labels that all views together give, and the image alone does not.
TEST(Evaluate, LossIsThatOfTheImagesAloneAndTtaHasAnAccuracyOfItsOwn) {
  ResNet model(small_spec(), 1);
  Split split = random_split(100);
  EvaluateOptions options;
  options.batch = 30;
  {
    const at::NoGradGuard no_grad;
    for (auto& [name, tensor] : model.parameters())
      if (name == "fc.bias")  // else all would be of one class
        at::Tensor(tensor).sub_(predict_logits(model, split.images, options).mean(0));
  }
  const at::Tensor logits = predict_logits(model, split.images, options);
  options.views = 2;
  split.labels = predict_logits(model, split.images, options).argmax(1);
  const Evaluation result = evaluate(model, split, options);
  EXPECT_EQ(result.accuracy_tta, 1);
  EXPECT_LT(result.accuracy, 1);
  EXPECT_DOUBLE_EQ(result.accuracy, logits.argmax(1).eq(split.labels).sum().item<double>() / 100);
  EXPECT_NEAR(result.loss, at::cross_entropy_loss(logits, split.labels).item<double>(), 1e-5);
}

TEST(Evaluate, AccuracyOfAClassIsThatOfItsRow) {
  Evaluation evaluation;
  evaluation.confusion = {{3, 1, 0}, {0, 0, 0}, {2, 0, 8}};
  const std::vector<ClassAccuracy> classes = accuracy_per_class(evaluation);
  ASSERT_EQ(classes.size(), 3u);
  EXPECT_EQ(classes[0].n, 4);
  EXPECT_DOUBLE_EQ(classes[0].accuracy, 0.75);
  EXPECT_EQ(classes[1].n, 0);
  EXPECT_DOUBLE_EQ(classes[2].accuracy, 0.8);
}

TEST(Evaluate, ShiftedViewsCountAsMuchAsTheOthers) {
  ResNet model(small_spec(), 1);
  const Split split = random_split(4);
  EvaluateOptions options;
  options.views = 2;
  const auto averaged = [&](const at::Tensor& images) {
    return predict_logits(model, images, options);
  };
  const at::Tensor padded = at::reflection_pad2d(  // uint8 [n,h,w,3]
                                split.images.permute({0, 3, 1, 2}).to(at::kFloat), {1, 1, 1, 1})
                                .to(at::kByte)
                                .permute({0, 2, 3, 1});
  const int64_t height = split.images.size(1), width = split.images.size(2);
  const at::Tensor first = averaged(padded.narrow(1, 0, height).narrow(2, 0, width));
  const at::Tensor second = averaged(padded.narrow(1, 2, height).narrow(2, 2, width));
  const at::Tensor expected = (averaged(split.images) + (first + second) / 2) / 2;
  options.views = 6;
  EXPECT_TRUE(at::allclose(averaged(split.images), expected, 1e-5, 1e-5));
}

TEST(Evaluate, AnImageOfOnePixelCannotBeMoved) {
  ModelSpec spec = small_spec();
  spec.image_size = 1;
  ResNet model(spec, 1);
  const at::Tensor images = random_split(3).images.narrow(1, 0, 1).narrow(2, 0, 1);
  EvaluateOptions options;
  options.views = 2;
  const at::Tensor mirrored = predict_logits(model, images, options);
  options.views = 6;
  EXPECT_TRUE(predict_logits(model, images, options).equal(mirrored));
}

TEST(Evaluate, LeavesTheModelAsItWas) {
  ResNet model(small_spec(), 1);
  const NamedTensors before = model.state();
  std::vector<at::Tensor> copies;
  for (const auto& [name, tensor] : before) copies.push_back(tensor.clone());
  evaluate(model, random_split(10), {});
  for (size_t i = 0; i < copies.size(); ++i)
    EXPECT_TRUE(copies[i].equal(before[i].second)) << before[i].first;
}

TEST(Evaluate, NothingToEvaluateIsADataError) {
  ResNet model(small_spec(), 1);
  EXPECT_EQ(error_of([&] { evaluate(model, {}, {}); }).kind(), ErrorKind::kData);
}

}  // namespace
}  // namespace skipway
