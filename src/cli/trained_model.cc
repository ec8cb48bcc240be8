// Loading of a trained model as `eval` and `predict` use it. Not what is done with it.
#include "cli/trained_model.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "cli/arguments.h"
#include "model/device.h"
#include "model/threads.h"
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
      .add_option("--kernel", kernel,
                  "auto, winograd, torch or reference, as for train [auto; of a run, its own]")
      ->type_name("NAME")
      ->envname("SKIPWAY_KERNEL")
      ->check(CLI::IsMember(KernelChoice::words()).description(""));
}

void add_device_flag(CLI::App& command, std::string& device) {
  command.add_option("--device", device, "auto, cpu or cuda:N")
      ->envname("SKIPWAY_DEVICE")
      ->capture_default_str();
}

void add_model_flags(CLI::App& command, ModelFlags& flags) {
  add_device_flag(command, flags.device);
  command.add_option("--precision", flags.precision, "fp32 or bf16; auto: the run's own")
      ->envname("SKIPWAY_PRECISION")
      ->capture_default_str();
  add_kernel_flag(command, flags.kernel);
  command.add_option("--threads", flags.threads, "threads; 0: all cores this process may use")
      ->type_name("N")
      ->envname("SKIPWAY_THREADS")
      ->check(CLI::Range(0, 4096).description(""))
      ->capture_default_str();
  command.add_option("--batch", flags.batch, "images at a time; 0: by the image size")
      ->type_name("N")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->capture_default_str();
  add_json_flag(command, flags.json);
  add_quiet_flag(command);
}

TrainedModel load_trained_model(const RunFolder& run, const ModelFlags& flags) {
  prepare_process(flags.threads);
  const at::Device device = resolve_device(flags.device);
  std::optional<Config> config = config_of(run);
  std::unique_ptr<Model> model = load_saved_model(run, device);
  // Given none, the run's own word; a run's own auto keeps the kernels that came with the model.
  const std::string own = config ? config->kernel : "auto";
  const std::string kernel = flags.kernel.empty() ? own : flags.kernel;
  if (kernel != "auto" || own != "auto") model->kernels() = KernelChoice(kernel);
  // Given none, the type that the run trained in, so that its accuracy comes out again.
  const std::string precision =
      flags.precision == "auto" && config ? config->precision : flags.precision;
  EvaluateOptions options;
  options.precision = resolve_precision(precision, device, model->kernels().word());
  options.batch = flags.batch > 0 ? flags.batch : evaluation_batch(model->spec().image_size);
  return {std::move(model), std::move(options), std::move(config)};
}

}  // namespace skipway
