// Tests of the framing and its checksum; tests/readers_test.cc lets TensorBoard itself read files.
#include "record/tensorboard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/for_test.h"
#include "record/full_disk_for_test.h"

namespace skipway {
namespace {

class TensorBoard : public testing::Test {
 protected:
  std::vector<fs::path> files() const {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(tb_)) paths.push_back(entry.path());
    return paths;
  }

  TemporaryFolder folder_;
  const fs::path tb_ = folder_ / "tb";  // which the writer makes
};

TEST(Crc32c, AgreesWithPublishedValues) {
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);            // the usual check value
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);  // RFC 3720, B.4
}

TEST_F(TensorBoard, FramesRecordsWithMaskedChecksums) {
  TensorBoardWriter writer(tb_);
  writer.add_scalar("loss", 1.5, 10);
  writer.add_scalar("lr", 0.1, 1 << 20);
  writer.flush();
  ASSERT_EQ(files().size(), 1U);
  const std::string bytes = read_file(files()[0]);
  const auto checksum_fits = [&](size_t at, size_t length) {
    uint32_t stored = 0;
    std::memcpy(&stored, bytes.data() + at + length, 4);
    return stored ==
           std::rotr(crc32c(std::string_view(bytes).substr(at, length)), 15) + 0xa282ead8U;
  };
  std::vector<std::string> payloads;
  for (size_t at = 0; at < bytes.size();) {
    uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    EXPECT_TRUE(checksum_fits(at, 8));
    ASSERT_LE(at + 16 + length, bytes.size());
    EXPECT_TRUE(checksum_fits(at + 12, length));
    payloads.push_back(bytes.substr(at + 12, length));
    at += 16 + length;
  }
  ASSERT_EQ(payloads.size(), 3U);
  EXPECT_TRUE(
      payloads[0].ends_with("\x1a\x0d"
                            "brain.Event:2"));
  // step 10; summary { value { tag "loss", simple_value 1.5f } }
  EXPECT_EQ(payloads[1].substr(9),
            std::string("\x10\x0a\x2a\x0d\x0a\x0b\x0a\x04loss\x15\0\0\xc0\x3f", 17));
}

TEST_F(TensorBoard, WritersInOneSecondGetFilesOfTheirOwn) {
  TensorBoardWriter a(tb_), b(tb_);
  EXPECT_EQ(files().size(), 2U);
}

TEST_F(TensorBoard, AFullDiskIsAnErrorAtFlush) {
  TensorBoardWriter writer(tb_);
  FullDisk full(100);
  for (int i = 0; i < 10; ++i) writer.add_scalar("loss", 1, i);
  EXPECT_EQ(error_of([&] { writer.flush(); }).kind(), ErrorKind::kDisk);
}

}  // namespace
}  // namespace skipway
