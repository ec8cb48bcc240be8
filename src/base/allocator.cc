#include "base/allocator.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <limits>

namespace skipway {
namespace {

// LibTorch asks for aligned blocks (posix_memalign). For those glibc before 2.38 takes more from
// the heap and frees what stands over, so that the hole which such a block leaves is too small for
// the next one of the same size. Here the larger block is kept whole: before its aligned part
// stands where it begins.
class ReusableBlocks final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, at::kCPU};
    void* const block = std::malloc(bytes + sizeof(block) + kAlignment);
    TORCH_CHECK_WITH(OutOfMemoryError, block != nullptr, "can't allocate memory: ", bytes,
                     " bytes");
    const auto first = reinterpret_cast<uintptr_t>(block) + sizeof(block);
    const auto aligned = (first + kAlignment - 1) / kAlignment * kAlignment;
    auto* const data = reinterpret_cast<void**>(aligned);
    data[-1] = block;
    return {data, data, &release, at::kCPU};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static constexpr uintptr_t kAlignment = 64;  // [bytes]: a cache line, the widest vector

  static void release(void* data) {
    if (data != nullptr) std::free(static_cast<void**>(data)[-1]);
  }
};

}  // namespace

void prepare_allocator() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
  static ReusableBlocks blocks;
  c10::SetCPUAllocator(&blocks, /*priority=*/1);
}

}  // namespace skipway
