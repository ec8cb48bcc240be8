// Tests that the page shows what the run folder holds, escapes it, and needs nothing from
// elsewhere; tests/readers_test.cc checks that its tags match.
#include "report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "base/for_test.h"

namespace skipway {
namespace {

using Json = nlohmann::ordered_json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Report : public testing::Test {
 protected:
  void add_epoch(int epoch, double loss, std::optional<double> accuracy = {}) const {
    Json line{{"schema", "skipway.metrics/1"}, {"event", "epoch"},     {"epoch", epoch},
              {"step", 391 * epoch},           {"loss", loss},         {"lr", 0.15 / epoch},
              {"images_per_s", 200 + epoch},   {"wall_s", 100 * epoch}};
    if (accuracy) line["test_accuracy"] = *accuracy;
    run_.append_metrics(line);
  }
  void add_end(const Json& per_class, const Json& confusion) const {
    run_.append_metrics({{"event", "end"},
                         {"result",
                          {{"model", "resnet18"},
                           {"dataset", "cifar10"},
                           {"wall_s", 893.1},
                           {"images", 415000},
                           {"accuracy",
                            {{"last", 0.9042},
                             {"last_tta", 0.9101},
                             {"interval95", {0.8983, 0.9097}},
                             {"n", 10000}}},
                           {"kernel", "winograd/avx512_bf16"},
                           {"kernels", {{"3x3 stride 1, 64 to 64 channels", "winograd-bf16"}}}}},
                         {"per_class", per_class},
                         {"confusion", confusion}});
  }
  // For the shell, in a page.
  static std::string quoted(const fs::path& path) { return "&#39;" + path.string() + "&#39;"; }
  std::string page() const {
    write_report(run_);
    return read_file(run_.report_html());
  }

  TemporaryFolder folder_;
  RunFolder run_ = RunFolder::create(folder_ / "my run");
};

TEST_F(Report, ShowsResultCurvesClassesConfigurationAndMachine) {
  write_file_atomic(run_.config_toml(), "lr = 0.15  # recipe budget\n");
  write_file_atomic(run_.env_json(),
                    R"({"schema":"x","processor":"Z80","memory_bytes":65536000000})");
  add_epoch(1, 1.5);
  add_epoch(2, 1.25, 0.8);
  add_end({{"cat", 0.75}, {"dog", 0.9}}, {{75, 25}, {10, 90}});
  const std::string html = page();
  for (const char* text :
       {"90.42 %", "89.83 % to 90.97 %", "10,000 held-out images", "91.01 %", "resnet18", "cifar10",
        "14 min 53 s", "415,000", "winograd/avx512_bf16", "lr = 0.15  # recipe budget", "Z80",
        "65.54 GB", "64 to 64 channels", "winograd-bf16", "epoch 2: 1.250", "epoch 2: 80.00",
        "cat as dog: 25", "75.00 %"})
    EXPECT_THAT(html, HasSubstr(text));
  EXPECT_THAT(html, HasSubstr("--config " + quoted(run_.config_toml())));
  EXPECT_THAT(html, Not(HasSubstr("not finished")));
  // The axis of one accuracy goes from zero to it.
  EXPECT_THAT(html, AllOf(HasSubstr(">60<"), HasSubstr(">80<"), Not(HasSubstr(">160<"))));
}

TEST_F(Report, NeedsNothingFromElsewhereAndRunsNothing) {
  add_epoch(1, 1.5);
  add_end({{"cat", 0.75}}, {{75}});
  const std::string html = page();
  for (const char* text : {"http:", "https:", "//", "<script", "<link", "<img", "url(", "@import"})
    EXPECT_THAT(html, Not(HasSubstr(text)));
}

TEST_F(Report, EscapesEverythingFromOutside) {
  const std::string evil = "<script>&\"'x</script>";
  write_file_atomic(run_.config_toml(), evil);
  write_file_atomic(run_.env_json(), Json{{evil, evil}, {"list", {evil}}}.dump());
  run_.append_metrics({{"event", "end"},
                       {"result",
                        {{"model", evil},
                         {"dataset", evil},
                         {"device", evil},
                         {"precision", evil},
                         {"weights_sha256", evil},
                         {"recipe", evil},
                         {"kernel", evil}}},
                       {"per_class", {{evil, 1}, {"b", 1}}},
                       {"confusion", {{1, 1}, {0, 1}}}});
  const std::string html = page();
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("\"'x")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;&amp;&quot;&#39;x&lt;/script&gt;"));
}

TEST_F(Report, ARunThatStoppedSaysSoAndShowsHowFarItCame) {
  EXPECT_THAT(page(), HasSubstr("before its first line of metrics"));
  add_epoch(1, 1.5);
  add_epoch(2, 1.25);
  const std::string html = page();
  EXPECT_THAT(html, HasSubstr("not finished"));
  EXPECT_THAT(html, HasSubstr("after epoch 2, step 782, 3 min 20 s in"));
  EXPECT_THAT(html, HasSubstr("skipway resume " + quoted(run_.path())));
  EXPECT_THAT(html, HasSubstr("epoch 1: 1.500"));
}

TEST_F(Report, ARunThatGaveUpIsNotToBeResumedBlindly) {
  add_epoch(1, 1.5);
  run_.append_metrics({{"event", "gave_up"}, {"step", 400}});
  EXPECT_THAT(page(),
              AllOf(HasSubstr("gave up"), HasSubstr("skipway diagnose " + quoted(run_.path()))));
  add_epoch(2, 1.25);  // of a resume
  EXPECT_THAT(page(), HasSubstr("not finished"));
}

TEST_F(Report, AResumedRunShowsTheLaterOfTwoLinesForAStep) {
  add_epoch(1, 1.5);
  add_epoch(2, 1.25);
  add_epoch(3, 1.125);
  add_epoch(2, 1.75);
  const std::string html = page();
  EXPECT_THAT(html, HasSubstr("epoch 2: 1.750"));
  EXPECT_THAT(html, Not(HasSubstr("epoch 2: 1.250")));
  EXPECT_THAT(html, Not(HasSubstr("epoch 3: ")));
}

TEST_F(Report, ManyClassesGetAListOfMistakesInsteadOfAMatrix) {
  Json per_class, counts = Json::array();
  for (int i = 0; i < 100; ++i) {
    per_class[fmt::format("class{}", i)] = 0.5;
    counts.push_back(std::vector<int>(100, 0));
    counts[i][i] = 5;
  }
  counts[7][9] = 15;
  add_end(per_class, counts);
  const std::string html = page();
  EXPECT_THAT(html, HasSubstr("<td>class7</td><td>class9</td>"));
  EXPECT_THAT(html, HasSubstr("75.00 %"));
  EXPECT_THAT(html, Not(HasSubstr("class=\"matrix\"")));
}

// Lines of another make, or with losses that were not finite (null), must not break the page.
TEST_F(Report, OddLinesAreShownAsFarAsTheyGo) {
  for (const char* line :
       {R"({"event":"epoch"})", R"({"event":3})",
        R"({"event":"epoch","epoch":0,"step":0,"loss":2})",
        R"({"event":"epoch","epoch":1,"step":1,"loss":null,"lr":0})",
        R"({"event":"epoch","epoch":2,"step":2,"loss":2.302585092994046,"lr":1e300})",
        R"({"event":"end","result":[1],"per_class":{"a":null},"confusion":[[0,0],[0,0]]})"})
    run_.append_metrics(Json::parse(line));
  // Without the folder's name, in whose six characters drawn by lot "nan" may stand.
  std::string html = page();
  const std::string name = folder_.path().filename().string();
  for (size_t at = 0; (at = html.find(name)) != std::string::npos;) html.erase(at, name.size());
  EXPECT_THAT(html, HasSubstr("2.303"));
  EXPECT_THAT(html, HasSubstr("no images"));
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("inf")));
  std::ofstream(run_.metrics_jsonl(), std::ios::app) << "{]\n{}\n";
  EXPECT_THROW(page(), Error);
}

}  // namespace
}  // namespace skipway
