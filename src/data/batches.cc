// Cuts each epoch's permutation into batches. What happens to an image is augment.cc's business.
#include "data/batches.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"

namespace skipway {

Batches::Batches(const Split& split, int64_t batch_size, const AugmentOptions& augmentation,
                 const Normalisation& normalisation, uint64_t seed, at::ScalarType type)
    : split_(split),
      batch_size_(batch_size),
      augmentation_(augmentation),
      normalisation_(normalisation),
      seed_(seed),
      type_(type) {
  if (split.size() < 1)
    fail(ErrorKind::kData, "batches", "expected at least one training image, got none");
  if (batch_size < 1)
    fail(ErrorKind::kUsage, "batches", "expected at least 1, got {} at --batch", batch_size);
}

int64_t Batches::steps_per_epoch() const { return (image_count() + batch_size_ - 1) / batch_size_; }

int64_t Batches::images_before(int64_t step) const {
  return step / steps_per_epoch() * image_count() + step % steps_per_epoch() * batch_size_;
}

Batch Batches::at_step(int64_t step, int64_t side) {
  const int64_t epoch = step / steps_per_epoch();
  const int64_t begin = step % steps_per_epoch() * batch_size_;
  if (epoch != order_epoch_) {
    order_ = at::tensor(
        permutation(image_count(), Rng(seed_, RngUse::kShuffle, {static_cast<uint64_t>(epoch)})));
    order_epoch_ = epoch;
  }
  Batch batch;
  batch.indices = order_.slice(0, begin, std::min(begin + batch_size_, image_count()));
  const at::Device device = split_.labels.device();
  batch.labels = split_.labels.index_select(
      0, batch.indices.to(device, batch.indices.scalar_type(), /*non_blocking=*/true));
  batch.pixels = augment(split_.images, batch.indices, augmentation_, seed_, epoch);
  if (augmentation_.mix.any()) {
    const Mixed mixed = mix(batch.pixels, batch.indices, augmentation_.mix, seed_, epoch);
    batch.pixels = mixed.images;
    batch.own_share = mixed.own_share;
    batch.other_labels = others_of(batch.labels);
  }
  batch.side = side == 0 ? batch.pixels.size(1) : side;
  return batch;
}

at::Tensor Batches::input(const Batch& batch) const {
  if (batch.side == batch.pixels.size(1)) return normalise(batch.pixels, normalisation_, type_);
  return shrink(normalise(batch.pixels, normalisation_, at::kFloat), batch.side).to(type_);
}

}  // namespace skipway
