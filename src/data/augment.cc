// Flip and crop as one gather: every pixel of the result is read from where its draw says, with the
// same tensor operations on any device. The others image by image.
#include "data/augment.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "data/augment_key.h"

namespace skipway {
namespace {

constexpr const char* kModule = "augment";
// Beyond these, augment_warnings has something to say.
constexpr double kMuchRotation = 15;  // degrees
constexpr double kLittleCrop = 0.25;  // of the area
constexpr int64_t kSmallImage = 64;   // pixels a side
const std::vector<std::string> kWords = {"flip",   "crop",         "cutout", "jitter",
                                         "rotate", "resized-crop", "erase",  "mixup",
                                         "cutmix", "randaugment"};

std::vector<std::string> split_words(const std::string& words) {
  std::vector<std::string> result;
  if (words.empty() || words == "none") return result;
  for (size_t begin = 0; begin <= words.size();) {
    const size_t end = std::min(words.find(',', begin), words.size());
    result.push_back(words.substr(begin, end - begin));
    begin = end + 1;
  }
  return result;
}

// Positions outside 0 … size-1 come back in by mirroring at the edge pixel, which is not repeated.
at::Tensor reflect(const at::Tensor& position, int64_t size) {
  return (size - 1) - ((size - 1) - position.abs()).abs();
}

template <typename Value>
void require(bool holds, const char* flag, const Value& value, const char* allowed) {
  if (!holds) fail(ErrorKind::kUsage, kModule, "expected {}, got {} at {}", allowed, value, flag);
}

void require_range(double least, double most, double from, double to, const char* flag,
                   const char* allowed) {
  if (!(from <= least && least <= most && most <= to))
    fail(ErrorKind::kUsage, kModule, "expected {}, got {},{} at {}", allowed, least, most, flag);
}

void require_alpha(double alpha, const char* flag) {
  if (!(alpha >= kLeastAlpha && alpha <= kMostAlpha))
    fail(ErrorKind::kUsage, kModule, "expected a number from {} to {}, got {} at {}", kLeastAlpha,
         kMostAlpha, alpha, flag);
}

// Numbers of words that are not there as well: what a person gave is right or refused.
void check_numbers(const AugmentOptions& o) {
  constexpr const char* kRatios = "least,most width over height, from 0.1 to 10, such as 0.75,1.33";
  require(o.crop_pad >= 0, "--crop-pad", o.crop_pad, "at least 0 pixels");
  require(o.cutout >= 1, "--cutout", o.cutout, "at least 1 pixel");
  require(o.rotate >= 0 && o.rotate <= 180, "--rotate-degrees", o.rotate, "an angle in [0, 180]");
  const RectangleRange crop = o.resized_crop.value_or(RectangleRange());
  constexpr const char* kAreas = "least,most share of the area, from 0.01 to 1, such as 0.5,1";
  require_range(crop.least_area, crop.most_area, 0.01, 1, "--resized-crop-area", kAreas);
  require_range(crop.least_ratio, crop.most_ratio, 0.1, 10, "--resized-crop-ratio", kRatios);
  require(o.rand_augment.ops >= 1 && o.rand_augment.ops <= kRandOperations, "--randaugment-ops",
          o.rand_augment.ops, "1 to 14 operations");
  require(o.rand_augment.magnitude >= 0 && o.rand_augment.magnitude <= kMostMagnitude,
          "--randaugment-magnitude", o.rand_augment.magnitude, "a whole number from 0 to 30");
  const auto strength = [](double value, double most) { return value >= 0 && value <= most; };
  require(strength(o.jitter.brightness, 10), "--jitter-brightness", o.jitter.brightness, "0 to 10");
  require(strength(o.jitter.contrast, 10), "--jitter-contrast", o.jitter.contrast, "0 to 10");
  require(strength(o.jitter.saturation, 10), "--jitter-saturation", o.jitter.saturation, "0 to 10");
  require(strength(o.jitter.hue, 0.5), "--jitter-hue", o.jitter.hue, "0 to 0.5");
  require(strength(o.erase_probability, 1), "--erase-probability", o.erase_probability, "0 to 1");
  require_range(o.erase.least_area, o.erase.most_area, 0.01, 1, "--erase-area", kAreas);
  require_range(o.erase.least_ratio, o.erase.most_ratio, 0.1, 10, "--erase-ratio", kRatios);
  require_alpha(o.mix.mixup_alpha, "--mixup-alpha");
  require_alpha(o.mix.cutmix_alpha, "--cutmix-alpha");
}

bool image_by_image(const AugmentOptions& o) {
  return o.resized_crop || o.rotate > 0 || o.rand_augment.ops > 0 || o.jitter.any() ||
         o.erase_probability > 0;
}

void change_image(Pixels image, const AugmentOptions& o, uint64_t seed, int64_t epoch,
                  int64_t index) {
  const auto rng_for = [&](AugmentUse use) { return augment_rng(seed, epoch, index, use); };
  if (o.resized_crop) {
    Rng rng = rng_for(AugmentUse::kResizedCrop);
    resized_crop(image, draw_rectangle(*o.resized_crop, image.h, image.w, rng)
                            .value_or(middle_rectangle(*o.resized_crop, image.h, image.w)));
  }
  if (o.rotate > 0) {
    const double share = 2 * rng_for(AugmentUse::kRotate).uniform() - 1;
    // Nearest moves edges by up to half a pixel, which is much at 32 pixels a side.
    warp(image, rotation(o.rotate * share), Sampling::kBilinear, o.rotate_fill);
  }
  if (o.rand_augment.ops > 0)
    rand_augment(image, o.rand_augment, rng_for(AugmentUse::kRandAugment));
  if (o.jitter.any()) jitter(image, o.jitter, rng_for(AugmentUse::kJitter));
  if (o.erase_probability > 0) {
    Rng rng = rng_for(AugmentUse::kErase);
    if (rng.uniform() < o.erase_probability)
      if (const auto place = draw_rectangle(o.erase, image.h, image.w, rng)) erase(image, *place);
  }
}

// [b,h,w,3] on any device, image i being number indices[i] of the data.
at::Tensor change_images(const at::Tensor& images, const at::Tensor& indices,
                         const AugmentOptions& options, uint64_t seed, int64_t epoch) {
  const int64_t b = images.size(0), h = images.size(1), w = images.size(2);
  const at::Tensor result = images.cpu().contiguous();
  auto* const data = result.data_ptr<uint8_t>();
  const auto indices_at = indices.accessor<int64_t, 1>();
  at::parallel_for(0, b, /*grain=*/8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      change_image({data + i * h * w * 3, h, w}, options, seed, epoch, indices_at[i]);
  });
  return result.to(images.device());
}

}  // namespace

AugmentDraw draw_augmentation(const AugmentOptions& options, uint64_t seed, int64_t epoch,
                              int64_t image) {
  const auto epoch_key = static_cast<uint64_t>(epoch), image_key = static_cast<uint64_t>(image);
  Rng rng(seed, RngUse::kAugment, {epoch_key, image_key});
  AugmentDraw draw;
  // Drawn in every mode, so that the mode of flipping does not move the crops.
  const bool random_flip = rng.below(2) == 1;
  if (options.flip == Flip::kRandom) draw.flip = random_flip;
  if (options.flip == Flip::kAlternating) {
    Rng of_image(seed, RngUse::kAugment, {image_key});
    draw.flip = (of_image.below(2) + epoch_key) % 2 == 1;
  }
  if (options.crop_pad > 0) {
    const auto range = static_cast<uint64_t>(2 * options.crop_pad + 1);
    draw.shift_y = static_cast<int64_t>(rng.below(range)) - options.crop_pad;
    draw.shift_x = static_cast<int64_t>(rng.below(range)) - options.crop_pad;
  }
  if (options.cutout > 0) {
    Rng of_cutout = augment_rng(seed, epoch, image, AugmentUse::kCutout);
    draw.cut_y = of_cutout.uniform();
    draw.cut_x = of_cutout.uniform();
  }
  return draw;
}

AugmentOptions parse_augment(const std::string& words, const AugmentOptions& given) {
  check_numbers(given);
  const std::vector<std::string> chosen = split_words(words);
  for (const std::string& word : chosen)
    if (std::ranges::find(kWords, word) == kWords.end())
      fail(ErrorKind::kUsage, kModule,
           "expected words from {} (separated by commas), or none, got \"{}\" at --augment \"{}\"",
           fmt::join(kWords, ", "), word, words);
  const auto has = [&](const char* word) {
    return std::ranges::find(chosen, word) != chosen.end();
  };
  AugmentOptions options;
  options.crop_fill = given.crop_fill;
  if (has("flip")) options.flip = given.flip;
  if (has("crop")) options.crop_pad = given.crop_pad;
  if (has("resized-crop")) options.resized_crop = given.resized_crop;
  if (has("rotate")) options.rotate = given.rotate, options.rotate_fill = given.rotate_fill;
  if (has("randaugment")) options.rand_augment = given.rand_augment;
  if (has("jitter")) options.jitter = given.jitter;
  if (has("erase"))
    options.erase = given.erase, options.erase_probability = given.erase_probability;
  if (has("cutout")) options.cutout = given.cutout;
  if (has("mixup")) options.mix.mixup_alpha = given.mix.mixup_alpha;
  if (has("cutmix")) options.mix.cutmix_alpha = given.mix.cutmix_alpha;
  return options;
}

std::vector<std::string> augment_warnings(const AugmentOptions& options, int64_t image_size) {
  std::vector<std::string> warnings;
  if (image_size > kSmallImage) return warnings;
  if (options.rotate > kMuchRotation) {
    const auto percent = [&](double degrees) {
      return 100 * rotated_fill_share(degrees, image_size);
    };
    // Beyond 45 degrees the corners come back in.
    const double worst = std::min(options.rotate, 45.0);
    warnings.push_back(fmt::format(
        "rotating {} x {} pixels by up to {:g} degrees fills up to {:.0f} % of an image from "
        "outside, "
        "against {:.0f} % at {:g}, and shows objects at angles that test images hardly have; "
        "--rotate-degrees {:g} or less is safer",
        image_size, image_size, options.rotate, percent(worst), percent(kMuchRotation),
        kMuchRotation, kMuchRotation));
  }
  if (options.resized_crop && options.resized_crop->least_area < kLittleCrop) {
    const double side =
        static_cast<double>(image_size) * std::sqrt(options.resized_crop->least_area);
    warnings.push_back(fmt::format(
        "--resized-crop-area from {:g} enlarges crops as small as {:.0f} x {:.0f} of {} x {} "
        "pixels, which often leave the object out; {:g} or more is safer",
        options.resized_crop->least_area, side, side, image_size, image_size, kLittleCrop));
  }
  return warnings;
}

at::Tensor augment(const at::Tensor& images, const at::Tensor& indices,
                   const AugmentOptions& options, uint64_t seed, int64_t epoch) {
  const int64_t b = indices.size(0), h = images.size(1), w = images.size(2), c = images.size(3);
  if (options.crop_pad >= std::min(h, w))
    fail(ErrorKind::kUsage, kModule,
         "expected less than the image's side of {} pixels, got {} at --crop-pad", std::min(h, w),
         options.crop_pad);

  at::Tensor draws = at::empty({6, b, 1}, at::kLong);
  auto draws_at = draws.accessor<int64_t, 3>();
  auto indices_at = indices.accessor<int64_t, 1>();
  for (int64_t i = 0; i < b; ++i) {
    const AugmentDraw draw = draw_augmentation(options, seed, epoch, indices_at[i]);
    draws_at[0][i][0] = indices_at[i];
    draws_at[1][i][0] = draw.shift_y;
    draws_at[2][i][0] = draw.shift_x;
    draws_at[3][i][0] = draw.flip;
    draws_at[4][i][0] =
        static_cast<int64_t>(draw.cut_y * static_cast<double>(h)) - options.cutout / 2;
    draws_at[5][i][0] =
        static_cast<int64_t>(draw.cut_x * static_cast<double>(w)) - options.cutout / 2;
  }
  draws = draws.to(images.device(), draws.scalar_type(), /*non_blocking=*/true);
  const at::Tensor image = draws[0], shift_y = draws[1], shift_x = draws[2], flip = draws[3];

  // Where column x of the result comes from: cropped at shift_x first, then mirrored.
  const at::Tensor column = at::arange(w, draws.options());
  at::Tensor y = at::arange(h, draws.options()) + shift_y;          // [b,h]
  at::Tensor x = column + flip * ((w - 1) - 2 * column) + shift_x;  // [b,w]
  at::Tensor inside;                                                // [b,h,w]
  if (options.crop_fill == CropFill::kReflect) {
    y = reflect(y, h);
    x = reflect(x, w);
  } else if (options.crop_pad > 0) {
    inside = ((y >= 0) & (y < h)).unsqueeze(2) & ((x >= 0) & (x < w)).unsqueeze(1);
    y = y.clamp(0, h - 1);
    x = x.clamp(0, w - 1);
  }
  const at::Tensor pixel = ((image * h + y) * w).unsqueeze(2) + x.unsqueeze(1);
  at::Tensor result = images.reshape({-1, c}).index_select(0, pixel.flatten()).view({b, h, w, c});
  if (inside.defined()) result.mul_(inside.unsqueeze(3));
  if (image_by_image(options)) result = change_images(result, indices, options, seed, epoch);
  if (options.cutout > 0) {
    const auto covered = [&](const at::Tensor& begin, int64_t side) {  // [b,side]
      const at::Tensor place = at::arange(side, draws.options()) - begin;
      return (place >= 0) & (place < options.cutout);
    };
    const at::Tensor square = covered(draws[4], h).unsqueeze(2) & covered(draws[5], w).unsqueeze(1);
    result.masked_fill_(square.unsqueeze(3), kGrey);
  }
  return result;
}

at::Tensor shrink(const at::Tensor& images, int64_t side) {
  return at::adaptive_avg_pool2d(images, {side, side});
}

at::Tensor normalise(const at::Tensor& images, const Normalisation& normalisation,
                     at::ScalarType type) {
  const int64_t b = images.size(0), h = images.size(1), w = images.size(2);
  std::array<float, 3> scale{}, bias{};
  for (size_t i = 0; i < 3; ++i) {
    scale[i] = static_cast<float>(1 / (255 * normalisation.std[i]));
    bias[i] = static_cast<float>(-normalisation.mean[i] / normalisation.std[i]);
  }
  // Repeated over a row of pixels: three at a time would leave vector instructions unused.
  auto along_row = [&](const std::array<float, 3>& of_channel) {
    return at::tensor(at::ArrayRef<float>(of_channel))
        .to(images.device(), at::kFloat, /*non_blocking=*/true)
        .repeat({w});
  };
  return at::addcmul(along_row(bias), images.reshape({b * h, w * 3}).to(at::kFloat),
                     along_row(scale))
      .to(type)
      .view({b, h, w, 3})
      .permute({0, 3, 1, 2});
}

}  // namespace skipway
