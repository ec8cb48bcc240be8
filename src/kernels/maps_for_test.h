// Maps and weights for tests of the kernels: random, in memory of either type, compared by norms.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/conv.h"

namespace skipway::kernels {

inline std::vector<float> random_values(int64_t count, uint64_t seed, bool rectified = false,
                                        float mean = 0) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal(mean);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) {
    v = normal(engine);
    if (rectified) v = std::max(v, 0.0f);
  }
  return values;
}

// A map in memory, and the same values in fp32 for the reference.
struct Stored {
  Type type;
  std::vector<float> wide;
  std::vector<Bf16> narrow;

  Stored(Type t, std::vector<float> values) : type(t), wide(std::move(values)) {
    if (type == Type::kFp32) return;
    for (const float v : wide) narrow.push_back(narrowed(v));
    wide = values_now();
  }
  Stored(Type t, int64_t count) : Stored(t, std::vector<float>(static_cast<size_t>(count), -7)) {}

  // To a value that no kernel writes.
  void clear() {
    std::ranges::fill(wide, -7);
    std::ranges::fill(narrow, narrowed(-7));
  }
  void* data() { return type == Type::kFp32 ? static_cast<void*>(wide.data()) : narrow.data(); }
  // What a kernel has written.
  std::vector<float> values_now() const {
    if (type == Type::kFp32) return wide;
    std::vector<float> values;
    for (const Bf16 half : narrow) values.push_back(widened(half));
    return values;
  }
};

// Scratch memory of a kernel: as many bytes as it asked for, aligned to 64. What is read before it
// is written is no number, in either type; what is written behind it fails the test.
class Scratch {
 public:
  explicit Scratch(size_t bytes)
      : bytes_(bytes), memory_((bytes + 1) / 2 + (64 + kGuard) / 2, kUntouched) {}
  ~Scratch() {
    for (size_t i = (offset() + bytes_ + 1) / 2; i < memory_.size(); ++i) {
      EXPECT_EQ(memory_[i], kUntouched) << "written behind the workspace";
      if (memory_[i] != kUntouched) return;
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() { return reinterpret_cast<char*>(memory_.data()) + offset(); }

 private:
  static constexpr size_t kGuard = 1 << 16;
  static constexpr uint16_t kUntouched = 0xFFC0;
  size_t offset() const { return 64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64; }
  size_t bytes_;
  std::vector<uint16_t> memory_;
};

// As many threads, for a kernel.
inline Threads these_threads(int count) {
  return {count, [count](const std::function<void(int)>& task) {
            std::vector<std::thread> others;
            for (int thread = 1; thread < count; ++thread) others.emplace_back(task, thread);
            task(0);
            for (std::thread& other : others) other.join();
          }};
}

template <class Got, class Want>
double relative_error(const Got& got, const Want& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    difference += d * d;
    norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return std::sqrt(difference / norm);
}

}  // namespace skipway::kernels
