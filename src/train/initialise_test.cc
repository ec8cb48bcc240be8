#include "train/initialise.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "base/error.h"
#include "data/augment.h"
#include "model/resnet.h"

namespace skipway {
namespace {

ModelSpec small_spec() {
  ModelSpec spec;
  spec.image_size = 8;
  spec.num_classes = 2;
  spec.normalisation = {{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};
  return spec;
}

// Smooth, so that neighbouring pixels say much of each other.
at::Tensor smooth_images() {
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{7});
  const at::Tensor coarse = at::rand({200, 3, 3, 3}, generator);
  return (at::upsample_bilinear2d(coarse, {8, 8}, true) * 255).to(at::kByte).permute({0, 2, 3, 1});
}

TEST(Initialise, WithZeroGammaEveryBlockPassesItsResidualOn) {
  ResNet model(small_spec(), 1);
  zero_gamma(model);
  const auto images = at::rand({2, 3, 8, 8});
  model.set_shallow(true);
  const at::Tensor first_blocks = model.forward(images, true);
  model.set_shallow(false);
  EXPECT_TRUE(at::allclose(model.forward(images, true), first_blocks));
}

TEST(Initialise, BlocksThatAreSkippedAtFirstCanBeginAsIdentitiesAlone) {
  ResNet model(small_spec(), 1);
  const auto images = at::rand({2, 3, 8, 8});
  model.set_shallow(true);
  const at::Tensor before = model.forward(images, true);
  zero_gamma(model, /*skipped_only=*/true);
  EXPECT_TRUE(at::allclose(model.forward(images, true), before));  // the first blocks are as new
  model.set_shallow(false);
  EXPECT_TRUE(at::allclose(model.forward(images, true), before));
}

TEST(Initialise, AShallowModelIsAnotherUntilThen) {
  ResNet model(small_spec(), 1);
  const auto images = at::rand({2, 3, 8, 8});
  const at::Tensor whole = model.forward(images, true);
  model.set_shallow(true);
  EXPECT_FALSE(at::allclose(model.forward(images, true), whole));
}

std::unique_ptr<Model> model_of_32_pixels(const std::string& name) {
  ModelSpec spec = small_spec();
  spec.name = name, spec.image_size = 32;
  return make_model(spec, 1);
}

TEST(Initialise, WhitenedStemDecorrelatesPatches) {
  for (const char* name : {"resnet18", "airbench94"}) {
    SCOPED_TRACE(name);
    const std::unique_ptr<Model> model = model_of_32_pixels(name);
    const at::Tensor images = smooth_images();
    whiten_stem(*model, images);
    const at::Tensor filters = model->stem_weight().detach();
    const int64_t inputs = filters[0].numel();
    const at::Tensor products =
        at::conv2d(normalise(images, model->spec().normalisation, at::kFloat), filters);
    const at::Tensor values =
        products.permute({1, 0, 2, 3}).reshape({filters.size(0), -1}).narrow(0, 0, inputs);
    const at::Tensor covariance = at::mm(values, values.t()) / values.size(1);
    const at::Tensor off_diagonal = covariance - at::diag(covariance.diagonal());
    EXPECT_LT(off_diagonal.abs().max().item<double>(), 1e-3);
    EXPECT_NEAR(covariance[0][0].item<double>(), 1, 0.02);  // the strongest one
    EXPECT_TRUE(at::allclose(filters.narrow(0, 0, inputs), -filters.narrow(0, inputs, inputs)));
  }
}

// Where a channel is the same everywhere, airbench's chain of identities and BatchNorms makes
// gradients that are not finite.
TEST(Initialise, GreyImagesLeaveNoChannelWithoutAnything) {
  for (const char* name : {"resnet18", "airbench96"}) {
    SCOPED_TRACE(name);
    const std::unique_ptr<Model> model = model_of_32_pixels(name);
    const at::Tensor coarse = smooth_images().narrow(3, 0, 1).repeat({1, 4, 4, 3});  // 32 x 32
    whiten_stem(*model, coarse);
    const at::Tensor images =
        normalise(coarse.narrow(0, 0, 32), model->spec().normalisation, at::kFloat);
    const at::Tensor maps = at::conv2d(images, model->stem_weight().detach());
    EXPECT_GT(maps.var(at::IntArrayRef{0, 2, 3}).min().item<float>(), 1e-4);
    const at::Tensor labels = at::arange(32).remainder(2);
    at::cross_entropy_loss(model->forward(images, true), labels).backward();
    for (const auto& [key, parameter] : model->parameters())
      EXPECT_TRUE(!parameter.grad().defined() || at::isfinite(parameter.grad()).all().item<bool>())
          << key;
  }
}

TEST(Initialise, ImagesSmallerThanAFilterLeaveTheStemAsItIs) {
  ResNet model(small_spec(), 1);
  const at::Tensor before = model.stem_weight().clone();
  whiten_stem(model, smooth_images().narrow(1, 0, 2));
  EXPECT_TRUE(model.stem_weight().equal(before));
}

TEST(Initialise, ALargeStemIsNotWhitened) {
  ModelSpec spec = small_spec();
  spec.stem = "imagenet";
  ResNet model(spec, 1);
  EXPECT_THROW(whiten_stem(model, smooth_images()), Error);
}

}  // namespace
}  // namespace skipway
