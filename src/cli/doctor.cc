// `doctor`: whether this machine can train, and for each thing that is wrong its fix. Measures no
// speed; the time it shows is of one small step.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/version.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "base/process.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/terminal.h"
#include "cli/trained_model.h"
#include "data/known.h"
#include "kernels/instruction_set.h"
#include "model/device.h"
#include "model/resnet.h"
#include "model/threads.h"
#include "record/run_folder.h"

namespace skipway {
namespace {

enum class State { kOk, kWarning, kFailure };

struct Check {
  std::string name;
  State state = State::kOk;
  std::string message;
  std::string fix;  // empty when there is nothing to do
};

// First line of a file of the system; empty when there is none.
std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

Check check_device(const std::string& name, std::optional<at::Device>& device) {
  try {
    device = resolve_device(name);
    return {"device", State::kOk, describe_device(*device), ""};
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kUsage) throw;  // it says nothing about the machine
    return {"device", State::kFailure, error.what(), "take --device cpu, or see the line above"};
  }
}

Check check_driver(const std::optional<at::Device>& device) {
  const std::string driver = first_line("/proc/driver/nvidia/version");
  if (driver.empty()) return {"driver", State::kOk, "no NVIDIA driver; the CPU is used", ""};
  if (device && device->is_cpu())
    return {"driver", State::kWarning, driver + ", but the CPU is used",
            "SKIPWAY_CUDA=1 ./skipway setup installs LibTorch's CUDA libraries"};
  return {"driver", State::kOk, driver, ""};
}

Check check_instructions() {
  const std::string set = kernels::instruction_sets().front();
  if (set == "scalar")
    return {"instructions", State::kWarning, "no AVX2: training will be slow",
            "take a processor of 2013 or later, or a virtual machine that shows its host's"};
  return {"instructions", State::kOk, set, ""};
}

Check check_cores() { return {"cores", State::kOk, fmt::format("{}", usable_cores()), ""}; }

// The default run (ResNet-18, 32 pixels, batch 128, CIFAR-10 in memory) takes some 1.3 GB.
Check check_memory() {
  const auto bytes = static_cast<double>(available_memory_bytes());
  Check check{"memory", State::kOk, format_bytes(bytes) + " available", ""};
  if (bytes < 2.5e9) {
    check.state = bytes < 0.7e9 ? State::kFailure : State::kWarning;
    check.fix = "close other programs, or take a smaller --batch";
  }
  return check;
}

// The nearest folder above that exists: where the missing ones would be made.
fs::path existing_part(fs::path path) {
  std::error_code error;  // what cannot be looked at is as if it were missing
  for (path = fs::absolute(path); !fs::exists(path, error) && path != path.root_path();)
    path = path.parent_path();
  return path;
}

// A run keeps two checkpoints of 90 MB and a model of 45 MB; while it writes, one more.
Check check_disk(const std::string& name, const fs::path& folder, const std::string& fix) {
  const fs::path existing = existing_part(folder);
  std::error_code error;
  const fs::space_info space = fs::space(existing, error);
  if (error || access(existing.c_str(), W_OK | X_OK) != 0)
    return {name, State::kFailure,
            fmt::format("{} cannot be written", fs::absolute(folder).string()), fix};
  const auto bytes = static_cast<double>(space.available);
  Check check{name, State::kOk,
              fmt::format("{} free in {}", format_bytes(bytes), fs::absolute(folder).string()), ""};
  if (bytes < 1e9) {
    check.state = bytes < 0.4e9 ? State::kFailure : State::kWarning;
    check.fix = "make room, or: " + fix;
  }
  return check;
}

Check check_data(const std::string& name) {
  const KnownDataset* dataset = find_known_dataset(name);
  const std::optional<fs::path> path =
      dataset != nullptr ? find_local(*dataset) : std::optional<fs::path>();
  if (path) return {"data", State::kOk, fmt::format("{} in {}", name, path->string()), ""};
  return {"data", State::kWarning, fmt::format("{} is not in {}", name, data_directory().string()),
          fmt::format("skipway data fetch {}", name)};
}

Check check_step(at::Device device, const std::string& kernel) {
  constexpr int64_t kImages = 8;
  try {
    ModelSpec spec;
    ResNet model(spec, /*seed=*/0, device);
    model.kernels() = KernelChoice(kernel);  // as in training
    const at::ScalarType precision = resolve_precision("auto", device, kernel);
    const auto options = at::TensorOptions().device(device);
    const at::Tensor images = at::linspace(-1, 1, kImages * 3 * 32 * 32, options)
                                  .view({kImages, 3, 32, 32})
                                  .contiguous(at::MemoryFormat::ChannelsLast);
    const at::Tensor labels = at::arange(kImages, options.dtype(at::kLong));
    double seconds = 0, loss_value = 0;
    for (int i = 0; i < 3; ++i) {  // the first one also compiles oneDNN's kernels
      const Stopwatch watch;
      PrecisionScope scope(device, precision);
      const at::Tensor loss = at::cross_entropy_loss(model.forward(images, true), labels);
      loss.backward();
      loss_value = loss.item<double>();
      seconds = i == 0 ? watch.seconds() : std::min(seconds, watch.seconds());
    }
    const at::Tensor& gradient = model.parameters().front().second.grad();
    if (!std::isfinite(loss_value) || !gradient.defined() ||
        !at::isfinite(gradient).all().item<bool>())
      return {"step", State::kFailure, "the loss or a gradient is not finite",
              "--precision fp32; if that fails too, the machine computes wrongly"};
    return {
        "step", State::kOk,
        fmt::format("ResNet-18 forward and backward on {} images, {}, kernel {}: {:.0f} ms",
                    kImages, precision_name(precision), model.kernels().in_use(), 1000 * seconds),
        ""};
  } catch (const std::exception& error) {
    const std::string what = error.what();
    return {
        "step", State::kFailure, what.substr(0, what.find('\n')),
        "--device cpu and --precision fp32 are the safest; else reinstall with ./skipway setup"};
  }
}

std::vector<Check> examine(const std::string& device_name, const std::string& kernel) {
  std::optional<at::Device> device;
  std::vector<Check> checks = {check_device(device_name, device)};
  checks.push_back(check_driver(device));
  checks.push_back({"libtorch", State::kOk, TORCH_VERSION, ""});
  checks.push_back(check_instructions());
  checks.push_back(check_cores());
  checks.push_back(check_memory());
  checks.push_back(check_disk("runs", "runs", "change to another folder, or take --run-dir"));
  checks.push_back(check_disk("data folder", data_directory(), "point SKIPWAY_DATA elsewhere"));
  checks.push_back(check_data("cifar10"));
  checks.push_back(check_data("fashion-mnist"));
  if (device) checks.push_back(check_step(*device, kernel));
  return checks;
}

void print_as_text(const std::vector<Check>& checks) {
  for (const Check& check : checks) {
    const std::string mark = check.state == State::kOk        ? styled("✓", "green")
                             : check.state == State::kWarning ? styled("!", "yellow")
                                                              : styled("✗", "red");
    print_result(fmt::format("{} {:<12}  {}", mark, check.name, check.message));
    if (!check.fix.empty()) print_result(fmt::format("  {:<12}  fix: {}", "", check.fix));
  }
}

std::optional<Error> failure_of(const std::vector<Check>& checks) {
  std::vector<std::string> failed;
  for (const Check& check : checks)
    if (check.state == State::kFailure) failed.push_back(check.name);
  if (failed.empty()) return std::nullopt;
  return Error(ErrorKind::kDevice, fmt::format("failed: {}", fmt::join(failed, ", ")));
}

void print_as_json(const std::vector<Check>& checks, const std::optional<Error>& failure) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Check& check : checks) {
    const char* state = check.state == State::kOk        ? "ok"
                        : check.state == State::kWarning ? "warning"
                                                         : "failure";
    list.push_back({{"name", check.name}, {"state", state}, {"message", check.message}});
    if (!check.fix.empty()) list.back()["fix"] = check.fix;
  }
  print_json({{"schema", "skipway.doctor/1"},
              {"ok", true},
              {"checks", list},
              {"environment", environment()}},
             failure);
}

int doctor(const std::string& device, const std::string& kernel, bool json) {
  prepare_process(/*threads=*/0);  // as training does
  const std::vector<Check> checks = examine(device, kernel);
  const std::optional<Error> failure = failure_of(checks);
  if (json)
    print_as_json(checks, failure);
  else
    print_as_text(checks);
  return exit_code_of(failure);
}

}  // namespace

void add_doctor(CLI::App& program, Run& chosen) {
  struct Flags {
    std::string device = "auto", kernel = "auto";
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = program.add_subcommand("doctor", "Is this machine ready to train?");
  add_device_flag(*command, flags->device);
  add_kernel_flag(*command, flags->kernel);
  add_json_flag(*command, flags->json);
  add_quiet_flag(*command);
  command->callback([flags, &chosen] {
    chosen = [flags] { return doctor(flags->device, flags->kernel, flags->json); };
  });
}

}  // namespace skipway
