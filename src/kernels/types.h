// What every kernel takes: the type of its values, and threads. No LibTorch in here.
#pragma once
#include <cstdint>
#include <functional>

namespace skipway::kernels {

/// kBf16x2, of the products of direct convolutions (conv_direct.h) alone: each operand is the sum
/// of two bf16, which has 17 bits of an fp32's 24.
enum class Type { kFp32, kBf16, kBf16x2 };

/// Bytes of one value, or of each of the two.
constexpr int64_t bytes_of(Type type) { return type == Type::kFp32 ? 4 : 2; }

/// Calls `task(thread)` for every thread below `count`, at once, and returns when all have.
struct Threads {
  int count = 1;
  std::function<void(const std::function<void(int)>& task)> run = [](const auto& task) { task(0); };
};

}  // namespace skipway::kernels
