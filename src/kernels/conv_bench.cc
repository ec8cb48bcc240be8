// Times each pass of ResNet-18's 3x3 layers behind the stem, by Winograd in each type and directly.
// Prints a table: milliseconds (shortest and median), and the GFLOP/s that a direct convolution
// would need to be as fast.
//   skipway_kernels_bench [images] [threads] [repeats] [instruction set]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "kernels/conv_direct.h"
#include "kernels/conv_winograd.h"
#include "kernels/instruction_set.h"

namespace {

using namespace skipway::kernels;

std::vector<double> times_ms(int repeats, const auto& pass) {
  std::vector<double> times;
  pass();  // the first touches the memory
  for (int i = 0; i < repeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    pass();
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    times.push_back(time.count());
  }
  std::sort(times.begin(), times.end());
  return times;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
// Values in (-1, -1/2] and [1/2, 1), as fp32 and as bf16: a processor may be faster with zeros.
std::unique_ptr<void, Free> memory(size_t bytes) {
  std::minstd_rand random(1);
  uint16_t* begin = static_cast<uint16_t*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  std::generate_n(begin, bytes / 2, [&] {
    return static_cast<uint16_t>(0x3F00 | (random() & 0x8000) | (random() >> 8 & 0x7F));
  });
  return std::unique_ptr<void, Free>(begin);
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t images = argc > 1 ? std::atoi(argv[1]) : 128;
  const int count = argc > 2 ? std::atoi(argv[2]) : 2;
  const int repeats = argc > 3 ? std::atoi(argv[3]) : 10;
  if (argc > 4 && !use_instruction_set(argv[4])) return 2;
  const Threads threads = {count, [count](const std::function<void(int)>& task) {
#pragma omp parallel for num_threads(count)
                             for (int thread = 0; thread < count; ++thread) task(thread);
                           }};
  std::printf("%s, %d threads, batch %d\n", instruction_set_in_use().c_str(), count,
              static_cast<int>(images));
  std::printf("%-9s %-14s %-9s %9s %9s %9s\n", "type", "layer", "pass", "min ms", "median",
              "GFLOP/s");
  const std::pair<const char*, Numbers> all[] = {{"fp32", {Type::kFp32, Type::kFp32}},
                                                 {"bf16 maps", {Type::kBf16, Type::kFp32}},
                                                 {"bf16", {Type::kBf16, Type::kBf16}},
                                                 {"direct", {Type::kBf16, Type::kBf16}},
                                                 {"direct x2", {Type::kFp32, Type::kBf16x2}}};
  for (const auto& of_all : all) {
    if (of_all.second.products == Type::kBf16x2 && !tiles_in_use()) continue;
    const char* word = of_all.first;
    const Numbers numbers = of_all.second;
    const bool direct = std::string(word).starts_with("direct");
    double total = 0;
    for (const ConvShape& s :
         {ConvShape{images, 32, 32, 64, 64}, ConvShape{images, 32, 32, 64, 128, 3, 2},
          ConvShape{images, 16, 16, 128, 128}, ConvShape{images, 16, 16, 128, 256, 3, 2},
          ConvShape{images, 8, 8, 256, 256}, ConvShape{images, 8, 8, 256, 512, 3, 2},
          ConvShape{images, 4, 4, 512, 512}}) {
      const int layers = s.stride == 2 ? 1 : s.c == 64 ? 4 : 3;
      const auto src_bytes = static_cast<size_t>(s.n * s.h * s.w * s.c * bytes_of(numbers.maps));
      const auto dst_bytes =
          static_cast<size_t>(s.n * s.out_h() * s.out_w() * s.k * bytes_of(numbers.maps));
      const auto src = memory(src_bytes), dst = memory(dst_bytes), grad_src = memory(src_bytes);
      const auto weights = memory(static_cast<size_t>(s.k * 9 * s.c * 4)),
                 grad_weights = memory(static_cast<size_t>(s.k * 9 * s.c * 4));
      const double flop = 2.0 * 9 * static_cast<double>(s.n * s.out_h() * s.out_w() * s.c * s.k);
      const auto show = [&](const char* name, double passes, const std::vector<double>& ms) {
        std::printf("%-9s %4ld, %2ldx%-2ld /%ld %-9s %9.2f %9.2f %9.0f\n", word, s.c, s.h, s.w,
                    s.stride, name, ms.front(), ms[ms.size() / 2],
                    passes * flop / ms.front() / 1e6);
        total += ms.front() * layers;
      };
      std::vector<double> sums(static_cast<size_t>(2 * s.k));
      ForwardArguments f;
      f.src = src.get(), f.weights = static_cast<float*>(weights.get()), f.dst = dst.get();
      f.sum = sums.data(), f.sum_of_squares = sums.data() + s.k;
      const auto bytes_of_pass = [&](Pass pass) {
        return direct ? direct_workspace_bytes(s, numbers, pass, count)
                      : winograd_workspace_bytes(s, numbers, pass, count);
      };
      const auto scratch =
          memory(std::max(bytes_of_pass(Pass::kForward), bytes_of_pass(Pass::kBackward)));
      show("forward", 1, times_ms(repeats, [&] {
             direct ? direct_forward(s, numbers, f, scratch.get(), threads)
                    : winograd_forward(s, numbers, f, scratch.get(), threads);
           }));
      BackwardArguments b;
      b.src = src.get(), b.weights = f.weights, b.grad_dst = dst.get(), b.grad_src = grad_src.get();
      const auto run = [&] {
        direct ? direct_backward(s, numbers, b, scratch.get(), threads)
               : winograd_backward(s, numbers, b, scratch.get(), threads);
      };
      const auto data = times_ms(repeats, run);
      show("data", 1, data), total -= data.front() * layers;
      b.grad_weights = static_cast<float*>(grad_weights.get());
      b.grad_src = nullptr;
      const auto of_weights = times_ms(repeats, run);
      show("weights", 1, of_weights), total -= of_weights.front() * layers;
      b.grad_src = grad_src.get();
      show("both", 2, times_ms(repeats, run));
    }
    std::printf("%-9s the 16 layers of a step: %.0f ms\n", word, total);
  }
}
