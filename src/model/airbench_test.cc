// The layers and names against a network written out in LibTorch's operations here; with Skipway's
// kernels as with LibTorch's.
#include "model/airbench.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/for_test.h"
#include "base/tensors.h"
#include "model/device.h"

namespace skipway {
namespace {

ModelSpec airbench_spec(const std::string& name = "airbench94") {
  ModelSpec spec;
  spec.name = name;
  return spec;
}

at::Tensor random_images(int64_t count, int64_t side = 32) {
  return at::randn({count, 3, side, side}, at::detail::createCPUGenerator(7))
      .contiguous(at::MemoryFormat::ChannelsLast);
}

double relative_l2(const at::Tensor& values, const at::Tensor& expected) {
  return ((values - expected).norm() / expected.norm()).item<double>();
}

// As arXiv:2404.00498 lists it.
at::Tensor written_out(const std::map<std::string, at::Tensor>& t, at::Tensor x, bool training) {
  const auto norm_gelu = [&](const at::Tensor& y, const std::string& name) {
    const auto running = [&](const char* what) { return t.at(name + what).view({1, -1, 1, 1}); };
    const at::Tensor mean = training ? y.mean({0, 2, 3}, true) : running(".running_mean"),
                     var = training ? y.var({0, 2, 3}, false, true) : running(".running_var");
    return at::gelu((y - mean) / (var + 1e-12).sqrt() + t.at(name + ".bias").view({1, -1, 1, 1}));
  };
  x = at::gelu(at::conv2d(x, t.at("0.weight"), t.at("0.bias")));
  for (const std::string group : {"2", "3", "4"}) {
    x = at::max_pool2d(at::conv2d(x, t.at(group + ".conv1.weight"), {}, 1, 1), 2);
    const at::Tensor begin = norm_gelu(x, group + ".norm1");
    x = norm_gelu(at::conv2d(begin, t.at(group + ".conv2.weight"), {}, 1, 1), group + ".norm2");
    if (t.contains(group + ".conv3.weight"))
      x = begin +
          norm_gelu(at::conv2d(x, t.at(group + ".conv3.weight"), {}, 1, 1), group + ".norm3");
  }
  x = at::max_pool2d(x, x.size(2) < 3 ? x.size(2) : 3);
  return at::linear(x.flatten(1), t.at("7.weight")) / 9;
}

// A model and its kernels.
class AirbenchKernels : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  AirbenchKernels() : model(airbench_spec(std::get<0>(GetParam())), 3) {
    model.kernels() = KernelChoice(std::get<1>(GetParam()));
  }

  Airbench model;
};

TEST_P(AirbenchKernels, LogitsAndGradientsAreThoseOfTheLayersWrittenOut) {
  std::map<std::string, at::Tensor> copies;
  for (const auto& [name, tensor] : model.state()) copies[name] = tensor.detach().clone();
  for (const auto& [name, tensor] : model.parameters()) copies[name].set_requires_grad(true);

  const at::Tensor images = random_images(8);
  const at::Tensor logits = model.forward(images, /*training=*/true);
  const at::Tensor expected = written_out(copies, images, /*training=*/true);
  EXPECT_LT(relative_l2(logits.detach(), expected.detach()), 1e-4);
  logits.square().sum().backward();
  expected.square().sum().backward();
  for (const auto& [name, tensor] : model.parameters()) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    EXPECT_LT(relative_l2(tensor.grad(), copies.at(name).grad()), 2e-3) << name;
  }
}

TEST_P(AirbenchKernels, EvaluationTakesTheRunningStatistics) {
  const at::NoGradGuard no_grad;
  const at::Tensor images = random_images(12);
  model.set_batch_norm_momentum(0.5);
  model.forward(images, /*training=*/true);
  std::map<std::string, at::Tensor> copies;
  for (const auto& [name, tensor] : model.state()) copies[name] = tensor.clone();
  const at::Tensor expected = written_out(copies, images, /*training=*/false);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const PrecisionScope scope(at::kCPU, type);
    for (const int64_t count : {12, 1}) {
      const at::Tensor logits =
          model.forward(images.narrow(0, 0, count).to(type), /*training=*/false);
      EXPECT_LT(relative_l2(logits, expected.narrow(0, 0, count)), type == at::kFloat ? 1e-4 : 0.03)
          << type << ", " << count;
    }
  }
}

// Maps of 2 and of 1 pixel a side are left for the last pool; all of them are taken.
TEST_P(AirbenchKernels, SmallImagesGoThroughTheSameLayers) {
  std::map<std::string, at::Tensor> copies;
  for (const auto& [name, tensor] : model.state()) copies[name] = tensor.detach().clone();
  for (const int64_t side : {20, 16, 9}) {
    const at::Tensor images = random_images(8, side);
    EXPECT_LT(relative_l2(model.forward(images, /*training=*/true).detach(),
                          written_out(copies, images, /*training=*/true)),
              1e-4)
        << side;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, AirbenchKernels,
                         testing::Combine(testing::Values("airbench94", "airbench96"),
                                          testing::Values("torch", "winograd")),
                         [](const auto& test) {
                           return std::get<0>(test.param) + std::get<1>(test.param);
                         });

TEST(Airbench, HasTheParametersOfTheSource) {
  // 24 biases, convolutions of 3x3 with a bias for each filter, a head of ten classes.
  const std::vector<std::pair<std::string, int64_t>> sizes = {
      {"airbench93", 24 + 9 * (24 * 64 + 64 * 64 + 64 * 128 + 3 * 128 * 128) + 640 + 1280},
      {"airbench94", 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 1152 + 2560},
      {"airbench95", 24 + 9 * (24 * 128 + 128 * 128 + 128 * 384 + 3 * 384 * 384) + 1792 + 3840},
      {"airbench96", 24 + 9 * (24 * 128 + 2 * 128 * 128 + 128 * 512 + 5 * 512 * 512) + 3456 + 5120},
  };
  for (const auto& [size, expected] : sizes) {
    const Airbench model(airbench_spec(size), 1);
    int64_t trained = 0;
    for (const auto& [name, tensor] : model.parameters()) trained += tensor.numel();
    EXPECT_EQ(trained, expected) << size;
    EXPECT_EQ(model_cost(airbench_spec(size), 4).parameters, trained);
    EXPECT_EQ(model.state().front().first, "0.weight");
    EXPECT_EQ(model.state().back().first, "7.weight");
  }
}

TEST(Airbench, ConvolutionsBeginWithTheIdentity) {
  const Airbench model(airbench_spec(), 1);
  for (const auto& [name, weight] : model.parameters()) {
    if (weight.dim() != 4) continue;
    at::Tensor first =
        weight.detach().narrow(0, 0, std::min(weight.size(0), weight.size(1))).clone();
    for (int64_t i = 0; i < first.size(0); ++i) first[i][i][1][1].sub_(1);
    EXPECT_EQ(first.abs().max().item<double>(), 0) << name;
  }
}

TEST(Airbench, SmallImagesAreRefused) {
  ModelSpec spec = airbench_spec();
  spec.image_size = 8;
  EXPECT_EQ(error_of([&] { Airbench(spec, 1); }).kind(), ErrorKind::kUsage);
  EXPECT_EQ(error_of([&] { airbench_cost(spec, 4); }).kind(), ErrorKind::kUsage);
  spec.image_size = 9;
  EXPECT_GT(airbench_cost(spec, 4).macs, 0);
}

}  // namespace
}  // namespace skipway
