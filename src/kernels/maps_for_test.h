// Maps and weights for tests of the kernels: random, in memory of either type, compared by norms.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/conv3x3.h"

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

  void* data() { return type == Type::kFp32 ? static_cast<void*>(wide.data()) : narrow.data(); }
  // What a kernel has written.
  std::vector<float> values_now() const {
    if (type == Type::kFp32) return wide;
    std::vector<float> values;
    for (const Bf16 half : narrow) values.push_back(widened(half));
    return values;
  }
};

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
