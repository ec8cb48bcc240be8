// Random numbers as a function of a key: no state survives a call, so order, threads and batch size
// change nothing.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <vector>

namespace skipway {

/// What a stream of draws is for. Part of the key, so that two uses never share numbers. Never
/// renumber.
enum class RngUse : uint64_t { kShuffle = 1, kAugment = 2, kInit = 3, kSplit = 4, kSynthetic = 5 };

/// SplitMix64 seeded by a hash of (seed, use, key...). Source: Steele, Lea & Flood, OOPSLA 2014.
class Rng {
 public:
  Rng(uint64_t seed, RngUse use, std::initializer_list<uint64_t> key = {});

  uint64_t next();
  /// In [0, 1), 53 bits.
  double uniform();
  /// In [0, n), without modulo bias worth speaking of (n < 2^32). Needs n >= 1.
  uint64_t below(uint64_t n);

 private:
  uint64_t state_;
};

/// A permutation of 0 … n-1 that depends on the arguments alone (Fisher-Yates).
std::vector<int64_t> permutation(int64_t n, Rng rng);

}  // namespace skipway
