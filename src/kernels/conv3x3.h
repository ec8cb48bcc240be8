// 3x3 convolutions with a padding of 1, stride 1 or 2, for training on CPUs by Winograd's
// algorithm: raw NHWC pointers in, raw pointers out, memory and threads from the caller. No
// LibTorch in here. docs/kernels.md explains the algorithm and its numbers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace skipway::kernels {

/// kBf16x2, of the products of direct convolutions (conv_direct.h) alone: each operand is the sum
/// of two bf16, which has 17 bits of an fp32's 24.
enum class Type { kFp32, kBf16, kBf16x2 };

/// Bytes of one value, or of each of the two.
constexpr int64_t bytes_of(Type type) { return type == Type::kFp32 ? 4 : 2; }

/// In which type maps lie in memory, and in which their transforms are multiplied; sums and the
/// transforms themselves are fp32 always. fp32 maps are multiplied in fp32.
struct Numbers {
  Type maps = Type::kFp32, products = Type::kFp32;
  Type operands() const { return maps == Type::kFp32 ? Type::kFp32 : products; }
};

struct ConvShape {
  int64_t n = 0, h = 0, w = 0;  // images, rows, columns of the source
  int64_t c = 0, k = 0;         // input and output channels
  int64_t size = 3, stride = 1, padding = 1;

  int64_t out_h() const { return (h + 2 * padding - size) / stride + 1; }
  int64_t out_w() const { return (w + 2 * padding - size) / stride + 1; }
};

/// Calls `task(thread)` for every thread below `threads`, at once, and returns when all have.
struct Threads {
  int count = 1;
  std::function<void(const std::function<void(int)>& task)> run = [](const auto& task) { task(0); };
};

/// Why a shape is not for these kernels, or nothing: 3x3, padding 1, stride 1 or 2, channels in
/// multiples of 16.
std::string refusal(const ConvShape& shape);

/// Names of the instruction sets that this machine can run, best first: "amx_bf16", "avx512_bf16",
/// "avx512", "avx2", "scalar".
std::vector<std::string> instruction_sets();
/// The one in use; best of instruction_sets() at the start.
std::string instruction_set_in_use();
/// For tests and benchmarks: from now on uses the named one. Not while a kernel runs. Returns
/// false for one that the machine cannot run.
bool use_instruction_set(const std::string& name);

enum class Pass { kForward, kBackward };

/// Bytes of scratch memory that a pass needs, aligned to 64.
size_t workspace_bytes(const ConvShape& shape, Numbers numbers, Pass pass, int threads);

struct ForwardArguments {
  const void* src = nullptr;  // [n,h,w,c]
  // Or, where the BatchNorm and ReLU before this convolution are still to be applied to src, their
  // coefficients [c]: what is convolved is max(0, src_scale * src + src_shift).
  const float *src_scale = nullptr, *src_shift = nullptr;
  const float* weights = nullptr;  // [k,3,3,c]
  const void* prepared = nullptr;  // or what prepare() made of them
  void* dst = nullptr;             // [n,out_h,out_w,k], overwritten
  // For BatchNorm in training, or null: sums over n, h and w of dst and of its square [k].
  double* sum = nullptr;
  double* sum_of_squares = nullptr;
  // For inference, or null: added to dst [k]; another map of dst's shape added to it; max(0, .).
  const float* bias = nullptr;
  const void* residual = nullptr;
  bool relu = false;
};

/// dst = convolution of src with weights.
/// Numbers: relative L2 error of dst against a float64 direct sum at most 1e-5 in fp32, 0.2 % with
/// bf16 maps alone (1 % below 1,000 results), and with bf16 products 1 % where height and width are
/// multiples of four, 1.2 % on any shape; on ReLU-like maps. Same bits for the same number of
/// threads.
/// Source:  Lavin & Gray, arXiv:1509.09308, section 4.
void forward(const ConvShape& shape, Numbers numbers, const ForwardArguments& arguments,
             void* workspace, const Threads& threads);

/// Transforms the weights [k,3,3,c] once for many forward passes, of any number of images for which
/// prepared_bytes() is the same, into so many bytes, aligned to 64.
size_t prepared_bytes(const ConvShape& shape, Numbers numbers);
void prepare(const ConvShape& shape, Numbers numbers, const float* weights, void* prepared,
             const Threads& threads);

struct BackwardArguments {
  const void* src = nullptr;                               // [n,h,w,c], as in forward
  const float *src_scale = nullptr, *src_shift = nullptr;  // as in forward
  const float* weights = nullptr;                          // [k,3,3,c]
  const void* grad_dst = nullptr;                          // [n,out_h,out_w,k]
  // Or, to apply a BatchNorm's backward pass on the way in, the convolution's result dst
  // and three coefficients of each channel [k]: the gradient taken is
  //   by_grad * grad_dst + by_dst * dst + constant.
  const void* dst = nullptr;
  const float *by_grad = nullptr, *by_dst = nullptr, *constant = nullptr;
  void* grad_src = nullptr;  // [n,h,w,c], overwritten; null: not wanted
  bool add = false;          // grad_src is added to instead; not with src_scale
  // With src_scale: grad_src is the gradient before that ReLU, and these are its sums over pixels,
  // alone and times src, that the BatchNorm's backward pass needs [c].
  double *sum = nullptr, *sum_with_src = nullptr;
  float* grad_weights = nullptr;  // [k,3,3,c], overwritten; null: not wanted
};

/// Gradients of both operands, by the adjoint of the forward algorithm. Numbers as forward.
void backward(const ConvShape& shape, Numbers numbers, const BackwardArguments& arguments,
              void* workspace, const Threads& threads);

}  // namespace skipway::kernels
