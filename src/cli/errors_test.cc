// What an exception of any kind becomes.
#include "cli/errors.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <new>
#include <stdexcept>

namespace skipway {
namespace {

template <class Exception>
ErrorKind kind_of(const Exception& exception) {
  try {
    throw exception;
  } catch (...) {
    return current_error().kind();
  }
}

TEST(CurrentError, MemoryIsFiveDiskIsNineAndWhatNobodyExpectedIsABug) {
  EXPECT_EQ(kind_of(Error(ErrorKind::kUsage, "x")), ErrorKind::kUsage);
  EXPECT_EQ(kind_of(std::bad_alloc()), ErrorKind::kMemory);
  EXPECT_EQ(kind_of(std::filesystem::filesystem_error("x", std::error_code())), ErrorKind::kDisk);
  EXPECT_EQ(kind_of(std::runtime_error("x")), ErrorKind::kInternal);
}

}  // namespace
}  // namespace skipway
