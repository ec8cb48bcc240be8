#include <gtest/gtest.h>

#include "base/rng.h"

TEST(Rng, SameKeyGivesSameNumbers) {
  skipway::Rng a(1, skipway::RngUse::kShuffle, {2}), b(1, skipway::RngUse::kShuffle, {2});
  EXPECT_EQ(a.next(), b.next());
}
