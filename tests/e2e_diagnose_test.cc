// `diagnose` as a person or a script runs it, on the record of a short run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/for_test.h"
#include "model/model.h"
#include "program.h"
#include "small_data.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

json diagnosis_of(const std::string& run, const ProgramOptions& options) {
  const ProgramResult result = run_program({"diagnose", run, "--json"}, options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("schema"), "skipway.diagnose/1");
  EXPECT_EQ(object.at("run"), run);
  return object;
}

TEST(E2eDiagnose, SaysWhatTheRecordShows) {
  const TemporaryFolder folder;
  write_small_part(folder / "photos/train", {"a", "b"}, 8, 16);
  write_small_part(folder / "photos/test", {"a", "b"}, 4, 16, 100);
  ProgramOptions options;
  options.working_directory = folder.path();
  const ProgramResult trained =
      run_program({"train", "--data", "photos", "--batch", "8", "--epochs", "1", "--lr", "0.01",
                   "--precision", "fp32", "--kernel", kTestKernel, "--stem", "imagenet"},
                  options);
  ASSERT_EQ(trained.exit_code, 0) << trained.err;

  const json object = diagnosis_of("runs/001", options);
  EXPECT_EQ(object.at("sound"), false);
  EXPECT_TRUE(object.at("accuracy").is_number());
  const json& findings = object.at("findings");
  const auto stem = std::find_if(findings.begin(), findings.end(),
                                 [](const json& f) { return f.at("id") == "stem"; });
  ASSERT_NE(stem, findings.end()) << object;
  EXPECT_EQ(stem->at("fix"), "--stem auto");

  const ProgramResult text = run_program({"diagnose", "runs/001"}, options);
  EXPECT_THAT(text.out, AllOf(HasSubstr("symptom"), HasSubstr("evidence"),
                              HasSubstr("the imagenet stem for images of 16 pixels")));
}

TEST(E2eDiagnose, ImportedWeightsHaveNoRecord) {
  const TemporaryFolder folder;
  save_model(RunFolder::create(folder / "weights"), *make_model(ModelSpec(), 5));
  ProgramOptions options;
  options.working_directory = folder.path();
  const json object = diagnosis_of("weights", options);
  EXPECT_EQ(object.at("accuracy"), nullptr);
  EXPECT_EQ(object.at("sound"), nullptr);
  EXPECT_EQ(object.at("findings"), json::array());

  const ProgramResult text = run_program({"diagnose", "weights"}, options);
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_THAT(text.out, HasSubstr("imported weights"));
}

TEST(E2eDiagnose, AFolderThatIsNoRunIsAnError) {
  const TemporaryFolder folder;
  folder.write("notes/x.txt", "mine");
  ProgramOptions options;
  options.working_directory = folder.path();
  const ProgramResult result = run_program({"diagnose", "notes", "--json"}, options);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(json::parse(result.out).at("ok"), false);
}

}  // namespace
}  // namespace skipway
