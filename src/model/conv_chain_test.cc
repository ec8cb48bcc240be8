#include "model/conv_chain.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/for_test.h"
#include "base/tensors.h"
#include "kernels/instruction_set.h"
#include "model/device.h"

namespace skipway {
namespace {

// As in layer1.0, layer2.0, and a bottleneck with its stride on the 3x3.
struct Block {
  const char* name;
  int64_t in, out, stride;
  bool bottleneck;
  bool before_attention = false;  // neither residual nor last ReLU
};

ConvBnUnit make_unit(int64_t in, int64_t out, int64_t size, int64_t stride) {
  ConvBnUnit unit;
  unit.weight = at::empty({out, in, size, size}, at::kFloat, at::MemoryFormat::ChannelsLast);
  unit.weight.copy_(at::randn({out, in, size, size}) /
                    std::sqrt(static_cast<double>(in * size * size)));
  unit.weight.set_requires_grad(true);
  unit.stride = stride, unit.padding = size / 2;
  unit.norm.weight = (at::rand({out}) + .5).set_requires_grad(true);
  unit.norm.bias = at::randn({out}).set_requires_grad(true);
  unit.norm.running_mean = at::zeros({out}), unit.norm.running_var = at::ones({out});
  return unit;
}

ConvChain make_chain(const Block& block) {
  at::manual_seed(1);
  ConvChain chain;
  chain.residual = chain.last_relu = !block.before_attention;
  if (block.bottleneck) {
    chain.units = {make_unit(block.in, 32, 1, 1), make_unit(32, 32, 3, block.stride),
                   make_unit(32, block.out, 1, 1)};
  } else {
    chain.units = {make_unit(block.in, block.out, 3, block.stride),
                   make_unit(block.out, block.out, 3, 1)};
  }
  if (chain.residual && block.in != block.out)
    chain.downsample = make_unit(block.in, block.out, 1, block.stride);
  return chain;
}

// The chain in LibTorch's operations.
at::Tensor by_libtorch(const ConvChain& chain, const at::Tensor& src, bool training) {
  const auto conv_bn = [training](const ConvBnUnit& unit, const at::Tensor& x) {
    const BatchNorm& norm = unit.norm;
    return at::batch_norm(at::conv2d(x, unit.weight, {}, unit.stride, unit.padding), norm.weight,
                          norm.bias, norm.running_mean, norm.running_var, training, norm.momentum,
                          norm.eps, false);
  };
  at::Tensor x = src;
  for (const ConvBnUnit& unit : chain.units) {
    x = conv_bn(unit, x);
    if (&unit != &chain.units.back()) x = x.relu();
  }
  if (!chain.last_relu) return x;
  return (x + (chain.downsample ? conv_bn(*chain.downsample, src) : src)).relu();
}

at::Tensor by_autograd(const ConvChain& chain, const at::Tensor& src) {
  return by_libtorch(chain, src, /*training=*/true);
}

struct Result {
  at::Tensor dst;
  NamedTensors gradients, statistics;
};

// Weighs the results, so that no gradient is zero for reasons of symmetry.
Result run(const Block& block, const std::function<at::Tensor(ConvChain&, const at::Tensor&)>& f) {
  ConvChain chain = make_chain(block);
  at::manual_seed(2);
  const at::Tensor src = at::randn({3, block.in, 10, 10})
                             .contiguous(at::MemoryFormat::ChannelsLast)
                             .set_requires_grad(true);
  Result result;
  result.dst = f(chain, src);
  (result.dst.to(at::kFloat) * at::randn(result.dst.sizes())).sum().backward();
  result.gradients.emplace_back("src", src.grad());
  const auto take = [&](const std::string& name, const ConvBnUnit& unit) {
    result.gradients.emplace_back(name + ".weight", unit.weight.grad());
    result.gradients.emplace_back(name + ".gamma", unit.norm.weight.grad());
    result.gradients.emplace_back(name + ".beta", unit.norm.bias.grad());
    result.statistics.emplace_back(name + ".mean", unit.norm.running_mean);
    result.statistics.emplace_back(name + ".var", unit.norm.running_var);
  };
  for (size_t i = 0; i < chain.units.size(); ++i) take(std::to_string(i), chain.units[i]);
  if (chain.downsample) take("downsample", *chain.downsample);
  return result;
}

double relative_error(const at::Tensor& got, const at::Tensor& want) {
  return ((got.to(at::kFloat) - want).norm() / want.norm()).item<double>();
}

const Block kBlocks[] = {{"same", 32, 32, 1, false},
                         {"wider", 32, 48, 2, false},
                         {"bottleneck", 64, 64, 1, true},
                         {"wider bottleneck", 64, 96, 2, true},
                         {"before attention", 32, 48, 2, false, true}};

// The methods that may stand beside each other: a unit that LibTorch convolves gets a map that is
// normalised already, others do it themselves.
KernelChoice mixed(const std::string& of_3x3, const std::string& of_others) {
  KernelChoice choice("auto");
  std::map<std::string, std::string> chosen;
  for (const char* type : {"fp32", "bf16"})
    for (const int in : {32, 48, 64})
      for (const int out : {32, 48, 64, 96})
        for (const int size : {1, 3})
          for (const int stride : {1, 2})
            for (const int side : {5, 10})
              chosen[fmt::format("{}x{} stride {}, {} to {} channels, {}x{}, {}", size, size,
                                 stride, in, out, side, side, type)] =
                  size == 3 ? of_3x3 : of_others;
  choice.restore(chosen);
  return choice;
}

// Whether this machine has the method for all convolutions of the block. What it has not is
// measured to be something else.
bool can(const std::string& method, const Block& block) {
  const std::string set = kernels::instruction_sets().front();
  if (method.starts_with("direct"))
    return set == "amx_bf16" && block.in % 32 == 0 && block.out % 32 == 0;
  return !method.ends_with("-bf16") || set.ends_with("_bf16");
}

TEST(ConvChain, GradientsAndStatisticsAreAutograds) {
  for (const Block& block : kBlocks) {
    const Result want = run(block, by_autograd);
    for (const std::string of_3x3 :
         {"winograd", "im2col", "torch", "direct-bf16x2", "direct-bf16x2 winograd"}) {
      for (const std::string of_others : {"im2col", "torch", "direct-bf16x2"}) {
        const std::string what = fmt::format("{}, {}, {}", block.name, of_3x3, of_others);
        KernelChoice kernels = mixed(of_3x3, of_others);
        const Result got = run(block, [&](ConvChain& chain, const at::Tensor& src) {
          return conv_chain(chain, src, /*training=*/true, kernels);
        });
        const bool known = can(of_3x3, block) && can(of_others, block);
        EXPECT_TRUE(!known || kernels.measured_s().empty())
            << what << ": measured, and so not tested";
        EXPECT_LT(relative_error(got.dst, want.dst), 1e-5) << what;
        for (size_t i = 0; i < want.gradients.size(); ++i)
          EXPECT_LT(relative_error(got.gradients[i].second, want.gradients[i].second), 1e-4)
              << what << ", " << want.gradients[i].first;
        for (size_t i = 0; i < want.statistics.size(); ++i)
          EXPECT_LT(relative_error(got.statistics[i].second, want.statistics[i].second), 1e-5)
              << what << ", " << want.statistics[i].first;
      }
    }
  }
}

TEST(ConvChain, ReferenceGivesAutogradsGradients) {
  const Result want = run(kBlocks[3], by_autograd);
  KernelChoice kernels("reference");
  const Result got = run(kBlocks[3], [&](ConvChain& chain, const at::Tensor& src) {
    return conv_chain(chain, src, /*training=*/true, kernels);
  });
  for (const auto& [shape, method] : kernels.chosen()) EXPECT_EQ(method, "reference") << shape;
  EXPECT_LT(relative_error(got.dst, want.dst), 1e-5);
  for (size_t i = 0; i < want.gradients.size(); ++i)
    EXPECT_LT(relative_error(got.gradients[i].second, want.gradients[i].second), 1e-4)
        << want.gradients[i].first;
}

TEST(ConvChain, Bf16IsAsExactAsLibTorchs) {
  const auto in_bf16 = [](const auto& f) {
    return [f](ConvChain& chain, const at::Tensor& src) {
      const PrecisionScope scope(at::kCPU, at::kBFloat16);
      return f(chain, src);
    };
  };
  // The errors are few large ones, where a ReLU takes the other side. Those of Winograd's operands
  // in bf16 are three times as large, and turn more of them (docs/kernels.md, Numbers).
  constexpr double kMargin = 1.5, kMarginOfPoints = 8;
  for (const Block& block : kBlocks) {
    const Result want = run(block, by_autograd);
    const Result torch = run(block, in_bf16(by_autograd));
    for (const auto& [of_3x3, of_others, margin] :
         {std::tuple("winograd", "im2col", kMargin), std::tuple("torch", "torch", kMargin),
          std::tuple("im2col-bf16", "im2col-bf16", kMargin),
          std::tuple("winograd-bf16", "im2col-bf16", kMarginOfPoints),
          std::tuple("direct-bf16", "direct-bf16", kMarginOfPoints)}) {
      KernelChoice kernels = mixed(of_3x3, of_others);
      const Result got = run(block, in_bf16([&](ConvChain& chain, const at::Tensor& src) {
                               return conv_chain(chain, src, /*training=*/true, kernels);
                             }));
      const std::string what = fmt::format("{}, {}, {}", block.name, of_3x3, of_others);
      const bool known = can(of_3x3, block) && can(of_others, block);
      EXPECT_TRUE(!known || kernels.measured_s().empty())
          << what << ": measured, and so not tested";
      EXPECT_EQ(got.dst.scalar_type(), at::kBFloat16);
      EXPECT_LT(relative_error(got.dst, want.dst), margin * relative_error(torch.dst, want.dst))
          << what;
      for (size_t i = 0; i < want.gradients.size(); ++i) {
        const at::Tensor& exact = want.gradients[i].second;
        EXPECT_LT(relative_error(got.gradients[i].second, exact),
                  margin * relative_error(torch.gradients[i].second, exact))
            << what << ", " << want.gradients[i].first;
      }
    }
  }
}

TEST(ConvChain, InferenceFoldsTheStatisticsOfTheRun) {
  for (const Block& block : kBlocks) {
    ConvChain chain = make_chain(block);
    const at::Tensor src = at::randn({3, block.in, 10, 10});
    by_autograd(chain, src);  // moves the statistics
    const at::NoGradGuard no_grad;
    const at::Tensor want = by_libtorch(chain, src, /*training=*/false);
    for (const char* word : {"winograd", "torch", "reference"}) {
      KernelChoice kernels(word);
      const auto infer = [&](int64_t images) {
        return conv_chain(chain, src.narrow(0, 0, images), false, kernels);
      };
      EXPECT_LT(relative_error(infer(3), want), 1e-5) << block.name << ", " << word;
      EXPECT_LT(relative_error(infer(1), want.narrow(0, 0, 1)), 1e-5) << block.name << ", " << word;
    }
  }
}

// The same chain in both types by turns: the weights it has folded are of one of them.
TEST(ConvChain, InferenceInBf16IsAsExactAsLibTorchs) {
  constexpr double kMargin = 1.5;
  for (const Block& block : kBlocks) {
    const ConvChain made = make_chain(block);
    const at::Tensor src = at::randn({12, block.in, 10, 10});
    by_autograd(made, src);  // moves the statistics
    const at::NoGradGuard no_grad;
    const at::Tensor want = by_libtorch(made, src, /*training=*/false);
    const double of_libtorch = [&] {
      const PrecisionScope scope(at::kCPU, at::kBFloat16);
      return relative_error(by_libtorch(made, src.to(at::kBFloat16), /*training=*/false), want);
    }();
    for (const char* word : {"winograd", "torch"}) {
      ConvChain chain = made;
      KernelChoice kernels(word);
      for (const at::ScalarType type : {at::kBFloat16, at::kFloat, at::kBFloat16}) {
        for (const int64_t images : {12, 1}) {
          const PrecisionScope scope(at::kCPU, type);
          const at::Tensor got =
              conv_chain(chain, src.narrow(0, 0, images).to(type), /*training=*/false, kernels);
          EXPECT_EQ(got.scalar_type(), type);
          EXPECT_LT(relative_error(got, want.narrow(0, 0, images)),
                    type == at::kFloat ? 1e-5 : kMargin * of_libtorch)
              << block.name << ", " << word << ", " << type << ", " << images;
        }
      }
    }
  }
}

TEST(ConvChain, InferenceFollowsChangedWeights) {
  ConvChain chain = make_chain(kBlocks[0]);
  KernelChoice kernels("winograd");
  const at::Tensor src = at::randn({2, 32, 10, 10});
  const at::Tensor before = conv_chain(chain, src, false, kernels);
  EXPECT_TRUE(conv_chain(chain, src, false, kernels).equal(before));
  for (const bool by_training : {false, true}) {
    if (by_training) {
      conv_chain(chain, src, true, kernels);  // moves the statistics
    } else {
      const at::NoGradGuard no_grad;
      chain.units[0].weight.mul_(2);
    }
    const at::Tensor after = conv_chain(chain, src, false, kernels);
    ConvChain fresh = chain;
    for (ConvBnUnit& unit : fresh.units) unit.folded.reset();
    EXPECT_FALSE(after.equal(before));
    EXPECT_TRUE(after.equal(conv_chain(fresh, src, false, kernels)));
  }
}

// Maps of 2x2, and few tiles, have tiles of their own, so other transformed weights.
TEST(ConvChain, InferenceFollowsTheSizeAndNumberOfTheMaps) {
  const ConvChain made = make_chain(kBlocks[0]);
  const at::NoGradGuard no_grad;
  for (const char* word : {"winograd", "torch", "reference"}) {
    ConvChain chain = made;
    KernelChoice kernels(word);
    for (const auto& [images, side] : {std::pair(5, 2), {5, 4}, {1, 4}, {5, 4}, {5, 2}}) {
      const at::Tensor src = at::randn({images, 32, side, side});
      EXPECT_LT(relative_error(conv_chain(chain, src, false, kernels),
                               by_libtorch(chain, src, /*training=*/false)),
                1e-5)
          << word << ", " << images << " of " << side;
    }
  }
}

TEST(ConvChain, NanInTheWeightsShowsInResultsAndStatistics) {
  for (const char* word : {"winograd", "torch", "reference"}) {
    ConvChain chain = make_chain(kBlocks[0]);
    {
      const at::NoGradGuard no_grad;
      chain.units[0].weight[0][0][1][1] = NAN;
    }
    KernelChoice kernels(word);
    const at::Tensor src = at::randn({2, 32, 6, 6});
    for (const bool training : {false, true})
      EXPECT_TRUE(conv_chain(chain, src, training, kernels).isnan().all().item<bool>())
          << word << ", " << training;
    EXPECT_TRUE(std::isnan(chain.units[0].norm.running_var[0].item<float>())) << word;
  }
}

TEST(ConvChain, RefusesWeightsOfOtherChannelsOrLayout) {
  ConvChain stem;
  stem.units = {make_unit(3, 64, 3, 1)};
  EXPECT_FALSE(conv_chain_supports(stem, at::randn({2, 16, 8, 8})));
  ConvChain chain;
  chain.units = {make_unit(32, 32, 3, 1)};
  const at::Tensor src = at::randn({2, 32, 8, 8});
  EXPECT_TRUE(conv_chain_supports(chain, src));
  chain.units[0].weight = chain.units[0].weight.detach().contiguous();
  EXPECT_FALSE(conv_chain_supports(chain, src));
  KernelChoice kernels("winograd");
  EXPECT_EQ(error_of([&] {
              convolution(src, at::randn({64, 16, 3, 3}), 1, kernels);
            }).kind(),
            ErrorKind::kInternal);
}

TEST(ConvChain, RefusesAGradientOfImages) {
  ConvChain stem;
  stem.units = {make_unit(3, 64, 3, 1)};
  const at::Tensor images = at::randn({2, 3, 8, 8});
  EXPECT_TRUE(conv_chain_supports(stem, images));
  EXPECT_FALSE(conv_chain_supports(stem, images.clone().set_requires_grad(true)));
  EXPECT_TRUE(conv_chain_supports(make_chain(kBlocks[0]),
                                  at::randn({2, 32, 8, 8}).set_requires_grad(true)));
}

}  // namespace
}  // namespace skipway
