#include "base/clock.h"

#include <gtest/gtest.h>

namespace skipway {
namespace {

TEST(Settled, LeavesOutWhatIsSlowAtTheBeginning) {
  EXPECT_EQ(settled({}), 0);
  EXPECT_EQ(settled({2}), 2);
  EXPECT_EQ(settled({1.6, 1.4, 1.2, 1.0}), 1.0);  // not settled yet: the last is the best guess
  EXPECT_EQ(settled({1.6, 1.4, 1.0, 1.01, 1.02}), 1.01);
  EXPECT_EQ(settled({1.0, 1.01, 1.5, 1.02}), 1.02);  // a slow one later is one of many
  EXPECT_EQ(settled({3.0, 3.1, 1.0, 1.0, 1.0}), 1.0);
}

}  // namespace
}  // namespace skipway
