#include "base/rng.h"

#include <cstddef>
#include <numeric>
#include <utility>

namespace skipway {
namespace {

uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;

}  // namespace

Rng::Rng(uint64_t seed, RngUse use, std::initializer_list<uint64_t> key)
    : state_(mix(seed + kGolden)) {
  state_ = mix(state_ ^ (static_cast<uint64_t>(use) * kGolden));
  for (uint64_t part : key) state_ = mix(state_ ^ mix(part + kGolden));
}

uint64_t Rng::next() { return mix(state_ += kGolden); }

double Rng::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

uint64_t Rng::below(uint64_t n) { return ((next() >> 32) * n) >> 32; }

std::vector<int64_t> permutation(int64_t n, Rng rng) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  return order;
}

}  // namespace skipway
