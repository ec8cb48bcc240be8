// Loading of a trained model as `eval` and `predict` use it. Not what is done with it.
#include "cli/trained_model.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/process.h"
#include "cli/arguments.h"
#include "cli/terminal.h"
#include "model/device.h"
#include "train/saved_model.h"

namespace skipway {
namespace {

std::optional<Config> config_of(const RunFolder& run) {
  if (!fs::exists(run.config_toml())) return std::nullopt;
  return from_toml(read_file(run.config_toml()), run.config_toml().string());
}

}  // namespace

void add_kernel_flag(CLI::App& command, std::string& kernel) {
  command
      .add_option(
          "--kernel", kernel,
          "auto, winograd, torch or reference, as for train [SKIPWAY_KERNEL, else auto; of a "
          "run, its own]")
      ->type_name("NAME")
      ->check(CLI::IsMember(KernelChoice::words()).description(""));
}

std::string kernel_word(const std::string& given) {
  if (!given.empty()) return given;
  const char* variable = std::getenv("SKIPWAY_KERNEL");
  const std::string word = variable != nullptr ? variable : "";
  if (!word.empty() &&
      std::ranges::find(KernelChoice::words(), word) == KernelChoice::words().end())
    fail(ErrorKind::kUsage, "arguments", "expected one of {}, got '{}' at SKIPWAY_KERNEL",
         fmt::join(KernelChoice::words(), ", "), word);
  return word;
}

void add_model_flags(CLI::App& command, ModelFlags& flags) {
  command.add_option("--device", flags.device, "auto, cpu or cuda:N")->capture_default_str();
  command.add_option("--precision", flags.precision, "fp32 or bf16; auto: the run's own")
      ->capture_default_str();
  add_kernel_flag(command, flags.kernel);
  command.add_option("--threads", flags.threads, "threads; 0: all cores this process may use")
      ->type_name("N")
      ->check(CLI::Range(0, 4096).description(""))
      ->capture_default_str();
  command.add_option("--batch", flags.batch, "images at a time; 0: by the image size")
      ->type_name("N")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->capture_default_str();
  command.add_flag("--json", flags.json, "one JSON object on stdout");
  command.add_flag("--quiet", flags.quiet, "only warnings and errors on stderr");
}

TrainedModel load_trained_model(const RunFolder& run, const ModelFlags& flags) {
  prepare_allocator();
  at::set_num_threads(static_cast<int>(flags.threads > 0 ? flags.threads : usable_cores()));
  const at::Device device = resolve_device(flags.device);
  std::optional<Config> config = config_of(run);
  std::unique_ptr<Model> model = load_saved_model(run, device);
  // Given none, the run's own word; a run's own auto keeps the kernels that came with the model.
  const std::string own = config ? config->kernel : "auto", given = kernel_word(flags.kernel);
  const std::string kernel = given.empty() ? own : given;
  if (kernel != "auto" || own != "auto") model->kernels() = KernelChoice(kernel);
  // Given none, the type that the run trained in, so that its accuracy comes out again.
  const std::string precision =
      flags.precision == "auto" && config ? config->precision : flags.precision;
  EvaluateOptions options;
  options.precision = resolve_precision(precision, device, model->kernels().word());
  options.shift = config && config->tta_shift;
  options.batch = flags.batch > 0 ? flags.batch : evaluation_batch(model->spec().image_size);
  if (!flags.quiet)
    options.progress = [](int64_t done) { show_status(fmt::format("{} images done", done)); };
  return {std::move(model), std::move(options), std::move(config)};
}

std::string class_name(const ModelSpec& spec, int64_t label) {
  return spec.classes.empty() ? fmt::format("{}", label)
                              : spec.classes.at(static_cast<size_t>(label));
}

}  // namespace skipway
