// The program's manners: help, exit codes, layers of settings, what goes to which stream. No
// training.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/for_test.h"
#include "model/model.h"
#include "program.h"

namespace skipway {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kEscape = "\x1b[";

class E2eCommandLine : public testing::Test {
 protected:
  ProgramResult run(const std::vector<std::string>& args,
                    const std::map<std::string, std::string>& environment = {}) {
    ProgramOptions options;
    options.working_directory = folder_ / ".";
    options.environment = environment;
    return run_program(args, options);
  }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }

  TemporaryFolder folder_;
};

TEST_F(E2eCommandLine, EverySubcommandHasHelpOnStdout) {
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{},
                                             {"train"},
                                             {"resume"},
                                             {"plan"},
                                             {"lr-find"},
                                             {"eval"},
                                             {"diagnose"},
                                             {"predict"},
                                             {"import"},
                                             {"export"},
                                             {"data"},
                                             {"data", "list"},
                                             {"data", "fetch"},
                                             {"data", "check"},
                                             {"data", "show"},
                                             {"models"},
                                             {"doctor"},
                                             {"config"},
                                             {"config", "show"}}) {
    std::vector<std::string> args = command;
    args.push_back("--help");
    const ProgramResult result = run(args);
    std::string name = "skipway";
    for (const std::string& word : command) name += " " + word;
    EXPECT_EQ(result.exit_code, 0) << name;
    EXPECT_THAT(result.out, HasSubstr("Usage: " + name)) << name;
    EXPECT_EQ(result.err, "") << name;
  }
}

TEST_F(E2eCommandLine, ModelsTellsWhatEachCosts) {
  const json object = json::parse(run({"models", "--json", "--attention", "se"}).out);
  EXPECT_EQ(object.at("schema"), "skipway.models/1");
  std::set<std::string> names;
  for (const json& model : object.at("models")) {
    names.insert(model.at("name"));
    ModelSpec spec;
    spec.name = model.at("name");
    if (spec.name.starts_with("resnet")) spec.attention = "se";
    EXPECT_EQ(model.at("parameters"), model_cost(spec, 4).parameters) << spec.name;
    EXPECT_GT(model.at("memory_bytes").at("fp32"), model.at("memory_bytes").at("bf16"));
  }
  EXPECT_EQ(names.size(), model_names().size());
  EXPECT_THAT(run({"models"}).out, AllOf(HasSubstr("resnet152"), HasSubstr("airbench94")));
  // Too small for an airbench.
  EXPECT_THAT(run({"models", "--image-size", "8"}).out,
              AllOf(HasSubstr("resnet18"), Not(HasSubstr("airbench"))));
}

TEST_F(E2eCommandLine, VersionNamesSkipwayAndLibTorch) {
  const ProgramResult result = run({"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, AllOf(HasSubstr("skipway " SKIPWAY_VERSION), HasSubstr("LibTorch 2.")));
}

TEST_F(E2eCommandLine, WithoutACommandHelpGoesToStderr) {
  for (const std::vector<std::string>& args :
       std::vector<std::vector<std::string>>{{}, {"data"}, {"config"}}) {
    const ProgramResult result = run(args);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr("Usage: skipway"));
  }
}

TEST_F(E2eCommandLine, WrongFlagsAndValuesAreUsageErrors) {
  struct Case {
    std::vector<std::string> args;
    std::string message;
  };
  for (const Case& c : std::vector<Case>{
           {{"tarin"}, "did you mean 'train'"},
           {{"train", "--bacth", "3"}, "did you mean '--batch'"},
           {{"train", "--batch"}, "--batch"},
           {{"train", "--batch", "many"}, "'many'"},
           {{"train", "--batch", "-4"}, "batch"},
           {{"train", "--minutes", "1", "--epochs", "1"}, "--epochs"},
           {{"train", "--recipe", "bets"}, "best"},
           {{"train", "--schedule", "sine"}, "cosine"},
           {{"train", "--device", "tpu"}, "tpu"},
           {{"train", "surplus"}, "surplus"},
           {{"data", "show", "x", "--image-size", "4000000000"}, "image size"},
           {{"eval"}, "run"},
           {{"eval", "nowhere"}, "nowhere"},
           {{"eval", "nowhere", "--fail-under", "85"}, "fail-under"},
           {{"eval", "nowhere", "--fail-under", "nan"}, "fail-under"},
           {{"eval", "nowhere", "--data", ""}, "--data: expected a value"},
           {{"train", "--config", ""}, "--config: expected a value"},
           {{"import", "w.pth", "--out", ""}, "--out: expected a value"},
           {{"import", "http://127.0.0.1:1/w-01234567.pth", "--out", "w", "--mean", "1"}, "--mean"},
           {{"predict", "nowhere"}, "files"},
           {{"predict", "nowhere", "a.png", "--csv", "--json"}, "--json"},
           {{"predict", "nowhere", "a.png", "--top", "0"}, "--top"},
           {{"resume", "nowhere"}, "nowhere"},
           {{"doctor", "--jsno"}, "did you mean '--json'"},
           {{"doctor", "--device", "tpu"}, "'tpu' at --device"}}) {
    const ProgramResult result = run(c.args);
    EXPECT_EQ(result.exit_code, 2) << c.message << result.err;
    EXPECT_THAT(result.err, AllOf(testing::StartsWith("error: "), HasSubstr(c.message)));
  }
}

TEST_F(E2eCommandLine, WrongPathsAreDataErrors) {
  for (const std::vector<std::string>& args :
       std::vector<std::vector<std::string>>{{"train", "--data", "/no/such/folder"},
                                             {"train", "--config", "absent.toml"},
                                             {"train", "--data", "data"},  // a command, too
                                             {"data", "check", "/no/such/folder"}}) {
    const ProgramResult result = run(args);
    EXPECT_EQ(result.exit_code, 3) << result.err;
    EXPECT_THAT(result.err, HasSubstr(args.back()));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "runs"));
  }
}

TEST_F(E2eCommandLine, AnErrorWithJsonIsAlsoAnObject) {
  const ProgramResult result = run({"train", "--json", "--data", "/no/such/folder"});
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("schema"), "skipway.train/1");
  EXPECT_EQ(object.at("ok"), false);
  EXPECT_EQ(object.at("error").at("kind"), "data");
  EXPECT_EQ(object.at("error").at("exit_code"), result.exit_code);
  EXPECT_THAT(object.at("error").at("message"), HasSubstr("/no/such/folder"));
  EXPECT_EQ(json::parse(run({"tarin", "--json"}).out).at("error").at("kind"), "usage");
  EXPECT_EQ(json::parse(run({"eval", "--json"}).out).at("schema"), "skipway.eval/1");
  // As its success is.
  EXPECT_EQ(json::parse(run({"resume", "nowhere", "--json"}).out).at("schema"), "skipway.train/1");
}

TEST_F(E2eCommandLine, WhatIsFoundWrongIsAnErrorWithJsonToo) {
  const ProgramResult doctor = run({"doctor", "--json"}, {{"SKIPWAY_DATA", "/proc/nowhere"}});
  const json error = json::parse(doctor.out).at("error");
  EXPECT_EQ(error.at("exit_code"), doctor.exit_code);
  EXPECT_EQ(error.at("kind"), "device");
  EXPECT_THAT(error.at("message"), HasSubstr("data folder"));
}

TEST_F(E2eCommandLine, OfAFlagThatIsGivenTwiceTheLastCounts) {
  const ProgramResult result = run({"models", "--classes", "10", "--classes", "7", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, run({"models", "--classes", "7", "--json"}).out);
  EXPECT_NE(result.out, run({"models", "--classes", "10", "--json"}).out);
  EXPECT_THAT(run({"config", "show", "--batch", "5", "--batch", "6"}).out,
              HasSubstr("batch = 6  # --batch\n"));
}

TEST_F(E2eCommandLine, EveryCommandHasQuiet) {
  EXPECT_EQ(run({"models", "--quiet"}).exit_code, 0);
  EXPECT_EQ(run({"doctor", "--quiet"}).err, "");
}

TEST_F(E2eCommandLine, TheSwitchForJsonMayHaveAValue) {
  const auto printed = [&](const std::vector<std::string>& switches) {
    std::vector<std::string> args = {"resume", "nowhere"};
    args.insert(args.end(), switches.begin(), switches.end());
    return run(args).out;
  };
  EXPECT_EQ(json::parse(printed({"--json=true"})).at("ok"), false);
  EXPECT_EQ(json::parse(printed({"--json=false", "--json=on"})).at("ok"), false);
  EXPECT_EQ(printed({"--json=false"}), "");
  EXPECT_EQ(printed({"--json=maybe"}), "");
}

TEST_F(E2eCommandLine, ConfigShowSaysWhereEachValueComesFrom) {
  write("skipway.toml", "recipe = \"article\"\nbatch = 32 # few\n");
  write("own.toml", "gamma = 0.5\nepochs = 3\n");
  const ProgramResult result =
      run({"config", "show", "--config", "own.toml", "--lr=0.05", "--run-dir", "here"},
          {{"SKIPWAY_SEED", "9"}, {"SKIPWAY_DATA", "/elsewhere"}});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  for (const char* line :
       {"recipe = \"article\"  # skipway.toml\n", "batch = 32  # skipway.toml\n",
        "gamma = 0.5  # own.toml\n", "epochs = 3  # own.toml\n", "seed = 9  # SKIPWAY_SEED\n",
        "lr = 0.05  # --lr\n", "t_max = 200  # recipe article\n",
        "tta = ", "data = \"auto\"  # default\n", "run_dir = \"here\"  # --run-dir\n"})
    EXPECT_THAT(result.out, HasSubstr(line));

  const json shown =
      json::parse(run({"config", "show", "--json", "--no-nesterov"}).out).at("config");
  EXPECT_EQ(shown.at("nesterov"), (json{{"value", false}, {"origin", "--nesterov"}}));
  EXPECT_EQ(shown.at("batch"), (json{{"value", 32}, {"origin", "skipway.toml"}}));
}

TEST_F(E2eCommandLine, WhatConfigShowPrintsIsAConfigFile) {
  const ProgramResult first = run({"config", "show", "--recipe", "best", "--seed", "3"});
  write("repeated.toml", first.out);
  const ProgramResult second = run({"config", "show", "--config", "repeated.toml"});
  const auto values = [](const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);)
      lines.push_back(line.substr(0, line.find("  # ")));
    return lines;
  };
  EXPECT_EQ(values(first.out), values(second.out));
}

TEST_F(E2eCommandLine, AMistakeInAFileOrVariableIsNamed) {
  EXPECT_THAT(run({"config", "show"}, {{"SKIPWAY_BACTH", "3"}}).err,
              AllOf(testing::StartsWith("warning: SKIPWAY_BACTH"), HasSubstr("'SKIPWAY_BATCH'")));
  write("skipway.toml", "lr = 0.1\nmomentun = 1\n");
  const ProgramResult result = run({"config", "show"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("skipway.toml:2"), HasSubstr("'momentum'")));
}

TEST_F(E2eCommandLine, DoctorExaminesTheMachine) {
  const ProgramResult result = run({"doctor", "--json"});
  const json object = json::parse(result.out);
  EXPECT_EQ(object.at("schema"), "skipway.doctor/1");
  EXPECT_EQ(object.at("ok"), result.exit_code == 0);
  std::vector<std::string> names;
  for (const json& check : object.at("checks")) {
    names.push_back(check.at("name"));
    EXPECT_EQ(check.contains("fix"), check.at("state") != "ok") << check;
  }
  EXPECT_THAT(names, testing::IsSupersetOf({"device", "driver", "libtorch", "cores", "memory",
                                            "runs", "data folder", "data", "step"}));
  EXPECT_TRUE(object.at("environment").is_object());
  EXPECT_THAT(run({"doctor"}, {{"SKIPWAY_KERNEL", "torch"}}).out, HasSubstr("kernel torch/"));
}

TEST_F(E2eCommandLine, DoctorFailsWithAFixWhereNothingCanBeWritten) {
  // Root may write there, but there is no room.
  const ProgramResult result = run({"doctor"}, {{"SKIPWAY_DATA", "/proc/nowhere"}});
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("✗ data folder"), HasSubstr("fix: "), HasSubstr("SKIPWAY_DATA")));
}

TEST_F(E2eCommandLine, ColourIsForTerminalsAlone) {
  EXPECT_THAT(run({"train", "--batch", "many"}).err, Not(HasSubstr(kEscape)));
  ProgramOptions terminal;
  terminal.working_directory = folder_ / ".";
  terminal.terminal_columns = 100;
  const auto shown = [&](const std::string& variable, const std::string& value) {
    terminal.environment = {{variable, value}};
    return run_program({"train", "--batch", "many"}, terminal).out;
  };
  EXPECT_THAT(shown("UNRELATED", "1"), HasSubstr("\x1b[31merror:\x1b[0m"));
  EXPECT_THAT(shown("NO_COLOR", "1"), AllOf(HasSubstr("error:"), Not(HasSubstr(kEscape))));
  EXPECT_THAT(shown("TERM", "dumb"), AllOf(HasSubstr("error:"), Not(HasSubstr(kEscape))));
  EXPECT_THAT(shown("CI", "true"), AllOf(HasSubstr("error:"), Not(HasSubstr(kEscape))));
}

TEST_F(E2eCommandLine, AFullDiskUnderStdoutIsSaid) {
  const int full = open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  ProgramOptions options;
  options.working_directory = folder_ / ".";
  options.stdout_file = full;
  for (const std::vector<std::string>& args :
       std::vector<std::vector<std::string>>{{"config", "show"},
                                             {"config", "show", "--json"},
                                             {"models", "--json"},
                                             {"--help"},
                                             {"train", "--help"}}) {
    const ProgramResult result = run_program(args, options);
    EXPECT_EQ(result.exit_code, 9) << args.front();
    EXPECT_THAT(result.err, HasSubstr("standard output"));
  }
  // What went wrong first counts.
  EXPECT_EQ(run_program({"resume", "nowhere", "--json"}, options).exit_code, 2);
  close(full);
}

TEST_F(E2eCommandLine, AReaderThatIsGoneIsSaid) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  close(ends[0]);
  ProgramOptions options;
  options.working_directory = folder_ / ".";
  options.stdout_file = ends[1];
  const ProgramResult result = run_program({"models", "--json"}, options);
  EXPECT_EQ(result.exit_code, 9);
  EXPECT_THAT(result.err, HasSubstr("Broken pipe"));
  // But for help, of which `head` wants no more.
  const ProgramResult help = run_program({"train", "--help"}, options);
  close(ends[1]);
  EXPECT_EQ(help.exit_code, -SIGPIPE);
  EXPECT_EQ(help.err, "");
}

TEST_F(E2eCommandLine, AStreamThatIsClosedIsNoFile) {
  ProgramOptions options;
  options.working_directory = folder_ / ".";
  const auto without = [&](std::vector<int> streams) {
    options.closed_streams = std::move(streams);
    return run_program({"config", "show", "--json"}, options);
  };
  EXPECT_EQ(without({1}).exit_code, 9);
  EXPECT_EQ(without({0, 1, 2}).exit_code, 9);
  const ProgramResult heard = without({0, 2});
  EXPECT_EQ(heard.exit_code, 0);
  EXPECT_EQ(json::parse(heard.out).at("ok"), true);
}

}  // namespace
}  // namespace skipway
