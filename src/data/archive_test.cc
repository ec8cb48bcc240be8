// Folders and archives: order, hidden names, links, and every kind of damage.
#include "data/archive.h"

#include "data/files_for_test.h"

namespace skipway {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> paths_of(const FileTree& tree) {
  std::vector<std::string> paths;
  for (const SourceFile& file : tree.files) paths.push_back(file.path);
  return paths;
}

TEST(Archive, ListsAFolderInOrderWithoutHiddenNames) {
  const TemporaryFolder folder;
  for (const char* name : {"b/2", "b/10", "a b/x", "a/x", ".hidden/x", "b/.DS_Store", "c"}) {
    folder.write(name, name);
  }
  fs::create_directories(folder.path() / "empty");
  const FileTree tree = list_folder(folder.path());
  EXPECT_THAT(paths_of(tree), ElementsAre("a b/x", "a/x", "b/10", "b/2", "c"));
  EXPECT_THAT(tree.folders, ElementsAre("a", "a b", "b", "empty"));
  EXPECT_EQ(tree.hidden_count, 2);
  EXPECT_EQ(tree.read(tree.files[2]), "b/10");
  EXPECT_EQ(tree.files[2].size, 4);
}

TEST(Archive, FollowsLinksButNotUpwards) {
  const TemporaryFolder folder;
  const TemporaryFolder other;
  other.write("x", "linked");
  folder.write("a/y", "own");
  fs::create_directory_symlink(other.path(), folder.path() / "b");
  fs::create_directory_symlink(folder.path(), folder.path() / "a/loop");
  const FileTree tree = list_folder(folder.path());
  EXPECT_THAT(paths_of(tree), ElementsAre("a/y", "b/x"));
  EXPECT_EQ(tree.read(tree.files[1]), "linked");
}

TEST(Archive, LinksInACircleEndAndLinksToNowhereAreNoFiles) {
  const TemporaryFolder folder;
  for (const std::string name : {"a", "b", "c"}) {
    folder.write(name + "/1", name);
    for (const std::string other : {"a", "b", "c"})
      if (other != name)
        fs::create_directory_symlink(folder.path() / other, folder.path() / name / ("to_" + other));
  }
  fs::create_symlink("self", folder.path() / "self");
  fs::create_symlink("absent", folder.path() / ".hidden");
  const FileTree tree = list_folder(folder.path());
  EXPECT_THAT(paths_of(tree),
              ElementsAre("a/1", "a/to_b/1", "a/to_b/to_c/1", "a/to_c/1", "a/to_c/to_b/1", "b/1",
                          "b/to_a/1", "b/to_a/to_c/1", "b/to_c/1", "b/to_c/to_a/1", "c/1",
                          "c/to_a/1", "c/to_a/to_b/1", "c/to_b/1", "c/to_b/to_a/1"));
  EXPECT_EQ(tree.hidden_count, 1);
}

TEST(Archive, ReadsTarWithAndWithoutGzip) {
  const TemporaryFolder folder;
  const std::string long_name = std::string(180, 'n') + "/file";
  const std::string umlaut = "k\xc3\xa4tzchen/1";
  const std::string big(3'000'000, 'x');  // more than a block
  for (const bool gzip : {false, true}) {
    const fs::path path = folder.path() / "a.tar";
    write_tar(path,
              {{"./b/2", "two", ""},
               {"b/1", "one", ""},
               {"e/", "", ""},
               {"._b", "x", ""},
               {"__MACOSX/b/1", "x", ""},
               {long_name, big, ""},
               {umlaut, "u", ""}},
              gzip);
    const FileTree tree = read_archive(path);
    EXPECT_THAT(paths_of(tree), ElementsAre("b/1", "b/2", umlaut, long_name));
    EXPECT_THAT(tree.folders, ElementsAre("b", "e", "k\xc3\xa4tzchen", std::string(180, 'n')));
    EXPECT_EQ(tree.read(tree.files[1]), "two");
    EXPECT_EQ(tree.read(tree.files[3]), big);
    EXPECT_EQ(tree.hidden_count, 2);
  }
}

TEST(Archive, HardLinksHaveTheBytesAndRepeatedNamesTheLast) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.tar.gz";
  write_tar(path, {{"a/1", "one", ""}, {"a/2", "", "a/1"}, {"a/3", "old", ""}, {"a/3", "new", ""}});
  const FileTree tree = read_archive(path);
  ASSERT_THAT(paths_of(tree), ElementsAre("a/1", "a/2", "a/3"));
  EXPECT_EQ(tree.read(tree.files[1]), "one");
  EXPECT_EQ(tree.read(tree.files[2]), "new");
}

TEST(Archive, MoreThanMemoryHoldsIsAnErrorAndLinksCount) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.tar.gz";
  write_tar(path, {{"a/1", std::string(1000, 'x'), ""}, {"a/2", "", "a/1"}, {"a/3", "", "a/2"}});
  EXPECT_EQ(read_archive(path, 3002).files.size(), 3u);  // and the folder's name
  for (const int64_t available : {500, 1500, 3000})
    EXPECT_THAT(message_of(ErrorKind::kMemory, [&] { read_archive(path, available); }),
                HasSubstr(path.string()))
        << available;
}

// Each of its folders would have a name nearly as long.
TEST(Archive, ANameOfMoreThanAPathIsAnError) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.tar.gz";
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "a/";
  write_tar(path, {{deep + "1", "one", ""}});
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { read_archive(path); }), HasSubstr(path.string()));
}

TEST(Archive, SymbolicLinksAreLeftOutAloud) {
  const TemporaryFolder folder;
  folder.write("in/a/1", "one");
  fs::create_symlink("1", folder.path() / "in/a/2");
  const fs::path path = folder.path() / "a.tar";
  const std::string command = fmt::format("tar cf {} -C {} in", shell_quoted(path.string()),
                                          shell_quoted(folder.path().string()));
  ASSERT_EQ(std::system(command.c_str()), 0);
  const LogLines log;
  EXPECT_THAT(paths_of(read_archive(path)), ElementsAre("in/a/1"));
  EXPECT_THAT(log.text(), HasSubstr("1 symbolic links"));
}

TEST(Archive, HardLinksToHiddenFilesHaveTheBytes) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.tar.gz";
  write_tar(path, {{".cache/1", "one", ""},
                   {".cache/2", "", ".cache/1"},
                   {".cache/3", "", "nowhere"},
                   {"a/1", "", ".cache/1"},
                   {"a/2", "", "./.cache/2"}});
  const FileTree tree = read_archive(path);
  ASSERT_THAT(paths_of(tree), ElementsAre("a/1", "a/2"));
  EXPECT_THAT(tree.folders, ElementsAre("a"));
  EXPECT_EQ(tree.read(tree.files[0]), "one");
  EXPECT_EQ(tree.read(tree.files[1]), "one");
  EXPECT_EQ(tree.hidden_count, 3);
}

TEST(Archive, AHardLinkToWhatIsNotThereIsAnErrorThatNamesIt) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.tar.gz";
  for (const char* target : {"b/none", ".cache/none", "a/3"}) {  // the last comes too late
    write_tar(path, {{"a/1", "one", ""}, {"a/2", "", target}, {"a/3", "three", ""}});
    EXPECT_THAT(message_of(ErrorKind::kData, [&] { read_archive(path); }),
                AllOf(HasSubstr("a/2"), HasSubstr(target), HasSubstr(path.string())));
  }
}

TEST(Archive, EveryCutOffArchiveIsAnError) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 300; ++i) text += std::to_string(i * i);
  for (const bool gzip : {false, true}) {
    const fs::path path = folder.path() / "whole.tar";
    write_tar(path, {{"a/1", text, ""}, {"a/2", "two", ""}, {"a/3", "three", ""}}, gzip);
    const std::string bytes = read_file(path);
    // Of the zeros that end a tar, two blocks are enough.
    const size_t needed = gzip ? bytes.size() : bytes.find_last_not_of('\0') + 1;
    for (size_t size = 0; size < needed; size += gzip ? 3 : 256) {
      const fs::path cut = folder.write("cut.tar", bytes.substr(0, size));
      EXPECT_THAT(message_of(ErrorKind::kData, [&] { read_archive(cut); }), HasSubstr("cut.tar"))
          << size << " of " << bytes.size();
    }
  }
}

TEST(Archive, AChangedByteChangesNoFileUnnoticed) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.tar.gz";
  write_tar(path, {{"a/1", "some text that is packed", ""}, {"a/2", "and some more of it", ""}});
  const std::string bytes = read_file(path);
  int noticed = 0;
  for (size_t at = 10; at < bytes.size(); ++at) {  // behind the gzip header
    std::string damaged = bytes;
    damaged[at] ^= 0x04;
    folder.write("damaged.tar.gz", damaged);
    try {
      // Among zeros, another distance to copy from can mean the same.
      const FileTree tree = read_archive(folder.path() / "damaged.tar.gz");
      ASSERT_THAT(paths_of(tree), ElementsAre("a/1", "a/2")) << "byte " << at;
      EXPECT_EQ(tree.read(tree.files[0]), "some text that is packed") << "byte " << at;
      EXPECT_EQ(tree.read(tree.files[1]), "and some more of it") << "byte " << at;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      ++noticed;
    }
  }
  EXPECT_GT(noticed, static_cast<int>(bytes.size()) / 2);
}

TEST(Archive, OtherFilesAreNoArchives) {
  const TemporaryFolder folder;
  for (const std::string& bytes : {std::string(), std::string("no archive at all"),
                                   std::string(4096, 'x'), std::string("\x1f\x8b\x08", 3)}) {
    const fs::path path = folder.write("text.tar.gz", bytes);
    EXPECT_THAT(message_of(ErrorKind::kData, [&] { read_archive(path); }),
                HasSubstr("text.tar.gz"));
  }
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { read_archive(folder.path() / "none"); }),
              HasSubstr("none"));
}

TEST(Archive, PlainFilesReadAsTheyAre) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_maybe_gzip(folder.write("plain", "as it is")), "as it is");
  EXPECT_EQ(read_maybe_gzip(folder.write("empty", "")), "");
}

}  // namespace
}  // namespace skipway
