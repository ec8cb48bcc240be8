// Weights to and from PyTorch itself: files that torch.save wrote are read here, files that Skipway
// wrote by torch.load (weights.py).
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/for_test.h"
#include "data/image.h"
#include "program.h"
#include "python.h"
#include "record/torch_file.h"
#include "train/evaluate.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

constexpr const char* kScript = SKIPWAY_SOURCE_DIR "/tests/weights.py";

class WeightsParity : public testing::Test {
 protected:
  void SetUp() override {
    if (!python_has_module("torchvision"))
      GTEST_SKIP() << "no torchvision for /usr/bin/python3; install Debian's python3-torchvision";
  }
  // Runs weights.py; the last line of what it prints.
  std::string run(const std::vector<std::string>& arguments) const {
    std::vector<std::string> all = {kScript};
    all.insert(all.end(), arguments.begin(), arguments.end());
    PythonResult result = run_python(all);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    while (result.output.ends_with('\n')) result.output.pop_back();
    return result.output.substr(result.output.rfind('\n') + 1);
  }

  TemporaryFolder folder_;
};

std::string sha256(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.contiguous();
  return hash_of(HashKind::kSha256,
                 {static_cast<const char*>(whole.const_data_ptr()), whole.nbytes()});
}

std::string dtype(const at::Tensor& tensor) {
  const std::map<at::ScalarType, std::string> names = {
      {at::kDouble, "float64"},    {at::kFloat, "float32"}, {at::kHalf, "float16"},
      {at::kBFloat16, "bfloat16"}, {at::kLong, "int64"},    {at::kInt, "int32"},
      {at::kShort, "int16"},       {at::kChar, "int8"},     {at::kByte, "uint8"},
      {at::kBool, "bool"}};
  return names.at(tensor.scalar_type());
}

void expect_same(const NamedTensors& ours, const Json& theirs, const std::string& prefix = "") {
  EXPECT_EQ(ours.size(), theirs.size());
  for (const auto& [name, tensor] : ours) {
    ASSERT_TRUE(name.starts_with(prefix)) << name;
    const Json& expected = theirs[name.substr(prefix.size())];
    EXPECT_EQ(expected["dtype"], dtype(tensor)) << name;
    EXPECT_EQ(expected["shape"], Json(tensor.sizes().vec())) << name;
    EXPECT_EQ(expected["sha256"], sha256(tensor)) << name;
  }
}

TEST_F(WeightsParity, EveryFormOfTorchSaveIsRead) {
  run({"files", folder_.path().string()});
  const Json state = Json::parse(run({"read", (folder_ / "new.pth").string()}));
  expect_same(read_torch_file(folder_ / "new.pth"), state);
  expect_same(read_torch_file(folder_ / "old.pth"), state);
  expect_same(read_torch_file(folder_ / "wrapped.pth"), state, "state_dict.");
  EXPECT_EQ(read_torch_file(folder_ / "metadata.pth").size(), 5U);
  // PyTorch names the entries after the file; that they are no model's weights is another error.
  const ProgramResult umlaut = run_program({"import", (folder_ / "müll.pth").string(), "--model",
                                            "resnet18", "--out", (folder_ / "run").string()});
  EXPECT_EQ(umlaut.exit_code, 7) << umlaut.err;
  const NamedTensors old = read_torch_file(folder_ / "parameter.pth");
  ASSERT_EQ(old.size(), 1U);
  EXPECT_TRUE(at::equal(old[0].second, at::arange(3).to(at::kFloat)));
}

TEST_F(WeightsParity, WhatMeansHarmIsRefusedByNameAndNotRun) {
  run({"files", folder_.path().string()});
  const std::pair<const char*, const char*> cases[] = {
      {"system_new.pth", "posix.system"},
      {"system_old.pth", "posix.system"},
      {"module.pth", "torch.nn.modules.linear.Linear"},
      {"complex.pth", "torch.ComplexFloatStorage"},
      {"expanded.pth", "\"a\" within its storage of 1 elements"},
      {"larger.pth", "\"a\" within its storage of 4 elements, got shape [1024]"},
      {"half_new.pth", "whole zip archive"},
      {"half_old.pth", "cut short"},
      {"short.pth", "4 elements of FloatStorage in the storage of \"a\", got 8 bytes"},
      {"missing.pth", "storage \"0\" of \"a\""},
      {"nothing.pth", "data.pkl"},
      {"big.pth", "byteorder little, got big"},
      {"two.pth", "bytes 0 and 1 in the BoolStorage of \"a\""},
      {"bomb.pth", "at most the file's"}};
  for (const auto& [name, word] : cases) {
    const Error error = error_of([&] { read_torch_file(folder_ / name); });
    EXPECT_EQ(error.kind(), ErrorKind::kData) << name;
    EXPECT_THAT(error.what(), HasSubstr(word)) << name;
    EXPECT_THAT(error.what(), HasSubstr(name));
  }
  EXPECT_FALSE(fs::exists(folder_ / "harmed"));
}

TEST_F(WeightsParity, TorchLoadReadsWhatIsWritten) {
  NamedTensors tensors;
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                    at::kInt, at::kShort, at::kChar, at::kByte})
    tensors.emplace_back(at::toString(type), at::arange(12).to(type).view({3, 4}));
  tensors.emplace_back("scalar", at::scalar_tensor(7, at::kLong));
  tensors.emplace_back("large", at::arange(70000).to(at::kFloat));
  write_torch_file(folder_ / "ours.pth", tensors);
  expect_same(tensors, Json::parse(run({"read", (folder_ / "ours.pth").string()})));
}

// The whole way of weights through the program: torchvision -> import -> predict -> export ->
// torchvision.
class WeightsParityModel : public WeightsParity, public testing::WithParamInterface<const char*> {
 protected:
  ProgramResult program(std::vector<std::string> args) const {
    ProgramOptions options;
    options.working_directory = folder_.path();
    return run_program(args, options);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
};

TEST_P(WeightsParityModel, LogitsAndWeightsAreTorchvisions) {
  const std::string name = GetParam();
  const Json logits = Json::parse(run({"model", name, folder_.path().string()}));
  const ProgramResult imported =
      program({"import", name + ".pth", "--model", name, "--stem", "imagenet", "--out", "run"});
  ASSERT_EQ(imported.exit_code, 0) << imported.err;
  EXPECT_THAT(imported.out, HasSubstr("ImageNet's"));

  // Logits in this process, all four images at once.
  const std::unique_ptr<Model> model = load_saved_model(RunFolder::open(folder_ / "run"));
  model->kernels() = KernelChoice("torch");  // torchvision's own sums, and nothing measured
  std::vector<at::Tensor> images;
  std::vector<std::string> predict = {"predict", "run",      "--precision", "fp32",
                                      "--json",  "--kernel", "torch"};
  for (size_t i = 0; i < logits.size(); ++i) {
    predict.push_back(path(fmt::format("{:03}.png", i)));
    Image image = decode_image(read_file(predict.back()), predict.back());
    images.push_back(
        at::from_blob(image.rgb.data(), {image.height, image.width, 3}, at::kByte).clone());
  }
  const at::Tensor ours = predict_logits(*model, at::stack(images), {}).to(at::kDouble);
  at::Tensor theirs = at::empty_like(ours);
  for (int64_t i = 0; i < theirs.size(0); ++i)
    theirs[i] = at::tensor(logits[static_cast<size_t>(i)].get<std::vector<double>>());
  const double error = (ours - theirs).abs().max().item<double>();
  RecordProperty("largest_logit", fmt::format("{:.3f}", theirs.abs().max().item<double>()));
  RecordProperty("largest_error", fmt::format("{:.2g}", error));
  EXPECT_LT(error, 1e-5);

  // Probabilities as the program prints them.
  const ProgramResult predicted = program(predict);
  ASSERT_EQ(predicted.exit_code, 0) << predicted.err;
  const Json predictions = Json::parse(predicted.out)["predictions"];
  const at::Tensor expected = theirs.softmax(1);
  for (int64_t i = 0; i < theirs.size(0); ++i) {
    const auto row =
        predictions[static_cast<size_t>(i)]["probabilities"].get<std::vector<double>>();
    EXPECT_LT((at::tensor(row, at::kDouble) - expected[i]).abs().max().item<double>(), 1e-5);
  }

  for (const std::string format : {"pth", "safetensors"}) {
    const ProgramResult exported =
        program({"export", "run", "--to", format, "--out", "x." + format});
    ASSERT_EQ(exported.exit_code, 0) << exported.err;
  }
  EXPECT_EQ(Json::parse(
                run({"compare", name, path(name + ".pth"), path("x.pth"), path("x.safetensors")})),
            (Json{Json::array(), Json::array()}));

  // From training programs: wrapped, of several devices, compiled, without counts of batches.
  for (const std::string from : {"parallel", "compiled"}) {
    const ProgramResult wrapped =
        program({"import", from + ".pth", "--model", name, "--out", from});
    ASSERT_EQ(wrapped.exit_code, 0) << wrapped.err;
    const std::unique_ptr<Model> same = load_saved_model(RunFolder::open(folder_ / from));
    same->kernels() = KernelChoice("torch");
    EXPECT_TRUE(at::equal(predict_logits(*same, at::stack(images), {}).to(at::kDouble), ours));
  }
}

INSTANTIATE_TEST_SUITE_P(All, WeightsParityModel,
                         testing::Values("resnet18", "resnet34", "resnet50"),
                         [](const auto& name) { return std::string(name.param); });

}  // namespace
}  // namespace skipway
