// What Rng gives is part of a run's record: a resumed run, and one that is repeated, see the same
// images only where these numbers stay.
#include "base/rng.h"

#include <gtest/gtest.h>

#include <map>

namespace skipway {
namespace {

TEST(Rng, GivesWhatEarlierVersionsGave) {
  EXPECT_EQ(Rng(0, RngUse::kShuffle).next(), 0x1cd364143cce4aaeULL);
  EXPECT_EQ(Rng(7, RngUse::kAugment, {3, 17, 5}).below(1000), 848u);
  EXPECT_EQ(permutation(8, Rng(0, RngUse::kShuffle, {0})),
            (std::vector<int64_t>{5, 3, 4, 1, 6, 0, 2, 7}));
  EXPECT_EQ(permutation(8, Rng(7, RngUse::kSplit, {1})),
            (std::vector<int64_t>{5, 6, 2, 1, 4, 0, 7, 3}));
}

TEST(Rng, EveryPermutationIsEquallyLikely) {
  std::map<std::vector<int64_t>, double> counts;
  for (uint64_t key = 0; key < 2400; ++key)
    ++counts[permutation(4, Rng(1, RngUse::kShuffle, {key}))];
  EXPECT_EQ(counts.size(), 24u);
  double chi_square = 0;
  for (const auto& [order, count] : counts) chi_square += (count - 100) * (count - 100) / 100;
  EXPECT_LT(chi_square, 49.73);  // 99.9 % quantile with 23 degrees of freedom
}

}  // namespace
}  // namespace skipway
