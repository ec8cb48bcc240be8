// The ResNets, with attention and without, against timm's own, which scripts/test -L slow installs.
// What the errors come from is in parity_test.cc, which has the same models out of torchvision,
// with attention written out.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "parity.h"
#include "program.h"

namespace skipway {
namespace {

class ModelsAgainstTimm : public ParityTest {
 protected:
  void SetUp() override {
    python_ = SKIPWAY_SOURCE_DIR "/.venv-timm/bin/python";
    if (const char* python = std::getenv("SKIPWAY_TIMM_PYTHON")) python_ = python;
    judge_ = "timm";
    if (!std::filesystem::exists(python_))
      GTEST_SKIP() << "no " << python_
                   << "; scripts/test -L slow makes it, SKIPWAY_TIMM_PYTHON names another";
  }

  static std::vector<ModelSpec> specs() {
    std::vector<ModelSpec> all;
    for (const char* name : {"resnet18", "resnet50"}) {
      const size_t first =
          std::string(name) == "resnet18" ? 0 : 1;  // each attention has both stems
      for (const char* attention : {"none", "se", "eca", "cbam"}) {
        ModelSpec& spec = all.emplace_back();
        spec.name = name;
        spec.attention = attention;
        spec.stem = (all.size() + first) % 2 == 1 ? "imagenet" : "cifar";
      }
    }
    return all;
  }
};

TEST_F(ModelsAgainstTimm, StepAgreesInFp32) {
  compare_steps(specs(), at::kFloat, /*count=*/4, /*last_side=*/2, /*forward_tolerance=*/6e-4,
                /*gradient_tolerance=*/0.1);
}

TEST_F(ModelsAgainstTimm, StepAgreesInFp64) {
  compare_steps(specs(), at::kDouble, /*count=*/8, /*last_side=*/1, /*forward_tolerance=*/1e-12,
                /*gradient_tolerance=*/1e-11);
}

// timm -> torch.save -> import -> predict -> export -> timm.
TEST_F(ModelsAgainstTimm, ItsWeightsComeInAndGoBack) {
  using Json = nlohmann::json;
  const auto weights = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), SKIPWAY_SOURCE_DIR "/tests/weights.py");
    const PythonResult result = run_python(arguments, python_);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    const std::string text = result.output.substr(0, result.output.find_last_not_of('\n') + 1);
    return Json::parse(text.substr(text.rfind('\n') + 1));
  };
  ProgramOptions options;
  options.working_directory = folder_.path();
  const auto program = [&](const std::vector<std::string>& arguments) {
    const ProgramResult result = run_program(arguments, options);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  };
  for (const std::string name : {"resnet18", "resnet34", "resnet50"}) {
    const Json logits = weights({"model", "timm:" + name, folder_.path().string()});
    program({"import", name + ".pth", "--model", name, "--out", name});
    std::vector<std::string> predict = {"predict", name,       "--precision", "fp32",
                                        "--json",  "--kernel", "torch"};
    for (size_t i = 0; i < logits.size(); ++i) predict.push_back(fmt::format("{:03}.png", i));
    const Json predictions = Json::parse(program(predict)).at("predictions");
    double error = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const auto row = predictions.at(i).at("probabilities").get<std::vector<double>>();
      const at::Tensor theirs = at::tensor(logits.at(i).get<std::vector<double>>()).softmax(0);
      error = std::max(error, (at::tensor(row) - theirs).abs().max().item<double>());
    }
    EXPECT_LT(error, 1e-5) << name;
    RecordProperty(name, fmt::format("{:.1e}", error));
    for (const std::string format : {"pth", "safetensors"})
      program({"export", name, "--to", format, "--out", name + "-out." + format});
    const auto path = [&](const std::string& end) { return (folder_ / (name + end)).string(); };
    EXPECT_EQ(weights({"compare", "timm:" + name, path(".pth"), path("-out.pth"),
                       path("-out.safetensors")}),
              (Json{Json::array(), Json::array()}))
        << name;
  }
}

}  // namespace
}  // namespace skipway
