// Tests of torch.save's files by themselves; tests/weights_parity_test.cc has PyTorch on the other
// side.
#include "record/torch_file.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/for_test.h"

namespace skipway {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class TorchFile : public testing::Test {
 protected:
  fs::path path() const { return folder_ / "x.pth"; }
  Error error_of_reading(const std::string& bytes) const {
    folder_.write("damaged.pth", bytes);
    return error_of([&] { read_torch_file(folder_ / "damaged.pth"); });
  }

  TemporaryFolder folder_;
};

TEST_F(TorchFile, ReadsWhatItWrites) {
  NamedTensors tensors;
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                    at::kInt, at::kShort, at::kChar, at::kByte})
    tensors.emplace_back(at::toString(type), at::arange(12).to(type).view({3, 4}));
  tensors.emplace_back("scalar", at::scalar_tensor(7, at::kLong));
  tensors.emplace_back("empty", at::empty({0, 4}));
  tensors.emplace_back(
      "channels_last",
      at::arange(24).to(at::kFloat).view({1, 2, 3, 4}).contiguous(at::MemoryFormat::ChannelsLast));
  write_torch_file(path(), tensors);
  const NamedTensors read = read_torch_file(path());
  ASSERT_EQ(read.size(), tensors.size());
  for (size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i].first, tensors[i].first);
    EXPECT_EQ(read[i].second.scalar_type(), tensors[i].second.scalar_type());
    EXPECT_TRUE(at::equal(read[i].second, tensors[i].second)) << read[i].first;
    EXPECT_TRUE(read[i].second.is_contiguous());
  }
}

TEST_F(TorchFile, EqualTensorsMakeEqualFiles) {
  const NamedTensors tensors = {{"a", at::arange(5)}};
  write_torch_file(path(), tensors);
  write_torch_file(folder_ / "y.pth", tensors);
  EXPECT_EQ(read_file(path()), read_file(folder_ / "y.pth"));
}

TEST_F(TorchFile, APrefixIsRefused) {
  write_torch_file(path(), {{"a", at::arange(5)}});
  const std::string whole = read_file(path());
  for (size_t size = 0; size < whole.size(); size += 5)
    EXPECT_EQ(error_of_reading(whole.substr(0, size)).kind(), ErrorKind::kData) << size;
}

// Never a crash, nor another kind of error; under sanitizers no read outside either.
TEST_F(TorchFile, AFlippedBitDoesNoHarm) {
  write_torch_file(path(), {{"a", at::arange(5)}, {"b", at::ones({2, 3})}});
  const std::string whole = read_file(path());
  for (size_t bit = 0; bit < 8 * whole.size(); bit += 17) {
    std::string bytes = whole;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    folder_.write("damaged.pth", bytes);
    try {
      read_torch_file(folder_ / "damaged.pth");  // a bit that means nothing may flip
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData) << bit << error.what();
    }
  }
}

std::string text(const std::string& value) {
  std::string pickled = "X";
  for (int shift = 0; shift < 32; shift += 8) pickled += static_cast<char>(value.size() >> shift);
  return pickled + value;
}

// The form before the zip archive: `object` is the pickle of what was saved, with the tensors in
// the one storage "0", of one float.
std::string old_form(const std::string& object) {
  const std::string magic =
      "\x80\x02\x8a\x0al\xfc\x9c"
      "F\xf9 j\xa8P\x19.";
  const std::string version = "\x80\x02M\xe9\x03.", system = "\x80\x02}.";
  const std::string keys = "\x80\x02](" + text("0") + "e.";
  const int64_t elements = 1;
  const float value = 7;
  return magic + version + system + "\x80\x02" + object + "." + keys +
         std::string(reinterpret_cast<const char*>(&elements), sizeof elements) +
         std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

// One element with as many dimensions as wanted.
std::string tensor(int dimensions) {
  const std::string zero("K\0", 2);
  std::string ones = "(";
  for (int i = 0; i < dimensions; ++i) ones += "K\x01";
  ones += "t";
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" +
         text("0") + text("cpu") + "K\x01tQ" + zero + ones + ones + "\x89}tR";
}

std::string dict(const std::string& entries) { return "}(" + entries + "u"; }

TEST_F(TorchFile, ReadsTheOldForm) {
  folder_.write("x.pth", old_form(dict(text("model") + dict(text("a") + tensor(4)))));
  const NamedTensors read = read_torch_file(path());
  ASSERT_EQ(read.size(), 1u);
  EXPECT_EQ(read[0].first, "model.a");
  EXPECT_TRUE(at::equal(read[0].second, at::full({1, 1, 1, 1}, 7)));
}

TEST_F(TorchFile, ALongKeyBeforeManyValuesIsRefused) {
  std::string entries;
  for (int i = 0; i < 200; ++i) entries += text(fmt::format("{}", i)) + tensor(1);
  const Error error =
      error_of_reading(old_form(dict(text(std::string(1'000'000, 'k')) + dict(entries))));
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.what(),
              AllOf(HasSubstr("names of at most 100000000 bytes"), HasSubstr("damaged.pth")));
}

// Each would be looked at, one after the other.
TEST_F(TorchFile, AStorageInVeryManyTensorsIsRefused) {
  std::string entries;
  for (int i = 0; i < 17'000; ++i) entries += text(fmt::format("{}", i)) + tensor(1);
  const Error error = error_of_reading(old_form(dict(entries)));
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.what(), HasSubstr("at most 16 times the bytes"));
}

TEST_F(TorchFile, ATensorOfVeryManyDimensionsIsRefused) {
  const Error error = error_of_reading(old_form(dict(text("a") + tensor(65))));
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.what(), HasSubstr("at most 64 dimensions of \"a\", got 65"));
}

TEST_F(TorchFile, ADamagedTensorIsFoundByItsChecksum) {
  write_torch_file(path(), {{"a", at::full({64}, 0.1234)}});
  std::string bytes = read_file(path());
  const float value = 0.1234F;
  const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(&value), sizeof value));
  ASSERT_NE(at, std::string::npos);
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  EXPECT_EQ(error_of_reading(bytes).kind(), ErrorKind::kData);
}

TEST_F(TorchFile, OtherFilesAreRefused) {
  EXPECT_EQ(error_of_reading("").kind(), ErrorKind::kData);
  EXPECT_THAT(error_of_reading("<html>").what(), HasSubstr("torch.save"));
  EXPECT_EQ(error_of([&] { read_torch_file(folder_ / "nowhere.pth"); }).kind(), ErrorKind::kData);
}

}  // namespace
}  // namespace skipway
