#include "model/kernel_choice.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "base/log.h"
#include "kernels/conv_direct.h"
#include "kernels/conv_winograd.h"
#include "kernels/instruction_set.h"
#include "kernels/muon.h"
#include "model/maps.h"
#include "model/measure.h"

namespace skipway {
namespace {

using kernels::ConvShape;
using kernels::Type;

std::vector<ConvMethod> candidates(const ConvShape& s, Type type, const std::string& word) {
  if (word == "torch") return {ConvMethod::kTorch};
  if (word == "reference") return {ConvMethod::kReference};
  std::vector<ConvMethod> methods;
  const bool is_3x3 = kernels::winograd_refusal(s).empty();
  const bool in_bf16 = word == "auto" && type == Type::kBf16 && kernels::dot_in_use();
  if (is_3x3) methods.push_back(ConvMethod::kWinograd);
  if (word == "winograd" && is_3x3) return methods;
  if (is_3x3 && in_bf16) methods.push_back(ConvMethod::kWinogradBf16);
  // Other channels have no gradient of the source, and only a model's first convolution has them.
  if (s.k % 16 == 0 && (s.c % 16 == 0 || s.c == 3)) {
    methods.push_back(ConvMethod::kIm2col);
    if (in_bf16) methods.push_back(ConvMethod::kIm2colBf16);
  }
  // Elsewhere four times the products are not to be had.
  if (word == "auto" && kernels::tiles_in_use() && kernels::direct_refusal(s).empty()) {
    methods.push_back(in_bf16 ? ConvMethod::kDirectBf16 : ConvMethod::kDirectBf16x2);
    if (is_3x3 && !in_bf16) methods.push_back(ConvMethod::kDirectBf16x2Winograd);
  }
  // Without an instruction for it, oneDNN's bf16 is slower than anything by far.
  const bool slow = type == Type::kBf16 && !__builtin_cpu_supports("avx512bf16");
  if (methods.empty() || (word == "auto" && !slow)) methods.push_back(ConvMethod::kTorch);
  return methods;
}

using Run = std::function<void()>;

constexpr int kRounds = 3, kShortRounds = 8;  // the short ones, of inference, are disturbed more

Run inference_run(ConvMethod method, const ConvShape& s, const at::Tensor& src,
                  const at::Tensor& weight, bool prepared) {
  const auto conv = [=] { return prepare(s, src.scalar_type(), method, weight, at::zeros({s.k})); };
  return [=, once = conv()] { infer(prepared ? once : conv(), s, src, {}, /*relu=*/true); };
}

Run training_run(ConvMethod method, const ConvShape& s, const at::Tensor& src,
                 const at::Tensor& weight) {
  const auto k = static_cast<size_t>(s.k);
  const BackwardCoefficients coefficients{std::vector<float>(k, 1), std::vector<float>(k),
                                          std::vector<float>(k)};
  return [=] {
    TwoSums sums(s.k);
    const at::Tensor dst = convolve(method, s, src, {}, weight, &sums);
    const at::Tensor grad_src = s.c % 16 == 0 ? new_map(src, src.sizes()) : at::Tensor();
    convolve_backward(method, s,
                      {.src = src,
                       .weight = weight,
                       .grad = dst,
                       .dst = dst,
                       .coefficients = &coefficients,
                       .grad_src = grad_src});
  };
}

// Muon's step in KernelChoice::chosen(): the type of its products.
const char* const kMuon = "muon";
const char* const kFp32 = "fp32";
const char* const kBf16 = "bf16";

// Of one matrix of ResNet-18's third stage.
Run muon_run(Type products) {
  constexpr int64_t kRows = 256, kColumns = 2304;
  const at::Tensor filters = varied_map(kRows, kColumns, 1, 1), momentum = filters.clone(),
                   gradient = filters.clone();
  return [=] {
    const std::vector<kernels::MuonMatrix> matrices = {
        {kRows, kColumns, filters.mutable_data_ptr<float>(), gradient.const_data_ptr<float>(),
         momentum.mutable_data_ptr<float>()}};
    const at::Tensor memory =
        at::empty({static_cast<int64_t>(kernels::muon_workspace_bytes(matrices, 1))}, at::kByte);
    kernels::muon_step(matrices, {}, products, memory.mutable_data_ptr(), {});
  };
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
  std::optional<ConvMethod> known = chosen();
  if (const auto lost = known ? chosen_.end() : chosen_.find(key);
      lost != chosen_.end() && !std::exchange(said_lost_, true))
    log_info("kernel: {} for {} is not to be had here; measured anew, and so are others like it",
             lost->second, key);
  // Inference takes what training chose; what it chooses alone was measured without the backward
  // pass and is not for training.
  const bool few = !training && s.n <= kFew;
  if (few)
    key += ", few images", known = chosen();
  else if (!training && !known)
    key += ", forward", known = chosen();
  if (known) return *known;
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
    std::vector<Run> runs;
    for (const ConvMethod method : methods)
      runs.push_back(training ? training_run(method, part, src, weight)
                              : inference_run(method, part, src, weight, prepared));
    const std::vector<double> seconds = shortest_s(runs, training ? kRounds : kShortRounds);
    double shortest = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < methods.size(); ++i) {
      measured_s_[key][name_of(methods[i])] = seconds[i];
      if (seconds[i] < kMargin * shortest) best = methods[i], shortest = seconds[i];
    }
  }
  chosen_[key] = name_of(best);
  if (best == ConvMethod::kTorch && methods.size() == 1 && word_ != "torch")
    log_info("kernel: LibTorch's for {}: {}", key, kernels::winograd_refusal(s));
  return best;
}

kernels::Type KernelChoice::muon_products() {
  if (word_ != "auto" || !kernels::dot_in_use()) return Type::kFp32;
  std::string& chosen = chosen_[kMuon];
  if (chosen != kFp32 && chosen != kBf16) {
    const std::vector<double> seconds =
        shortest_s({muon_run(Type::kFp32), muon_run(Type::kBf16)}, kRounds);
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
  if (best == "winograd" && kernels::dot_in_use() && !in_bf16) set = "avx512";
  return best + "/" + set;
}

std::string KernelChoice::counts() const {
  std::map<std::string, int> shapes;
  for (const auto& [shape, method] : chosen_)
    if (shape != kMuon) ++shapes[method];
  std::string text;
  for (const auto& [method, count] : shapes)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, method);
  return text;
}

}  // namespace skipway
