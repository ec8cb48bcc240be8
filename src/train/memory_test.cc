// The search for the largest batch. Memory that really runs out: see learner_test.cc.
#include "train/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace skipway {
namespace {

using testing::ElementsAre;

// What was asked, and the answer last.
std::vector<int64_t> search(int64_t first, int64_t most, int64_t limit) {
  std::vector<int64_t> asked;
  const int64_t found = largest_that_fits(first, most, [&](int64_t n) {
    asked.push_back(n);
    return n <= limit;
  });
  asked.push_back(found);
  return asked;
}

TEST(LargestThatFits, DoublesThenNarrowsToAnEighth) {
  EXPECT_THAT(search(128, 50000, 700), ElementsAre(128, 256, 512, 1024, 768, 640, 704, 640));
}

TEST(LargestThatFits, HalvesWhenTheFirstIsTooMany) {
  EXPECT_THAT(search(128, 50000, 40), ElementsAre(128, 64, 32, 48, 40, 44, 40));
}

TEST(LargestThatFits, AsksForNoMoreThanThereAre) {
  EXPECT_THAT(search(128, 300, 1000), ElementsAre(128, 256, 300, 300));
  EXPECT_THAT(search(128, 100, 1000), ElementsAre(100, 100));
}

TEST(LargestThatFits, WithoutMemoryForOneTheAnswerIsNone) {
  EXPECT_THAT(search(4, 100, 0), ElementsAre(4, 2, 1, 0));
}

TEST(LargestThatFits, TheAnswerFitsAndIsAtMostAnEighthTooLow) {
  for (int64_t limit = 1; limit < 600; ++limit) {
    const int64_t found = search(32, 500, limit).back();
    EXPECT_LE(found, limit);
    EXPECT_GT(found + std::max<int64_t>(1, found / 8), std::min<int64_t>(limit, 499)) << limit;
  }
}

}  // namespace
}  // namespace skipway
