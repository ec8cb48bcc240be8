// Tests of the table of known data sets and of finding local copies. Nothing is downloaded.
#include "data/known.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <set>

#include "base/for_test.h"

namespace skipway {
namespace {

// SKIPWAY_DATA points to an empty folder of the test's own.
class Known : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* before = std::getenv("SKIPWAY_DATA")) before_ = before;
    setenv("SKIPWAY_DATA", data_.path().c_str(), 1);
  }
  void TearDown() override {
    if (before_) {
      setenv("SKIPWAY_DATA", before_->c_str(), 1);
    } else {
      unsetenv("SKIPWAY_DATA");
    }
  }

  // A file of that size that takes no room on the disk.
  void put(const fs::path& relative, int64_t bytes) {
    fs::resize_file(data_.write(relative.string(), ""), static_cast<uintmax_t>(bytes));
  }

  TemporaryFolder data_;
  std::optional<std::string> before_;
};

TEST_F(Known, EveryFileHasMirrorsAndAChecksumOfTheRightLength) {
  std::set<std::string> names;
  for (const KnownDataset& dataset : known_datasets()) {
    EXPECT_TRUE(names.insert(dataset.name).second) << dataset.name;
    EXPECT_FALSE(dataset.folder.empty());
    ASSERT_FALSE(dataset.files.empty());
    for (const KnownFile& file : dataset.files) {
      EXPECT_EQ(file.hash.size(), file.hash_kind == HashKind::kMd5 ? 32U : 64U) << file.name;
      EXPECT_EQ(file.hash.find_first_not_of("0123456789abcdef"), std::string::npos) << file.name;
      EXPECT_GE(file.urls.size(), 2U) << file.name;
      for (const std::string& url : file.urls) {
        EXPECT_TRUE(url.starts_with("http") && url.ends_with("/" + file.name)) << url;
      }
    }
  }
  EXPECT_EQ(names,
            (std::set<std::string>{"cifar10", "cifar100", "cifar100-coarse", "fashion-mnist"}));
}

TEST_F(Known, AnUnknownNameIsNotFound) {
  EXPECT_NE(find_known_dataset("cifar10"), nullptr);
  EXPECT_EQ(find_known_dataset("cifar11"), nullptr);
}

TEST_F(Known, FindsTheArchiveInItsFolderAndBesideIt) {
  const KnownDataset& cifar = *find_known_dataset("cifar10");
  EXPECT_EQ(find_local(cifar), std::nullopt);
  put("cifar-10-binary.tar.gz", 170052171);
  EXPECT_EQ(find_local(cifar), data_ / "cifar-10-binary.tar.gz");
  put("cifar10/cifar-10-binary.tar.gz", 170052171);
  EXPECT_EQ(find_local(cifar), data_ / "cifar10/cifar-10-binary.tar.gz");
}

TEST_F(Known, AnArchiveCutShortDoesNotCount) {
  put("cifar10/cifar-10-binary.tar.gz", 170052170);
  EXPECT_EQ(find_local(*find_known_dataset("cifar10")), std::nullopt);
}

TEST_F(Known, FindsTheUnpackedFolderOnlyWhenItIsComplete) {
  const KnownDataset& cifar = *find_known_dataset("cifar10");
  for (int i = 1; i <= 5; ++i) {
    put("cifar-10-batches-bin/data_batch_" + std::to_string(i) + ".bin", 10);
  }
  EXPECT_EQ(find_local(cifar), std::nullopt);
  put("cifar-10-batches-bin/test_batch.bin", 10);
  EXPECT_EQ(find_local(cifar), data_ / "cifar-10-batches-bin");
}

TEST_F(Known, BothLabellingsOfCifar100ShareTheArchive) {
  put("cifar100/cifar-100-binary.tar.gz", 168513733);
  EXPECT_EQ(find_local(*find_known_dataset("cifar100")),
            data_ / "cifar100/cifar-100-binary.tar.gz");
  EXPECT_EQ(find_local(*find_known_dataset("cifar100-coarse")),
            data_ / "cifar100/cifar-100-binary.tar.gz");
}

TEST_F(Known, FashionMnistPrefersTheDownloadedFilesOverDebians) {
  const KnownDataset& fashion = *find_known_dataset("fashion-mnist");
  if (fs::exists("/usr/share/datasets/fashion-mnist")) {
    EXPECT_EQ(find_local(fashion), fs::path("/usr/share/datasets/fashion-mnist"));
  }
  for (const KnownFile& file : fashion.files)
    put(fs::path("fashion-mnist") / file.name, file.bytes);
  EXPECT_EQ(find_local(fashion), data_ / "fashion-mnist");
}

}  // namespace
}  // namespace skipway
