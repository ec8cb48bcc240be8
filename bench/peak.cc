// The processor's own limit: products with sums in registers, on all threads, nothing from memory.
// Prints one JSON object: GFLOP/s in fp32 and, where there is an instruction for it, in bf16, else
// 0.
#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace {

constexpr int kSums = 12;  // enough to hide the latency of two instructions a cycle
constexpr int64_t kSteps = 1 << 24;

__attribute__((target("avx2,fma"))) double avx2() {
  __m256 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(1.5f), b = _mm256_set1_ps(1e-3f);
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12  // or the sums would lie in memory
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(a, b, sum);
  __m256 total = sums[0];
  for (const __m256& sum : sums) total = _mm256_add_ps(total, sum);
  return static_cast<double>(_mm256_cvtss_f32(total));
}

// kPairs: two products of bf16 in each lane.
template <bool kPairs>
__attribute__((target("avx512f,avx512bf16"))) double avx512() {
  __m512 sums[kSums];  // of different values, or the compiler would keep one for all
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(1.5f), b = _mm512_set1_ps(1e-3f);
  const __m512bh pairs = (__m512bh)_mm512_set1_epi32(0x3DCC3DCC);
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12  // or the sums would lie in memory
    for (__m512& sum : sums)
      sum = kPairs ? _mm512_dpbf16_ps(sum, pairs, pairs) : _mm512_fmadd_ps(a, b, sum);
  __m512 total = sums[0];
  for (const __m512& sum : sums) total = _mm512_add_ps(total, sum);
  return static_cast<double>(_mm512_reduce_add_ps(total));
}

// `flop`: of one instruction.
double gflop_per_s(double (*loop)(), int64_t flop, int threads) {
  std::vector<double> results(static_cast<size_t>(threads));
  std::vector<std::thread> others;
  const skipway::Stopwatch watch;
  for (double& result : results) others.emplace_back([&result, loop] { result = loop(); });
  for (std::thread& other : others) other.join();
  const double seconds = watch.seconds();
  for (const double result : results)
    if (result < 0) std::abort();  // so that no result can be left out
  return static_cast<double>(threads * kSums * kSteps * flop) / seconds * 1e-9;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const bool wide = __builtin_cpu_supports("avx512f");
  const double fp32 = gflop_per_s(wide ? avx512<false> : avx2, wide ? 32 : 16, threads);
  const double bf16 =
      __builtin_cpu_supports("avx512bf16") ? gflop_per_s(avx512<true>, 64, threads) : 0;
  std::printf("{\"fp32\": %.1f, \"bf16\": %.1f}\n", fp32, bf16);
}
