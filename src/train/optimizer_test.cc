// Optimizer against torch.optim.SGD's formula written out in float64, whatever the memory format.
#include "train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/for_test.h"
#include "model/resnet.h"
#include "train/muon.h"

namespace skipway {
namespace {

constexpr double kTolerance = 1e-6;  // fp32 against float64, values of order one

at::Tensor noise(at::IntArrayRef shape, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(shape, generator, at::kFloat);
}

// Two convolutions (one in each memory format), one 1x1, a BatchNorm weight and a linear layer.
NamedTensors make_parameters() {
  NamedTensors parameters{
      {"conv1.weight", noise({8, 3, 3, 3}, 1).contiguous(at::MemoryFormat::ChannelsLast)},
      {"conv2.weight", noise({4, 8, 3, 3}, 2)},
      {"downsample.weight", noise({6, 8, 1, 1}, 3).contiguous(at::MemoryFormat::ChannelsLast)},
      {"bn1.weight", noise({8}, 4)},
      {"bn1.bias", noise({8}, 7)},
      {"downsample.1.bias", noise({8}, 8)},
      {"fc.weight", noise({10, 8}, 5)},
      {"fc.bias", noise({10}, 6)}};
  for (auto& [name, parameter] : parameters) parameter.requires_grad_(true);
  return parameters;
}

at::Tensor gradient_of(const at::Tensor& parameter, int64_t step, size_t index) {
  return noise(parameter.sizes(), 100 + static_cast<uint64_t>(step) * 10 + index);
}

// torch.optim.SGD, one tensor: documentation of torch.optim.SGD, dampening 0.
struct Reference {
  at::Tensor value, momentum;

  void step(const at::Tensor& gradient, double lr, double decay, const OptimizerOptions& options) {
    at::Tensor g = gradient.to(at::kDouble) + decay * value;
    momentum = momentum.defined() ? options.momentum * momentum + g : g;
    value = value - lr * (options.nesterov ? g + options.momentum * momentum : momentum);
  }
};

void expect_follows_reference(const OptimizerOptions& options, at::MemoryFormat gradient_format) {
  NamedTensors parameters = make_parameters();
  std::vector<Reference> references;
  for (const auto& [name, parameter] : parameters)
    references.push_back({parameter.detach().to(at::kDouble).clone(), {}});
  Optimizer sgd(parameters, options);
  for (int64_t step = 0; step < 4; ++step) {
    const double lr = 0.1 / static_cast<double>(step + 1);
    for (size_t i = 0; i < parameters.size(); ++i) {
      at::Tensor& parameter = parameters[i].second;
      at::Tensor gradient = gradient_of(parameter, step, i);
      const double factor =
          (parameters[i].first == "bn1.bias" || parameters[i].first == "downsample.1.bias")
              ? options.bias_lr
              : 1;
      const bool decays = options.decay_all || parameter.dim() > 1;
      references[i].step(gradient, lr * factor, decays ? options.weight_decay / factor : 0,
                         options);
      if (parameter.dim() == 4) gradient = gradient.contiguous(gradient_format);
      parameter.mutable_grad() = gradient;
    }
    sgd.step(lr);
  }
  for (size_t i = 0; i < parameters.size(); ++i)
    EXPECT_LT((parameters[i].second.detach() - references[i].value).abs().max().item<double>(),
              kTolerance)
        << parameters[i].first;
}

TEST(Optimizer, FollowsTheFormulaOfTorch) {
  for (double momentum : {0.0, 0.9})
    for (bool nesterov : {false, true})
      for (bool decay_all : {false, true}) {
        if (nesterov && momentum == 0) continue;
        SCOPED_TRACE(
            fmt::format("momentum {} nesterov {} decay_all {}", momentum, nesterov, decay_all));
        expect_follows_reference({.momentum = momentum,
                                  .weight_decay = 0.05,
                                  .nesterov = nesterov,
                                  .decay_all = decay_all},
                                 at::MemoryFormat::ChannelsLast);
      }
}

TEST(Optimizer, BiasesOfBatchNormMayHaveARateOfTheirOwn) {
  for (const bool decay_all : {false, true})
    expect_follows_reference({.weight_decay = 0.05, .decay_all = decay_all, .bias_lr = 4},
                             at::MemoryFormat::ChannelsLast);
}

// Filters follow muon_step() with rates of their own, all else SGD with the others.
TEST(Optimizer, GivesFiltersToMuonAndTheRestToSgd) {
  const OptimizerOptions options{.momentum = 0.9,
                                 .weight_decay = 0.05,
                                 .nesterov = true,
                                 .muon_lr = 0.4,
                                 .muon_momentum = 0.6};
  constexpr double kLr = 0.1;
  NamedTensors parameters = make_parameters();
  std::vector<Reference> references;
  std::vector<at::Tensor> filters, momenta;
  for (const auto& [name, parameter] : parameters) {
    references.push_back({parameter.detach().to(at::kDouble).clone(), {}});
    filters.push_back(parameter.detach().clone());
    momenta.push_back(at::zeros_like(filters.back()));
  }
  Optimizer optimizer(parameters, options);
  for (int64_t step = 0; step < 3; ++step) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor gradient =
          at::empty_like(filters[i]).copy_(gradient_of(parameters[i].second, step, i));
      parameters[i].second.mutable_grad() = gradient.clone();
      if (gradient.dim() == 4)
        muon_step({{filters[i], gradient, momenta[i]}}, {kLr * 0.4, 0.6, true},
                  kernels::Type::kFp32);
      else
        references[i].step(gradient, kLr, options.weight_decay, options);
    }
    optimizer.step(kLr);
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor want =
        filters[i].dim() == 4 ? filters[i].to(at::kDouble) : references[i].value;
    EXPECT_LT((parameters[i].second.detach() - want).abs().max().item<double>(), kTolerance)
        << parameters[i].first;
  }
}

// Muon would bring them to a norm of its own, which only a BatchNorm behind them undoes.
TEST(Optimizer, MuonLeavesAttentionToSgd) {
  const std::string name = "layer1.0.se.fc1.weight";
  const at::Tensor parameter = noise({8, 64, 1, 1}, 1).requires_grad_(true);
  const at::Tensor before = parameter.detach().clone(), gradient = noise({8, 64, 1, 1}, 2);
  Optimizer optimizer({{name, parameter}}, {.momentum = 0, .weight_decay = 0, .muon_lr = 0.4});
  parameter.mutable_grad() = gradient;
  optimizer.step(/*lr=*/0.1);
  EXPECT_LT((parameter.detach() - (before - 0.1 * gradient)).abs().max().item<float>(), kTolerance);
}

TEST(Optimizer, MuonsFactorMayBeChanged) {
  const auto after = [](double at_first, double then) {
    const at::Tensor filters = noise({8, 4, 3, 3}, 1).requires_grad_(true);
    Optimizer optimizer({{"conv1.weight", filters}}, {.muon_lr = at_first});
    optimizer.set_muon_lr(then);
    filters.mutable_grad() = noise({8, 4, 3, 3}, 2);
    optimizer.step(/*lr=*/0.1);
    return filters.detach();
  };
  EXPECT_TRUE(after(0.4, 0.2).equal(after(0.2, 0.2)));
  EXPECT_FALSE(after(0.4, 0.2).equal(after(0.4, 0.4)));
}

TEST(Optimizer, GradientsMayHaveAnotherMemoryFormat) {
  expect_follows_reference({.nesterov = true}, at::MemoryFormat::Contiguous);
}

TEST(Optimizer, KeepsTheMemoryFormatOfParametersInMomenta) {
  NamedTensors parameters = make_parameters();
  Optimizer sgd(parameters, {});
  size_t momenta = 0;
  for (const auto& [name, buffer] : sgd.state())
    for (const auto& [parameter_name, parameter] : parameters)
      if (name == "momentum." + parameter_name) {
        EXPECT_EQ(buffer.strides(), parameter.strides());
        ++momenta;
      }
  EXPECT_EQ(momenta, parameters.size());
}

TEST(Optimizer, ClearsGradientsAndLeavesParametersWithoutOneAlone) {
  NamedTensors parameters = make_parameters();
  Optimizer sgd(parameters, {});
  at::Tensor before = parameters[1].second.detach().clone();
  parameters[0].second.mutable_grad() = gradient_of(parameters[0].second, 0, 0);
  sgd.step(0.1);
  EXPECT_FALSE(parameters[0].second.grad().defined());
  EXPECT_TRUE(at::equal(parameters[1].second.detach(), before));
}

TEST(Optimizer, GradientsAreShortenedTogetherAndNeverLengthened) {
  for (const double limit : {0., 1., 1000.}) {
    NamedTensors parameters = make_parameters();
    Optimizer sgd(parameters, {.clip_grad_norm = limit});
    double square = 0;
    for (size_t i = 0; i + 1 < parameters.size(); ++i) {  // the last has none
      parameters[i].second.mutable_grad() = gradient_of(parameters[i].second, 0, i);
      square += parameters[i].second.grad().to(at::kDouble).square().sum().item<double>();
    }
    const double norm = std::sqrt(square);
    EXPECT_NEAR(sgd.clip_gradients().item<double>(), norm, kTolerance * norm);
    const double factor = limit == 0 ? 1 : std::min(1., limit / norm);
    for (size_t i = 0; i + 1 < parameters.size(); ++i)
      EXPECT_TRUE(at::allclose(parameters[i].second.grad(),
                               factor * gradient_of(parameters[i].second, 0, i), 1e-5, kTolerance))
          << parameters[i].first << " at " << limit;
  }
}

TEST(Optimizer, OneGradientThatIsNotFiniteShowsInTheNorm) {
  for (const float bad : {INFINITY, NAN}) {
    NamedTensors parameters = make_parameters();
    Optimizer sgd(parameters, {});
    for (size_t i = 0; i < parameters.size(); ++i)
      parameters[i].second.mutable_grad() = gradient_of(parameters[i].second, 0, i);
    parameters[2].second.mutable_grad()[1][2][0][0] = bad;
    EXPECT_FALSE(std::isfinite(sgd.clip_gradients().item<float>()));
  }
}

// So that the search for the layer that it comes from finds that one alone.
TEST(Optimizer, ANormThatIsNotFiniteLeavesTheGradients) {
  for (const float bad : {INFINITY, NAN}) {
    NamedTensors parameters = make_parameters();
    Optimizer sgd(parameters, {.clip_grad_norm = 1});
    for (size_t i = 0; i < parameters.size(); ++i)
      parameters[i].second.mutable_grad() = gradient_of(parameters[i].second, 0, i);
    parameters[2].second.mutable_grad()[1][2][0][0] = bad;
    EXPECT_FALSE(std::isfinite(sgd.clip_gradients().item<float>()));
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (i == 2) continue;
      EXPECT_TRUE(at::equal(parameters[i].second.grad(), gradient_of(parameters[i].second, 0, i)))
          << parameters[i].first;
    }
  }
}

// Frozen BatchNorm trains on LibTorch's operations, which know nothing of the folded weights.
TEST(Optimizer, ItsStepsReachTheFoldedWeightsOfInference) {
  ModelSpec spec;
  spec.image_size = 8;
  const at::Tensor images = noise({4, 3, 8, 8}, 1), labels = at::arange(4);
  for (const double muon_lr : {0.0, 1.0}) {
    std::vector<at::Tensor> before, after;
    for (const char* word : {"winograd", "torch"}) {
      ResNet model(spec, 1);
      model.set_batch_norm_momentum(1);  // statistics of these images, to be frozen
      model.forward(images, /*training=*/true);
      model.kernels() = KernelChoice(word);
      model.set_frozen(/*backbone=*/false, /*batch_norm=*/true);
      Optimizer optimizer(model.parameters(), {.muon_lr = muon_lr});
      const auto infer = [&] {
        const at::NoGradGuard no_grad;
        return model.forward(images, /*training=*/false);
      };
      before.push_back(infer());
      for (int step = 0; step < 2; ++step) {
        at::cross_entropy_loss(model.forward(images, /*training=*/true), labels).backward();
        optimizer.step(/*lr=*/0.003);
      }
      after.push_back(infer());
    }
    const auto difference = [](const at::Tensor& a, const at::Tensor& b) {
      return ((a - b).norm() / b.norm()).item<double>();
    };
    EXPECT_GT(difference(after[1], before[1]), 1e-2) << "muon_lr " << muon_lr;
    EXPECT_LT(difference(after[0], after[1]), 1e-3) << "muon_lr " << muon_lr;
  }
}

TEST(Optimizer, GoesOnFromItsStateBitForBit) {
  const OptimizerOptions options{.nesterov = true, .decay_all = false, .muon_lr = 0.4};
  NamedTensors whole = make_parameters(), halves = make_parameters();
  auto run = [](NamedTensors& parameters, Optimizer& sgd, int64_t from, int64_t to) {
    for (int64_t step = from; step < to; ++step) {
      for (size_t i = 0; i < parameters.size(); ++i)
        parameters[i].second.mutable_grad() = gradient_of(parameters[i].second, step, i);
      sgd.step(0.1);
    }
  };
  Optimizer one(whole, options);
  run(whole, one, 0, 4);
  Optimizer first(halves, options);
  run(halves, first, 0, 2);
  Optimizer second(halves, options);
  second.load_state(first.state(), "test");
  run(halves, second, 2, 4);
  for (size_t i = 0; i < whole.size(); ++i)
    EXPECT_TRUE(at::equal(whole[i].second, halves[i].second)) << whole[i].first;
}

TEST(Optimizer, RefusesAStateThatDoesNotFitAndChangesNothing) {
  NamedTensors parameters = make_parameters();
  Optimizer sgd(parameters, {});
  NamedTensors state;
  for (const auto& [name, buffer] : sgd.state()) state.emplace_back(name, at::ones_like(buffer));
  state[0].second = at::ones({2, 2});
  state[1].first = "momentum.other";
  const Error error = error_of([&] { sgd.load_state(state, "last.safetensors"); });
  EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
  EXPECT_THAT(error.what(), testing::HasSubstr("missing momentum.conv2.weight"));
  EXPECT_THAT(error.what(), testing::HasSubstr("unexpected momentum.other"));
  EXPECT_THAT(error.what(), testing::HasSubstr("[2,2], expected [8,3,3,3]"));
  EXPECT_THAT(error.what(), testing::HasSubstr("last.safetensors"));
  for (const auto& [name, buffer] : sgd.state()) EXPECT_EQ(buffer.abs().sum().item<float>(), 0);
}

TEST(Optimizer, ASkippedStepChangesNothingWhateverTheGradient) {
  for (const double muon_lr : {0.0, 1.0}) {
    NamedTensors parameters = make_parameters();
    Optimizer optimizer(parameters, {.momentum = 0.9, .weight_decay = 0.1, .muon_lr = muon_lr});
    const auto step = [&](double gradient, float skip) {
      for (auto& [name, parameter] : parameters)
        parameter.mutable_grad() = at::full_like(parameter.detach(), gradient);
      optimizer.step(0.1, at::full({}, skip));
    };
    const auto values = [&] {
      std::vector<at::Tensor> all;
      for (const auto& [name, tensor] : parameters) all.push_back(tensor.detach().clone());
      for (const auto& [name, tensor] : optimizer.state()) all.push_back(tensor.clone());
      return all;
    };
    step(1, 0);
    const auto before = values();
    step(NAN, 1);
    const auto skipped = values();
    step(1, 0);
    const auto after = values();
    for (size_t i = 0; i < before.size(); ++i) {
      EXPECT_TRUE(at::equal(before[i], skipped[i])) << i;
      EXPECT_FALSE(at::equal(before[i], after[i])) << i;
    }
    for (const auto& [name, parameter] : parameters) EXPECT_FALSE(parameter.grad().defined());
  }
}

TEST(Optimizer, TheDecayByLayersReachesMuonsFilters) {
  const auto after = [](double decay, double lr) {
    const at::Tensor filters = noise({8, 4, 3, 3}, 1).requires_grad_(true);
    Optimizer optimizer({{"layer1.0.conv1.weight", filters}},
                        {.muon_lr = 0.4, .layer_lr_decay = decay});
    filters.mutable_grad() = noise({8, 4, 3, 3}, 2);
    optimizer.step(lr);
    return filters.detach();
  };
  const at::Tensor start = after(1, 0);  // layer1 is four stages from the head
  EXPECT_TRUE(at::allclose(after(0.5, 0.1) - start, (after(1, 0.1) - start) / 16, 1e-3, 1e-6));
}

}  // namespace
}  // namespace skipway
