// Augmentation against plain loops and LibTorch's own padding, and the laws that its draws keep.
#include "data/augment.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "base/for_test.h"

namespace skipway {
namespace {

constexpr uint64_t kSeed = 7;

at::Tensor random_images(int64_t n, int64_t h = 32, int64_t w = 32) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{5});
  return at::randint(1, 256, {n, h, w, 3}, generator, at::kByte);
}

at::Tensor all_of(const at::Tensor& images) { return at::arange(images.size(0), at::kLong); }

// Pads [h,w,3] by `pad`, crops at the draw's shift, mirrors: what torchvision does, step by step.
at::Tensor padded_cropped_flipped(const at::Tensor& image, const AugmentDraw& draw, int64_t pad,
                                  CropFill fill) {
  const int64_t h = image.size(0), w = image.size(1);
  at::Tensor planes = image.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat);
  at::Tensor padded = fill == CropFill::kReflect
                          ? at::reflection_pad2d(planes, {pad, pad, pad, pad})
                          : at::constant_pad_nd(planes, {pad, pad, pad, pad}, 0);
  at::Tensor result = padded.slice(2, pad + draw.shift_y, pad + draw.shift_y + h)
                          .slice(3, pad + draw.shift_x, pad + draw.shift_x + w);
  if (draw.flip) result = result.flip(3);
  return result.squeeze(0).permute({1, 2, 0}).to(at::kByte);
}

TEST(Augment, EqualsPadCropFlipForBothFills) {
  at::Tensor images = random_images(64, 12, 10);
  for (CropFill fill : {CropFill::kZero, CropFill::kReflect}) {
    AugmentOptions options;
    options.flip = Flip::kRandom;
    options.crop_pad = 4;
    options.crop_fill = fill;
    at::Tensor result = augment(images, all_of(images), options, kSeed, 3);
    for (int64_t i = 0; i < images.size(0); ++i)
      ASSERT_TRUE(at::equal(
          result[i],
          padded_cropped_flipped(images[i], draw_augmentation(options, kSeed, 3, i), 4, fill)))
          << "image " << i;
  }
}

TEST(Augment, CutoutLaysAGreySquareWhereItsDrawSays) {
  const int64_t h = 12, w = 10, side = 5;
  const at::Tensor images = random_images(64, h, w);
  AugmentOptions options;
  options.cutout = side;
  const at::Tensor result = augment(images, all_of(images), options, kSeed, 3);
  for (int64_t i = 0; i < images.size(0); ++i) {
    const AugmentDraw draw = draw_augmentation(options, kSeed, 3, i);
    const auto top = static_cast<int64_t>(draw.cut_y * h) - side / 2;
    const auto left = static_cast<int64_t>(draw.cut_x * w) - side / 2;
    at::Tensor expected = images[i].clone();
    expected.slice(0, std::max<int64_t>(top, 0), top + side)
        .slice(1, std::max<int64_t>(left, 0), left + side)
        .fill_(127);
    ASSERT_TRUE(at::equal(result[i], expected)) << "image " << i;
  }
}

TEST(Augment, CutoutMovesNoOtherDraw) {
  AugmentOptions without;
  without.flip = Flip::kRandom;
  without.crop_pad = 4;
  AugmentOptions with = without;
  with.cutout = 8;
  for (int64_t i = 0; i < 20; ++i) {
    const AugmentDraw a = draw_augmentation(without, kSeed, 0, i);
    const AugmentDraw b = draw_augmentation(with, kSeed, 0, i);
    EXPECT_TRUE(a.flip == b.flip && a.shift_x == b.shift_x && a.shift_y == b.shift_y);
  }
}

TEST(Augment, WithoutOptionsTakesImagesUnchanged) {
  at::Tensor images = random_images(8);
  at::Tensor indices = at::tensor({5, 0, 5}, at::kLong);
  EXPECT_TRUE(at::equal(augment(images, indices, {}, kSeed, 0), images.index_select(0, indices)));
}

TEST(Augment, FlipTwiceIsIdentity) {
  at::Tensor images = random_images(32);
  AugmentOptions options;
  options.flip = Flip::kAlternating;
  at::Tensor once = augment(images, all_of(images), options, kSeed, 0);
  EXPECT_FALSE(at::equal(once, images));
  EXPECT_TRUE(at::equal(augment(once, all_of(images), options, kSeed, 0), images));
}

TEST(Augment, AlternatingFlipShowsBothSidesInTwoEpochsAndHalfOfThemFirst) {
  AugmentOptions options;
  options.flip = Flip::kAlternating;
  int64_t first = 0;
  for (int64_t image = 0; image < 1000; ++image) {
    const bool flip = draw_augmentation(options, kSeed, 0, image).flip;
    first += flip;
    for (int64_t epoch = 1; epoch < 5; ++epoch)
      EXPECT_EQ(draw_augmentation(options, kSeed, epoch, image).flip, flip != (epoch % 2 == 1));
  }
  EXPECT_NEAR(static_cast<double>(first), 500, 5 * std::sqrt(1000 * 0.25));
}

TEST(Augment, RandomFlipIsFairAndIndependentOfTheEpochBefore) {
  AugmentOptions options;
  options.flip = Flip::kRandom;
  int64_t flips = 0, changes = 0;
  for (int64_t image = 0; image < 1000; ++image) {
    const bool flip = draw_augmentation(options, kSeed, 0, image).flip;
    flips += flip;
    changes += flip != draw_augmentation(options, kSeed, 1, image).flip;
  }
  EXPECT_NEAR(static_cast<double>(flips), 500, 5 * std::sqrt(1000 * 0.25));
  EXPECT_NEAR(static_cast<double>(changes), 500, 5 * std::sqrt(1000 * 0.25));
}

TEST(Augment, EveryPairOfShiftsIsEquallyLikely) {
  AugmentOptions options;
  options.crop_pad = 4;
  constexpr int64_t kDraws = 81 * 200;
  std::array<double, 81> counts{};
  for (int64_t image = 0; image < kDraws; ++image) {
    const AugmentDraw draw = draw_augmentation(options, kSeed, 0, image);
    ASSERT_LE(std::abs(draw.shift_y), 4);
    ASSERT_LE(std::abs(draw.shift_x), 4);
    ++counts[static_cast<size_t>((draw.shift_y + 4) * 9 + draw.shift_x + 4)];
  }
  double chi_square = 0;
  for (double count : counts) chi_square += (count - 200) * (count - 200) / 200;
  EXPECT_LT(chi_square, 124.84);  // 99.9 % quantile with 80 degrees of freedom
}

TEST(Augment, FlipModeDoesNotMoveTheCrops) {
  AugmentOptions crop;
  crop.crop_pad = 4;
  AugmentOptions crop_and_flip = crop;
  crop_and_flip.flip = Flip::kAlternating;
  for (int64_t image = 0; image < 50; ++image) {
    const AugmentDraw plain = draw_augmentation(crop, kSeed, 2, image);
    const AugmentDraw flipped = draw_augmentation(crop_and_flip, kSeed, 2, image);
    EXPECT_EQ(plain.shift_y, flipped.shift_y);
    EXPECT_EQ(plain.shift_x, flipped.shift_x);
  }
}

TEST(Augment, AnImageIsTheSameInEveryBatchAndForEveryThreadCount) {
  at::Tensor images = random_images(64);
  AugmentOptions options;
  options.flip = Flip::kRandom;
  options.crop_pad = 4;
  options.crop_fill = CropFill::kReflect;
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  at::Tensor whole = augment(images, all_of(images), options, kSeed, 1);
  at::set_num_threads(2);
  EXPECT_TRUE(at::equal(augment(images, all_of(images), options, kSeed, 1), whole));
  at::set_num_threads(threads);
  for (int64_t i : {0, 17, 63})
    EXPECT_TRUE(at::equal(augment(images, at::tensor({i}), options, kSeed, 1)[0], whole[i]));
}

TEST(Augment, SeedsAndEpochsDiffer) {
  at::Tensor images = random_images(16);
  AugmentOptions options;
  options.crop_pad = 4;
  at::Tensor result = augment(images, all_of(images), options, kSeed, 0);
  EXPECT_FALSE(at::equal(result, augment(images, all_of(images), options, kSeed, 1)));
  EXPECT_FALSE(at::equal(result, augment(images, all_of(images), options, kSeed + 1, 0)));
}

TEST(Augment, PaddingMustBeSmallerThanTheImage) {
  at::Tensor images = random_images(2, 4, 4);
  AugmentOptions options;
  options.crop_pad = 3;
  options.crop_fill = CropFill::kReflect;
  EXPECT_NO_THROW(augment(images, all_of(images), options, 0, 0));
  options.crop_pad = 4;
  options.crop_fill = CropFill::kZero;
  const Error error = error_of([&] { augment(images, all_of(images), options, 0, 0); });
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_THAT(error.what(), testing::HasSubstr("4 at --crop-pad"));
}

TEST(Normalise, ScalesEachChannelAndIsChannelsLast) {
  at::Tensor images = random_images(3, 8, 6);
  const Normalisation normalisation{.mean = {0.4914, 0.4822, 0.4465},
                                    .std = {0.2023, 0.1994, 0.2010}};
  at::Tensor result = normalise(images, normalisation, at::kFloat);
  at::Tensor mean = at::tensor(at::ArrayRef<double>(normalisation.mean));
  at::Tensor std = at::tensor(at::ArrayRef<double>(normalisation.std));
  at::Tensor expected = ((images.to(at::kDouble) / 255 - mean) / std).permute({0, 3, 1, 2});
  EXPECT_EQ(result.sizes(), at::IntArrayRef({3, 3, 8, 6}));
  EXPECT_TRUE(result.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_LT((result - expected).abs().max().item<double>(), 1e-6);
  at::Tensor half = normalise(images, normalisation, at::kBFloat16);
  EXPECT_EQ(half.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(half, result.to(at::kBFloat16)));
}

// Numbers for every augmentation, as a configuration has them.
AugmentOptions everything() {
  AugmentOptions all;
  all.flip = Flip::kAlternating;
  all.crop_pad = 4;
  all.crop_fill = CropFill::kReflect;
  all.resized_crop = RectangleRange{.least_area = 0.5, .least_ratio = 0.75, .most_ratio = 1.33};
  all.rotate = 10;
  all.rand_augment = {.ops = 2, .magnitude = 9};
  all.jitter = {.brightness = 0.2, .contrast = 0.2, .saturation = 0.2, .hue = 0.1};
  all.erase_probability = 0.5;
  all.erase = {.least_area = 0.02, .most_area = 0.33, .least_ratio = 0.3, .most_ratio = 3.3};
  all.cutout = 12;
  all.mix = {.mixup_alpha = 0.2, .cutmix_alpha = 1};
  return all;
}

constexpr const char* kAllWords =
    "flip,crop,cutout,jitter,rotate,resized-crop,erase,randaugment,mixup,cutmix";

TEST(Augment, NeitherBatchNorThreadsChangeAnImage) {
  const at::Tensor images = random_images(48);
  const AugmentOptions options = everything();
  const at::Tensor whole = augment(images, all_of(images), options, kSeed, 2);
  EXPECT_TRUE(at::equal(whole, augment(images, all_of(images), options, kSeed, 2)));
  EXPECT_FALSE(at::equal(whole, augment(images, all_of(images), options, kSeed, 3)));
  const at::Tensor few = at::tensor({40, 3, 17}, at::kLong);
  EXPECT_TRUE(at::equal(augment(images, few, options, kSeed, 2), whole.index_select(0, few)));
  const int threads = at::get_num_threads();
  for (const int count : {1, 3}) {
    at::set_num_threads(count);
    EXPECT_TRUE(at::equal(augment(images, all_of(images), options, kSeed, 2), whole)) << count;
  }
  at::set_num_threads(threads);
}

TEST(Augment, WithoutStrengthImagesStayAsTheyAre) {
  const at::Tensor images = random_images(16, 12, 12);
  AugmentOptions options;
  options.resized_crop = RectangleRange();  // the whole of a square image
  options.rand_augment = {.ops = 0, .magnitude = 30};
  options.rotate = 1e-9;
  options.jitter.brightness = 1e-12;
  options.erase_probability = 1e-12;
  EXPECT_TRUE(at::equal(augment(images, all_of(images), options, kSeed, 0), images));
}

TEST(Augment, NoWordChangesWhatAnotherDraws) {
  const at::Tensor images = random_images(32);
  AugmentOptions erasing = parse_augment("erase", everything());
  const at::Tensor alone = augment(images, all_of(images), erasing, kSeed, 0);
  erasing.jitter = everything().jitter;
  const at::Tensor with_jitter = augment(images, all_of(images), erasing, kSeed, 0);
  const at::Tensor erased = (alone == 127).all(3) & (images != 127).any(3);
  EXPECT_TRUE((with_jitter == 127).all(3).masked_select(erased).all().item<bool>());
  EXPECT_GT(erased.sum().item<int64_t>(), 0);
}

TEST(AugmentWarnings, SayWhatMuchRotationDoesToSmallImages) {
  AugmentOptions options = parse_augment(kAllWords, everything());
  EXPECT_TRUE(augment_warnings(options, 32).empty());
  options.rotate = 30;
  const auto warnings = augment_warnings(options, 32);
  ASSERT_EQ(warnings.size(), 1u);
  using testing::AllOf, testing::HasSubstr;
  EXPECT_THAT(warnings[0], AllOf(HasSubstr("% of an image from outside"),
                                 HasSubstr("--rotate-degrees 15"), testing::Not(HasSubstr("\n"))));
  EXPECT_TRUE(augment_warnings(options, 224).empty());
  options.resized_crop->least_area = 0.08;
  EXPECT_THAT(augment_warnings(options, 32), testing::Contains(HasSubstr("9 x 9 of 32 x 32")));
}

TEST(ParseAugment, TakesWhatItsWordsName) {
  const AugmentOptions both = parse_augment("flip,crop", everything());
  EXPECT_EQ(both.flip, Flip::kAlternating);
  EXPECT_EQ(both.crop_pad, 4);
  EXPECT_EQ(both.crop_fill, CropFill::kReflect);
  EXPECT_EQ(both.cutout, 0);
  EXPECT_FALSE(both.jitter.any() || both.mix.any() || both.resized_crop);
  EXPECT_EQ(parse_augment("cutout", everything()).cutout, 12);
  AugmentOptions filled = everything();
  filled.rotate_fill = {1, 2, 3};
  EXPECT_EQ(parse_augment("rotate", filled).rotate_fill, filled.rotate_fill);
  EXPECT_EQ(parse_augment("mixup", everything()).mix.mixup_alpha, 0.2);
  EXPECT_EQ(parse_augment("mixup", everything()).mix.cutmix_alpha, 0);
  const AugmentOptions all = parse_augment(kAllWords, everything());
  EXPECT_TRUE(all.resized_crop && all.rotate == 10 && all.rand_augment.ops == 2 &&
              all.jitter.hue == 0.1 && all.erase_probability == 0.5 && all.mix.cutmix_alpha == 1);
  for (const char* nothing : {"", "none"}) {
    const AugmentOptions none = parse_augment(nothing, everything());
    EXPECT_EQ(none.flip, Flip::kNone);
    EXPECT_EQ(none.crop_pad, 0);
    EXPECT_EQ(none.rotate, 0);
  }
}

TEST(ParseAugment, RefusesUnknownWordsAndNumbersOutOfRangeAndNamesTheFlag) {
  const auto message = [](const std::string& words,
                          const std::function<void(AugmentOptions&)>& change = {}) -> std::string {
    AugmentOptions given = everything();
    if (change) change(given);
    try {
      parse_augment(words, given);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "no error";
  };
  using testing::AllOf, testing::HasSubstr;
  EXPECT_THAT(message("flip,blur"),
              AllOf(HasSubstr("\"blur\""), HasSubstr("flip, crop"), HasSubstr("--augment")));
  EXPECT_THAT(message("flip,"), HasSubstr("--augment"));
  EXPECT_THAT(message("flip,none"), HasSubstr("--augment"));
  EXPECT_THAT(message("crop", [](auto& o) { o.crop_pad = -1; }), HasSubstr("-1 at --crop-pad"));
  EXPECT_THAT(message("flip", [](auto& o) { o.jitter.hue = 0.6; }),
              HasSubstr("0.6 at --jitter-hue"));
  EXPECT_THAT(message("flip", [](auto& o) { o.jitter.contrast = NAN; }),
              HasSubstr("nan at --jitter-contrast"));
  EXPECT_THAT(message("flip", [](auto& o) { o.rotate = 181; }),
              HasSubstr("181 at --rotate-degrees"));
  EXPECT_THAT(message("flip", [](auto& o) { o.resized_crop->least_area = 2; }),
              HasSubstr("2,1 at --resized-crop-area"));
  EXPECT_THAT(message("flip", [](auto& o) { o.erase.least_ratio = 4; }),
              HasSubstr("4,3.3 at --erase-ratio"));
  EXPECT_THAT(message("flip", [](auto& o) { o.erase_probability = -0.1; }),
              HasSubstr("-0.1 at --erase-probability"));
  EXPECT_THAT(message("flip", [](auto& o) { o.rand_augment.magnitude = 31; }),
              HasSubstr("31 at --randaugment-magnitude"));
  EXPECT_THAT(message("flip", [](auto& o) { o.mix.mixup_alpha = 0; }),
              HasSubstr("0 at --mixup-alpha"));
}

TEST(Augment, EveryWordDrawsAnewForEachSeedEpochAndImage) {
  const at::Tensor images = random_images(1).expand({16, 32, 32, 3}).contiguous();  // all the same
  for (const char* word : {"cutout", "jitter", "rotate", "resized-crop", "erase", "randaugment"}) {
    const AugmentOptions options = parse_augment(word, everything());
    const at::Tensor result = augment(images, all_of(images), options, kSeed, 0);
    EXPECT_FALSE(at::equal(result, images)) << word;
    EXPECT_FALSE(at::equal(result, result.roll(1, 0))) << word;
    EXPECT_FALSE(at::equal(result, augment(images, all_of(images), options, kSeed, 1))) << word;
    EXPECT_FALSE(at::equal(result, augment(images, all_of(images), options, kSeed + 1, 0))) << word;
  }
}

TEST(Augment, TheCutoutsCentreIsAnywhereAlike) {
  AugmentOptions options;
  options.cutout = 12;
  std::array<double, 100> counts{};
  for (int64_t image = 0; image < 100 * 100; ++image) {
    const AugmentDraw draw = draw_augmentation(options, kSeed, 0, image);
    ++counts[static_cast<size_t>(10 * draw.cut_y) * 10 + static_cast<size_t>(10 * draw.cut_x)];
  }
  double chi_square = 0;
  for (const double count : counts) chi_square += (count - 100) * (count - 100) / 100;
  EXPECT_LT(chi_square, 148.23);  // 99.9 % quantile with 99 degrees of freedom
}

TEST(Augment, ErasesItsShareOfTheImagesAndItsAreaOfEach) {
  const at::Tensor images = at::full({2000, 32, 32, 3}, 9, at::kByte);
  AugmentOptions options;
  options.erase_probability = 0.25;
  options.erase = {.least_area = 0.1, .most_area = 0.2, .least_ratio = 0.5, .most_ratio = 2};
  const at::Tensor result = augment(images, all_of(images), options, kSeed, 0);
  const at::Tensor share = (result == 127).to(at::kDouble).mean(at::IntArrayRef{1, 2, 3});
  const at::Tensor areas = share.masked_select(share > 0);
  EXPECT_NEAR(static_cast<double>(areas.numel()) / 2000, 0.25, 5 * std::sqrt(0.25 * 0.75 / 2000));
  EXPECT_NEAR(areas.min().item<double>(), 0.1, 0.02);
  EXPECT_NEAR(areas.max().item<double>(), 0.2, 0.02);
}

TEST(Augment, RotatesToBothSidesUpToItsAngleWithItsFill) {
  at::Tensor images = at::zeros({400, 33, 33, 3}, at::kByte);
  images.slice(1, 15, 18).slice(2, 27, 30).fill_(255);  // twelve pixels right of the middle
  AugmentOptions options;
  options.rotate = 30;
  options.rotate_fill = {0, 0, 0};
  const at::Tensor result = augment(images, all_of(images), options, kSeed, 0);
  const at::Tensor rows = result.select(3, 0).to(at::kDouble).sum(2);
  const at::Tensor row = (rows * at::arange(33)).sum(1) / rows.sum(1);  // of the centre of light
  const at::Tensor degrees = at::asin((16 - row) / 12) * (180 / M_PI);
  EXPECT_NEAR(degrees.max().item<double>(), 30, 1.5);
  EXPECT_NEAR(degrees.min().item<double>(), -30, 1.5);
  EXPECT_NEAR(degrees.mean().item<double>(), 0, 5 * 30 / std::sqrt(3. * 400));
}

}  // namespace
}  // namespace skipway
