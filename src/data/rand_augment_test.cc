// Which operations are drawn; tests/augment_parity_test.cc compares each with torchvision.
#include "data/rand_augment.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "data/pixels_for_test.h"

namespace skipway {
namespace {

constexpr int64_t kSide = 32;

// A picture whose operations all give different ones; it has neither black nor white, so that
// autocontrast changes it.
std::vector<uint8_t> picture() { return random_picture(kSide, kSide, 40, 220); }

std::vector<uint8_t> drawn(int64_t ops, uint64_t key) {
  std::vector<uint8_t> values = picture();
  rand_augment({values.data(), kSide, kSide}, {.ops = ops, .magnitude = 9},
               Rng(1, RngUse::kAugment, {key}));
  return values;
}

TEST(RandAugment, DrawsEveryOperationAndItsTwoSidesAlike) {
  struct Cell {
    int ways = 0;  // pairs of operation and side that make the same picture
    int draws = 0;
  };
  std::map<std::vector<uint8_t>, Cell> cells;
  for (int operation = 0; operation < kRandOperations; ++operation)
    for (const bool opposite : {false, true}) {
      std::vector<uint8_t> values = picture();
      apply(static_cast<RandOperation>(operation), {values.data(), kSide, kSide}, 9, opposite);
      ++cells[values].ways;
    }
  EXPECT_EQ(cells.size(), 23u);  // five operations have one side
  constexpr int kDraws = 2800;
  for (uint64_t key = 0; key < kDraws; ++key) {
    const auto found = cells.find(drawn(1, key));
    ASSERT_NE(found, cells.end()) << key;
    ++found->second.draws;
  }
  double chi_square = 0;
  for (const auto& [values, cell] : cells) {
    const double expected = kDraws * cell.ways / (2. * kRandOperations);
    chi_square += (cell.draws - expected) * (cell.draws - expected) / expected;
  }
  EXPECT_LT(chi_square, 48.27);  // 99.9 % quantile with 22 degrees of freedom
}

TEST(RandAugment, TwoOperationsAreSeldomLikeOne) {
  std::map<std::vector<uint8_t>, int> of_one;
  for (uint64_t key = 0; key < 300; ++key) ++of_one[drawn(1, key)];
  int like_one = 0;
  for (uint64_t key = 0; key < 300; ++key) like_one += of_one.contains(drawn(2, key));
  EXPECT_LT(like_one, 100);  // where one of the two changes nothing
}

}  // namespace
}  // namespace skipway
