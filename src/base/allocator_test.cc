#include "base/allocator.h"

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <vector>

namespace skipway {
namespace {

TEST(Allocator, BlocksAreAligned) {
  prepare_allocator();
  for (const int64_t bytes : {1, 63, 64, 65, 1000, 1 << 20}) {
    const at::Tensor tensor = at::zeros({bytes}, at::kByte);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 64, 0u) << bytes;
  }
  EXPECT_EQ(at::empty({0}).numel(), 0);
}

TEST(Allocator, AFreedBlockHoldsTheNextOfItsSizeBetweenOthers) {
  prepare_allocator();
  constexpr int64_t kBytes = 8 << 20;
  std::vector<at::Tensor> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(at::empty({kBytes}, at::kByte));
  const void* const place = blocks[2].const_data_ptr();
  blocks[2] = at::Tensor();
  EXPECT_EQ(at::empty({kBytes}, at::kByte).const_data_ptr(), place);
}

TEST(Allocator, CopiesAndRawBlocksAreItsOwn) {
  prepare_allocator();
  c10::Allocator& allocator = *c10::GetCPUAllocator();
  void* const raw = allocator.raw_allocate(100);
  static_cast<char*>(raw)[99] = 7;
  const c10::DataPtr copy = allocator.clone(raw, 100);
  EXPECT_EQ(static_cast<const char*>(copy.get())[99], 7);
  allocator.raw_deallocate(raw);
}

TEST(Allocator, MoreThanThereIsIsSaidSo) {
  prepare_allocator();
  EXPECT_THROW(at::empty({std::numeric_limits<int64_t>::max() / 2}, at::kByte),
               c10::OutOfMemoryError);
}

}  // namespace
}  // namespace skipway
