// IDX files: the real Fashion-MNIST, and small ones that are broken one by one.
#include "data/idx.h"

#include <ATen/ATen.h>

#include "data/files_for_test.h"

namespace skipway {
namespace {

using testing::HasSubstr;

std::string word(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

std::string images(uint32_t count, uint32_t height, uint32_t width) {
  std::string bytes = word(0x803) + word(count) + word(height) + word(width);
  for (uint32_t i = 0; i < count * height * width; ++i) bytes += static_cast<char>(i);
  return bytes;
}

std::string labels(const std::vector<int>& values) {
  std::string bytes = word(0x801) + word(static_cast<uint32_t>(values.size()));
  for (int value : values) bytes += static_cast<char>(value);
  return bytes;
}

void write_idx(const TemporaryFolder& folder) {
  folder.write("train-images-idx3-ubyte", images(3, 4, 5));
  folder.write("train-labels-idx1-ubyte", labels({7, 0, 9}));
  folder.write("t10k-images-idx3-ubyte", images(1, 4, 5));
  folder.write("t10k-labels-idx1-ubyte", labels({2}));
}

TEST(Idx, ReadsFashionMnist) {
  const Dataset dataset = load_idx_folder("/usr/share/datasets/fashion-mnist");
  EXPECT_EQ(dataset.train.images.sizes(), (std::vector<int64_t>{60000, 28, 28, 3}));
  EXPECT_EQ(dataset.test.images.sizes(), (std::vector<int64_t>{10000, 28, 28, 3}));
  EXPECT_TRUE(at::equal(at::bincount(dataset.train.labels), at::full({10}, 6000, at::kLong)));
  EXPECT_TRUE(at::equal(at::bincount(dataset.test.labels), at::full({10}, 1000, at::kLong)));
  EXPECT_EQ(dataset.classes[9], "ankle-boot");
  EXPECT_EQ(dataset.train.labels[0].item<int>(), 9);
  const at::Tensor channels = dataset.train.images[0];
  EXPECT_TRUE(at::equal(channels.select(2, 0), channels.select(2, 2)));
  EXPECT_GT(channels.max().item<int>(), 200);
}

TEST(Idx, KeepsPixelsInPlace) {
  const TemporaryFolder folder;
  write_idx(folder);
  ASSERT_TRUE(is_idx_folder(folder.path()));
  const Dataset dataset = load_idx_folder(folder.path());
  EXPECT_EQ(dataset.train.images.sizes(), (std::vector<int64_t>{3, 4, 5, 3}));
  EXPECT_EQ(dataset.train.images[1][2][3][1].item<int>(), 20 + 2 * 5 + 3);
  EXPECT_EQ(dataset.train.labels[2].item<int>(), 9);
  EXPECT_EQ(dataset.train.names[2], "train-images-idx3-ubyte:2");
  EXPECT_EQ(dataset.classes.size(), 10u);
  EXPECT_EQ(dataset.classes[3], "3");
}

TEST(Idx, TheFoldersOwnNameDecidesOnFashion) {
  const TemporaryFolder folder;
  write_idx(folder);
  const auto first_class = [&](const std::string& path) {
    fs::create_directories(folder / path);
    for (const auto& file : fs::directory_iterator(folder.path()))
      if (file.is_regular_file()) fs::copy(file, folder / path);
    return load_idx_folder(folder / path).classes[0];
  };
  EXPECT_EQ(first_class("fashion/digits"), "0");
  EXPECT_NE(first_class("digits/Fashion-MNIST/"), "0");
  EXPECT_NE(first_class("FashionMNIST/raw"), "0");
}

TEST(Idx, BrokenFilesAreNamed) {
  struct Case {
    const char* file;
    std::string bytes;
    const char* expected;
  };
  std::string wrong_magic = images(3, 4, 5);
  wrong_magic[2] = 0x0d;  // floats
  const Case cases[] = {
      {"train-images-idx3-ubyte", wrong_magic, "got 0x00000d03"},
      {"train-images-idx3-ubyte", images(3, 4, 5) + "x", "3 x 4 x 5"},
      {"train-images-idx3-ubyte", images(3, 4, 5).substr(0, 70), "got 54"},
      {"train-images-idx3-ubyte", word(0x803) + word(~0u) + word(~0u) + word(~0u), "got 0"},
      {"train-images-idx3-ubyte", word(0x803) + word(0) + word(28) + word(28), "got 0"},
      {"train-images-idx3-ubyte", "", "expected a header"},
      {"train-images-idx3-ubyte", images(2, 4, 5), "as many labels as images"},
      {"t10k-images-idx3-ubyte", images(1, 5, 4), "images of one size"},
      {"t10k-labels-idx1-ubyte", labels({10}), "labels of 0 to 9, got 10"},
      {"t10k-labels-idx1-ubyte", "\x1f\x8b\x08 cut", "t10k-labels-idx1-ubyte"},
  };
  for (const Case& broken : cases) {
    const TemporaryFolder folder;
    write_idx(folder);
    folder.write(broken.file, broken.bytes);
    EXPECT_THAT(message_of(ErrorKind::kData, [&] { load_idx_folder(folder.path()); }),
                testing::AllOf(HasSubstr(broken.expected), HasSubstr(folder.path().string())));
  }
}

TEST(Idx, CutOffGzipIsAnError) {
  const TemporaryFolder folder;
  write_idx(folder);
  fs::remove(folder.path() / "t10k-labels-idx1-ubyte");
  const std::string whole =
      read_file("/usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz");
  folder.write("t10k-labels-idx1-ubyte.gz", whole.substr(0, whole.size() - 9));
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load_idx_folder(folder.path()); }),
              HasSubstr("cut short at " + (folder.path() / "t10k-labels-idx1-ubyte.gz").string()));
}

TEST(Idx, NamesTheMissingFile) {
  const TemporaryFolder folder;
  write_idx(folder);
  fs::remove(folder.path() / "t10k-labels-idx1-ubyte");
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { load_idx_folder(folder.path()); }),
              HasSubstr("t10k-labels-idx1-ubyte.gz"));
}

}  // namespace
}  // namespace skipway
