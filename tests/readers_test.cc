// Lets the programs that files are written for read them: TensorBoard, safetensors' own Python
// reader, an HTML parser. They run in the Python environment of the tests.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "base/files.h"
#include "base/for_test.h"
#include "python.h"
#include "record/run_folder.h"
#include "record/safetensors.h"
#include "record/tensorboard.h"
#include "report/report.h"

namespace skipway {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

class Readers : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* python = std::getenv("SKIPWAY_TEST_PYTHON")) python_ = python;
    if (!fs::exists(python_))
      GTEST_SKIP() << "no " << python_
                   << "; scripts/test makes it, SKIPWAY_TEST_PYTHON names another";
  }

  // What tests/readers.py says about a file; null, with a failed test, when it fails.
  Json read(const std::string& reader, const fs::path& path) const {
    PythonResult run =
        run_python({SKIPWAY_SOURCE_DIR "/tests/readers.py", reader, path.string()}, python_);
    EXPECT_EQ(run.exit_code, 0) << run.output;
    while (run.output.ends_with('\n')) run.output.pop_back();
    return Json::parse(run.output.substr(run.output.rfind('\n') + 1), nullptr, false);
  }

  fs::path python_ = SKIPWAY_SOURCE_DIR "/.venv-test/bin/python";
  TemporaryFolder folder_;
};

TEST_F(Readers, SafetensorsReadsEveryType) {
  const std::pair<at::ScalarType, const char*> types[] = {
      {at::kDouble, "F64"}, {at::kFloat, "F32"}, {at::kHalf, "F16"},  {at::kBFloat16, "BF16"},
      {at::kLong, "I64"},   {at::kInt, "I32"},   {at::kShort, "I16"}, {at::kChar, "I8"},
      {at::kByte, "U8"},    {at::kBool, "BOOL"}};
  NamedTensors tensors;
  for (const auto& [type, name] : types)
    tensors.emplace_back(name, (at::arange(15) % 2).to(type).view({3, 5}));
  tensors.emplace_back("scalar", at::scalar_tensor(3.5));
  tensors.emplace_back("empty", at::empty({0, 4}));
  write_safetensors(folder_ / "x.safetensors", tensors, {{"classes", "Käfer,\"cat\""}});

  const Json file = read("safetensors", folder_ / "x.safetensors");
  EXPECT_EQ(file["metadata"], (Json{{"classes", "Käfer,\"cat\""}}));
  EXPECT_EQ(file["tensors"].size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const Json& got = file["tensors"][name];
    EXPECT_EQ(got["shape"], Json(tensor.sizes().vec())) << name;
    EXPECT_EQ(got["sha256"],
              hash_of(HashKind::kSha256,
                      {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()}))
        << name;
  }
  for (const auto& [type, name] : types) EXPECT_EQ(file["tensors"][name]["dtype"], name);
}

TEST_F(Readers, TensorBoardReadsScalars) {
  TensorBoardWriter writer(folder_.path());
  for (int64_t step : {0, 391, 782, 1 << 24}) {
    writer.add_scalar("train/loss", 2.0 / (1.0 + static_cast<double>(step)), step);
    writer.add_scalar("lr", 0.125, step);
  }
  writer.flush();

  const Json events = read("tensorboard", folder_.path());
  EXPECT_EQ(events["scalars"].size(), 2U);
  ASSERT_EQ(events["scalars"]["train/loss"].size(), 4U);
  EXPECT_EQ(events["scalars"]["lr"][3], (Json{1 << 24, 0.125}));
  EXPECT_EQ(events["scalars"]["train/loss"][0], (Json{0, 2.0}));
  EXPECT_FLOAT_EQ(events["scalars"]["train/loss"][1][1].get<float>(), 2.0F / 392);
}

TEST_F(Readers, TensorBoardForgetsWhatARunWentBackBefore) {
  const std::vector<std::vector<int64_t>> parts = {{10, 20, 30}, {20, 40}};
  for (const std::vector<int64_t>& steps : parts) {
    TensorBoardWriter writer(folder_.path());
    if (steps != parts.front()) writer.forget_from(11);
    for (const int64_t step : steps) writer.add_scalar("loss", static_cast<double>(step), step);
    writer.flush();
  }
  EXPECT_EQ(read("tensorboard", folder_.path())["scalars"]["loss"],
            (Json{{10, 10.0}, {20, 20.0}, {40, 40.0}}));
}

TEST_F(Readers, AnHtmlParserFindsTheReportsTagsMatched) {
  const RunFolder run = RunFolder::create(folder_ / "run");
  write_file_atomic(run.config_toml(), "data = \"a<b>&\"\n");
  write_file_atomic(run.env_json(), environment().dump());
  for (int epoch : {1, 2, 3})
    run.append_metrics({{"event", "epoch"},
                        {"epoch", epoch},
                        {"step", epoch},
                        {"loss", 2.0 / epoch},
                        {"lr", 0.1},
                        {"images_per_s", 100},
                        {"test_accuracy", 0.25 * epoch}});
  write_report(run);
  EXPECT_THAT(read("html", run.report_html())["text"].get<std::string>(),
              HasSubstr("not finished"));

  run.append_metrics({{"event", "end"},
                      {"result", {{"model", "resnet18"}, {"accuracy", {{"last", 0.75}}}}},
                      {"per_class", {{"a<b", 0.5}, {"c", 1.0}}},
                      {"confusion", {{1, 1}, {0, 2}}}});
  write_report(run);
  const Json page = read("html", run.report_html());
  EXPECT_THAT(page["text"].get<std::string>(), HasSubstr("75.00 %"));
  EXPECT_THAT(page["text"].get<std::string>(), HasSubstr("data = \"a<b>&\""));
  EXPECT_EQ(page["addresses"], Json::array());
  EXPECT_EQ(std::count(page["tags"].begin(), page["tags"].end(), "svg"), 4);
}

}  // namespace
}  // namespace skipway
