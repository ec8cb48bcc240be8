// The choice between schemes.
#include "kernels/conv_winograd.h"

#include <algorithm>

#include "kernels/winograd.h"

namespace skipway::kernels {
namespace {

const SchemePasses& passes_of(const ConvShape& s) {
  if (s.stride == 2) return passes_of_stride2();
  return tile_of(s) == 2 ? passes_of_tile2() : passes_of_tile4();
}

}  // namespace

std::string winograd_refusal(const ConvShape& s) {
  if (s.c % 16 != 0 || s.k % 16 != 0) return "channels that are no multiple of 16";
  if (s.size != 3 || s.padding != 1) return "no 3x3 window with a padding of 1";
  if (s.stride != 1 && s.stride != 2) return "a stride other than 1 and 2";
  if (s.n < 1 || s.h < 1 || s.w < 1) return "an empty map";
  return "";
}

size_t winograd_workspace_bytes(const ConvShape& shape, Numbers numbers, Pass pass, int threads) {
  const auto words = [&](Sweep sweep) {
    return Workspace(shape, numbers.operands(), sweep, threads).total_words;
  };
  int64_t most = 0;
  if (pass == Pass::kForward) {
    most = words(Sweep::kForward);
  } else {  // whichever gradients are asked for
    most = std::max(words(Sweep::kSourceGradient), words(Sweep::kWeightsGradient));
    if (gradients_go_together(shape, numbers.operands()))
      most = std::max(most, words(Sweep::kBothGradients));
  }
  return static_cast<size_t>(most) * sizeof(float);
}

void winograd_forward(const ConvShape& shape, Numbers numbers, const ForwardArguments& arguments,
                      void* workspace, const Threads& threads) {
  passes_of(shape).forward(shape, numbers, arguments, static_cast<float*>(workspace), threads);
}

size_t winograd_prepared_bytes(const ConvShape& shape, Numbers numbers) {
  return static_cast<size_t>(tiling_of(shape).weight_points() *
                             weights_plane_of(shape, numbers.operands())) *
         sizeof(float);
}

void winograd_prepare(const ConvShape& shape, Numbers numbers, const float* weights, void* prepared,
                      const Threads& threads) {
  passes_of(shape).prepare(shape, numbers, weights, static_cast<float*>(prepared), threads);
}

void winograd_backward(const ConvShape& shape, Numbers numbers, const BackwardArguments& arguments,
                       void* workspace, const Threads& threads) {
  passes_of(shape).backward(shape, numbers, arguments, static_cast<float*>(workspace), threads);
}

}  // namespace skipway::kernels
