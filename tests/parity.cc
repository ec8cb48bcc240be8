#include "parity.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <limits>

#include "record/safetensors.h"

namespace skipway {
namespace {

double relative_error(const at::Tensor& ours, const at::Tensor& theirs) {
  const at::Tensor a = ours.detach().to(at::kDouble), b = theirs.to(at::kDouble);
  if (a.sizes() != b.sizes()) return std::numeric_limits<double>::infinity();
  return (a - b).norm().item<double>() / b.norm().item<double>();
}

}  // namespace

std::map<std::string, at::Tensor> by_name(const NamedTensors& tensors) {
  return {tensors.begin(), tensors.end()};
}

at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& labels) {
  return at::cross_entropy_loss(logits, labels, /*weight=*/{}, at::Reduction::Mean,
                                /*ignore_index=*/-100, kLabelSmoothing);
}

std::unique_ptr<ResNet> make_parity_model(const ModelSpec& spec, at::ScalarType type) {
  auto model = std::make_unique<ResNet>(spec, /*seed=*/3);
  const at::NoGradGuard no_grad;
  const at::Generator random = at::detail::createCPUGenerator(4);
  for (const auto& [name, tensor] : model->parameters()) {
    if (tensor.dim() == 1) tensor.add_(at::randn(tensor.sizes(), random), 0.2);
  }
  for (const auto& [name, tensor] : model->state()) {
    if (tensor.is_floating_point()) at::Tensor(tensor).set_data(tensor.to(type));
  }
  return model;
}

void write_question(const std::filesystem::path& path, const ResNet& model,
                    const at::Tensor& images, const at::Tensor& labels, Metadata metadata) {
  NamedTensors tensors;
  for (const auto& [name, tensor] : model.state()) tensors.emplace_back("state." + name, tensor);
  tensors.emplace_back("images", images);
  tensors.emplace_back("labels", labels);
  metadata["model"] = model.spec().name;
  metadata["stem"] = model.spec().stem;
  metadata["attention"] = model.spec().attention;
  metadata["label_smoothing"] = std::to_string(kLabelSmoothing);
  write_safetensors(path, tensors, metadata);
}

void ParityTest::SetUp() {
  if (!python_has_module("torch") || !python_has_module("torchvision")) {
    GTEST_SKIP() << "needs PyTorch to compare with: apt-get install --no-install-recommends "
                    "python3-torch python3-torchvision";
  }
}

void ParityTest::ask(size_t count) {
  std::vector<std::string> arguments = {SKIPWAY_SOURCE_DIR "/tests/parity.py"};
  for (size_t i = 0; i < count; ++i) {
    arguments.push_back(question(i).string());
    arguments.push_back(answer(i).string());
  }
  const PythonResult result = run_python(arguments, python_);
  ASSERT_EQ(result.exit_code, 0) << result.output;
}

std::filesystem::path ParityTest::question(size_t i) const {
  return folder_ / fmt::format("q{}", i);
}

std::filesystem::path ParityTest::answer(size_t i) const { return folder_ / fmt::format("a{}", i); }

void ParityTest::compare_steps(const std::vector<ModelSpec>& specs, at::ScalarType type,
                               int64_t count, int64_t last_side, double forward_tolerance,
                               double gradient_tolerance) {
  struct Case {
    std::unique_ptr<ResNet> model;
    at::Tensor images, labels;
  };
  std::vector<Case> cases;
  for (ModelSpec spec : specs) {
    spec.image_size = last_side * (spec.stem == "cifar" ? 8 : 32);
    const at::Generator random = at::detail::createCPUGenerator(5);
    Case& made = cases.emplace_back();
    made.model = make_parity_model(spec, type);
    made.images = at::randn({count, 3, spec.image_size, spec.image_size}, random)
                      .to(type)
                      .contiguous(at::MemoryFormat::ChannelsLast);
    made.labels = at::randint(spec.num_classes, {count}, random, at::kLong);
    write_question(question(cases.size() - 1), *made.model, made.images, made.labels,
                   {{"task", "step"}, {"judge", judge_}});
  }
  ASSERT_NO_FATAL_FAILURE(ask(cases.size()));

  for (size_t i = 0; i < cases.size(); ++i) {
    auto& [model, images, labels] = cases[i];
    SCOPED_TRACE(fmt::format("{} with the stem {}, attention {}", model->spec().name,
                             model->spec().stem, model->spec().attention));
    NamedTensors ours;
    model->kernels() = KernelChoice("winograd");  // as in training; fp64 stays with LibTorch
    const at::Tensor logits = model->forward(images, /*training=*/true);
    const at::Tensor loss = loss_of(logits, labels);
    loss.backward();
    ours.emplace_back("train_logits", logits);
    ours.emplace_back("loss", loss);
    for (const auto& [name, tensor] : model->state()) {
      if (tensor.requires_grad())
        ours.emplace_back("grad." + name, tensor.grad());
      else
        ours.emplace_back("buffer." + name, tensor);
    }
    {
      const at::NoGradGuard no_grad;  // with gradients it would be LibTorch's
      ours.emplace_back("eval_logits", model->forward(images, /*training=*/false));
    }

    const auto theirs = by_name(read_safetensors(answer(i)).tensors);
    ASSERT_EQ(ours.size(), theirs.size());
    // The single numbers of CBAM's BatchNorms are sums that all but cancel: together they are held
    // to the tolerance, alone one near zero could not be.
    std::vector<at::Tensor> our_numbers, their_numbers;
    double forward_error = 0, gradient_error = 0;
    for (const auto& [name, tensor] : ours) {
      ASSERT_TRUE(theirs.contains(name)) << name;
      if (name.starts_with("grad.") && tensor.numel() == 1) {
        our_numbers.push_back(tensor.view({1}));
        their_numbers.push_back(theirs.at(name).view({1}));
        continue;
      }
      const bool is_gradient = name.starts_with("grad.");
      const double error = relative_error(tensor, theirs.at(name));
      EXPECT_LE(error, is_gradient ? gradient_tolerance : forward_tolerance) << name;
      double& largest = is_gradient ? gradient_error : forward_error;
      largest = std::max(largest, error);
    }
    RecordProperty(
        fmt::format("{}_{}_{}", model->spec().name, model->spec().stem, model->spec().attention),
        fmt::format("forward {:.1e} gradient {:.1e}", forward_error, gradient_error));
    if (!our_numbers.empty()) {
      EXPECT_LE(relative_error(at::cat(our_numbers), at::cat(their_numbers)), gradient_tolerance)
          << our_numbers.size() << " single numbers";
    }
  }
}

}  // namespace skipway
