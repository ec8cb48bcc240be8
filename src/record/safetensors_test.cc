// Tests that what is written is read back bit for bit, and that every kind of damage is named.
#include "record/safetensors.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "base/for_test.h"
#include "base/rng.h"

namespace skipway {
namespace {

using testing::HasSubstr;

class Safetensors : public testing::Test {
 protected:
  fs::path path() const { return folder_ / "x.safetensors"; }

  // Writes a file by hand and returns what reading it complains of.
  std::string complaint(const std::string& header, const std::string& data) {
    const uint64_t length = header.size();
    return complaint_of_bytes(std::string(reinterpret_cast<const char*>(&length), 8) + header +
                              data);
  }
  std::string complaint_of_bytes(const std::string& bytes) {
    write_file_atomic(path(), bytes);
    try {
      read_safetensors(path());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
      EXPECT_THAT(error.what(), HasSubstr(path().string()));
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
};

TEST_F(Safetensors, KeepsEveryTypeShapeOrderAndMetadata) {
  NamedTensors tensors;
  for (at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                              at::kInt, at::kShort, at::kChar, at::kByte, at::kBool}) {
    tensors.emplace_back(fmt::format("z.{}", c10::toString(type)), (at::arange(15) % 2).to(type));
  }
  tensors.emplace_back("a.scalar", at::scalar_tensor(-2.5));
  tensors.emplace_back("empty", at::empty({3, 0, 2}));
  const std::map<std::string, std::string> metadata{{"config", "lr = 0.1\n# \"ü\""}, {"step", "7"}};
  write_safetensors(path(), tensors, metadata);

  const SafetensorsFile file = read_safetensors(path());
  EXPECT_EQ(file.metadata, metadata);
  ASSERT_EQ(file.tensors.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(file.tensors[i].first, tensors[i].first);
    EXPECT_EQ(file.tensors[i].second.scalar_type(), tensors[i].second.scalar_type());
    EXPECT_TRUE(file.tensors[i].second.equal(tensors[i].second)) << tensors[i].first;
  }
}

TEST_F(Safetensors, StoresAnyStrideContiguous) {
  const at::Tensor plain = at::arange(2 * 3 * 4 * 5).to(at::kFloat).view({2, 3, 4, 5});
  const NamedTensors same{{"w", plain}};
  const NamedTensors strided{{"w", plain.contiguous(at::MemoryFormat::ChannelsLast)}};
  write_safetensors(folder_ / "a", same, {});
  write_safetensors(folder_ / "b", strided, {});
  EXPECT_EQ(hash_of_file(HashKind::kSha256, folder_ / "a"),
            hash_of_file(HashKind::kSha256, folder_ / "b"));
}

TEST_F(Safetensors, HeaderIsPaddedToEightBytes) {
  for (const char* name : {"a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh"}) {
    write_safetensors(path(), {{name, at::zeros({1})}}, {});
    uint64_t length = 0;
    std::memcpy(&length, read_file(path()).data(), 8);
    EXPECT_EQ(length % 8, 0U) << name;
    EXPECT_EQ(fs::file_size(path()), 8 + length + 4);
  }
}

TEST_F(Safetensors, RefusesToWriteANameTwice) {
  const NamedTensors twice{{"w", at::zeros({1})}, {"w", at::zeros({1})}};
  EXPECT_THROW(write_safetensors(path(), twice, {}), Error);
  EXPECT_FALSE(fs::exists(path()));
}

TEST_F(Safetensors, ReadsTensorsInOffsetOrderWhateverTheHeaderOrder) {
  EXPECT_EQ(complaint(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},)"
                      R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}  )",
                      "\x05\x06"),
            "");
  const SafetensorsFile file = read_safetensors(path());
  EXPECT_EQ(file.tensors[0].first, "a");
  EXPECT_EQ(file.tensors[1].second.item<int>(), 6);
}

TEST_F(Safetensors, NamesWhatIsWrong) {
  const auto entry = [](const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
    return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":{}}})", dtype, shape, offsets);
  };
  const auto one = [&](const std::string& dtype, const std::string& shape,
                       const std::string& offsets) {
    return complaint("{\"w\":" + entry(dtype, shape, offsets) + "}", std::string(8, '\1'));
  };
  EXPECT_EQ(one("F32", "[2]", "[0,8]"), "");
  EXPECT_THAT(one("F31", "[2]", "[0,8]"), HasSubstr("F31"));
  EXPECT_THAT(one("F32", "[3]", "[0,8]"), HasSubstr("12 bytes"));
  EXPECT_THAT(one("F32", "[-2]", "[0,8]"), HasSubstr("whole numbers"));
  EXPECT_THAT(one("F32", "[2.0]", "[0,8]"), HasSubstr("whole numbers"));
  EXPECT_THAT(one("F32", "[2]", "[8,0]"), HasSubstr("data_offsets"));
  EXPECT_THAT(one("F32", "[2]", "[0,8,8]"), HasSubstr("two data_offsets"));
  EXPECT_THAT(one("F32", "[2]", "[0,18446744073709551615]"), HasSubstr("whole numbers"));
  EXPECT_THAT(one("F32", "[4611686018427387904,4]", "[0,0]"), HasSubstr("2^63"));
  EXPECT_THAT(one("F32", "[0,4611686018427387904,4]", "[0,0]"), HasSubstr("2^63"));
  EXPECT_THAT(one("U8", fmt::format("[{}]", fmt::join(std::vector<int>(65, 1), ",")), "[0,1]"),
              HasSubstr("at most 64 dimensions"));
  EXPECT_THAT(one("F32", "[1]", "[0,4]"), HasSubstr("got 8"));
  EXPECT_THAT(one("F32", "[2]", "[4,12]"), HasSubstr("gap"));
  EXPECT_THAT(one("F32", "[3]", "[0,12]"), HasSubstr("cut off"));
  EXPECT_EQ(one("BOOL", "[8]", "[0,8]"), "");
  EXPECT_THAT(complaint("{\"w\":" + entry("BOOL", "[1]", "[0,1]") + "}", "\2"),
              HasSubstr("BOOL tensor"));
  EXPECT_THAT(complaint("{\"a\":" + entry("U8", "[4]", "[0,4]") +
                            ",\"b\":" + entry("U8", "[4]", "[3,7]") + "}",
                        "1234567"),
              HasSubstr("overlap"));
  EXPECT_THAT(complaint("{\"a\":" + entry("U8", "[1]", "[0,1]") +
                            ",\"a\":" + entry("U8", "[1]", "[1,2]") + "}",
                        "12"),
              HasSubstr("\"a\" twice"));
  EXPECT_THAT(complaint("{\"a\":{\"dtype\":\"U8\",\"shape\":[0]}}", ""), HasSubstr("data_offsets"));
  EXPECT_THAT(complaint("{\"a\":3}", ""), HasSubstr("dtype"));
  EXPECT_THAT(complaint("{\"__metadata__\":{\"step\":3}}", ""), HasSubstr("step"));
  EXPECT_THAT(complaint("[1]", ""), HasSubstr("begins with {"));
  EXPECT_THAT(complaint("{\"a\":", ""), HasSubstr("JSON"));
  EXPECT_THAT(complaint("{\"a\":" + std::string(100000, '['), ""), HasSubstr("nesting"));
  EXPECT_THAT(complaint_of_bytes("1234567"), HasSubstr("at least 8 bytes"));
  EXPECT_THAT(complaint_of_bytes(std::string(16, '\xff')), HasSubstr("header of at most"));
}

TEST_F(Safetensors, MissingFileAndFolderAreNamed) {
  for (const fs::path& wrong : {folder_ / "none", folder_.path()}) {
    const Error error = error_of([&] { read_safetensors(wrong); });
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint) << wrong;
    EXPECT_THAT(error.what(), HasSubstr(wrong.string()));
  }
}

// Whatever bytes change in the header, reading ends in a value or in an Error, never in a crash.
TEST_F(Safetensors, SurvivesDamageAnywhere) {
  write_safetensors(path(), {{"a", at::ones({2, 3})}, {"b", at::ones({4}, at::kLong)}},
                    {{"step", "1"}});
  const std::string whole = read_file(path());
  Rng rng(1, RngUse::kSynthetic);
  for (int i = 0; i < 300; ++i) {
    std::string bytes = whole;
    bytes[rng.below(bytes.size())] = static_cast<char>(rng.below(256));
    bytes[rng.below(bytes.size())] = static_cast<char>(rng.below(256));
    if (i % 5 == 0) bytes.resize(rng.below(bytes.size()));
    std::ofstream(path(), std::ios::binary) << bytes;
    try {
      read_safetensors(path());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
    }
  }
}

}  // namespace
}  // namespace skipway
