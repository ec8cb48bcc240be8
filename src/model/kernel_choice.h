// Which method each convolution's shape takes, and the type of Muon's products: measured once, kept
// with the run.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/convolve.h"

namespace skipway {

/// Which method each layer's shape takes, by measuring it when it first comes. Kept with a run, so
/// that a resumed run computes as the first did, where the machine has the same instructions.
class KernelChoice {
 public:
  /// The words that `--kernel` takes: auto measures those that may be fast on this machine, and
  /// takes a later one of ConvMethod, or for few images one that reads more weights, for a gain of
  /// 15 % only; winograd takes Skipway's own, with products in fp32, torch LibTorch's, and
  /// reference the slow sums that the others are held to, all three without measuring, so that two
  /// runs have the same bits. What LibTorch's makes its neighbours in a block do themselves,
  /// normalising and adding up, is not measured.
  static const std::vector<std::string>& words();

  explicit KernelChoice(std::string word) : word_(std::move(word)) {}
  const std::string& word() const { return word_; }

  /// Measures at the first call with a shape and type, some tenths of a second. The number of
  /// images counts only where inference has few, which is measured apart.
  /// `training`: forward and backward pass, else forward alone; where training has chosen already,
  /// inference takes the same. `prepared`: inference has weights from prepare(), else it prepares
  /// them in each pass.
  ConvMethod method(const kernels::ConvShape& shape, kernels::Type type, bool training,
                    bool prepared = true);

  /// The type of the products in Muon's step (kernels/muon.h) where maps are bf16: measured at the
  /// first call with auto, some hundredths of a second, else fp32.
  kernels::Type muon_products();

  /// "winograd/avx512": the best of what is in use and its instruction set; or "reference".
  std::string in_use() const;
  /// "8 im2col-bf16, 13 winograd-bf16": how many shapes of convolutions take each method.
  std::string counts() const;
  /// Shape as text -> method as text, and "muon" -> its type; to keep, and to take back. Methods
  /// that are unknown, or not to be had here, are measured anew, which the log says once.
  const std::map<std::string, std::string>& chosen() const { return chosen_; }
  void restore(std::map<std::string, std::string> chosen) { chosen_ = std::move(chosen); }
  /// Shape as text -> method as text -> seconds of its passes, where it was measured here.
  const std::map<std::string, std::map<std::string, double>>& measured_s() const {
    return measured_s_;
  }

 private:
  std::string word_;
  std::map<std::string, std::string> chosen_;
  std::map<std::string, std::map<std::string, double>> measured_s_;
  bool said_lost_ = false;
};

}  // namespace skipway
