// Mixup and cutmix: what becomes of the images, and that the shares say so.
#include "data/mix.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

namespace skipway {
namespace {

constexpr uint64_t kSeed = 7;

// Image i is all of the value 10 i.
at::Tensor flat_images(int64_t n) {
  return (at::arange(n, at::kLong) * 10).to(at::kByte).view({n, 1, 1, 1}).expand({n, 16, 12, 3});
}

at::Tensor all_of(const at::Tensor& images) { return at::arange(images.size(0), at::kLong); }

TEST(Mix, MixupIsTheMeanThatItsSharesSay) {
  const at::Tensor images = flat_images(24);
  const Mixed mixed = mix(images, all_of(images), {.mixup_alpha = 1}, kSeed, 0);
  const at::Tensor share = mixed.own_share.view({-1, 1, 1, 1});
  const at::Tensor expected =
      at::lerp(others_of(images).to(at::kFloat), images.to(at::kFloat), share);
  EXPECT_LE((mixed.images.to(at::kFloat) - expected).abs().max().item<float>(), 0.51F);
}

TEST(Mix, CutmixTakesTheShareOfPixelsThatItSays) {
  const at::Tensor images = flat_images(24);
  const Mixed mixed = mix(images, all_of(images), {.cutmix_alpha = 1}, kSeed, 0);
  const at::Tensor own = (mixed.images == images).all(3),
                   other = (mixed.images == others_of(images)).all(3);
  EXPECT_TRUE((own | other).all().item<bool>());
  EXPECT_LE((own.to(at::kFloat).mean({1, 2}) - mixed.own_share).abs().max().item<float>(), 1e-6F);
}

TEST(Mix, OfBothEachImageIsDrawnOne) {
  const at::Tensor images = flat_images(24);
  const Mixed mixed = mix(images, all_of(images), {.mixup_alpha = 1, .cutmix_alpha = 1}, kSeed, 0);
  const at::Tensor own = (mixed.images == images).all(3),
                   other = (mixed.images == others_of(images)).all(3);
  const at::Tensor is_cut = (own | other).flatten(1).all(1) & own.flatten(1).any(1) &
                            other.flatten(1).any(1),
                   is_mean = (own | other).flatten(1).any(1).logical_not();
  EXPECT_GE(is_cut.sum().item<int>(), 4);
  EXPECT_GE(is_mean.sum().item<int>(), 4);
}

TEST(Mix, SharesAreFunctionsOfTheImageAndTheRestOfTheOrder) {
  const at::Tensor images = flat_images(24);
  const MixOptions options{.mixup_alpha = 0.4, .cutmix_alpha = 1};
  const Mixed whole = mix(images, all_of(images), options, kSeed, 1);
  const at::Tensor rows = at::arange(5, 13, at::kLong);
  const Mixed part = mix(images.index_select(0, rows), rows, options, kSeed, 1);
  EXPECT_TRUE(at::equal(part.own_share, whole.own_share.index_select(0, rows)));
  EXPECT_TRUE(at::equal(part.images.slice(0, 0, 7), whole.images.slice(0, 5, 12)));
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  EXPECT_TRUE(at::equal(mix(images, all_of(images), options, kSeed, 1).images, whole.images));
  at::set_num_threads(threads);
}

TEST(Mix, AnImageAloneStaysAsItIs) {
  const at::Tensor images = flat_images(2).slice(0, 1, 2);
  for (const MixOptions& options : {MixOptions{1, 0}, MixOptions{0, 1}})
    EXPECT_TRUE(
        at::equal(mix(images, at::zeros({1}, at::kLong), options, kSeed, 0).images, images));
}

TEST(DrawBeta, HasTheMomentsOfBeta) {
  constexpr int kDraws = 4000;
  for (const double alpha : {kLeastAlpha, 0.2, 1.0, kMostAlpha}) {
    Rng rng(1, RngUse::kAugment);
    double sum = 0, squares = 0;
    for (int i = 0; i < kDraws; ++i) {
      const double draw = draw_beta(rng, alpha);
      ASSERT_TRUE(draw >= 0 && draw <= 1);
      sum += draw, squares += (draw - 0.5) * (draw - 0.5);
    }
    const double variance = 1 / (4 * (2 * alpha + 1));
    EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(variance / kDraws));
    EXPECT_NEAR(squares / kDraws, variance, 5 * 0.25 / std::sqrt(kDraws)) << alpha;
  }
}

TEST(Mix, SharesAreDrawnAnewForEachEpochAndSeed) {
  const at::Tensor images = flat_images(24);
  for (const MixOptions& options : {MixOptions{1, 0}, MixOptions{0, 1}}) {
    const at::Tensor share = mix(images, all_of(images), options, kSeed, 0).own_share;
    EXPECT_FALSE(at::equal(share, mix(images, all_of(images), options, kSeed, 1).own_share));
    EXPECT_FALSE(at::equal(share, mix(images, all_of(images), options, kSeed + 1, 0).own_share));
  }
}

TEST(Mix, SharesFollowAlphaAndCutmixsRectangleLiesAnywhere) {
  const at::Tensor images = at::zeros({2000, 64, 64, 3}, at::kByte);
  const auto shares = [&](const MixOptions& options) {
    return mix(images, all_of(images), options, kSeed, 0).own_share.to(at::kDouble);
  };
  for (const double alpha : {kLeastAlpha, kMostAlpha}) {
    const at::Tensor of_mixup = shares({.mixup_alpha = alpha});
    EXPECT_NEAR((of_mixup - 0.5).square().mean().item<double>(), 1 / (4 * (2 * alpha + 1)), 0.01);
    const at::Tensor is_whole = shares({.cutmix_alpha = alpha}) > 0.98;
    EXPECT_NEAR(is_whole.to(at::kDouble).mean().item<double>(), alpha == kLeastAlpha ? 0.42 : 0,
                0.05);
  }
  // With a share u of pixels to cut, uniform, r = sqrt(u) / 2 to either side of a centre that is
  // anywhere, cut off at the border: (2 r - r^2)^2 of the area.
  EXPECT_NEAR(shares({.cutmix_alpha = 1}).mean().item<double>(), 1 - (0.5 - 0.2 + 1. / 48), 0.03);
}

}  // namespace
}  // namespace skipway
