// A ResNet of Skipway's and one of PyTorch's (parity.py) on the same numbers, for the tests that
// compare them.
#pragma once
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/for_test.h"
#include "model/resnet.h"
#include "python.h"

namespace skipway {

constexpr double kLabelSmoothing = 0.1;

std::map<std::string, at::Tensor> by_name(const NamedTensors& tensors);

/// Cross entropy with kLabelSmoothing.
at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& labels);

/// A model whose BatchNorms are not the identity, which would hide a mistake, in numbers of `type`.
std::unique_ptr<ResNet> make_parity_model(const ModelSpec& spec, at::ScalarType type);

using Metadata = std::map<std::string, std::string>;

/// A question as parity.py takes it.
void write_question(const std::filesystem::path& path, const ResNet& model,
                    const at::Tensor& images, const at::Tensor& labels, Metadata metadata);

class ParityTest : public testing::Test {
 protected:
  void SetUp() override;

  /// Runs parity.py over the questions q0, q1, … of `folder_`, which become the answers a0, a1, …
  void ask(size_t count);
  std::filesystem::path question(size_t i) const;
  std::filesystem::path answer(size_t i) const;

  /// One step of every model of `specs`, and an evaluation after it. `last_side`: of the last
  /// stage's square [pixels], which the image sizes are made for. BatchNorm there sees count *
  /// last_side^2 values a channel; over four, chance makes some channels' variance so small that
  /// the errors grow tenfold. Relative errors as parity_test.cc explains.
  void compare_steps(const std::vector<ModelSpec>& specs, at::ScalarType type, int64_t count,
                     int64_t last_side, double forward_tolerance, double gradient_tolerance);

  TemporaryFolder folder_;
  std::string python_ = kDebianPython;
  std::string judge_ = "torchvision";  // or timm, where attention is concerned
};

}  // namespace skipway
