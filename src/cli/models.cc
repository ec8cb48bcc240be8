// `skipway models`: what each model costs, as a table or as JSON. Arithmetic alone; builds none.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "model/airbench.h"
#include "model/attention.h"
#include "model/model.h"

namespace skipway {
namespace {

struct ModelsOptions {
  ModelSpec spec;
  int64_t batch = 128;
  bool json = false;
};

// Memory of a training step [bytes]: weights, gradients and momentum in fp32, what forward keeps of
// a batch, and under bf16 the copy of the weights that convolutions read.
struct StepMemory {
  int64_t fp32, bf16;
};

StepMemory step_memory(const ModelSpec& spec, int64_t batch) {
  const auto bytes = [&](int64_t bytes_per_value) {
    const ModelCost cost = model_cost(spec, bytes_per_value);
    const int64_t weight_copies = bytes_per_value == 4 ? 0 : bytes_per_value * cost.parameters;
    return 3 * 4 * cost.parameters + weight_copies + batch * cost.activation_bytes;
  };
  return {bytes(4), bytes(2)};
}

int run_models(const ModelsOptions& options) {
  ModelSpec spec = options.spec;
  spec.stem = resolve_stem(spec.stem, spec.image_size);
  nlohmann::ordered_json models = nlohmann::ordered_json::array();
  std::string table = fmt::format("{:<10}{:>12}{:>16}{:>14}{:>14}", "model", "parameters",
                                  "GMAC an image", "memory bf16", "memory fp32");
  for (const std::string& name : model_names()) {
    if (is_airbench(name) && spec.image_size < kAirbenchSmallestSide) continue;
    spec.name = name;
    spec.attention = is_airbench(name) ? "none" : options.spec.attention;
    const ModelCost cost = model_cost(spec, 4);
    const StepMemory memory = step_memory(spec, options.batch);
    models.push_back({{"name", name},
                      {"parameters", cost.parameters},
                      {"macs", cost.macs},
                      {"memory_bytes", {{"bf16", memory.bf16}, {"fp32", memory.fp32}}}});
    table += fmt::format("\n{:<10}{:>12}{:>16.3f}{:>14}{:>14}", name, cost.parameters,
                         static_cast<double>(cost.macs) / 1e9,
                         format_bytes(static_cast<double>(memory.bf16)),
                         format_bytes(static_cast<double>(memory.fp32)));
  }
  if (options.json) {
    print_json({{"schema", "skipway.models/1"},
                {"ok", true},
                {"batch", options.batch},
                {"image_size", spec.image_size},
                {"stem", spec.stem},
                {"attention", options.spec.attention},
                {"classes", spec.num_classes},
                {"models", models}});
    return 0;
  }
  print_result(table);
  print_result(fmt::format(
      "\n{0}x{0} pixels, {1} stem, attention {2}, {3} classes; memory: weights, gradients, "
      "momentum "
      "and what a batch of {4} keeps for backward",
      spec.image_size, spec.stem, options.spec.attention, spec.num_classes, options.batch));
  return 0;
}

}  // namespace

void add_models(CLI::App& program, Run& chosen) {
  CLI::App* command = program.add_subcommand("models", "The models, and what each costs");
  const auto options = std::make_shared<ModelsOptions>();
  options->spec.stem = "auto";
  // The bounds keep the products within 64 bits.
  command->add_option("--batch", options->batch, "Images in a training step")
      ->check(CLI::Range(1, 1 << 18))
      ->capture_default_str();
  command->add_option("--image-size", options->spec.image_size, "Side of the images [pixels]")
      ->check(CLI::Range(1, 1 << 14))
      ->capture_default_str();
  command->add_option("--classes", options->spec.num_classes, "Outputs of the last layer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--stem", options->spec.stem, "auto, cifar or imagenet")
      ->check(CLI::IsMember({"auto", "cifar", "imagenet"}))
      ->capture_default_str();
  command
      ->add_option("--attention", options->spec.attention,
                   "none, se, eca or cbam in each residual block")
      ->check(CLI::IsMember(attention_names()))
      ->capture_default_str();
  add_json_flag(*command, options->json);
  add_quiet_flag(*command);
  command->callback([options, &chosen] { chosen = [options] { return run_models(*options); }; });
}

}  // namespace skipway
