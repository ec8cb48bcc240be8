// Tests of the layers of configuration and of the TOML that a run keeps.
#include "cli/arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <limits>
#include <set>

#include "base/for_test.h"
#include "base/log.h"

namespace skipway {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A folder of its own, and an environment without Skipway's variables.
class ArgumentsTest : public testing::Test {
 protected:
  ArgumentsTest() {
    std::vector<std::string> names;
    for (char** variable = environ; *variable != nullptr; ++variable)
      if (std::string(*variable).starts_with("SKIPWAY_"))
        names.push_back(std::string(*variable, std::strchr(*variable, '=')));
    for (const std::string& name : names) unsetenv(name.c_str());
  }
  ~ArgumentsTest() override {
    for (const std::string& name : variables_) unsetenv(name.c_str());
  }
  void write(const std::string& name, const std::string& text) { folder_.write(name, text); }
  void set_variable(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    variables_.push_back(name);
  }
  Arguments parse(const std::vector<std::string>& args) {
    CLI::App command;
    const auto finish = add_arguments(command, folder_.path());
    try {  // CLI11 takes them reversed
      command.parse(std::vector<std::string>(args.rbegin(), args.rend()));
    } catch (const CLI::ParseError& error) {
      throw usage_error(command, error);
    }
    return finish();
  }
  std::string usage_message(const std::vector<std::string>& args) {
    const Error error = error_of([&] { parse(args); });
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }

  TemporaryFolder folder_;
  std::vector<std::string> variables_;
};

TEST_F(ArgumentsTest, WithoutAnythingTheDefaultsHold) {
  const Arguments arguments = parse({});
  EXPECT_EQ(toml_values(arguments.config), toml_values(recipe_config("budget")));
  EXPECT_EQ(arguments.origins.at("lr"), "default");
  EXPECT_FALSE(arguments.json);
}

TEST_F(ArgumentsTest, EachLayerIsStrongerThanTheOneBelow) {
  write("skipway.toml", "lr = 0.01\nbatch = 32\nseed = 1\ngamma = 0.5\n");
  write("own.toml", "batch = 64\nseed = 2\ngamma = 0.25\n");
  set_variable("SKIPWAY_SEED", "3");
  set_variable("SKIPWAY_GAMMA", "0.2");
  const Arguments arguments = parse({"--config", "own.toml", "--gamma", "0.125"});
  EXPECT_EQ(arguments.config.lr, 0.01);
  EXPECT_EQ(arguments.config.batch, 64);
  EXPECT_EQ(arguments.config.seed, 3u);
  EXPECT_EQ(arguments.config.gamma, 0.125);
  EXPECT_EQ(arguments.origins.at("lr"), "skipway.toml");
  EXPECT_EQ(arguments.origins.at("batch"), "own.toml");
  EXPECT_EQ(arguments.origins.at("seed"), "SKIPWAY_SEED");
  EXPECT_EQ(arguments.origins.at("gamma"), "--gamma");
  EXPECT_EQ(arguments.origins.at("momentum"), "default");
}

TEST_F(ArgumentsTest, ARecipeFromAnyLayerLaysDownItsDefaultsBelowAll) {
  write("skipway.toml", "recipe = 'article'\nmomentum = 0.5\n");
  const Arguments arguments = parse({"--batch", "96"});
  const Config article = recipe_config("article");
  EXPECT_EQ(arguments.config.schedule, article.schedule);
  EXPECT_EQ(arguments.origins.at("schedule"), "recipe article");
  EXPECT_EQ(arguments.config.momentum, 0.5);
  EXPECT_EQ(arguments.config.batch, 96);
  EXPECT_THAT(usage_message({"--recipe", "artcle"}), HasSubstr("article"));
}

TEST_F(ArgumentsTest, OneLengthOfTheRunReplacesTheOther) {
  const Arguments by_epochs = parse({"--epochs", "2.5"});
  EXPECT_EQ(by_epochs.config.epochs, 2.5);
  EXPECT_EQ(by_epochs.config.minutes, 0);
  EXPECT_EQ(by_epochs.origins.at("minutes"), "--epochs");
  const Arguments by_minutes = parse({"--recipe", "article", "--minutes", "3"});
  EXPECT_EQ(by_minutes.config.minutes, 3);
  EXPECT_EQ(by_minutes.config.epochs, 0);
  EXPECT_THAT(usage_message({"--epochs", "2", "--minutes", "3"}),
              AllOf(HasSubstr("--minutes"), HasSubstr("--epochs")));
  write("skipway.toml", "minutes = 4\n");
  EXPECT_EQ(parse({"--epochs", "2"}).config.minutes, 0);
  set_variable("SKIPWAY_EPOCHS", "7");
  EXPECT_EQ(parse({}).config.epochs, 7);
  EXPECT_EQ(parse({}).config.minutes, 0);
}

TEST_F(ArgumentsTest, SwitchesCanBeTurnedOnAndOff) {
  EXPECT_FALSE(parse({"--no-nesterov"}).config.nesterov);
  EXPECT_FALSE(parse({"--nesterov=false"}).config.nesterov);
  EXPECT_TRUE(parse({"--nesterov=true"}).config.nesterov);
  EXPECT_FALSE(parse({"--deterministic", "--no-deterministic"}).config.deterministic);
  EXPECT_THAT(usage_message({"--nesterov=maybe"}), HasSubstr("maybe"));
  set_variable("SKIPWAY_TTA", "off");
  EXPECT_FALSE(parse({}).config.tta);
}

TEST_F(ArgumentsTest, DeterministicLeavesNothingToBeMeasured) {
  const Arguments arguments = parse({"--deterministic"});
  EXPECT_EQ(arguments.config.kernel, "winograd");
  EXPECT_EQ(arguments.config.precision, "fp32");
  EXPECT_EQ(arguments.origins.at("kernel"), "--deterministic");
  EXPECT_EQ(parse({"--deterministic", "--kernel", "torch"}).config.kernel, "torch");
  EXPECT_EQ(parse({"--deterministic", "--precision", "bf16"}).config.precision, "bf16");
}

TEST_F(ArgumentsTest, APlateauIsEvaluatedEveryEpochUnlessSaidOtherwise) {
  const Arguments plain = parse({"--schedule", "plateau"});
  EXPECT_EQ(plain.config.test_every, 1);
  EXPECT_EQ(plain.origins.at("test_every"), "--schedule plateau");
  EXPECT_EQ(parse({"--schedule", "plateau", "--test-every", "3"}).config.test_every, 3);
  EXPECT_EQ(parse({"--schedule", "plateau", "--recipe", "article"}).config.test_every, 10);
  EXPECT_THROW(parse({"--schedule", "plateau", "--test-every", "0"}), Error);
}

TEST_F(ArgumentsTest, OutputFlagsAreKept) {
  const Arguments arguments = parse({"--json", "--quiet"});
  EXPECT_TRUE(arguments.json);
}

TEST_F(ArgumentsTest, ValuesMustBeWholeNumbersOfTheirKind) {
  for (const char* text : {"many", "12x", "1.5", "0x10", "", "99999999999999999999"})
    EXPECT_THAT(usage_message({"--batch", text}), HasSubstr("batch")) << text;
  EXPECT_THAT(usage_message({"--seed", "-1"}), HasSubstr("a whole number from 0"));
  EXPECT_THAT(usage_message({"--lr", "fast"}), AllOf(HasSubstr("fast"), HasSubstr("--lr")));
  set_variable("SKIPWAY_LR", "quick");
  EXPECT_THAT(usage_message({}), AllOf(HasSubstr("quick"), HasSubstr("SKIPWAY_LR")));
}

TEST_F(ArgumentsTest, AValueThatCannotBeIsSoughtWhereItStands) {
  write("skipway.toml", "lr = -1\n");
  EXPECT_THAT(usage_message({}),
              AllOf(HasSubstr("got -1 at --lr"), HasSubstr("(--lr comes from skipway.toml:1)")));
  EXPECT_THAT(usage_message({"--lr", "-2"}),
              AllOf(HasSubstr("got -2 at --lr"), testing::Not(HasSubstr("comes from"))));
  write("skipway.toml", "lr = 1\n");
  EXPECT_THAT(usage_message({"--muon-lr", "-2"}), testing::Not(HasSubstr("comes from")));
  set_variable("SKIPWAY_LR", "-3");
  EXPECT_THAT(usage_message({}), HasSubstr("(--lr comes from SKIPWAY_LR)"));
  EXPECT_EQ(error_of([] { from_toml("\"a(\" = 1\n", "x.toml"); }).kind(), ErrorKind::kUsage);
  set_variable("SKIPWAY_LR", "1");
  write("skipway.toml", "# mine\nrecipe = 'articel'\n");
  EXPECT_THAT(usage_message({}), HasSubstr("(--recipe comes from skipway.toml:2)"));
  EXPECT_THAT(error_of([] { from_toml("data = my_photos\n", "x.toml"); }).what(),
              HasSubstr("got 'my_photos' at x.toml:1"));
  EXPECT_THAT(error_of([] { from_toml("batch = 0\n", "runs/001/config.toml"); }).what(),
              HasSubstr("(--batch comes from runs/001/config.toml:1)"));
}

TEST_F(ArgumentsTest, UnknownKeysAndFlagsNameTheNearestKnownOne) {
  write("skipway.toml", "# mine\n\nmomentun = 0.8\n");
  EXPECT_THAT(usage_message({}), AllOf(HasSubstr("'momentun'"), HasSubstr("skipway.toml:3"),
                                       HasSubstr("did you mean 'momentum'")));
  EXPECT_THAT(usage_message({"--label-smothing", "0.1"}),
              AllOf(HasSubstr("'--label-smothing'"), HasSubstr("'--label-smoothing'")));
  EXPECT_THAT(usage_message({"--xyzzyxyzzy"}), testing::Not(HasSubstr("did you mean")));
}

TEST_F(ArgumentsTest, SkipwayDataIsTheFolderOfDataSetsAndNoField) {
  set_variable("SKIPWAY_DATA", "/somewhere");
  EXPECT_EQ(parse({}).config.data, "auto");
}

TEST_F(ArgumentsTest, UnknownVariablesAreWarnedOf) {
  std::vector<std::string> lines;
  const int sink = add_log_sink([&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  set_variable("SKIPWAY_BACTH", "12");
  set_variable("SKIPWAY_SETUP_S", "12");  // what ./skipway says
  const Arguments arguments = parse({});
  remove_log_sink(sink);
  EXPECT_EQ(arguments.config.batch, Config().batch);
  EXPECT_THAT(
      lines, testing::ElementsAre(AllOf(HasSubstr("SKIPWAY_BACTH"), HasSubstr("'SKIPWAY_BATCH'"))));
}

TEST_F(ArgumentsTest, AMissingConfigFileIsADataError) {
  const Error error = error_of([&] { parse({"--config", "absent.toml"}); });
  EXPECT_EQ(error.kind(), ErrorKind::kData);
  EXPECT_THAT(error.what(), HasSubstr("absent.toml"));
}

TEST_F(ArgumentsTest, ARecipeOverTheSettingsOfAnotherGivesAWarning) {
  const LogLines log;
  write("few.toml", "batch = 64\n");
  parse({"--config", "few.toml", "--recipe", "article"});
  parse({"--recipe", "best"});
  EXPECT_EQ(log.text(), "");
  write("run.toml", to_toml(Config(), {}));
  const Arguments arguments = parse({"--config", "run.toml", "--recipe", "article"});
  EXPECT_EQ(arguments.config.schedule, Config().schedule);
  EXPECT_THAT(log.text(), AllOf(HasSubstr("recipe article at --recipe"), HasSubstr("run.toml:1")));
}

// No field has its default, and numbers and text are such as are easily spoilt on the way.
Config unusual_config() {
  Config c;
  c.recipe = "article";
  c.minutes = 0;
  c.epochs = 0.1 + 0.2;
  c.data =
      "a \"quoted\" \\ path # with 'all', \xc3\xa9\xe6\xbc\xa2\xf0\x9f\x90\x88 and\n\ttabs\x01 ";
  c.image_size = 48;
  c.val_split = 1234;
  c.model = "resnet34";
  c.stem = "imagenet";
  c.attention = "se";
  c.batch = 77;
  c.microbatch = "7";
  c.lr = 0.1 / 3;
  c.momentum = 1 - 1e-15;
  c.nesterov = false;
  c.weight_decay = 1e-300;
  c.weight_decay_on = "all";
  c.label_smoothing = 1.0 / 7;
  c.schedule = "multistep";
  c.per_epoch = true;
  c.warmup = 0.05;
  c.final_lr = 1e-7;
  c.t_max = 200.5;
  c.step_epochs = 3;
  c.milestones = "1.5,2";
  c.gamma = 0.3;
  c.patience = 3;
  c.augment = "crop";
  c.flip_mode = "random";
  c.crop_pad = 3;
  c.cutout = 7;
  c.clip_grad_norm = 1.5;
  c.jitter_brightness = 0.3;
  c.jitter_contrast = 0.4;
  c.jitter_saturation = 0.5;
  c.jitter_hue = 0.1;
  c.rotate_degrees = 12;
  c.rotate_fill = "1,2,3";
  c.warmup_start = 0.1;
  c.whiten_bias_epochs = 2;
  c.resized_crop_area = "0.4,0.9";
  c.resized_crop_ratio = "0.8,1.2";
  c.erase_probability = 0.25;
  c.erase_area = "0.1,0.2";
  c.erase_ratio = "0.5,2";
  c.randaugment_ops = 3;
  c.randaugment_magnitude = 15;
  c.mixup_alpha = 0.3;
  c.cutmix_alpha = 0.5;
  c.crop_fill = "zero";
  c.mean = "0.1,0.2,0.3";
  c.std = "0.4,0.5,0.6";
  c.test_every = 2;
  c.eval_batch = 99;
  c.tta = false;
  c.tta_shift = true;
  c.precision = "fp32";
  c.device = "cpu";
  c.kernel = "torch";
  c.threads = 1;
  c.seed = std::numeric_limits<uint64_t>::max();
  c.deterministic = true;
  c.zero_gamma = true;
  c.whiten_stem = false;
  c.optimizer = "sgd";
  c.muon_lr = 0.7;
  c.muon_momentum = 0.95;
  c.batch_norm_momentum = 0.3;
  c.batch_norm_images = 1000;
  c.bias_lr = 2;
  c.ema = 0.99;
  c.resize = "8:0.25";
  c.weights = "~/w\xc3\xa9ights.pth";
  c.freeze_epochs = 0.1;
  c.freeze_batch_norm = true;
  c.layer_lr_decay = 0.7;
  return c;
}

TEST(Toml, EveryFieldSurvivesTheWay) {
  const Config config = unusual_config();
  const auto values = toml_values(config), presets = toml_values(Config());
  // Lookahead goes not beside ema, shallow not beside weights.
  const std::set<std::string> left_out = {"run_dir", "lookahead", "shallow"};
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_TRUE(values[i] != presets[i] || left_out.contains(values[i].first))
        << values[i].first << " is not put to the test";
  const std::string text = to_toml(config, {{"lr", "a\nb"}});
  EXPECT_THAT(text, HasSubstr("epochs = 0.30000000000000004\n"));
  EXPECT_THAT(text, HasSubstr("lr = 0.03333333333333333  # a?b\n"));
  const Config back = from_toml(text, "text");
  EXPECT_EQ(toml_values(back), values);
  EXPECT_EQ(back.data, config.data);
  EXPECT_EQ(back.lr, config.lr);
  EXPECT_EQ(back.seed, config.seed);
}

TEST(Toml, ARunsFileGivesTheSameConfigAndNoFolder) {
  for (const char* recipe : {"budget", "article", "best", "airbench94"}) {
    Config config = recipe_config(recipe);
    config.run_dir = "runs/007";
    config.data = "/data/\"odd\" n\xc3\xa4me #1";
    const std::string text = to_toml(config, {});
    EXPECT_THAT(text, testing::Not(HasSubstr("run_dir")));
    config.run_dir.clear();
    EXPECT_EQ(toml_values(from_toml(text, "config.toml")), toml_values(config));
  }
}

TEST(Toml, ReadsWhatPeopleWrite) {
  const Config config = from_toml(
      "\xef\xbb\xbf# settings\r\n\r\n  lr=1e-1 # peak\r\nmilestones = [60, 120,\n  160] \n"
      "batch = 1_28\n\"momentum\" = +0.8\nschedule = 'multistep'\ndata = \"caf\\u00e9 #\"  # "
      "where\n"
      "tta = false",
      "text");
  EXPECT_EQ(config.lr, 0.1);
  EXPECT_EQ(config.milestones, "60,120,160");
  EXPECT_EQ(config.batch, 128);
  EXPECT_EQ(config.momentum, 0.8);
  EXPECT_EQ(config.schedule, "multistep");
  EXPECT_EQ(config.data, "caf\xc3\xa9 #");
  EXPECT_FALSE(config.tta);
}

TEST(Toml, RubbishIsRefusedWithItsLine) {
  for (const char* text : {"lr",
                           "lr =",
                           "lr = ",
                           "lr 3",
                           "= 3",
                           "lr = 0.1 0.2",
                           "data = \"open",
                           "data = 'open",
                           "data = \"\\q\"",
                           "data = \"\\ud800\"",
                           "data = \"\\u12\"",
                           "data = bare words",
                           "[train]",
                           "milestones = [1, 2",
                           "milestones = [1 2]",
                           "lr = 0.1\nlr = 0.2",
                           "lr = true",
                           "batch = 1.5",
                           "\x01\x02",
                           "lr = 0.1, batch = 3"}) {
    const Error error = error_of([&] { from_toml("\n" + std::string(text), "my.toml"); });
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << text;
    EXPECT_THAT(error.what(), HasSubstr("my.toml:")) << text;
  }
}

TEST(DidYouMean, NamesOnlyWhatIsNear) {
  EXPECT_EQ(did_you_mean("bacth", {"lr", "batch", "patience"}), "; did you mean 'batch'?");
  EXPECT_EQ(did_you_mean("zzz", {"lr", "batch"}), "");
  EXPECT_EQ(did_you_mean("lr", {}), "");
}

}  // namespace
}  // namespace skipway
