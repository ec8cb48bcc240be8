// Recipes, the checks of a configuration, and its translation into what each module takes.
#include "train/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "model/airbench.h"
#include "model/attention.h"
#include "model/device.h"
#include "model/model.h"
#include "train/rules.h"

namespace skipway {
namespace {

constexpr const char* kModule = "config";
constexpr double kMostLength = 1e6;
constexpr int64_t kMostImages = 1'000'000, kMostThreads = 4096;
const std::vector<std::string>& recipes() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all = {"budget", "article", "best", "finetune"};
    all.insert(all.end(), airbench_names().begin(), airbench_names().end());
    return all;
  }();
  return names;
}

template <typename Value>
[[noreturn]] void refuse(std::string_view flag, const Value& value, std::string_view allowed) {
  fail(ErrorKind::kUsage, kModule, "expected {}, got {} at {}", allowed, value, flag);
}

template <typename Value>
void require(bool holds, std::string_view flag, const Value& value, std::string_view allowed) {
  if (!holds) refuse(flag, value, allowed);
}

void require_word(std::string_view flag, const std::string& value,
                  const std::vector<std::string>& words) {
  if (std::find(words.begin(), words.end(), value) == words.end())
    fail(ErrorKind::kUsage, kModule, "expected one of {}, got \"{}\" at {}", fmt::join(words, ", "),
         value, flag);
}

// "0.1,0.2" -> {0.1, 0.2}; std::nullopt when something else stands there.
std::optional<std::vector<double>> parse_numbers(std::string_view text) {
  std::vector<double> numbers;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  while (true) {
    double number = 0;
    const auto [stop, status] = std::from_chars(at, end, number);
    if (status != std::errc() || !std::isfinite(number)) return std::nullopt;
    numbers.push_back(number);
    if (stop == end) return numbers;
    if (*stop != ',') return std::nullopt;
    at = stop + 1;
  }
}

bool is_finite_from_zero(double value) { return std::isfinite(value) && value >= 0; }

std::array<double, 3> parse_channels(std::string_view flag, const std::string& text,
                                     bool (*in_range)(double), std::string_view allowed) {
  const auto numbers = parse_numbers(text);
  if (!numbers || numbers->size() != 3 || !std::all_of(numbers->begin(), numbers->end(), in_range))
    refuse(flag, '"' + text + '"', allowed);
  return {(*numbers)[0], (*numbers)[1], (*numbers)[2]};
}

// Two numbers, "least,most".
std::array<double, 2> parse_pair(std::string_view flag, const std::string& text) {
  const auto numbers = parse_numbers(text);
  if (!numbers || numbers->size() != 2)
    refuse(flag, '"' + text + '"', "two numbers, least,most, such as 0.5,1");
  return {(*numbers)[0], (*numbers)[1]};
}

// A grey, or "red,green,blue".
Colour parse_colour(std::string_view flag, const std::string& text) {
  auto values = parse_numbers(text).value_or(std::vector<double>());
  if (values.size() == 1) values.resize(3, values[0]);
  const auto is_byte = [](double x) { return x >= 0 && x <= 255 && x == std::floor(x); };
  if (values.size() != 3 || !std::all_of(values.begin(), values.end(), is_byte))
    refuse(flag, '"' + text + '"', "a whole number from 0 to 255, or three, red,green,blue");
  Colour colour{};
  std::transform(values.begin(), values.end(), colour.begin(),
                 [](double x) { return static_cast<uint8_t>(x); });
  return colour;
}

RectangleRange parse_rectangles(std::string_view area_flag, const std::string& area,
                                std::string_view ratio_flag, const std::string& ratio) {
  const auto areas = parse_pair(area_flag, area), ratios = parse_pair(ratio_flag, ratio);
  return {areas[0], areas[1], ratios[0], ratios[1]};
}

void validate_length(const Config& c) {
  require(c.minutes >= 0 && c.minutes <= kMostLength, "--minutes", c.minutes,
          "0 to a million minutes");
  require(c.epochs >= 0 && c.epochs <= kMostLength, "--epochs", c.epochs, "0 to a million epochs");
  if ((c.minutes > 0) == (c.epochs > 0))
    fail(ErrorKind::kUsage, kModule,
         "expected either --minutes or --epochs above 0, got {} at --minutes and {} at --epochs",
         c.minutes, c.epochs);
}

void validate_data(const Config& c) {
  require(!c.data.empty(), "--data", "nothing", "auto, a known name, a folder or an archive");
  require(c.image_size >= 0 && c.image_size <= kMaxImageSize, "--image-size", c.image_size,
          "0 (from the data) to 16384 pixels");
  require(c.val_split >= 0, "--val-split", c.val_split, "0 or more images");
  augment_options(c, c.epochs, c.image_size);
  configured_normalisation(c);
  require(c.shallow >= 0 && c.shallow < 1, "--shallow", c.shallow, "a share of the run in [0, 1)");
  if (c.image_size > 0) stages(c, c.image_size, c.epochs);
}

void validate_step(const Config& c) {
  require(c.batch >= 1 && c.batch <= kMostImages, "--batch", c.batch, "1 to a million images");
  micro_batch(c);
  require(is_finite_from_zero(c.lr), "--lr", c.lr, "a number above 0, or 0 (by the run's length)");
  require(c.momentum >= 0 && c.momentum < 1, "--momentum", c.momentum, "a number in [0, 1)");
  if (c.nesterov && c.momentum == 0)
    fail(ErrorKind::kUsage, kModule,
         "expected --momentum above 0 with --nesterov, got 0 at --momentum; give --no-nesterov");
  require(is_finite_from_zero(c.weight_decay), "--weight-decay", c.weight_decay, "0 or more");
  require_word("--weight-decay-on", c.weight_decay_on, {"weights", "all"});
  require(c.label_smoothing >= 0 && c.label_smoothing < 1, "--label-smoothing", c.label_smoothing,
          "a number in [0, 1)");
  require(std::isfinite(c.bias_lr) && c.bias_lr > 0, "--bias-lr", c.bias_lr, "a factor above 0");
  require_word("--optimizer", c.optimizer, {"sgd", "muon"});
  require(is_finite_from_zero(c.muon_lr), "--muon-lr", c.muon_lr,
          "a factor above 0, or 0 (by the run's length)");
  require(c.muon_momentum >= 0 && c.muon_momentum < 1, "--muon-momentum", c.muon_momentum,
          "a number in [0, 1)");
  require(c.ema >= 0 && c.ema < 1, "--ema", c.ema, "a decay in [0, 1)");
  if (c.lookahead && c.ema > 0)
    fail(ErrorKind::kUsage, kModule,
         "expected --ema or --lookahead, got both; each takes the other's place");
  require(is_finite_from_zero(c.clip_grad_norm), "--clip-grad-norm", c.clip_grad_norm,
          "a norm above 0, or 0 for none");
  if (is_airbench(c.model) && (c.shallow > 0 || c.zero_gamma))
    fail(ErrorKind::kUsage, kModule, "expected a ResNet, got {} at --model; leave {} out", c.model,
         c.shallow > 0 ? "--shallow" : "--zero-gamma");
  require(c.batch_norm_momentum > 0 && c.batch_norm_momentum <= 1, "--batch-norm-momentum",
          c.batch_norm_momentum, "a share in (0, 1]");
  require(c.batch_norm_images >= -1, "--batch-norm-images", c.batch_norm_images,
          "0 or more, or -1 (by the run's length)");
  require(is_finite_from_zero(c.whiten_bias_epochs), "--whiten-bias-epochs", c.whiten_bias_epochs,
          "0 (all) or more epochs");
}

void validate_weights(const Config& c) {
  require(is_finite_from_zero(c.freeze_epochs), "--freeze-epochs", c.freeze_epochs,
          "0 or more epochs");
  require(c.layer_lr_decay > 0 && c.layer_lr_decay <= 1, "--layer-lr-decay", c.layer_lr_decay,
          "a factor in (0, 1]");
  if (c.weights.empty()) {
    const char* flag = c.freeze_epochs > 0      ? "--freeze-epochs"
                       : c.freeze_batch_norm    ? "--freeze-batch-norm"
                       : c.layer_lr_decay < 1   ? "--layer-lr-decay"
                       : c.recipe == "finetune" ? "--recipe finetune"
                                                : nullptr;
    if (flag != nullptr)
      fail(ErrorKind::kUsage, kModule,
           "expected --weights with {}, got none; new weights have nothing to keep", flag);
    return;
  }
  if (is_airbench(c.model))
    fail(ErrorKind::kUsage, kModule, "expected a ResNet with --weights, got {} at --model",
         c.model);
  require(c.shallow == 0, "--shallow", c.shallow, "0 with --weights, whose blocks have learned");
}

void validate_schedule(const Config& c) {
  require(c.warmup >= 0 && c.warmup < 1, "--warmup", c.warmup, "a share of the run in [0, 1)");
  require(c.warmup_start >= 0 && c.warmup_start <= 1, "--warmup-start", c.warmup_start,
          "a share of the peak in [0, 1]");
  require(c.final_lr >= 0 && c.final_lr <= 1, "--final-lr", c.final_lr,
          "a share of the peak in [0, 1]");
  require(is_finite_from_zero(c.t_max), "--t-max", c.t_max, "0 (the run's length) or more epochs");
  require(std::isfinite(c.step_epochs) && c.step_epochs > 0, "--step-epochs", c.step_epochs,
          "epochs above 0");
  require(c.gamma > 0 && c.gamma <= 1, "--gamma", c.gamma, "a factor in (0, 1]");
  require(c.patience >= 0, "--patience", c.patience, "0 or more evaluations");
  if (schedule_options(c, c.epochs).kind == ScheduleKind::kPlateau && c.test_every == 0)
    fail(ErrorKind::kUsage, kModule,
         "expected --test-every above 0 with --schedule plateau, got 0 at --test-every; plateau "
         "goes by the evaluations during the run");
}

void validate_evaluation(const Config& c) {
  require(is_finite_from_zero(c.test_every), "--test-every", c.test_every, "0 or more epochs");
  require(c.eval_batch >= 0 && c.eval_batch <= kMostImages, "--eval-batch", c.eval_batch,
          "0 (by the image size) to a million images");
}

void validate_machine(const Config& c) {
  if (c.precision == "fp16") resolve_precision(c.precision, at::kCPU);  // says why not
  require_word("--precision", c.precision, {"auto", "fp32", "bf16"});
  require(is_device_name(c.device), "--device", '"' + c.device + '"', "auto, cpu or cuda:N");
  require_word("--kernel", c.kernel, KernelChoice::words());
  require(c.threads >= 0 && c.threads <= kMostThreads, "--threads", c.threads,
          "0 (all cores) to 4096 threads");
}

// What budget has and the published recipes have not.
Config plain_sgd() {
  Config c;
  c.optimizer = "sgd";
  c.bias_lr = 1;
  c.batch_norm_images = 0;
  c.whiten_stem = false;
  c.resize = "none";
  c.augment = "flip,crop";
  c.flip_mode = "random";
  c.crop_pad = 4;
  c.crop_fill = "zero";
  return c;
}

// The recipe of the article, to the letter; the flaw of its schedule included.
Config article_config() {
  Config c = plain_sgd();
  c.recipe = "article";
  c.minutes = 0;
  c.epochs = 100;
  c.batch = 128;
  c.lr = 0.1;
  c.nesterov = false;
  c.weight_decay_on = "all";
  c.label_smoothing = 0;
  c.schedule = "cosine";
  c.per_epoch = true;
  c.warmup = 0;
  c.final_lr = 0;
  c.t_max = 200;
  c.mean = "0.4914,0.4822,0.4465";
  c.std = "0.2023,0.1994,0.2010";
  c.test_every = 10;
  c.eval_batch = 100;
  c.tta = false;
  return c;
}

// After airbench/baselines/train_resnet18_96.py of github.com/KellerJordan/cifar10-zoo (95.9 % with
// flip averaging on CIFAR-10), with an average of the weights.
Config best_config() {
  Config c = plain_sgd();
  c.recipe = "best";
  c.minutes = 0;
  c.epochs = 80;
  c.batch = 500;
  c.augment = "flip,crop,cutout";
  c.lr = 0.2;
  c.weight_decay_on = "all";
  c.final_lr = 0;
  c.ema = 0.998;  // over some five of its epochs
  c.flip_mode = "alternating";
  c.crop_fill = "reflect";
  return c;
}

// A tenth of the usual rate, so that what the weights know is not unlearned, and most of it at the
// head; a few epochs.
Config finetune_config() {
  Config c = plain_sgd();
  c.recipe = "finetune";
  c.minutes = 0;
  c.epochs = 10;
  c.batch = 64;
  c.lr = 0.01;
  c.weight_decay = 1e-4;
  c.schedule = "cosine";
  c.warmup = 0.1;
  c.final_lr = 0;
  c.freeze_epochs = 1;
  c.layer_lr_decay = 0.8;
  c.crop_fill = "reflect";
  return c;
}

// The recipes of github.com/KellerJordan/cifar10-airbench, their rates turned from the sum of the
// losses of a batch into their mean. 94 is airbench94_muon.py, in batches of 1024 and with small
// images first; the others are of legacy/, with a schedule from 0.2 of the peak to 0.07.
Config airbench_config(const std::string& model) {
  Config c = plain_sgd();
  c.recipe = c.model = model;
  c.batch = 1024;
  c.momentum = 0.85;
  c.weight_decay_on = "all";
  c.bias_lr = 64;
  c.label_smoothing = 0.2;
  c.batch_norm_momentum = 0.4;
  c.warmup_start = 0.2;
  c.whiten_bias_epochs = 3;
  c.flip_mode = "alternating";
  c.crop_pad = 2;
  c.crop_fill = "reflect";
  c.tta_shift = true;
  if (model == "airbench94") {
    c.lr = 0.848;
    c.weight_decay = 0.00242;
    c.optimizer = "muon";
    c.muon_lr = 0.283;  // 0.24
    c.muon_momentum = 0.6;
    c.warmup = 0;
    c.final_lr = 0;
    c.crop_pad = 0;  // 2 where the run is as short as there
    c.resize = "auto";
    return c;
  }
  c.lr = model == "airbench96" ? 1.174 : model == "airbench95" ? 1.304 : 1.5;
  c.weight_decay = model == "airbench96" ? 0.0017 : model == "airbench95" ? 0.00153 : 0.00133;
  c.lookahead = true;
  c.warmup = 0.23;
  c.final_lr = 0.07;
  if (model == "airbench96") c.crop_pad = 4, c.augment = "flip,crop,cutout";
  return c;
}

}  // namespace

Config recipe_config(const std::string& recipe) {
  require_word("--recipe", recipe, recipes());
  if (is_airbench(recipe)) return airbench_config(recipe);
  if (recipe == "article") return article_config();
  if (recipe == "best") return best_config();
  if (recipe == "finetune") return finetune_config();
  return Config();
}

void validate(const Config& config) {
  require_word("--recipe", config.recipe, recipes());
  validate_length(config);
  validate_data(config);
  require_word("--model", config.model, model_names());
  require_word("--stem", config.stem, {"auto", "cifar", "imagenet"});
  require_word("--attention", config.attention, attention_names());
  if (is_airbench(config.model))
    require(config.attention == "none", "--attention", config.attention,
            "none with a model that is no ResNet");
  validate_step(config);
  validate_weights(config);
  validate_evaluation(config);
  validate_schedule(config);
  validate_machine(config);
}

ScheduleOptions schedule_options(const Config& config, double passes) {
  ScheduleOptions options{.kind = parse_schedule(config.schedule),
                          .lr = config.lr > 0 ? config.lr : rule_for(passes).lr,
                          .warmup_fraction = config.warmup,
                          .warmup_start = config.warmup_start,
                          .final_fraction = config.final_lr,
                          .t_max_epochs = config.t_max,
                          .step_epochs = config.step_epochs,
                          .milestones = {},
                          .gamma = config.gamma,
                          .patience = config.patience,
                          .per_epoch = config.per_epoch};
  const auto milestones = parse_numbers(config.milestones);
  if (!milestones || !std::all_of(milestones->begin(), milestones->end(),
                                  [](double milestone) { return milestone > 0; }))
    refuse("--milestones", '"' + config.milestones + '"', "epochs above 0, such as 60,120,160");
  options.milestones = *milestones;
  return options;
}

std::string augment_words(const Config& config, double passes) {
  return config.augment == "auto" ? rule_for(passes).augment : config.augment;
}

AugmentOptions augment_options(const Config& config, double passes, int64_t image_size) {
  const int64_t usual_pad = rule_for(passes).crop_pad;
  require_word("--flip-mode", config.flip_mode, {"random", "alternating"});
  require_word("--crop-fill", config.crop_fill, {"zero", "reflect"});
  AugmentOptions given;
  given.flip = config.flip_mode == "random" ? Flip::kRandom : Flip::kAlternating;
  if (image_size > 0 && config.crop_pad >= image_size)
    fail(ErrorKind::kUsage, kModule,
         "expected less than the image's side of {} pixels, got {} at --crop-pad", image_size,
         config.crop_pad);
  given.crop_pad = config.crop_pad != 0 ? config.crop_pad
                   : image_size > 0     ? std::min(usual_pad, image_size - 1)
                                        : usual_pad;
  given.crop_fill = config.crop_fill == "zero" ? CropFill::kZero : CropFill::kReflect;
  given.cutout = config.cutout;
  given.jitter = {config.jitter_brightness, config.jitter_contrast, config.jitter_saturation,
                  config.jitter_hue};
  given.rotate = config.rotate_degrees;
  given.rotate_fill = parse_colour("--rotate-fill", config.rotate_fill);
  given.resized_crop = parse_rectangles("--resized-crop-area", config.resized_crop_area,
                                        "--resized-crop-ratio", config.resized_crop_ratio);
  given.erase_probability = config.erase_probability;
  given.erase =
      parse_rectangles("--erase-area", config.erase_area, "--erase-ratio", config.erase_ratio);
  given.rand_augment = {config.randaugment_ops, config.randaugment_magnitude};
  given.mix = {config.mixup_alpha, config.cutmix_alpha};
  return parse_augment(augment_words(config, passes), given);
}

OptimizerOptions optimizer_options(const Config& config, double passes) {
  const double muon_lr = config.muon_lr > 0 ? config.muon_lr : rule_for(passes).muon_lr;
  return {.momentum = config.momentum,
          .weight_decay = config.weight_decay,
          .nesterov = config.nesterov,
          .decay_all = config.weight_decay_on == "all",
          .bias_lr = config.bias_lr,
          .muon_lr = config.optimizer == "muon" ? muon_lr : 0,
          .muon_momentum = config.muon_momentum,
          .clip_grad_norm = config.clip_grad_norm,
          .layer_lr_decay = config.layer_lr_decay};
}

int64_t batch_norm_images(const Config& config, double passes) {
  if (config.freeze_batch_norm) return 0;  // they stay as they are
  return config.batch_norm_images < 0 ? rule_for(passes).batch_norm_images
                                      : config.batch_norm_images;
}

int64_t micro_batch(const Config& config) {
  if (config.microbatch == "auto") return config.batch;
  int64_t images = 0;
  const char* const end = config.microbatch.data() + config.microbatch.size();
  const auto [stop, status] = std::from_chars(config.microbatch.data(), end, images);
  if (status != std::errc() || stop != end || images < 1)
    refuse("--microbatch", '"' + config.microbatch + '"', "auto or at least 1 image");
  return std::min(images, config.batch);
}

std::vector<Stage> stages(const Config& config, int64_t image_size, double passes) {
  const bool pools = is_airbench(config.model);
  // Half the side. An airbench's first convolution takes a pixel off: 18 pixels leave maps of 8, 4
  // and 2, which are half as large and fit tiles of four, and 16 leave 7, 3 and 1.
  const int64_t small_side = image_size / 2 + (pools ? 2 : 0);
  std::vector<Stage> all = make_stages(config.resize, config.shallow, image_size,
                                       {.end = rule_for(passes).small_share, .side = small_side});
  const int64_t smallest = all.front().side;
  if (pools && smallest < image_size && smallest < kAirbenchSmallestSide)
    fail(ErrorKind::kUsage, kModule,
         "expected sides of at least {} pixels for {}, got {} in \"{}\" at --resize",
         kAirbenchSmallestSide, config.model, smallest, config.resize);
  return all;
}

std::optional<Normalisation> configured_normalisation(const Config& config) {
  if (config.mean == "auto" && config.std == "auto") return std::nullopt;
  if (config.mean == "auto" || config.std == "auto")
    fail(ErrorKind::kUsage, kModule,
         "expected both --mean and --std or neither, got \"{}\" at --mean and \"{}\" at --std",
         config.mean, config.std);
  return Normalisation{.mean = parse_channels(
                           "--mean", config.mean, [](double x) { return x >= 0 && x <= 1; },
                           "red,green,blue in [0, 1], such as 0.49,0.48,0.45, or auto"),
                       .std = parse_channels(
                           "--std", config.std, [](double x) { return x > 0 && x <= 1; },
                           "red,green,blue in (0, 1], such as 0.25,0.24,0.26, or auto")};
}

std::optional<Normalisation> validated_normalisation(const Config& config) {
  const auto given = configured_normalisation(config);
  if (given && std::ranges::min(given->std) < kLeastStd)
    fail(ErrorKind::kUsage, kModule,
         "expected standard deviations of at least {:.2g}, got \"{}\" at --std", kLeastStd,
         config.std);
  return given;
}

}  // namespace skipway
