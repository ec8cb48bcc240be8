// `import`: weights from elsewhere become a folder that every command takes as a run. What the file
// holds is read and checked in train/pretrained.h.
#include <fmt/ranges.h>

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/data_loading.h"
#include "cli/terminal.h"
#include "model/model.h"
#include "train/config.h"
#include "train/pretrained.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

struct ImportFlags {
  std::string source;
  std::string model, stem;
  int64_t classes = 0;
  std::string mean = "auto", std = "auto";
  int64_t input_size = 0;
  std::string out;
  bool json = false;
};

// --mean and --std; `own` where they are not given.
Normalisation normalisation_of(const ImportFlags& flags, const Normalisation& own) {
  if (flags.mean == "auto" && flags.std == "auto") return own;
  const auto or_own = [](const std::string& given, const std::array<double, 3>& values) {
    return given == "auto" ? fmt::format("{}", fmt::join(values, ",")) : given;
  };
  Config config;
  config.mean = or_own(flags.mean, own.mean);
  config.std = or_own(flags.std, own.std);
  return *validated_normalisation(config);
}

// Flags first, then what came with the weights, then what their shapes say.
ModelSpec spec_of(const Pretrained& weights, const ImportFlags& flags) {
  if (flags.model.empty() && !weights.spec)
    fail(ErrorKind::kUsage, "import",
         "expected --model, because {} does not say which model its weights are of; one of {}",
         weights.where, fmt::join(model_names(), ", "));
  ModelSpec spec = weights.spec ? *weights.spec : spec_from_shapes(weights, flags.model);
  if (!flags.model.empty()) spec.name = flags.model;
  if (!flags.stem.empty()) spec.stem = flags.stem;
  if (flags.input_size > 0) spec.image_size = flags.input_size;
  if (flags.classes > 0 && flags.classes != spec.num_classes) {
    spec.num_classes = flags.classes;
    spec.classes.clear();
  }
  spec.normalisation = normalisation_of(flags, spec.normalisation);
  return spec;
}

// A folder that the model did not get into is not left behind.
std::string saved(const RunFolder& run, const Model& model) {
  try {
    return save_model(run, model);
  } catch (...) {
    run.discard();
    throw;
  }
}

int import_weights(const ImportFlags& flags) {
  RunFolder::require_free(flags.out, "--out");
  normalisation_of(flags, Normalisation());  // refused before something is fetched
  const Pretrained weights = read_weights(flags.source);
  const ModelSpec spec = spec_of(weights, flags);
  const std::unique_ptr<Model> model = make_model(spec, /*seed=*/0);
  load_finite(*model, weights.tensors, weights.where);
  model->kernels() = KernelChoice("auto");
  const RunFolder run = RunFolder::create(flags.out, "--out");
  const std::string sha256 = saved(run, *model);
  if (flags.json) {
    print_json({{"schema", "skipway.import/1"},
                {"ok", true},
                {"run", run.path().string()},
                {"model", spec.name},
                {"stem", spec.stem},
                {"attention", spec.attention},
                {"classes", spec.num_classes},
                {"input_size", spec.image_size},
                {"mean", spec.normalisation.mean},
                {"std", spec.normalisation.std},
                {"weights_sha256", sha256}});
    return 0;
  }
  const bool has_mean = flags.mean != "auto", has_std = flags.std != "auto";
  const std::string origin =
      weights.spec ? "as they came with the weights"
                   : fmt::format("{}'s, which go with the {} stem; --mean and --std give others",
                                 spec.stem == "cifar" ? "CIFAR" : "ImageNet", spec.stem);
  print_result(fmt::format("{}: {}, {} stem{}, {} classes, images of {} x {}", run.path().string(),
                           spec.name, spec.stem,
                           spec.attention == "none" ? "" : ", attention " + spec.attention,
                           spec.num_classes, spec.image_size, spec.image_size));
  print_result(fmt::format("mean {:.4g}, std {:.4g}: {}", fmt::join(spec.normalisation.mean, ","),
                           fmt::join(spec.normalisation.std, ","),
                           has_mean && has_std ? "as given"
                           : has_mean          ? "the mean as given, else " + origin
                           : has_std           ? "the std as given, else " + origin
                                               : origin));
  if (spec.classes.empty()) print_result("classes by number: these weights come without names");
  return 0;
}

}  // namespace

void add_import(CLI::App& program, Run& chosen) {
  auto flags = std::make_shared<ImportFlags>();
  CLI::App* command =
      program.add_subcommand("import", "Weights from elsewhere as a folder to use like a run");
  command
      ->add_option("file", flags->source,
                   "a file of safetensors or torch.save, its address, or "
                   "torchvision:resnet50, …")
      ->required();
  command
      ->add_option(
          "--model", flags->model,
          fmt::format("{}; a run and what `export --to safetensors` wrote say it themselves",
                      fmt::join(model_names(), ", ")))
      ->type_name("NAME")
      ->check(CLI::IsMember(model_names()).description(""));
  command->add_option("--stem", flags->stem, "cifar or imagenet; without it, as the weights are")
      ->type_name("NAME")
      ->check(CLI::IsMember({"cifar", "imagenet"}).description(""));
  command->add_option("--classes", flags->classes, "classes; without it, as the weights are")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20).description(""));
  command
      ->add_option(
          "--mean", flags->mean,
          "mean of red,green,blue in [0, 1]; auto: as came with the weights, else by the stem")
      ->type_name("R,G,B");
  command
      ->add_option("--std", flags->std,
                   "standard deviation of them; auto: as came with the weights, else by the stem")
      ->type_name("R,G,B");
  command
      ->add_option(
          "--input-size", flags->input_size,
          "side of the images [pixels]; without it, as came with the weights, else 32 or 224 "
          "by the stem")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 14).description(""));
  command->add_option("--out", flags->out, "folder to make")
      ->type_name("DIR")
      ->check(not_empty())
      ->required();
  add_json_flag(*command, flags->json);
  add_quiet_flag(*command);
  command->callback([flags, &chosen] { chosen = [flags] { return import_weights(*flags); }; });
}

}  // namespace skipway
