// The laws of the order in which a run sees its images.
#include "data/batches.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace skipway {
namespace {

constexpr int64_t kImages = 103;  // prime: never a whole number of batches
const AugmentOptions kAugmentation = [] {
  AugmentOptions options;
  options.flip = Flip::kRandom;
  options.crop_pad = 2;
  return options;
}();

Split random_split() {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{5});
  Split split;
  split.images = at::randint(0, 256, {kImages, 8, 8, 3}, generator, at::kByte);
  split.labels = at::arange(kImages, at::kLong) * 3;
  return split;
}

Batches make_batches(int64_t batch_size, uint64_t seed = 1) {
  return Batches(random_split(), batch_size, kAugmentation, {}, seed);
}

TEST(Batches, EveryImageComesOnceAnEpochAndTheLastBatchIsPartial) {
  Batches batches = make_batches(10);
  EXPECT_EQ(batches.steps_per_epoch(), 11);
  at::Tensor first_order;
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    std::vector<at::Tensor> seen;
    for (int64_t i = 0; i < 11; ++i) {
      Batch batch = batches.at_step(epoch * 11 + i);
      EXPECT_EQ(batch.indices.size(0), i < 10 ? 10 : 3);
      EXPECT_EQ(batches.input(batch).sizes(), at::IntArrayRef({batch.indices.size(0), 3, 8, 8}));
      EXPECT_TRUE(at::equal(batch.labels, batch.indices * 3));
      seen.push_back(batch.indices);
    }
    at::Tensor order = at::cat(seen);
    EXPECT_TRUE(at::equal(std::get<0>(order.sort()), at::arange(kImages, at::kLong)));
    EXPECT_FALSE(at::equal(order, at::arange(kImages, at::kLong)));
    if (epoch == 0)
      first_order = order;
    else
      EXPECT_FALSE(at::equal(order, first_order));
  }
}

TEST(Batches, MixingAddsTheOtherLabelAndTheShare) {
  Batches plain = make_batches(10), mixing = make_batches(10);
  AugmentOptions options = kAugmentation;
  options.mix.mixup_alpha = 1;
  mixing.set_augmentation(options);
  const Batch a = plain.at_step(3), b = mixing.at_step(3), again = mixing.at_step(3);
  EXPECT_FALSE(a.own_share.defined() || a.other_labels.defined());
  EXPECT_TRUE(at::equal(a.labels, b.labels));
  EXPECT_TRUE(at::equal(b.other_labels, others_of(b.labels)));
  EXPECT_TRUE(at::equal(b.pixels, again.pixels) && at::equal(b.own_share, again.own_share));
  const at::Tensor one = a.pixels.to(at::kFloat), share = b.own_share.view({-1, 1, 1, 1});
  const at::Tensor expected = at::lerp(others_of(one), one, share);
  EXPECT_LT((b.pixels - expected).abs().max().item<float>(), 0.51);
}

TEST(Batches, AStepGivesTheSameBatchAtAnyTime) {
  Batches going = make_batches(10), fresh = make_batches(10);
  for (int64_t step = 0; step < 30; ++step) going.at_step(step);
  for (int64_t step : {13, 29, 0}) {
    Batch a = going.at_step(step), b = fresh.at_step(step);
    EXPECT_TRUE(at::equal(a.indices, b.indices));
    EXPECT_TRUE(at::equal(a.pixels, b.pixels));
  }
}

TEST(Batches, BatchSizeChangesNeitherOrderNorAugmentation) {
  auto epoch_of = [](int64_t batch_size) {
    Batches batches = make_batches(batch_size);
    std::vector<at::Tensor> images;
    for (int64_t i = 0; i < batches.steps_per_epoch(); ++i)
      images.push_back(batches.at_step(batches.steps_per_epoch() + i).pixels);
    return at::cat(images);
  };
  at::Tensor expected = epoch_of(kImages);
  for (int64_t batch_size : {1, 10, 1000})
    EXPECT_TRUE(at::equal(epoch_of(batch_size), expected)) << batch_size;
}

TEST(Batches, SmallerImagesAreMeansOfTheSameOnes) {
  Batches batches = make_batches(10);
  const at::Tensor whole = batches.input(batches.at_step(3)),
                   half = batches.input(batches.at_step(3, 4));
  EXPECT_EQ(half.sizes(), at::IntArrayRef({10, 3, 4, 4}));
  EXPECT_TRUE(half.is_contiguous(at::MemoryFormat::ChannelsLast));
  const at::Tensor blocks = whole.contiguous().view({10, 3, 4, 2, 4, 2});
  EXPECT_TRUE(at::allclose(half, blocks.mean({3, 5})));
}

TEST(Batches, CountsImagesBeforeAStep) {
  Batches batches = make_batches(10);
  int64_t images = 0;
  for (int64_t step = 0; step < 25; ++step) {
    EXPECT_EQ(batches.images_before(step), images);
    images += batches.at_step(step).indices.size(0);
  }
}

TEST(Batches, SeedsDiffer) {
  EXPECT_FALSE(
      at::equal(make_batches(103, 1).at_step(0).indices, make_batches(103, 2).at_step(0).indices));
}

TEST(Batches, RefusesAnEmptySplitAndAnEmptyBatch) {
  EXPECT_THROW(make_batches(0), Error);
  EXPECT_THROW(Batches({}, 10, {}, {}, 0), Error);
}

}  // namespace
}  // namespace skipway
