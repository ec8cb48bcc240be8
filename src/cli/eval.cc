// `eval`: accuracy of a trained model on the test part of a data set. The arithmetic is in
// train/evaluate.h.
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/data_loading.h"
#include "cli/errors.h"
#include "cli/terminal.h"
#include "cli/trained_model.h"
#include "data/dataset.h"
#include "model/airbench.h"
#include "model/device.h"
#include "report/history.h"
#include "train/same_run.h"

namespace skipway {
namespace {

struct EvalFlags {
  std::string run;
  std::optional<std::string> data;
  bool tta = true;
  std::optional<double> fail_under;
  ModelFlags model;
};

bool is_same_data(const std::string& a, const std::string& b) {
  std::error_code error;
  return a == b || fs::equivalent(expand_user(a), expand_user(b), error);
}

// Other images are divided in another way, and what was trained on would be tested.
void require_same_images(const RunFolder& run, const Config& config, const Dataset& dataset) {
  const nlohmann::ordered_json begin = history_of(run.read_metrics()).begin;
  const auto trained_on = number_at(begin, "train_images");
  if (!trained_on) return;
  const int64_t now = dataset.train.size(),
                then = static_cast<int64_t>(*trained_on) + config.val_split;
  if (now != then)
    fail(ErrorKind::kData, "eval",
         "expected the {} training images that the run had, got {} at {}: without a test part of "
         "their own, another tenth of them would be tested than was left out; give --data a folder "
         "of images that were not trained on",
         then, now, dataset.source);
  const std::string tested = text_at(begin, "test_names_sha256");
  if (!tested.empty() && tested != names_sha256(dataset.test))
    fail(ErrorKind::kData, "eval",
         "expected the images that the run had, got others at {}: files were added, moved or taken "
         "away, and without a test part of their own, another tenth of them would be tested than "
         "was left out; give --data a folder of images that were not trained on",
         dataset.source);
}

// The data set with its test part. A tree of classes without one is a test part as a whole, unless
// the model was trained on that tree: then it is the part that training left out.
Dataset load_test_data(const EvalFlags& flags, const RunFolder& run,
                       const std::optional<Config>& config, int64_t image_size) {
  if (!flags.data && !config)
    fail(ErrorKind::kUsage, "eval",
         "expected --data, because {} has no config.toml that names the data of the run",
         run.path().string());
  const std::string data = flags.data ? *flags.data : config->data;
  LoadOptions options;
  options.image_size = image_size;
  options.whole_tree_is_test = !config || !is_same_data(data, config->data);
  if (config) options.seed = config->seed;
  Dataset dataset = load_data(data, options);
  if (config && options.whole_tree_is_test && dataset.train.size() == 0)
    log_warning(
        "all images of {} are evaluated; where the model was trained on some of them, its "
        "accuracy is too high",
        dataset.source);
  if (dataset.test_from_train) require_same_images(run, *config, dataset);
  if (dataset.test.size() == 0)
    fail(ErrorKind::kData, "eval", "expected a test part, got none in {}; give --data another one",
         dataset.source);
  return dataset;
}

std::string joined(const std::vector<std::string>& names) {
  const size_t shown = std::min<size_t>(10, names.size());
  return fmt::format("{}{}", fmt::join(names.data(), names.data() + shown, ", "),
                     shown < names.size() ? fmt::format(" and {} more", names.size() - shown) : "");
}

// Labels as the model counts them; classes go together by their names.
at::Tensor labels_of_model(const Dataset& dataset, const ModelSpec& spec) {
  if (spec.classes.empty()) {  // imported without names: the order must be the same
    if (std::ssize(dataset.classes) != spec.num_classes)
      fail(ErrorKind::kData, "eval", "expected {} classes as the model has, got {} in {}",
           spec.num_classes, dataset.classes.size(), dataset.source);
    log_warning(
        "the model came without names of its classes: its class 0 is taken for '{}', and so on in "
        "the order that they have in the data",
        dataset.classes.front());
    return dataset.test.labels;
  }
  std::vector<int64_t> label_of;
  std::vector<std::string> unknown;
  for (const std::string& name : dataset.classes) {
    const auto found = std::find(spec.classes.begin(), spec.classes.end(), name);
    if (found == spec.classes.end()) unknown.push_back(name);
    label_of.push_back(found - spec.classes.begin());
  }
  if (!unknown.empty())
    fail(ErrorKind::kData, "eval",
         "expected classes that the model knows ({}), got {} in {}; rename the folders, or take "
         "the data that belong to this model",
         joined(spec.classes), joined(unknown), dataset.source);
  return at::tensor(label_of, at::kLong).index_select(0, dataset.test.labels);
}

using NamedClasses = std::vector<std::pair<std::string, ClassAccuracy>>;

// Classes without images are left out.
NamedClasses tested_classes(const Evaluation& evaluation, const std::vector<std::string>& names) {
  NamedClasses tested;
  const std::vector<ClassAccuracy> all = accuracy_per_class(evaluation);
  for (size_t label = 0; label < all.size(); ++label)
    if (all[label].n > 0) tested.emplace_back(names.at(label), all[label]);
  return tested;
}

void print_as_json(const Evaluation& evaluation, const NamedClasses& classes,
                   const Dataset& dataset, const std::optional<Error>& failure) {
  const auto interval = interval95(evaluation.accuracy, evaluation.n);
  nlohmann::ordered_json accuracy = {{"plain", evaluation.accuracy}};
  if (evaluation.views > 1) accuracy["tta"] = evaluation.accuracy_tta;
  accuracy["interval95"] = {interval[0], interval[1]};
  nlohmann::ordered_json per_class = nlohmann::ordered_json::object();
  for (const auto& [name, tested] : classes) per_class[name] = tested.accuracy;
  print_json({{"schema", "skipway.eval/1"},
              {"ok", true},
              {"dataset", dataset.name},
              {"n", evaluation.n},
              {"accuracy", accuracy},
              {"loss", evaluation.loss},
              {"per_class", per_class}},
             failure);
}

void print_as_text(const Evaluation& evaluation, const NamedClasses& classes,
                   const Dataset& dataset) {
  size_t width = 5;
  for (const auto& [name, tested] : classes) width = std::max(width, name.size());
  print_result(fmt::format("{:<{}}  images  accuracy", "class", width));
  for (const auto& [name, tested] : classes)
    print_result(
        fmt::format("{:<{}}  {:6}  {:6.2f} %", name, width, tested.n, 100 * tested.accuracy));
  print_result(fmt::format("accuracy {}, on {} test images of {}", describe(evaluation),
                           evaluation.n, dataset.name));
}

int eval(const EvalFlags& flags) {
  if (flags.fail_under && std::isnan(*flags.fail_under))
    fail(ErrorKind::kUsage, "eval", "expected a number in [0, 1], got nan at --fail-under");
  const RunFolder run = RunFolder::open(flags.run);
  TrainedModel trained = load_trained_model(run, flags.model);
  const ModelSpec& spec = trained.model->spec();
  Dataset dataset = load_test_data(flags, run, trained.config, spec.image_size);
  dataset.test.labels = labels_of_model(dataset, spec);
  log_info("evaluating {} of {} on {} images of {}, {}, kernel {}", spec.name, run.path().string(),
           dataset.test.size(), dataset.source, precision_name(trained.options.precision),
           trained.model->kernels().word());
  // Imported: as its recipe would have it.
  const bool shift = trained.config ? trained.config->tta_shift : is_airbench(spec.name);
  trained.options.views = views_of(flags.tta, shift);
  trained.options.progress = [](int64_t done) { show_status(fmt::format("{} images done", done)); };
  const Evaluation evaluation = evaluate(*trained.model, dataset.test, trained.options);
  clear_status();
  if (!std::isfinite(evaluation.loss))
    fail(ErrorKind::kCheckpoint, "eval", "expected finite outputs, got a loss of {} from {}",
         evaluation.loss, run.path().string());

  const double accuracy = evaluation.accuracy_tta;  // plain without TTA
  std::optional<Error> failure;
  if (flags.fail_under && accuracy < *flags.fail_under)
    failure =
        Error(ErrorKind::kCheck, fmt::format("accuracy {:.4f} is under the {:g} of --fail-under",
                                             accuracy, *flags.fail_under));
  const NamedClasses classes =
      tested_classes(evaluation, spec.classes.empty() ? dataset.classes : spec.classes);
  if (flags.model.json)
    print_as_json(evaluation, classes, dataset, failure);
  else
    print_as_text(evaluation, classes, dataset);
  if (failure) print_line(fmt::format("{} {}", styled("failed:", "red"), failure->what()));
  return exit_code_of(failure);
}

}  // namespace

void add_eval(CLI::App& program, Run& chosen) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command =
      program.add_subcommand("eval", "Accuracy of a trained model, with interval and per class");
  command->add_option("run", flags->run, "folder of the run")->required();
  command
      ->add_option("--data", flags->data,
                   "data as for train, of which the test part is used; a tree of class folders "
                   "alone is a test part [the run's own data]")
      ->check(not_empty());
  command->add_flag(
      "--tta,!--no-tta", flags->tta,
      "also average each image and its mirror image, and what the run's --tta-shift adds, which "
      "an imported airbench has [on]");
  command
      ->add_option("--fail-under", flags->fail_under,
                   "exit code 8 when the accuracy (with TTA when on) is lower, in [0, 1]")
      ->type_name("A")
      ->check(CLI::Range(0.0, 1.0).description(""));
  add_model_flags(*command, flags->model);
  command->callback([flags, &chosen] { chosen = [flags] { return eval(*flags); }; });
}

}  // namespace skipway
