// The processor's own limit: products with sums in registers, on all threads, nothing from memory.
// Prints one JSON object: GFLOP/s in fp32 and, where there is an instruction for it, in bf16, else
// 0; of several the fastest. `skipway_peak THREADS --instruction-set avx512_bf16` leaves tile
// registers alone.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "kernels/instruction_set.h"
#include "kernels/pieces.h"

namespace {

constexpr int kSums = 12;  // enough to hide the latency of two instructions a cycle
constexpr int64_t kSteps = 1 << 24, kTileSteps = 1 << 23;

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

// Products of 16 rows of 32 with 16 columns, in four tile registers of sums. The process has asked
// for tile registers.
double amx() {
  alignas(64) float sums[16 * 16] = {};
  const int64_t row_bytes = 64;
  __asm__ volatile("ldtilecfg %0" : : "m"(skipway::kernels::kTileLayout));
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm4" : : "r"(sums), "r"(row_bytes) : "memory");
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm5" : : "r"(sums), "r"(row_bytes) : "memory");
  for (int64_t i = 0; i < kTileSteps; ++i)
    __asm__ volatile(
        "tdpbf16ps %tmm5, %tmm4, %tmm0\n\ttdpbf16ps %tmm5, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm5, %tmm4, %tmm2\n\ttdpbf16ps %tmm5, %tmm4, %tmm3");
  __asm__ volatile("tilestored %%tmm0, (%0,%1,1)" : : "r"(sums), "r"(row_bytes) : "memory");
  __asm__ volatile("tilerelease");
  return static_cast<double>(sums[0]);
}

double gflop_per_s(double (*loop)(), int64_t flop_of_loop, int threads) {
  std::vector<double> results(static_cast<size_t>(threads));
  std::vector<std::thread> others;
  const skipway::Stopwatch watch;
  for (double& result : results) others.emplace_back([&result, loop] { result = loop(); });
  for (std::thread& other : others) other.join();
  const double seconds = watch.seconds();
  for (const double result : results)
    if (result < 0) std::abort();  // so that no result can be left out
  return static_cast<double>(threads * flop_of_loop) / seconds * 1e-9;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const bool wide = __builtin_cpu_supports("avx512f");
  constexpr int64_t kInstructions = kSums * kSteps;
  const double fp32 =
      gflop_per_s(wide ? avx512<false> : avx2, kInstructions * (wide ? 32 : 16), threads);
  double bf16 = 0;
  if (__builtin_cpu_supports("avx512bf16"))
    bf16 = gflop_per_s(avx512<true>, kInstructions * 64, threads);
  if (argc < 3 && skipway::kernels::instruction_sets().front() == "amx_bf16")
    bf16 = std::max(bf16, gflop_per_s(amx, kTileSteps * 4 * 16 * 16 * 64, threads));
  std::printf("{\"fp32\": %.1f, \"bf16\": %.1f}\n", fp32, bf16);
}
