// Recipes hold what they say, and what cannot be is refused by name.
#include "train/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/for_test.h"
#include "model/attention.h"
#include "model/kernel_choice.h"
#include "model/model.h"
#include "train/rules.h"

namespace skipway {
namespace {

using testing::HasSubstr;

std::string message_of(const Config& config) {
  const Error error = error_of([&] { validate(config); });
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  return error.what();
}

// The message names the flag and the value as they would be typed.
template <typename Field, typename Value>
void expect_refused(Field Config::*field, const Value& value, const std::string& flag,
                    const std::string& shown) {
  Config config;
  config.*field = static_cast<Field>(value);
  const std::string message = message_of(config);
  EXPECT_THAT(message, HasSubstr(flag)) << shown;
  EXPECT_THAT(message, HasSubstr(shown)) << flag;
  EXPECT_THAT(message, HasSubstr("expected")) << flag;
}

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(Config, EveryRecipeIsValidAndNamesItself) {
  for (const char* recipe : {"budget", "article", "best"}) {
    const Config config = recipe_config(recipe);
    EXPECT_EQ(config.recipe, recipe);
    EXPECT_NO_THROW(validate(config)) << recipe;
  }
  EXPECT_THROW(recipe_config("worst"), Error);
  Config finetune = recipe_config("finetune");
  EXPECT_THAT(message_of(finetune), HasSubstr("--weights"));
  finetune.weights = "w.pth";
  EXPECT_NO_THROW(validate(finetune));
}

TEST(Config, ArticleIsTheArticles) {
  const Config config = recipe_config("article");
  EXPECT_EQ(config.minutes, 0);
  EXPECT_EQ(config.epochs, 100);
  EXPECT_EQ(config.batch, 128);
  EXPECT_EQ(config.eval_batch, 100);
  EXPECT_EQ(config.test_every, 10);
  EXPECT_EQ(config.label_smoothing, 0);
  EXPECT_FALSE(config.tta);

  const OptimizerOptions sgd = optimizer_options(config, config.epochs);
  EXPECT_EQ(sgd.momentum, 0.9);
  EXPECT_EQ(sgd.weight_decay, 5e-4);
  EXPECT_FALSE(sgd.nesterov);
  EXPECT_TRUE(sgd.decay_all);

  const AugmentOptions augmentation = augment_options(config, config.epochs);
  EXPECT_EQ(augmentation.flip, Flip::kRandom);
  EXPECT_EQ(augmentation.crop_pad, 4);
  EXPECT_EQ(augmentation.crop_fill, CropFill::kZero);

  const ScheduleOptions schedule = schedule_options(config, config.epochs);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 0, 100), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 50.5, 100), learning_rate(schedule, 50, 100));
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 100, 100), 0.05);  // it never anneals

  const auto normalisation = configured_normalisation(config);
  ASSERT_TRUE(normalisation.has_value());
  EXPECT_THAT(normalisation->mean, testing::ElementsAre(0.4914, 0.4822, 0.4465));
  EXPECT_THAT(normalisation->std, testing::ElementsAre(0.2023, 0.1994, 0.2010));
}

TEST(Config, BestWarmsUpForAFifthAndAnneals) {
  const Config config = recipe_config("best");
  EXPECT_EQ(config.epochs, 80);
  EXPECT_EQ(config.batch, 500);
  const ScheduleOptions schedule = schedule_options(config, config.epochs);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 16, 80), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 80, 80), 0);
  const AugmentOptions augmentation = augment_options(config, config.epochs);
  EXPECT_EQ(augmentation.flip, Flip::kAlternating);
  EXPECT_EQ(augmentation.crop_fill, CropFill::kReflect);
  EXPECT_TRUE(optimizer_options(config, config.epochs).nesterov);
  EXPECT_FALSE(configured_normalisation(config).has_value());
  EXPECT_EQ(config.label_smoothing, 0.1);
  EXPECT_EQ(config.ema, 0.998);
}

TEST(Config, Airbench94IsThePublishedRecipe) {
  const Config config = recipe_config("airbench94");
  EXPECT_EQ(config.model, "airbench94");
  EXPECT_NO_THROW(validate(config));
  const OptimizerOptions options = optimizer_options(config, config.epochs);
  EXPECT_EQ(options.momentum, 0.85);
  EXPECT_TRUE(options.nesterov);
  // There: 0.67 for the sum of the losses, and a head 28.4 times as large (its spread is one) with
  // a scale of 1 / 256 in place of 1 / 9.
  const double head_ratio = 256. / 9;
  EXPECT_NEAR(config.lr, 0.67 * 1024 / (head_ratio * head_ratio), 2e-3);
  // There: 0.053 for the sum.
  EXPECT_NEAR(config.lr * options.bias_lr, 0.053 * 1024, 0.1);
  // There: 2e-6 an image, whatever the rate.
  EXPECT_NEAR(config.lr * options.weight_decay, 2e-6 * 1024, 1e-5);
  EXPECT_TRUE(options.decay_all);
  EXPECT_NEAR(config.lr * options.muon_lr, 0.24, 1e-3);
  EXPECT_EQ(options.muon_momentum, 0.6);
  EXPECT_EQ(augment_options(config, 8).crop_pad, 2);
  EXPECT_EQ(augment_options(config, 25).crop_pad, 4);
  const ScheduleOptions schedule = schedule_options(config, config.epochs);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 0, 10), config.lr);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 5, 10), 0.5 * config.lr);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 10, 10), 0);
  EXPECT_EQ(config.whiten_bias_epochs, 3);
  EXPECT_FALSE(config.lookahead);
}

TEST(Config, TheOtherAirbenchesAreThePublishedRecipes) {
  const std::vector<std::pair<std::string, double>> rates = {
      {"airbench93", 11.5}, {"airbench95", 10}, {"airbench96", 9}};
  for (const auto& [name, rate] : rates) {
    const Config config = recipe_config(name);
    EXPECT_EQ(config.model, name);
    EXPECT_NO_THROW(validate(config));
    // There the rate counts for the sum of 1024 losses, over 1024 * (1 + 1 / (1 - momentum)); here
    // for their mean.
    EXPECT_NEAR(config.lr, rate / (1 + 1 / 0.15), 2e-3) << name;
    // There: 0.0153 in units of 1024 images, over the same and over the rate.
    EXPECT_NEAR(config.weight_decay, 0.0153 / rate, 2e-6) << name;
    const OptimizerOptions sgd = optimizer_options(config, config.epochs);
    EXPECT_EQ(sgd.momentum, 0.85) << name;
    EXPECT_EQ(sgd.bias_lr, 64) << name;
    EXPECT_EQ(sgd.muon_lr, 0) << name;
    const ScheduleOptions schedule = schedule_options(config, config.epochs);
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 0, 10), 0.2 * config.lr) << name;
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 2.3, 10), config.lr) << name;
    EXPECT_NEAR(learning_rate(schedule, 10, 10), 0.07 * config.lr, 1e-12) << name;
    EXPECT_EQ(config.whiten_bias_epochs, 3) << name;
    EXPECT_TRUE(config.lookahead) << name;
    EXPECT_EQ(stages(config, 32, 4).size(), 1u) << name;
    const AugmentOptions augmentation = augment_options(config, 4);
    EXPECT_EQ(augmentation.crop_pad, name == "airbench96" ? 4 : 2) << name;
    EXPECT_EQ(augmentation.cutout, name == "airbench96" ? 12 : 0) << name;
  }
}

TEST(Config, SmallImagesOfAnAirbenchLeaveItsPoolsEnough) {
  Config config = recipe_config("budget");
  config.model = "airbench94";
  EXPECT_EQ(stages(config, 32, 4), (std::vector<Stage>{{0.55, 18, false}, {1, 32, false}}));
  config.resize = "8:0.5,28:0.7";
  config.image_size = 32;
  EXPECT_THAT(message_of(config), HasSubstr("8 in \"8:0.5,28:0.7\" at --resize"));
}

TEST(Config, TheLengthOfARunDecidesWhatIsLeftToIt) {
  const Config config = recipe_config("budget");
  EXPECT_EQ(augment_words(config, 4), "flip");
  EXPECT_EQ(augment_options(config, 4).crop_pad, 0);
  EXPECT_EQ(augment_options(config, 10).crop_pad, 2);
  EXPECT_EQ(augment_options(config, 10).cutout, 0);
  EXPECT_EQ(augment_options(config, 100).crop_pad, 4);
  EXPECT_EQ(augment_options(config, 100).cutout, 12);
  EXPECT_EQ(augment_options(config, 100, /*image_size=*/4).crop_pad, 3);
  EXPECT_GT(stages(config, 32, 4).front().end, stages(config, 32, 100).front().end);
  const auto rate = [](const Config& c, double passes) { return schedule_options(c, passes).lr; };
  EXPECT_LT(rate(config, 0.1), rate(config, 0.4));
  EXPECT_LT(rate(config, 0.4), rate(config, 4));
  EXPECT_EQ(rate(config, 4), rate(config, 100));
  Config given = config;
  given.crop_pad = 3, given.augment = "crop", given.resize = "none", given.lr = 0.3;
  EXPECT_EQ(rate(given, 0.1), 0.3);
  const auto muon = [](const Config& c, double passes) {
    return optimizer_options(c, passes).muon_lr;
  };
  EXPECT_GT(muon(config, 0.1), muon(config, 0.7));
  EXPECT_GT(muon(config, 0.7), muon(config, 4));
  EXPECT_EQ(muon(config, 4), muon(config, 100));
  EXPECT_EQ(muon(recipe_config("article"), 4), 0);
  given.muon_lr = 0.3;
  EXPECT_EQ(muon(given, 0.1), 0.3);
  EXPECT_GT(batch_norm_images(config, 0.1), 0);
  EXPECT_EQ(batch_norm_images(config, 4), 0);
  given.batch_norm_images = 0;
  EXPECT_EQ(batch_norm_images(given, 0.1), 0);
  Config frozen = config;
  frozen.freeze_batch_norm = true;
  EXPECT_EQ(batch_norm_images(frozen, 0.1), 0);
  EXPECT_EQ(batch_norm_images(recipe_config("article"), 0.1), 0);
  EXPECT_EQ(augment_options(given, 4).crop_pad, 3);
  const AugmentOptions augmentation = augment_options(given, 100);
  EXPECT_EQ(augmentation.crop_pad, 3);
  EXPECT_EQ(augmentation.cutout, 0);
  EXPECT_EQ(stages(given, 32, 4).size(), 1u);
}

TEST(Config, BudgetDecaysWeightsOnly) {
  EXPECT_FALSE(optimizer_options(recipe_config("budget"), 4).decay_all);
}

TEST(Validate, NeedsOneLengthOfTheRun) {
  Config config;
  config.epochs = 3;
  EXPECT_THAT(message_of(config), HasSubstr("15 at --minutes and 3 at --epochs"));
  config.minutes = 0;
  EXPECT_NO_THROW(validate(config));
  config.epochs = 0;
  EXPECT_THAT(message_of(config), HasSubstr("0 at --minutes and 0 at --epochs"));
}

TEST(Validate, RefusesNumbersOutOfRange) {
  expect_refused(&Config::minutes, -1, "--minutes", "-1");
  expect_refused(&Config::minutes, kInf, "--minutes", "inf");
  expect_refused(&Config::epochs, kNan, "--epochs", "nan");
  expect_refused(&Config::image_size, -32, "--image-size", "-32");
  expect_refused(&Config::image_size, 100'000'000, "--image-size", "100000000");
  expect_refused(&Config::val_split, -5, "--val-split", "-5");
  expect_refused(&Config::batch, 0, "--batch", "0");
  expect_refused(&Config::lr, -0.1, "--lr", "-0.1");
  expect_refused(&Config::lr, kInf, "--lr", "inf");
  expect_refused(&Config::lr, kNan, "--lr", "nan");
  expect_refused(&Config::momentum, 1, "--momentum", "1");
  expect_refused(&Config::momentum, kNan, "--momentum", "nan");
  expect_refused(&Config::weight_decay, -0.1, "--weight-decay", "-0.1");
  expect_refused(&Config::label_smoothing, 1.5, "--label-smoothing", "1.5");
  expect_refused(&Config::label_smoothing, 1, "--label-smoothing", "1");
  expect_refused(&Config::warmup, 1, "--warmup", "1");
  expect_refused(&Config::warmup_start, 1.5, "--warmup-start", "1.5");
  expect_refused(&Config::whiten_bias_epochs, -1, "--whiten-bias-epochs", "-1");
  expect_refused(&Config::final_lr, 2, "--final-lr", "2");
  expect_refused(&Config::t_max, -1, "--t-max", "-1");
  expect_refused(&Config::step_epochs, 0, "--step-epochs", "0");
  expect_refused(&Config::gamma, 0, "--gamma", "0");
  expect_refused(&Config::gamma, 1.5, "--gamma", "1.5");
  expect_refused(&Config::patience, -1, "--patience", "-1");
  expect_refused(&Config::batch, std::numeric_limits<int64_t>::max(), "--batch", "million");
  expect_refused(&Config::eval_batch, 1'000'001, "--eval-batch", "1000001");
  expect_refused(&Config::threads, 4097, "--threads", "4097");
  expect_refused(&Config::crop_pad, -1, "--crop-pad", "-1");
  expect_refused(&Config::rotate_degrees, -1, "--rotate-degrees", "-1");
  for (const char* fill : {"256", "1.5", "1,2", "grey"})
    expect_refused(&Config::rotate_fill, fill, "--rotate-fill", fill);
  expect_refused(&Config::resized_crop_area, "0.5", "--resized-crop-area", "least,most");
  expect_refused(&Config::erase_ratio, "a,b", "--erase-ratio", "least,most");
  expect_refused(&Config::mixup_alpha, 5, "--mixup-alpha", "5");
  expect_refused(&Config::test_every, -1, "--test-every", "-1");
  for (const char* images : {"0", "-1", "x"})
    expect_refused(&Config::microbatch, images, "--microbatch", images);
  expect_refused(&Config::ema, 1, "--ema", "1");
  expect_refused(&Config::clip_grad_norm, -1, "--clip-grad-norm", "-1");
  expect_refused(&Config::bias_lr, 0, "--bias-lr", "0");
  expect_refused(&Config::muon_lr, -1, "--muon-lr", "-1");
  expect_refused(&Config::muon_momentum, 1, "--muon-momentum", "1");
  expect_refused(&Config::batch_norm_momentum, 0, "--batch-norm-momentum", "0");
  expect_refused(&Config::batch_norm_images, -2, "--batch-norm-images", "-2");
  expect_refused(&Config::shallow, 1, "--shallow", "1");
  expect_refused(&Config::eval_batch, -1, "--eval-batch", "-1");
  expect_refused(&Config::threads, -2, "--threads", "-2");
}

TEST(Validate, RefusesUnknownWordsAndListsTheKnown) {
  expect_refused(&Config::recipe, "x", "--recipe",
                 "budget, article, best, finetune, airbench93, airbench94, airbench95, "
                 "airbench96, got \"x\"");
  expect_refused(&Config::data, "", "--data", "auto");
  expect_refused(&Config::model, "resnet19", "--model", "resnet18");
  expect_refused(&Config::stem, "x", "--stem", "auto, cifar, imagenet");
  expect_refused(&Config::attention, "x", "--attention", "none, se, eca, cbam");
  expect_refused(&Config::weight_decay_on, "x", "--weight-decay-on", "weights, all");
  expect_refused(&Config::optimizer, "adam", "--optimizer", "sgd, muon");
  expect_refused(&Config::schedule, "x", "--schedule", "onecycle");
  expect_refused(&Config::augment, "flip,x", "--augment", "\"x\"");
  expect_refused(&Config::flip_mode, "x", "--flip-mode", "alternating");
  expect_refused(&Config::crop_fill, "x", "--crop-fill", "reflect");
  expect_refused(&Config::precision, "fp8", "--precision", "auto, fp32, bf16");
  expect_refused(&Config::precision, "fp16", "--precision", "loss scaling");
  for (const char* device : {"gpu", "cuda:", "cuda:x", "cuda:-1"})
    expect_refused(&Config::device, device, "--device", device);
  expect_refused(&Config::kernel, "x", "--kernel", "auto, winograd, torch, reference");
}

TEST(Validate, RefusesMilestonesThatAreNotEpochs) {
  for (const char* text : {"", "60,", ",60", "60;120", "60,-1", "0", "60, 120", "nan", "inf"})
    expect_refused(&Config::milestones, text, "--milestones", text);
}

TEST(Validate, RefusesMeanAndStdThatAreNotThreeChannels) {
  Config config;
  config.mean = "0.5,0.5,0.5";
  EXPECT_THAT(message_of(config), HasSubstr("\"0.5,0.5,0.5\" at --mean and \"auto\" at --std"));
  for (const char* text : {"0.2,0.2", "0.2,0.2,0", "0.2,0.2,0.2,0.2", "0.2,0.2,-0.2", "51,50,51"}) {
    config.std = text;
    EXPECT_THAT(message_of(config), HasSubstr("at --std")) << text;
  }
  config.std = "0.2,0.2,1e-6";
  EXPECT_NO_THROW(validate(config));
  EXPECT_THROW(validated_normalisation(config), Error);  // no model file may have it
  config.std = "0.2,0.2,0.2";
  EXPECT_NO_THROW(validated_normalisation(config));
  for (const char* text : {"125,123,114", "0.5", "a,b,c", "0.5,0.5,-0.1"}) {
    config.mean = text;
    EXPECT_THAT(message_of(config), HasSubstr("at --mean")) << text;
  }
}

TEST(Validate, RefusesCombinationsThatCannotBe) {
  Config config;
  config.momentum = 0;
  EXPECT_THAT(message_of(config), HasSubstr("--no-nesterov"));
  config.nesterov = false;
  EXPECT_NO_THROW(validate(config));

  config = Config();
  config.schedule = "plateau";
  EXPECT_THAT(message_of(config), HasSubstr("--test-every"));
  config.test_every = 1;
  EXPECT_NO_THROW(validate(config));

  config = Config();
  config.ema = 0.99;
  config.lookahead = true;
  EXPECT_THAT(message_of(config), HasSubstr("--lookahead"));

  config = recipe_config("airbench94");
  EXPECT_NO_THROW(validate(config));
  config.attention = "se";
  EXPECT_THAT(message_of(config), HasSubstr("--attention"));
  config = recipe_config("airbench94");
  config.shallow = 0.3;
  EXPECT_THAT(message_of(config), HasSubstr("--shallow"));
  config = recipe_config("airbench94");
  config.zero_gamma = true;
  EXPECT_THAT(message_of(config), HasSubstr("--zero-gamma"));

  config = Config();
  config.image_size = config.crop_pad = 4;
  EXPECT_THAT(message_of(config), HasSubstr("4 at --crop-pad"));
  config.crop_pad = 0;
  EXPECT_NO_THROW(validate(config));
}

TEST(Validate, RefusesWhatGoesNotWithWeightsOrWithoutThem) {
  Config config;
  config.layer_lr_decay = 0.5;
  EXPECT_THAT(message_of(config), HasSubstr("--layer-lr-decay, got none"));
  config.weights = "w.pth";
  EXPECT_NO_THROW(validate(config));
  config.freeze_epochs = 1;
  EXPECT_NO_THROW(validate(config));
  config.shallow = 0.1;
  EXPECT_THAT(message_of(config), HasSubstr("--shallow"));
  config.shallow = 0;
  config.freeze_epochs = -1;
  EXPECT_THAT(message_of(config), HasSubstr("--freeze-epochs"));
  config.freeze_epochs = 1;
  for (const double decay : {0.0, 1.1, kNan}) {
    config.layer_lr_decay = decay;
    EXPECT_THAT(message_of(config), HasSubstr("--layer-lr-decay")) << decay;
  }
}

TEST(Validate, AcceptsEveryKnownWord) {
  struct Words {
    std::string Config::*field;
    std::vector<std::string> words;
  };
  const std::vector<Words> lists = {
      {&Config::recipe, {"budget", "article", "best", "finetune", "airbench94", "airbench96"}},
      {&Config::model, model_names()},
      {&Config::stem, {"auto", "cifar", "imagenet"}},
      {&Config::attention, attention_names()},
      {&Config::microbatch, {"auto", "1", "1000"}},
      {&Config::weight_decay_on, {"weights", "all"}},
      {&Config::optimizer, {"sgd", "muon"}},
      {&Config::schedule, {"linear", "cosine", "step", "multistep", "onecycle", "plateau"}},
      {&Config::resize, {"auto", "none", "16:0.5"}},
      {&Config::augment,
       {"auto", "none", "flip", "crop", "cutout", "jitter", "rotate", "resized-crop", "erase",
        "randaugment", "mixup", "cutmix"}},
      {&Config::flip_mode, {"random", "alternating"}},
      {&Config::crop_fill, {"zero", "reflect"}},
      {&Config::precision, {"auto", "fp32", "bf16"}},
      {&Config::device, {"auto", "cpu", "cuda", "cuda:0", "cuda:12"}},
      {&Config::kernel, KernelChoice::words()}};
  for (const Words& list : lists)
    for (const std::string& word : list.words) {
      Config config;
      config.image_size = 32;  // without it sides are not looked at
      config.test_every = 1;   // for plateau
      if (word == "finetune") config.weights = "w.pth";
      config.*list.field = word;
      EXPECT_NO_THROW(validate(config)) << word;
    }
}

TEST(Config, EveryNumberReachesWhatItIsFor) {
  Config c = recipe_config("article");
  c.augment = "jitter,rotate,resized-crop,erase,randaugment,mixup,cutmix";
  c.jitter_brightness = 0.1, c.jitter_contrast = 0.2, c.jitter_saturation = 0.3, c.jitter_hue = 0.4;
  c.rotate_fill = "1,2,3";
  c.resized_crop_area = "0.4,0.9", c.resized_crop_ratio = "0.8,1.2";
  c.erase_probability = 0.25, c.erase_area = "0.1,0.2", c.erase_ratio = "0.5,2";
  c.randaugment_ops = 3, c.randaugment_magnitude = 15;
  c.mixup_alpha = 0.3, c.cutmix_alpha = 0.6;
  c.clip_grad_norm = 1.5;
  c.gamma = 0.3;
  using testing::ElementsAre;
  const AugmentOptions o = augment_options(c, 4);
  const JitterOptions& j = o.jitter;
  EXPECT_THAT((std::vector{j.brightness, j.contrast, j.saturation, j.hue}),
              ElementsAre(0.1, 0.2, 0.3, 0.4));
  EXPECT_EQ(o.rotate_fill, (Colour{1, 2, 3}));
  const auto numbers = [](const RectangleRange& r) {
    return std::vector{r.least_area, r.most_area, r.least_ratio, r.most_ratio};
  };
  EXPECT_THAT(numbers(o.resized_crop.value()), ElementsAre(0.4, 0.9, 0.8, 1.2));
  EXPECT_THAT(numbers(o.erase), ElementsAre(0.1, 0.2, 0.5, 2));
  EXPECT_EQ(o.erase_probability, 0.25);
  EXPECT_EQ(o.rand_augment.ops, 3);
  EXPECT_EQ(o.rand_augment.magnitude, 15);
  EXPECT_EQ(o.mix.mixup_alpha, 0.3);
  EXPECT_EQ(o.mix.cutmix_alpha, 0.6);
  EXPECT_EQ(optimizer_options(c, 4).clip_grad_norm, 1.5);
  EXPECT_EQ(schedule_options(c, 4).gamma, 0.3);
}

TEST(Rules, GoOneWayFromTheShortestRunToTheLongest) {
  const double passes[] = {0.1, 0.4, 0.7, 8, 30, 100};
  for (size_t i = 1; i < std::size(passes); ++i) {
    const Rule &shorter = rule_for(passes[i - 1]), &longer = rule_for(passes[i]);
    EXPECT_LE(shorter.lr, longer.lr) << passes[i];
    EXPECT_GE(shorter.muon_lr, longer.muon_lr) << passes[i];
    EXPECT_GE(shorter.small_share, longer.small_share) << passes[i];
    EXPECT_LE(shorter.crop_pad, longer.crop_pad) << passes[i];
    EXPECT_GE(shorter.batch_norm_images, longer.batch_norm_images) << passes[i];
  }
  EXPECT_EQ(rule_for(0.1).lr, 0.05);
  EXPECT_EQ(rule_for(100).lr, 0.14);
  EXPECT_EQ(rule_for(0.1).small_share, 0.55);
  EXPECT_EQ(rule_for(100).small_share, 0.25);
}

}  // namespace
}  // namespace skipway
