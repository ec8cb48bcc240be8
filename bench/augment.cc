// Time of each augmentation for a batch of 256 images of 32 x 32 pixels, with its default numbers.
//
//     skipway_augment_bench [THREADS]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/clock.h"
#include "train/config.h"

namespace skipway {
namespace {

constexpr int64_t kBatch = 256, kSide = 32;
constexpr int kRepeats = 20;

// The shortest of a few batches [ms].
double batch_ms(const at::Tensor& images, const std::string& words) {
  Config config;
  config.augment = words;
  const AugmentOptions options = augment_options(config, 0);
  const at::Tensor indices = at::arange(kBatch, at::kLong);
  double shortest_s = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const Stopwatch watch;
    const at::Tensor result = augment(images, indices, options, 0, i);
    if (options.mix.any()) mix(result, indices, options.mix, 0, i);
    shortest_s = std::min(shortest_s, watch.seconds());
  }
  return 1000 * shortest_s;
}

}  // namespace
}  // namespace skipway

int main(int count, char** arguments) {
  if (count > 1) at::set_num_threads(std::atoi(arguments[1]));
  const at::Tensor images =
      at::randint(0, 256, {skipway::kBatch, skipway::kSide, skipway::kSide, 3}, at::kByte);
  fmt::print("batch of {} images of {} x {}, {} threads\n", skipway::kBatch, skipway::kSide,
             skipway::kSide, at::get_num_threads());
  for (const char* words :
       {"none", "flip,crop", "cutout", "resized-crop", "rotate", "randaugment", "jitter", "erase",
        "mixup", "cutmix",
        "flip,crop,resized-crop,rotate,randaugment,jitter,erase,cutout,mixup,cutmix"})
    fmt::print("{:6.2f} ms  {}\n", skipway::batch_ms(images, words), words);
}
