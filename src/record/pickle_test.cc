// Tests of the restricted pickle reader: what data looks like, and files that mean harm.
#include "record/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/for_test.h"

namespace skipway {
namespace {

using Kind = PickleValue::Kind;
using testing::HasSubstr;

// A literal with the zeros in it.
template <size_t N>
std::string bytes(const char (&text)[N]) {
  return {text, N - 1};
}

// pickle.dumps({"a": [1, -2, 2.5], "b": (True, None)}, protocol=2)
const std::string kPlain = bytes(
    "\x80\x02}q\x00(X\x01\x00\x00\x00"
    "aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00"
    "eX\x01\x00\x00\x00"
    "bq\x03\x88N\x86q\x04u.");

Error error_of_reading(const std::string& bytes) {
  return error_of([&] { read_pickle(bytes, {}, "x.pth"); });
}

TEST(Pickle, ReadsPlainData) {
  const Pickle pickle = read_pickle(kPlain, {}, "x.pth");
  ASSERT_EQ(pickle.root->kind, Kind::kDict);
  ASSERT_EQ(pickle.root->items.size(), 4u);
  EXPECT_EQ(pickle.root->items[0]->text, "a");
  const PickleValue& list = *pickle.root->items[1];
  ASSERT_EQ(list.items.size(), 3u);
  EXPECT_EQ(list.items[1]->integer, -2);
  EXPECT_EQ(list.items[2]->number, 2.5);
  EXPECT_EQ(pickle.root->items[3]->items[0]->kind, Kind::kBool);
  EXPECT_EQ(pickle.bytes, kPlain.size());
}

TEST(Pickle, EveryPrefixIsRefused) {
  for (size_t size = 0; size < kPlain.size(); ++size)
    EXPECT_EQ(error_of_reading(kPlain.substr(0, size)).kind(), ErrorKind::kData) << size;
}

TEST(Pickle, AFunctionIsRefusedByItsName) {
  for (const std::string& pickle : {bytes("\x80\x02"
                                          "cposix\nsystem\nX\x02\x00\x00\x00"
                                          "id\x85R."),
                                    bytes("(X\x02\x00\x00\x00"
                                          "idiposix\nsystem\n.")}) {
    const Error error = error_of_reading(pickle);
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr("posix.system"));
  }
}

TEST(Pickle, HugeLengthsAndStrayOpcodesAreRefused) {
  EXPECT_EQ(error_of_reading("\x80\x02X\xff\xff\xff\xff").kind(), ErrorKind::kData);
  EXPECT_EQ(error_of_reading("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff").kind(),
            ErrorKind::kData);
  for (const char* text : {"R.", "u.", "a.", "Q.", "b.", "(0.", "hx.", "i.", ".", "}K\x01s."})
    EXPECT_EQ(error_of_reading(text).kind(), ErrorKind::kData) << text;
}

TEST(Pickle, DepthAndSelfReferenceDoNoHarm) {
  const std::string deep = std::string(500'000, ']') + std::string(499'999, 'a') + ".";
  EXPECT_EQ(read_pickle(deep, {}, "x.pth").root->kind, Kind::kList);
  const Pickle self = read_pickle(bytes("]q\x00h\x00"
                                        "a."),
                                  {}, "x.pth");
  EXPECT_EQ(self.root->items[0], self.root);
}

// A list of `size` times the same pair, and `count` OrderedDicts of that list.
std::string ordered_dicts(int size, int count) {
  std::string text = bytes("X\x03\x00\x00\x00keyK\x01\x86q\x00]q\x01(");
  for (int i = 0; i < size; ++i) text += bytes("h\x00");
  text += 'e';
  for (int i = 0; i < count; ++i) text += bytes("ccollections\nOrderedDict\nh\x01\x85R");
  return text + '.';
}

TEST(Pickle, AnOrderedDictHasThePairsOfItsList) {
  const Pickle pickle = read_pickle(ordered_dicts(2, 1), {}, "x.pth");
  ASSERT_EQ(pickle.root->kind, Kind::kDict);
  ASSERT_EQ(pickle.root->items.size(), 4u);
  EXPECT_EQ(pickle.root->items[2]->text, "key");
  EXPECT_EQ(pickle.root->items[3]->integer, 1);
}

TEST(Pickle, SmallFilesCannotFillTheMemory) {
  EXPECT_EQ(read_pickle(ordered_dicts(1000, 900), {}, "x.pth").root->items.size(), 2000u);
  for (const std::string& text :
       {ordered_dicts(1000, 1100), std::string(3'000'000, ']'), std::string(3'000'000, '('),
        "N" + std::string(3'000'000, '\x94')}) {
    const Error error = error_of_reading(text);
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr("at most 2000000 opcodes and copies of values"));
  }
}

}  // namespace
}  // namespace skipway
