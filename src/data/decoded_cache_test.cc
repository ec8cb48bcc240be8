// The cache of decoded images: whole, damaged, and on a disk that takes nothing.
#include "data/decoded_cache.h"

#include <ATen/ATen.h>

#include <chrono>

#include "data/files_for_test.h"

namespace skipway {
namespace {

using testing::HasSubstr;

const CacheKey kKey{"place", "state"};

Dataset small_dataset() {
  Dataset dataset;
  dataset.classes = {"cat", "", "d\xff"};  // names are bytes, not text
  dataset.image_size = 4;
  dataset.train = {at::arange(2 * 4 * 4 * 3).to(at::kByte).view({2, 4, 4, 3}),
                   at::tensor({2, 0}, at::kLong),
                   {"cat/1", "cat/2"}};
  dataset.test = {at::ones({1, 4, 4, 3}, at::kByte), at::tensor({1}, at::kLong), {"dog/3"}};
  dataset.bad_files = {{"dog/4", "a reason"}};
  return dataset;
}

fs::path only_file(const TemporaryFolder& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder.path())) files.push_back(entry.path());
  EXPECT_EQ(files.size(), 1u);
  return files.at(0);
}

TEST(DecodedCache, GivesBackWhatWasWritten) {
  const TemporaryFolder folder;
  const Dataset written = small_dataset();
  write_decoded_cache(folder.path() / "new", kKey, written);
  const auto read = read_decoded_cache(folder.path() / "new", kKey);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->classes, written.classes);
  EXPECT_EQ(read->image_size, 4);
  EXPECT_TRUE(at::equal(read->train.images, written.train.images));
  EXPECT_TRUE(at::equal(read->train.labels, written.train.labels));
  EXPECT_TRUE(at::equal(read->test.images, written.test.images));
  EXPECT_TRUE(at::equal(read->test.labels, written.test.labels));
  EXPECT_EQ(read->train.names, written.train.names);
  EXPECT_EQ(read->test.names, written.test.names);
  ASSERT_EQ(read->bad_files.size(), 1u);
  EXPECT_EQ(read->bad_files[0].name, "dog/4");
  EXPECT_EQ(read->bad_files[0].reason, "a reason");
}

TEST(DecodedCache, ASourceWithoutTestPartComesBackWithoutOne) {
  const TemporaryFolder folder;
  Dataset written = small_dataset();
  written.test = {};
  write_decoded_cache(folder.path(), kKey, written);
  EXPECT_EQ(read_decoded_cache(folder.path(), kKey)->test.size(), 0);
}

TEST(DecodedCache, EveryDamageIsNoticedAndSaid) {
  const TemporaryFolder folder;
  write_decoded_cache(folder.path(), kKey, small_dataset());
  const fs::path path = only_file(folder);
  const std::string whole = read_file(path);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] ^= 0x40;
    folder.write(path.filename(), damaged);
    const LogLines log;
    EXPECT_FALSE(read_decoded_cache(folder.path(), kKey)) << "byte " << at;
    EXPECT_THAT(log.text(), HasSubstr("made anew"));
  }
  for (size_t size = 0; size < whole.size(); ++size) {
    folder.write(path.filename(), whole.substr(0, size));
    EXPECT_FALSE(read_decoded_cache(folder.path(), kKey)) << size << " bytes";
  }
  folder.write(path.filename(), whole + "x");
  EXPECT_FALSE(read_decoded_cache(folder.path(), kKey));
}

TEST(DecodedCache, ANewStateReplacesTheOldOne) {
  const TemporaryFolder folder;
  folder.write("place-state.images.tmp1", "another program is writing");
  folder.write("other-state.images", "of another place");
  write_decoded_cache(folder.path(), kKey, small_dataset());
  write_decoded_cache(folder.path(), {"place", "later"}, small_dataset());
  EXPECT_FALSE(fs::exists(folder.path() / "place-state.images"));
  EXPECT_TRUE(read_decoded_cache(folder.path(), {"place", "later"}));
  EXPECT_TRUE(fs::exists(folder.path() / "place-state.images.tmp1"));
  EXPECT_TRUE(fs::exists(folder.path() / "other-state.images"));
}

TEST(DecodedCache, WhatAKilledProcessLeftGoes) {
  const TemporaryFolder folder;
  const fs::path left = folder.write("place-state.images.tmp1", "half a file");
  fs::last_write_time(left, fs::file_time_type::clock::now() - std::chrono::hours(2));
  write_decoded_cache(folder.path(), kKey, small_dataset());
  EXPECT_FALSE(fs::exists(left));
}

TEST(DecodedCache, WhatCannotBeWrittenIsAWarning) {
  const TemporaryFolder folder;
  const LogLines log;
  const fs::path file = folder.write("file", "not a folder");
  EXPECT_NO_THROW(write_decoded_cache(file / "cache", kKey, small_dataset()));
  EXPECT_THAT(log.text(), HasSubstr("warning: decoded images are not kept"));
  EXPECT_FALSE(read_decoded_cache(file / "cache", kKey));
}

TEST(DecodedCache, KeysFollowFilesAndVariant) {
  const TemporaryFolder folder;
  folder.write("a/1", "one");
  const auto key = [&](const std::string& variant) {
    const CacheKey k = folder_cache_key(list_folder(folder.path()), variant);
    return std::vector<std::string>{k.place, k.state};
  };
  const auto first = key("x");
  EXPECT_EQ(key("x"), first);
  EXPECT_NE(key("y")[0], first[0]);
  fs::create_directories(folder.path() / "b");
  const auto with_class = key("x");
  EXPECT_EQ(with_class[0], first[0]);
  EXPECT_NE(with_class[1], first[1]);
  folder.write("a/2", "two");
  const auto with_file = key("x");
  EXPECT_NE(with_file[1], with_class[1]);
  fs::last_write_time(folder.path() / "a/2",
                      fs::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_NE(key("x")[1], with_file[1]);
}

}  // namespace
}  // namespace skipway
