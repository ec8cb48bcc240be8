// Tests of what others rely on without a test of their own.
#include "base/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/for_test.h"

namespace skipway {
namespace {

TEST(ShellQuoted, LeavesPlainPathsAndQuotesTheOthers) {
  EXPECT_EQ(shell_quoted("runs/001/config.toml"), "runs/001/config.toml");
  EXPECT_EQ(shell_quoted("my run"), "'my run'");
  EXPECT_EQ(shell_quoted("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_quoted(""), "''");
  EXPECT_EQ(shell_quoted("~/x"), "'~/x'");
}

TEST(KindOfFailure, PermissionAndTheDiskAreNotTheDatas) {
  EXPECT_EQ(kind_of_failure(EACCES), ErrorKind::kDisk);
  EXPECT_EQ(kind_of_failure(EIO), ErrorKind::kDisk);
  EXPECT_EQ(kind_of_failure(ENOENT), ErrorKind::kData);
  // An input error, also for root.
  EXPECT_EQ(error_of([] { hash_of_file(HashKind::kSha256, "/proc/self/mem"); }).kind(),
            ErrorKind::kDisk);
  EXPECT_EQ(error_of([] { read_file("/proc/nowhere"); }).kind(), ErrorKind::kData);
}

TEST(WriteFileAtomic, ReplacesFilesAlone) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { write_file_atomic(folder / "pipe", "a"); }).kind(), ErrorKind::kDisk);
  EXPECT_TRUE(std::filesystem::is_fifo(folder / "pipe"));
  write_file_atomic(folder / "a", "a");
  write_file_atomic(folder / "a", "b");
  EXPECT_EQ(read_file(folder / "a"), "b");
}

TEST(RenameToNew, ReplacesNothing) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "a", "a");
  write_file_atomic(folder / "b", "b");
  const Error error = error_of([&] { rename_to_new(folder / "a", folder / "b"); });
  EXPECT_EQ(error.kind(), ErrorKind::kDisk);
  EXPECT_EQ(read_file(folder / "b"), "b");
  rename_to_new(folder / "a", folder / "c");
  EXPECT_EQ(read_file(folder / "c"), "a");
}

}  // namespace
}  // namespace skipway
