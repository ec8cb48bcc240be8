#include "base/clock.h"

#include <gtest/gtest.h>

namespace skipway {
namespace {

TEST(Settled, LeavesOutWhatIsSlowAtTheBeginning) {
  EXPECT_EQ(settled({}), 0);
  EXPECT_EQ(settled({2}), 2);
  EXPECT_EQ(settled({1.6, 1.4, 1.2, 1.0}), 1.0);  // not settled yet: the last is the best guess
  EXPECT_DOUBLE_EQ(settled({1.6, 1.4, 1.0, 1.01, 1.02}), 1.01);
  EXPECT_DOUBLE_EQ(settled({1.0, 1.02, 1.3, 1.08}), 1.1);   // slower ones later count,
  EXPECT_DOUBLE_EQ(settled({1.0, 1.01, 1.6, 1.02}), 1.01);  // but not what something else made slow
  EXPECT_EQ(settled({3.0, 3.1, 1.0, 1.0, 1.0}), 1.0);
}

}  // namespace
}  // namespace skipway
