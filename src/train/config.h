// Every setting of a training run, with its default, unit and source in this one place. Not where
// they come from; see cli/arguments.h.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "base/tensors.h"
#include "data/augment.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/stages.h"

namespace skipway {

struct Config {
  std::string recipe = "budget";
  double minutes = 15;
  double epochs = 0;
  std::string data = "auto";
  int64_t image_size = 0;
  int64_t val_split = 0;

  std::string model = "resnet18";
  std::string stem = "auto";
  std::string attention = "none";
  bool zero_gamma = false;
  bool whiten_stem = true;
  double whiten_bias_epochs = 0;
  double batch_norm_momentum = 0.1;
  int64_t batch_norm_images = -1;
  std::string weights;
  double freeze_epochs = 0;
  bool freeze_batch_norm = false;
  double layer_lr_decay = 1;

  int64_t batch = 128;
  std::string microbatch = "auto";
  double lr = 0;
  double momentum = 0.9;
  bool nesterov = true;
  double weight_decay = 5e-4;
  std::string weight_decay_on = "weights";
  double label_smoothing = 0.1;
  double bias_lr = 8;
  std::string optimizer = "muon";
  double muon_lr = 0;
  double muon_momentum = 0.9;
  double ema = 0;
  bool lookahead = false;
  double clip_grad_norm = 0;

  std::string schedule = "linear";
  bool per_epoch = false;
  double warmup = 0.2;
  double warmup_start = 0.04;
  double final_lr = 0.01;
  double t_max = 0;
  double step_epochs = 30;
  std::string milestones = "60,120,160";
  double gamma = 0.1;
  int64_t patience = 10;

  std::string resize = "auto";
  double shallow = 0;

  std::string augment = "auto";
  std::string flip_mode = "alternating";
  int64_t crop_pad = 0;
  std::string crop_fill = "reflect";
  int64_t cutout = 12;
  double jitter_brightness = 0.2;
  double jitter_contrast = 0.2;
  double jitter_saturation = 0.2;
  double jitter_hue = 0.05;
  double rotate_degrees = 10;
  std::string rotate_fill = "127";
  std::string resized_crop_area = "0.5,1";
  std::string resized_crop_ratio = "0.75,1.3333";
  double erase_probability = 0.5;
  std::string erase_area = "0.02,0.33";
  std::string erase_ratio = "0.3,3.3";
  int64_t randaugment_ops = 2;
  int64_t randaugment_magnitude = 9;
  double mixup_alpha = 0.2;
  double cutmix_alpha = 1;
  std::string mean = "auto";
  std::string std = "auto";

  double test_every = 0;
  int64_t eval_batch = 0;
  bool tta = true;
  bool tta_shift = false;

  std::string precision = "auto";
  std::string device = "auto";
  std::string kernel = "auto";
  int64_t threads = 0;
  uint64_t seed = 0;
  bool deterministic = false;
  std::string run_dir;
};

/// Calls `visitor(name, reference to the field, help)` for every field, in the order they are
/// shown. `name` is the key in TOML; the flag is
/// "--" + name with '-' for '_', the variable SKIPWAY_ + upper case.
template <typename ConfigType, typename Visitor>
void visit(ConfigType& c, Visitor&& visitor) {
  visitor("recipe", c.recipe,
          "defaults for everything below: budget, article, best, finetune (with --weights), or "
          "airbench93 to airbench96, which these models take by themselves");
  visitor("minutes", c.minutes, "time budget of the whole process [minutes]; 0: go by epochs");
  visitor("epochs", c.epochs, "length of the run [epochs, fractions allowed]; 0: go by minutes");
  visitor("data", c.data,
          "auto, a known name (cifar10, cifar100, cifar100-coarse for its 20 superclasses, "
          "fashion-mnist; see `data list`), a folder or an archive");
  visitor("image_size", c.image_size, "side of the model's input [pixels]; 0: from the data");
  visitor("val_split", c.val_split,
          "training images set aside; evaluation then uses them and leaves the test part alone");
  visitor("model", c.model,
          "resnet18, resnet34, resnet50, resnet101, resnet152, or airbench93 to airbench96");
  visitor("stem", c.stem, "auto, cifar (3x3 stride 1) or imagenet (7x7 stride 2, max-pool)");
  visitor("attention", c.attention,
          "of each residual block, before its addition: none, se (squeeze-and-excitation), eca or "
          "cbam");
  visitor("zero_gamma", c.zero_gamma, "residual blocks begin as identities (arXiv:1706.02677)");
  visitor("whiten_stem", c.whiten_stem,
          "a 3x3 stem begins with filters that whiten the images (arXiv:2404.00498); nothing with "
          "others");
  visitor("whiten_bias_epochs", c.whiten_bias_epochs,
          "airbench: epochs in which the bias of the whitening filters is trained; 0: all");
  visitor("batch_norm_momentum", c.batch_norm_momentum,
          "share of a batch's statistics in BatchNorm's running ones, in (0, 1]");
  visitor("batch_norm_images", c.batch_norm_images,
          "training images from which BatchNorm's statistics are taken anew at the end; 0: none; "
          "-1: by the length of the run");
  visitor(
      "weights", c.weights,
      "weights to begin with: a run's folder, a file of safetensors or torch.save, its address, "
      "or torchvision:resnet50; the head is new where the classes are others");
  visitor("freeze_epochs", c.freeze_epochs,
          "with weights: epochs in which the head alone is trained");
  visitor("freeze_batch_norm", c.freeze_batch_norm,
          "with weights: BatchNorm keeps its statistics, gamma and beta");
  visitor("layer_lr_decay", c.layer_lr_decay,
          "with weights: factor of the rate for each stage further from the head, in (0, 1]");
  visitor("batch", c.batch, "images in a step");
  visitor("microbatch", c.microbatch,
          "images that go through the model at once; a step adds up their gradients; auto: the "
          "batch. Halved when memory runs out");
  visitor(
      "lr", c.lr,
      "peak learning rate, of the mean loss over a batch; 0: by the length of the run. `lr-find` "
      "tries a range of them");
  visitor("momentum", c.momentum, "momentum of SGD");
  visitor("nesterov", c.nesterov, "Nesterov's form of momentum");
  visitor("weight_decay", c.weight_decay,
          "L2 penalty, added to the gradient; not of filters under muon");
  visitor("weight_decay_on", c.weight_decay_on, "weights (not BatchNorm, not biases) or all");
  visitor("label_smoothing", c.label_smoothing,
          "share of the target spread over all classes, in [0, 1)");
  visitor("bias_lr", c.bias_lr, "factor of the rate for BatchNorm's biases");
  visitor(
      "optimizer", c.optimizer,
      "sgd, or muon (orthogonalised momentum) for the convolutions' filters and sgd for the rest");
  visitor("muon_lr", c.muon_lr,
          "factor of the rate for filters under muon; 0: by the length of the run");
  visitor("muon_momentum", c.muon_momentum, "momentum of filters under muon, in [0, 1)");
  visitor("ema", c.ema,
          "decay per step of an average of the weights, which is evaluated and saved in their "
          "place, in [0, 1); 0: none");
  visitor("lookahead", c.lookahead,
          "weights go back to their average every five steps, ever less far (arXiv:1907.08610)");
  visitor("clip_grad_norm", c.clip_grad_norm,
          "gradients longer than this, all parameters together, are shortened to it; 0: never");
  visitor("schedule", c.schedule, "linear, cosine, step, multistep, onecycle or plateau");
  visitor("per_epoch", c.per_epoch, "change the rate only between epochs");
  visitor("warmup", c.warmup, "share of the run in which the rate rises, in [0, 1)");
  visitor("warmup_start", c.warmup_start, "linear begins at this share of the peak");
  visitor("final_lr", c.final_lr, "linear and cosine end at this share of the peak");
  visitor("t_max", c.t_max, "cosine: epochs from the peak to --final-lr; 0: those that are left");
  visitor("step_epochs", c.step_epochs, "step: epochs between decays");
  visitor("milestones", c.milestones, "multistep: epochs at which the rate decays");
  visitor("gamma", c.gamma, "factor of a decay (step, multistep, plateau)");
  visitor("patience", c.patience, "plateau: evaluations without improvement before a decay");
  visitor("resize", c.resize,
          "smaller training images at first: sides [pixels] and the share of the run after which "
          "each ends, such as 16:0.5,24:0.75; auto: half the side at first (airbench: 2 "
          "pixels more), for a share by the length of the run; or none");
  visitor("shallow", c.shallow,
          "share of the run in which the first block of each stage is trained alone, in [0, 1)");
  visitor(
      "augment", c.augment,
      "words from: flip, crop, cutout, jitter, rotate, resized-crop, erase, randaugment, mixup, "
      "cutmix; none; or auto, by the length of the run: flip, above 6 passes crop, above 40 "
      "cutout");
  visitor("flip_mode", c.flip_mode,
          "random, or alternating (every second epoch, arXiv:2404.00498)");
  visitor("crop_pad", c.crop_pad,
          "crop: padding before the random crop [pixels]; 0: by the length of the run");
  visitor("crop_fill", c.crop_fill, "crop: zero or reflect");
  visitor("cutout", c.cutout, "cutout: side of the grey square [pixels]");
  visitor("jitter_brightness", c.jitter_brightness, "jitter: by a factor from 1-x to 1+x; 0: none");
  visitor("jitter_contrast", c.jitter_contrast, "jitter: by a factor from 1-x to 1+x; 0: none");
  visitor("jitter_saturation", c.jitter_saturation, "jitter: by a factor from 1-x to 1+x; 0: none");
  visitor("jitter_hue", c.jitter_hue,
          "jitter: by up to this share of the colour circle, at most 0.5; 0: none");
  visitor("rotate_degrees", c.rotate_degrees, "rotate: largest angle to either side [degrees]");
  visitor("rotate_fill", c.rotate_fill,
          "rotate: what comes in from outside, a grey from 0 to 255 or red,green,blue");
  visitor("resized_crop_area", c.resized_crop_area,
          "resized-crop: least,most share of the image that is enlarged to the whole");
  visitor("resized_crop_ratio", c.resized_crop_ratio, "resized-crop: least,most width over height");
  visitor("erase_probability", c.erase_probability, "erase: share of the images, in [0, 1]");
  visitor("erase_area", c.erase_area, "erase: least,most share of the image that becomes grey");
  visitor("erase_ratio", c.erase_ratio, "erase: least,most width over height");
  visitor("randaugment_ops", c.randaugment_ops, "randaugment: operations an image goes through");
  visitor("randaugment_magnitude", c.randaugment_magnitude, "randaugment: strength, 0 to 30");
  visitor("mixup_alpha", c.mixup_alpha,
          "mixup: the share is drawn from Beta(alpha, alpha), alpha in [0.05, 4]");
  visitor("cutmix_alpha", c.cutmix_alpha,
          "cutmix: the share is drawn from Beta(alpha, alpha), alpha in [0.05, 4]");
  visitor("mean", c.mean, "mean of red,green,blue in [0, 1]; auto: of the training images");
  visitor("std", c.std, "standard deviation of red,green,blue; auto: of the training images");
  visitor("test_every", c.test_every,
          "epochs between evaluations; 0: at the end only, 1 with plateau");
  visitor("eval_batch", c.eval_batch,
          "images in an evaluation batch; 0: by the image size, 500 up to 32 pixels");
  visitor(
      "tta", c.tta,
      "evaluate at the end also with each image and its mirror image averaged; fewer views where "
      "they would take more than half of the minutes left");
  visitor("tta_shift", c.tta_shift,
          "tta: as much again from the images moved by a pixel, three times the time");
  visitor(
      "precision", c.precision,
      "type of the maps between layers: fp32, bf16, or auto, the faster of the two as measured");
  visitor("device", c.device, "auto, cpu or cuda:N");
  visitor(
      "kernel", c.kernel,
      "convolutions by winograd (Skipway's own kernels), torch (LibTorch's), reference (slow sums "
      "as they are defined), or auto, the fastest for each layer");
  visitor("threads", c.threads, "threads; 0: all cores this process may use");
  visitor("seed", c.seed, "all random numbers are a function of it");
  visitor("deterministic", c.deterministic,
          "the same bits each time, with --epochs: measure neither kernel nor precision, refuse "
          "operations that have no such form");
  visitor("run_dir", c.run_dir, "folder to write; empty: the next free runs/NNN");
}

/// The defaults of a recipe: "budget", "article", "best", "finetune", "airbench93" to
/// "airbench96". Errors: kUsage
/// that lists the names.
Config recipe_config(const std::string& recipe);

/// Checks ranges and combinations. Errors: kUsage naming the flag, the value and what is allowed.
void validate(const Config& config);

/// The fields that a module needs, as it takes them, in a run of so many passes, by which
/// rule_for() says what is left to the length. Errors: kUsage naming the flag, the value and what
/// is allowed.
ScheduleOptions schedule_options(const Config& config, double passes);
/// Words of --augment.
std::string augment_words(const Config& config, double passes);
/// `image_size` [pixels]; 0: not known. Errors: kUsage, also for a --crop-pad that is not smaller.
AugmentOptions augment_options(const Config& config, double passes, int64_t image_size = 0);
OptimizerOptions optimizer_options(const Config& config, double passes);
int64_t batch_norm_images(const Config& config, double passes);
int64_t micro_batch(const Config& config);  // images, at most the batch
std::vector<Stage> stages(const Config& config, int64_t image_size, double passes);
/// std::nullopt: mean and std are to be taken from the training images. Errors: kUsage, also when
/// only one of the two is given.
std::optional<Normalisation> configured_normalisation(const Config& config);
/// The same for a model that is to be saved. Errors: also kUsage where std is below kLeastStd.
std::optional<Normalisation> validated_normalisation(const Config& config);

}  // namespace skipway
