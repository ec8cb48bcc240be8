#include "train/same_run.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace skipway {
namespace {

TEST(SameRun, NamesTheSettingThatChanged) {
  const std::string begun = "lr = 0.1\nbatch = 128\nflip = \"a # b\"\n";
  EXPECT_EQ(changed_setting(begun, begun), "");
  EXPECT_EQ(changed_setting(begun, "lr = 0.2\nbatch = 128\nflip = \"a # b\"\n"), "lr");
  EXPECT_EQ(changed_setting(begun, "lr = 0.1\nbatch = 128\n"), "flip");
  EXPECT_EQ(changed_setting(begun, begun + "seed = 1\n"), "seed");
  EXPECT_EQ(changed_setting(begun, begun.substr(0, begun.size() - 4) + "c\"\n"), "flip");
  EXPECT_EQ(changed_setting(begun, ""), "batch");
}

TEST(SameRun, OrderCommentsAndWhereItRunsDoNotMatter) {
  EXPECT_EQ(changed_setting("lr = 0.1  # flag\nbatch = 128\ndata = \"a\"\nthreads = 2\n",
                            "batch = 128\n\nlr = 0.1\ndata = \"b\"\nthreads = 1\n"),
            "");
  EXPECT_EQ(changed_setting("device = \"cuda:0\"\n", "device = \"cpu\"\n"), "");
  // A run that memory ended goes on with less.
  EXPECT_EQ(changed_setting("microbatch = \"auto\"\neval_batch = 0\n",
                            "microbatch = \"32\"\neval_batch = 16\n"),
            "");
  // What they named is part of the checkpoint, which may not have its name byte for byte.
  EXPECT_EQ(changed_setting("weights = \"caf\xEF\xBF\xBD.pth\"\n", "weights = \"caf\xE9.pth\"\n"),
            "");
}

TEST(SameRun, LabelsAndNamesOfClassesHaveADigest) {
  Dataset data;
  data.classes = {"a", "b"};
  data.train.labels = at::tensor({0, 1, 1}, at::kLong);
  const std::string digest = labels_sha256(data);
  EXPECT_EQ(labels_sha256(data), digest);
  Dataset other = data;
  other.classes = {"ab", ""};
  EXPECT_NE(labels_sha256(other), digest);
  other = data;
  other.train.labels = at::tensor({1, 0, 1}, at::kLong);
  EXPECT_NE(labels_sha256(other), digest);
}

}  // namespace
}  // namespace skipway
