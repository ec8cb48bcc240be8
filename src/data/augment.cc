// Augmentation as one gather: every pixel of the result is read from where its draw says. The same
// tensor operations on any device.
#include "data/augment.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "base/rng.h"

namespace skipway {
namespace {

constexpr const char* kModule = "augment";
constexpr int64_t kGrey = 127;

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
    Rng of_cutout(seed, RngUse::kAugment, {epoch_key, image_key, 1});  // moves no other draw
    draw.cut_y = of_cutout.uniform();
    draw.cut_x = of_cutout.uniform();
  }
  return draw;
}

AugmentOptions parse_augment(const std::string& words, const std::string& flip_mode,
                             int64_t crop_pad, const std::string& crop_fill, int64_t cutout) {
  bool flip = false, crop = false, cut = false;
  for (const std::string& word : split_words(words)) {
    if (word == "flip")
      flip = true;
    else if (word == "crop")
      crop = true;
    else if (word == "cutout")
      cut = true;
    else
      fail(ErrorKind::kUsage, kModule,
           "expected words from flip, crop, cutout (separated by commas), or none, got \"{}\" at "
           "--augment \"{}\"",
           word, words);
  }
  AugmentOptions options;
  if (flip_mode != "random" && flip_mode != "alternating")
    fail(ErrorKind::kUsage, kModule, "expected random or alternating, got \"{}\" at --flip-mode",
         flip_mode);
  if (flip) options.flip = flip_mode == "random" ? Flip::kRandom : Flip::kAlternating;
  if (crop_pad < 0)
    fail(ErrorKind::kUsage, kModule, "expected at least 0 pixels, got {} at --crop-pad", crop_pad);
  if (crop) options.crop_pad = crop_pad;
  if (cutout < 1)
    fail(ErrorKind::kUsage, kModule, "expected at least 1 pixel, got {} at --cutout", cutout);
  if (cut) options.cutout = cutout;
  if (crop_fill != "zero" && crop_fill != "reflect")
    fail(ErrorKind::kUsage, kModule, "expected zero or reflect, got \"{}\" at --crop-fill",
         crop_fill);
  options.crop_fill = crop_fill == "zero" ? CropFill::kZero : CropFill::kReflect;
  return options;
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
  draws = draws.to(images.device());
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
    return at::tensor(at::ArrayRef<float>(of_channel)).to(images.device()).repeat({w});
  };
  return at::addcmul(along_row(bias), images.reshape({b * h, w * 3}).to(at::kFloat),
                     along_row(scale))
      .to(type)
      .view({b, h, w, 3})
      .permute({0, 3, 1, 2});
}

}  // namespace skipway
