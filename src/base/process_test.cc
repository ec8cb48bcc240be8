#include "base/process.h"

#include <gtest/gtest.h>

#include "base/for_test.h"

namespace skipway {
namespace {

// Files with the contents that Linux gives them.
TEST(Process, AContainerLeavesItsLimitWithoutWhatIsTakenButForFilesKeptInMemory) {
  const TemporaryFolder group;
  EXPECT_EQ(memory_left_in(group.path()), std::nullopt);
  group.write("memory.max", "max\n");
  EXPECT_EQ(memory_left_in(group.path()), std::nullopt);
  group.write("memory.max", "8000\n");
  EXPECT_EQ(memory_left_in(group.path()), 8000);
  group.write("memory.current", "5000\n");
  group.write("memory.stat", "anon 3000\nfile 2000\ninactive_file 1500\nactive_file 400\n");
  EXPECT_EQ(memory_left_in(group.path()), 8000 - (5000 - 1900));
  group.write("memory.current", "12000\n");
  EXPECT_EQ(memory_left_in(group.path()), 0);
}

TEST(Process, ACpuQuotaIsWorthSoManyCores) {
  const TemporaryFolder group;
  EXPECT_EQ(cores_granted_by(group.path()), std::nullopt);
  group.write("cpu.max", "max 100000\n");
  EXPECT_EQ(cores_granted_by(group.path()), std::nullopt);
  group.write("cpu.max", "200000 100000\n");
  EXPECT_EQ(cores_granted_by(group.path()), 2);
  group.write("cpu.max", "150000 100000\n");
  EXPECT_EQ(cores_granted_by(group.path()), 2);
  group.write("cpu.max", "1000 100000\n");
  EXPECT_EQ(cores_granted_by(group.path()), 1);
}

}  // namespace
}  // namespace skipway
