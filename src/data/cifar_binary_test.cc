// CIFAR's binary records, whole and broken.
#include "data/cifar_binary.h"

#include <ATen/ATen.h>

#include "data/files_for_test.h"

namespace skipway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Labels first, then planes whose bytes tell channel, row and column.
std::string record(const std::vector<int>& labels) {
  std::string bytes;
  for (int label : labels) bytes += static_cast<char>(label);
  for (int c = 0; c < 3; ++c) {
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) bytes += static_cast<char>(80 * c + 2 * y + x % 2 + labels[0]);
    }
  }
  return bytes;
}

void write_cifar10(const TemporaryFolder& folder, const std::string& prefix = "") {
  for (int i = 1; i <= 5; ++i) {
    folder.write(fmt::format("{}data_batch_{}.bin", prefix, i), record({i}) + record({i + 1}));
  }
  folder.write(prefix + "test_batch.bin", record({9}));
}

void write_cifar100(const TemporaryFolder& folder) {
  folder.write("train.bin", record({4, 0}) + record({14, 99}));
  folder.write("test.bin", record({19, 55}));
}

Dataset load(const fs::path& root, bool coarse = false) {
  const FileTree tree = fs::is_directory(root) ? list_folder(root) : read_archive(root);
  return load_cifar_binary(tree, find_cifar_binary(tree).value(), coarse);
}

std::vector<int64_t> labels_of(const Split& split) {
  const int64_t* labels = split.labels.const_data_ptr<int64_t>();
  return {labels, labels + split.size()};
}

TEST(CifarBinary, ReadsTenClassesWithPlanesTurnedIntoPixels) {
  const TemporaryFolder folder;
  write_cifar10(folder);
  const Dataset dataset = load(folder.path());
  EXPECT_THAT(labels_of(dataset.train), ElementsAre(1, 2, 2, 3, 3, 4, 4, 5, 5, 6));
  EXPECT_THAT(labels_of(dataset.test), ElementsAre(9));
  EXPECT_EQ(dataset.classes.front(), "airplane");
  EXPECT_EQ(dataset.classes.back(), "truck");
  EXPECT_EQ(dataset.train.names[3], "data_batch_2.bin:1");
  ASSERT_EQ(dataset.train.images.sizes(), (std::vector<int64_t>{10, 32, 32, 3}));
  ASSERT_TRUE(dataset.train.images.is_contiguous());
  for (int64_t c = 0; c < 3; ++c) {
    EXPECT_EQ(dataset.train.images[1][7][5][c].item<int>(), 80 * c + 2 * 7 + 1 + 2);
  }
}

TEST(CifarBinary, ReadsAHundredClassesAndTwenty) {
  const TemporaryFolder folder;
  write_cifar100(folder);
  const Dataset fine = load(folder.path());
  EXPECT_THAT(labels_of(fine.train), ElementsAre(0, 99));
  EXPECT_EQ(fine.classes.size(), 100u);
  EXPECT_EQ(fine.classes[55], "otter");
  const Dataset coarse = load(folder.path(), true);
  EXPECT_THAT(labels_of(coarse.train), ElementsAre(4, 14));
  EXPECT_EQ(coarse.classes.size(), 20u);
  EXPECT_EQ(coarse.classes[14], "people");
  EXPECT_TRUE(at::equal(fine.train.images, coarse.train.images));
}

TEST(CifarBinary, ReadsTheArchiveAsTheFolder) {
  const TemporaryFolder folder;
  write_cifar10(folder, "cifar-10-batches-bin/");
  std::vector<TarEntry> entries;
  for (const SourceFile& file : list_folder(folder.path()).files) {
    entries.push_back({file.path, read_file(folder.path() / file.path), ""});
  }
  write_tar(folder.path() / "c.tar.gz", entries);
  const Dataset packed = load(folder.path() / "c.tar.gz");
  const Dataset unpacked = load(folder.path());
  EXPECT_TRUE(at::equal(packed.train.images, unpacked.train.images));
  EXPECT_EQ(packed.train.names, unpacked.train.names);
}

TEST(CifarBinary, TakesNamesFromTheMetaFile) {
  const TemporaryFolder folder;
  write_cifar10(folder);
  folder.write("batches.meta.txt", "a\nb\nc c\r\nd\ne\nf\ng\nh\ni\nj\n\n");
  EXPECT_EQ(load(folder.path()).classes[2], "c c");
  folder.write("batches.meta.txt", "a\nb\n");
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(folder.path()); }),
              HasSubstr("expected 10 class names, got 2"));
}

TEST(CifarBinary, NamesTheMissingBatch) {
  const TemporaryFolder folder;
  write_cifar10(folder);
  fs::remove(folder.path() / "data_batch_3.bin");
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(folder.path()); }),
              HasSubstr("data_batch_3.bin"));
}

TEST(CifarBinary, RefusesPartsOfRecords) {
  const TemporaryFolder folder;
  write_cifar10(folder);
  for (const std::string& bytes : {std::string(), record({1}) + "x", record({1}).substr(1)}) {
    folder.write("data_batch_4.bin", bytes);
    EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(folder.path()); }),
                testing::AllOf(HasSubstr("data_batch_4.bin"), HasSubstr("3073")));
  }
}

TEST(CifarBinary, NamesTheRecordOfALabelOutOfRange) {
  const TemporaryFolder folder;
  write_cifar10(folder);
  folder.write("data_batch_2.bin", record({3}) + record({9}) + record({10}));
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(folder.path()); }),
              testing::AllOf(HasSubstr("got 10 at"), HasSubstr("data_batch_2.bin, record 2")));
  const TemporaryFolder hundred;
  write_cifar100(hundred);
  hundred.write("test.bin", record({20, 5}));
  EXPECT_NO_THROW(load(hundred.path()));
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load(hundred.path(), true); }),
              HasSubstr("got 20 at"));
}

TEST(CifarBinary, CoarseLabelsOfTenClassesAreAUsageError) {
  const TemporaryFolder folder;
  write_cifar10(folder);
  EXPECT_NE(message_of(ErrorKind::kUsage, [&] { load(folder.path(), true); }), "");
}

TEST(CifarBinary, OtherTreesAreNotTakenForIt) {
  const TemporaryFolder folder;
  folder.write("a/b/test_batch.bin", "too deep");
  folder.write("train/cat/1.jpg", "");
  EXPECT_FALSE(find_cifar_binary(list_folder(folder.path())));
}

}  // namespace
}  // namespace skipway
