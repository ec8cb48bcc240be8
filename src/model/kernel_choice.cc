#include "model/kernel_choice.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/conv_direct.h"
#include "kernels/muon.h"
#include "model/maps.h"

namespace skipway {
namespace {

using kernels::ConvShape;
using kernels::Type;

bool multiplies_bf16(const std::string& instruction_set) {
  return instruction_set.ends_with("_bf16");
}

std::vector<ConvMethod> candidates(const ConvShape& s, Type type, const std::string& word) {
  if (word == "torch") return {ConvMethod::kTorch};
  if (word == "reference") return {ConvMethod::kReference};
  std::vector<ConvMethod> methods;
  const bool is_3x3 = kernels::refusal(s).empty();
  const std::string set = kernels::instruction_set_in_use();
  const bool in_bf16 = word == "auto" && type == Type::kBf16 && multiplies_bf16(set);
  if (is_3x3) methods.push_back(ConvMethod::kWinograd);
  if (word == "winograd" && is_3x3) return methods;
  if (is_3x3 && in_bf16) methods.push_back(ConvMethod::kWinogradBf16);
  // Other channels have no gradient of the source, and only a model's first convolution has them.
  if (s.c % 16 == 0 || s.c == 3) {
    methods.push_back(ConvMethod::kIm2col);
    if (in_bf16) methods.push_back(ConvMethod::kIm2colBf16);
  }
  // Elsewhere four times the products are not to be had.
  if (word == "auto" && set == "amx_bf16" && kernels::direct_refusal(s).empty()) {
    methods.push_back(in_bf16 ? ConvMethod::kDirectBf16 : ConvMethod::kDirectBf16x2);
    if (is_3x3 && !in_bf16) methods.push_back(ConvMethod::kDirectBf16x2Winograd);
  }
  // Without an instruction for it, oneDNN's bf16 is slower than anything by far.
  const bool slow = type == Type::kBf16 && !__builtin_cpu_supports("avx512bf16");
  if (methods.empty() || (word == "auto" && !slow)) methods.push_back(ConvMethod::kTorch);
  return methods;
}

// The shortest of so many runs, after one that touches memory for the first time.
template <class Run>
double shortest_s(int runs, const Run& run) {
  run();
  double shortest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) {
    const Stopwatch watch;
    run();
    shortest = std::min(shortest, watch.seconds());
  }
  return shortest;
}
constexpr int kRuns = 2, kShortRuns = 4;  // the short ones, of inference, are disturbed more

// The shortest of what measure(i) gives for each of so many candidates, in two rounds: what
// disturbs one of them for a while should not choose. The second leaves out what is far behind.
template <class Measure>
std::vector<double> shortest_of_rounds(size_t count, const Measure& measure) {
  std::vector<double> seconds(count, std::numeric_limits<double>::infinity());
  for (int round = 0; round < 2; ++round)
    for (size_t i = 0; i < count; ++i)
      if (round == 0 || seconds[i] <= 2 * std::ranges::min(seconds))
        seconds[i] = std::min(seconds[i], measure(i));
  return seconds;
}

double measure_inference_s(ConvMethod method, const ConvShape& s, const at::Tensor& src,
                           const at::Tensor& weight, bool prepared) {
  const auto conv = [&] { return prepare(s, src.scalar_type(), method, weight, at::zeros({s.k})); };
  const PreparedConv once = conv();
  return shortest_s(kShortRuns,
                    [&] { infer(prepared ? once : conv(), s, src, {}, /*relu=*/true); });
}

double measure_training_s(ConvMethod method, const ConvShape& s, const at::Tensor& src,
                          const at::Tensor& weight) {
  const auto k = static_cast<size_t>(s.k);
  TwoSums sums(s.k);
  const BackwardCoefficients coefficients{std::vector<float>(k, 1), std::vector<float>(k),
                                          std::vector<float>(k)};
  const at::Tensor grad_src = s.c % 16 == 0 ? new_map(src, src.sizes()) : at::Tensor();
  return shortest_s(kRuns, [&] {
    const at::Tensor dst = convolve(method, s, src, {}, weight, &sums);
    convolve_backward(method, s, src, {}, weight, dst, dst, &coefficients, grad_src, false,
                      nullptr);
  });
}

// Muon's step in KernelChoice::chosen(): the type of its products.
const char* const kMuon = "muon";
const char* const kFp32 = "fp32";
const char* const kBf16 = "bf16";
// A choice by this margin, so that the noise of a measurement does not choose: the same run on the
// same machine should take the same kernels.
constexpr double kMargin = 0.85;

double measure_muon_s(Type products) {
  constexpr int64_t kRows = 256, kColumns = 2304;  // of ResNet-18's third stage
  at::Tensor filters = varied_map(kRows, kColumns, 1, 1), momentum = filters.clone();
  const at::Tensor gradient = filters.clone();
  const std::vector<kernels::MuonMatrix> matrices = {
      {kRows, kColumns, filters.mutable_data_ptr<float>(), gradient.const_data_ptr<float>(),
       momentum.mutable_data_ptr<float>()}};
  const at::Tensor memory =
      at::empty({static_cast<int64_t>(kernels::muon_workspace_bytes(matrices, 1))}, at::kByte);
  return shortest_s(
      kRuns, [&] { kernels::muon_step(matrices, {}, products, memory.mutable_data_ptr(), {}); });
}

}  // namespace

const std::vector<std::string>& KernelChoice::words() {
  static const std::vector<std::string> all = {"auto", "winograd", "torch", "reference"};
  return all;
}

ConvMethod KernelChoice::method(const ConvShape& s, Type type, bool training, bool prepared) {
  constexpr int64_t kFew = 8;  // images, for which weights count more than maps
  std::string key =
      fmt::format("{}x{} stride {}, {} to {} channels, {}x{}, {}", s.size, s.size, s.stride, s.c,
                  s.k, s.h, s.w, type == Type::kBf16 ? "bf16" : "fp32");
  std::vector<ConvMethod> methods = candidates(s, type, word_);
  const auto chosen = [&]() -> std::optional<ConvMethod> {
    const auto found = chosen_.find(key);
    for (const ConvMethod method : methods)
      if (found != chosen_.end() && found->second == name_of(method)) return method;
    return std::nullopt;
  };
  // Inference takes what training chose; what it chooses alone was measured without the backward
  // pass and is not for training.
  const bool few = !training && s.n <= kFew;
  if (few)
    key += ", few images";
  else if (!training && !chosen())
    key += ", forward";
  if (const auto method = chosen()) return *method;
  constexpr int64_t kPixels = 16 * 32 * 32;  // enough to tell, and little memory
  ConvMethod best = methods.front();
  if (methods.size() > 1) {
    const at::ScalarType map_type = type == Type::kBf16 ? at::kBFloat16 : at::kFloat;
    // While it is measured a layer finds its weights in the cache, later those of others: of few
    // images the method that reads fewest has the margin.
    if (few && prepared)
      std::ranges::stable_sort(methods, {}, [&](ConvMethod method) {
        return method == ConvMethod::kTorch ? SIZE_MAX : prepared_bytes(s, map_type, method);
      });
    if (!training) std::erase(methods, ConvMethod::kDirectBf16x2Winograd);  // is kDirectBf16x2
    ConvShape part = s;
    part.n = std::min(std::max(kPixels / (s.h * s.w), kernels::kImagesOfGroup), s.n);
    const at::Tensor src = as_map(varied_map(part.n, s.c, s.h, s.w), map_type);
    const at::Tensor weight = varied_map(s.k, s.c, s.size, s.size);
    const std::vector<double> seconds = shortest_of_rounds(methods.size(), [&](size_t i) {
      return training ? measure_training_s(methods[i], part, src, weight)
                      : measure_inference_s(methods[i], part, src, weight, prepared);
    });
    double shortest = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < methods.size(); ++i) {
      measured_s_[key][name_of(methods[i])] = seconds[i];
      if (seconds[i] < kMargin * shortest) best = methods[i], shortest = seconds[i];
    }
  }
  chosen_[key] = name_of(best);
  if (best == ConvMethod::kTorch && methods.size() == 1 && word_ != "torch")
    log_info("kernel: LibTorch's for {}: {}", key, kernels::refusal(s));
  return best;
}

kernels::Type KernelChoice::muon_products() {
  if (word_ != "auto" || !multiplies_bf16(kernels::instruction_set_in_use())) return Type::kFp32;
  std::string& chosen = chosen_[kMuon];
  if (chosen != kFp32 && chosen != kBf16) {
    const std::vector<double> seconds = shortest_of_rounds(
        2, [](size_t i) { return measure_muon_s(i == 0 ? Type::kFp32 : Type::kBf16); });
    measured_s_[kMuon] = {{kFp32, seconds[0]}, {kBf16, seconds[1]}};
    chosen = seconds[1] < kMargin * seconds[0] ? kBf16 : kFp32;
  }
  return chosen == kBf16 ? Type::kBf16 : Type::kFp32;
}

std::string KernelChoice::in_use() const {
  std::string best = "torch", set = kernels::instruction_set_in_use();
  for (const auto& [shape, method] : chosen_) {
    if (method == "reference") return method;  // the only one then, and without an instruction set
    if (method != "torch" && shape != kMuon) best = "winograd";
  }
  // The instruction set of the products: those in fp32 do not use the bf16 instruction.
  const bool in_bf16 = std::any_of(chosen_.begin(), chosen_.end(), [](const auto& entry) {
    return entry.second.find("-bf16") != std::string::npos;
  });
  if (best == "winograd" && multiplies_bf16(set) && !in_bf16) set = "avx512";
  return best + "/" + set;
}

}  // namespace skipway
