// The choice between instruction sets and between schemes.
#include "kernels/conv3x3.h"

#include <hwy/targets.h>

#include <algorithm>
#include <atomic>

#include "kernels/winograd.h"

namespace skipway::kernels {
namespace {

// Whether the pair product may use vdpbf16ps; false also when a test asks for plain AVX-512.
std::atomic<bool> dot_allowed{true};

// What the machine can run, whatever use_instruction_set() said.
int64_t targets_of_machine() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

bool has_dot() { return __builtin_cpu_supports("avx512bf16") && (targets_of_machine() & HWY_AVX3); }

const std::vector<std::pair<std::string, int64_t>>& known_sets() {
  static const std::vector<std::pair<std::string, int64_t>> sets = {
      {"avx512_bf16", HWY_AVX3}, {"avx512", HWY_AVX3}, {"avx2", HWY_AVX2}, {"scalar", HWY_EMU128}};
  return sets;
}

const SchemePasses& passes_of(const ConvShape& s) {
  if (s.stride == 2) return passes_of_stride2();
  return tile_of(s) == 2 ? passes_of_tile2() : passes_of_tile4();
}

}  // namespace

std::string refusal(const ConvShape& s) {
  if (s.c % 16 != 0 || s.k % 16 != 0) return "channels that are no multiple of 16";
  if (s.size != 3 || s.padding != 1) return "no 3x3 window with a padding of 1";
  if (s.stride != 1 && s.stride != 2) return "a stride other than 1 and 2";
  if (s.n < 1 || s.h < 1 || s.w < 1) return "an empty map";
  return "";
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  const int64_t here = targets_of_machine();
  for (const auto& [name, target] : known_sets()) {
    const bool can = (here & target) != 0 || target == HWY_EMU128;
    if (can && (name != "avx512_bf16" || has_dot())) names.push_back(name);
  }
  return names;
}

bool dot_in_use() {
  return has_dot() && dot_allowed && (hwy::SupportedTargets() & HWY_TARGETS & HWY_AVX3) != 0;
}

std::string instruction_set_in_use() {
  const int64_t here = hwy::SupportedTargets() & HWY_TARGETS;
  if (here & HWY_AVX3) return dot_in_use() ? "avx512_bf16" : "avx512";
  return here & HWY_AVX2 ? "avx2" : "scalar";
}

bool use_instruction_set(const std::string& name) {
  const auto can = instruction_sets();
  if (std::find(can.begin(), can.end(), name) == can.end()) return false;
  for (const auto& [known, target] : known_sets())
    if (known == name) hwy::SetSupportedTargetsForTest(target);
  dot_allowed = name == "avx512_bf16";
  // The tables choose anew at the next call.
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return true;
}

size_t workspace_bytes(const ConvShape& shape, Numbers numbers, Pass pass, int threads) {
  const auto words = [&](Sweep sweep) {
    return Workspace(shape, numbers.operands(), sweep, threads).total_words;
  };
  int64_t most = 0;
  if (pass == Pass::kForward) {
    most = words(Sweep::kForward);
  } else {  // whichever gradients are asked for
    most = std::max(words(Sweep::kSourceGradient), words(Sweep::kWeightsGradient));
    if (gradients_go_together(shape)) most = std::max(most, words(Sweep::kBothGradients));
  }
  return static_cast<size_t>(most) * sizeof(float);
}

void forward(const ConvShape& shape, Numbers numbers, const ForwardArguments& arguments,
             void* workspace, const Threads& threads) {
  passes_of(shape).forward(shape, numbers, dot_in_use(), arguments, static_cast<float*>(workspace),
                           threads);
}

size_t prepared_bytes(const ConvShape& shape, Numbers numbers) {
  return static_cast<size_t>(tiling_of(shape).weight_points() *
                             weights_plane_of(shape, numbers.operands())) *
         sizeof(float);
}

void prepare(const ConvShape& shape, Numbers numbers, const float* weights, void* prepared,
             const Threads& threads) {
  passes_of(shape).prepare(shape, numbers, dot_in_use(), weights, static_cast<float*>(prepared),
                           threads);
}

void backward(const ConvShape& shape, Numbers numbers, const BackwardArguments& arguments,
              void* workspace, const Threads& threads) {
  passes_of(shape).backward(shape, numbers, dot_in_use(), arguments, static_cast<float*>(workspace),
                            threads);
}

}  // namespace skipway::kernels
