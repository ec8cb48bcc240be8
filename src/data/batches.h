// The order in which a training run sees its images, as a function of (seed, step): nothing to
// save, nothing to restore.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "data/augment.h"
#include "data/dataset.h"

namespace skipway {

struct Batch {
  at::Tensor pixels;   // uint8 [b,h,w,3], augmented; the model's input is Batches::input()
  int64_t side = 0;    // of that input [pixels]
  at::Tensor labels;   // int64 [b]
  at::Tensor indices;  // int64 [b] on the CPU: rows of the split
  // Mixup and cutmix only, else undefined: the label of the image mixed in, int64 [b], and the
  // share that `labels` keeps, float [b].
  at::Tensor other_labels;
  at::Tensor own_share;
};

class Batches {
 public:
  /// Keeps the last, partial batch of an epoch. `split`'s tensors may be on any device; batches
  /// come on the same one.
  Batches(const Split& split, int64_t batch_size, const AugmentOptions& augmentation,
          const Normalisation& normalisation, uint64_t seed, at::ScalarType type = at::kFloat);

  /// From the next batch on.
  void set_augmentation(const AugmentOptions& augmentation) { augmentation_ = augmentation; }
  int64_t steps_per_epoch() const;
  int64_t image_count() const { return split_.size(); }
  /// Of every step but an epoch's last, which may have fewer [images].
  int64_t images_per_step() const { return std::min(batch_size_, image_count()); }
  /// Of a step on average, an epoch's last included [images].
  double mean_images_per_step() const {
    return static_cast<double>(image_count()) / static_cast<double>(steps_per_epoch());
  }
  /// Images seen before `step` [images].
  int64_t images_before(int64_t step) const;
  /// Batch of a global step (0-based). The same step gives the same batch at any time.
  /// `side`: the images are made smaller, to this many pixels a side; 0: as they are.
  Batch at_step(int64_t step, int64_t side = 0);
  /// What a model takes of a batch, or of some of its images: [b,3,side,side] normalised,
  /// channels_last. It has two or four times as many bytes as the batch.
  at::Tensor input(const Batch& batch) const;

 private:
  Split split_;
  int64_t batch_size_;
  AugmentOptions augmentation_;
  Normalisation normalisation_;
  uint64_t seed_;
  at::ScalarType type_;
  int64_t order_epoch_ = -1;
  at::Tensor order_;  // the epoch's permutation
};

}  // namespace skipway
