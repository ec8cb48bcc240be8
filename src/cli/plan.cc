// `plan`: what a run will cost on this machine, measured, and how else its time could be spent.
// Starts nothing and leaves no file.
#include "train/plan.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/process.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/data_loading.h"
#include "cli/terminal.h"
#include "model/device.h"
#include "train/freeze.h"
#include "train/memory.h"

namespace skipway {
namespace {

constexpr const char* kSchema = "skipway.plan/1";

// Settings that compete for the same minutes.
struct Alternative {
  std::string name;
  std::vector<std::string> flags;
};

std::vector<Alternative> alternatives(const Arguments& arguments) {
  const Config& config = arguments.config;
  std::vector<Alternative> all;
  for (const int64_t batch : {config.batch / 2, config.batch * 2})
    if (batch > 0)
      all.push_back({fmt::format("--batch {}", batch), {"--batch", std::to_string(batch)}});
  if (config.resize != "none") all.push_back({"--resize none", {"--resize", "none"}});
  for (const char* model : {"resnet18", "resnet34"})
    if (config.weights.empty() && config.model != model && config.model.starts_with("resnet"))
      all.push_back({fmt::format("--model {}", model), {"--model", model}});
  // With its own recipe, which it takes where none is asked for.
  if (config.minutes > 0 && config.weights.empty() && config.attention == "none" &&
      config.model.starts_with("resnet") && !arguments.is_given("recipe"))
    all.push_back({"--model airbench94", {"--model", "airbench94"}});
  return all;
}

nlohmann::ordered_json measure(const Config& config) {
  Dataset dataset = prepare(config);
  const Split evaluation_split = take_evaluation_split(config, dataset);
  Learner learner(config, dataset);
  show_status("measuring …");
  const double loaded_s = process_wall_s();
  Plan plan = make_plan(config, learner, evaluation_split, loaded_s);
  const int64_t per_epoch = learner.batches.steps_per_epoch();
  double begun_s = loaded_s;  // when a run would begin: one of --epochs does not measure
  const auto forecast_steps = [&] {
    const Forecast run = forecast(config, plan, per_epoch, begun_s);
    require_steps(config, plan, run.steps, begun_s);
    return run;
  };
  if (config.minutes > 0) {
    begun_s = process_wall_s();
    forecast_steps();
    measure_longer(config, learner, plan);
  }
  const Forecast run = forecast_steps();
  clear_status();
  nlohmann::ordered_json parts = nlohmann::ordered_json::array();
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    const Stage& stage = plan.stages[i];
    parts.push_back({{"side", stage.side},
                     {"shallow", stage.shallow},
                     {"until", stage.end},
                     {"step_s", plan.steps_s[i]},
                     {"images_per_s", learner.batches.mean_images_per_step() / plan.steps_s[i]}});
  }
  nlohmann::ordered_json object = {
      {"model", config.model},
      {"batch", config.batch},
      {"micro_batch", learner.micro_batch},
      {"precision", precision_name(learner.precision)},
      {"kernel", learner.kernel()},
      {"kernels", learner.model->kernels().chosen()},
      {"passes", plan.passes},
      {"epochs", static_cast<double>(run.steps) / static_cast<double>(per_epoch)},
      {"steps", run.steps},
      {"wall_s", run.wall_s},
      {"evaluation_s", plan.evaluation_s + static_cast<double>(run.tests) * plan.test_s},
      {"evaluations", run.tests + 1},
      {"views", plan.views},
      {"peak_rss_bytes", peak_rss_bytes()},
      {"stages", parts}};
  if (plan.early_step_s > 0)
    object.update({{"early_epochs", early_epochs(config)}, {"early_step_s", plan.early_step_s}});
  return object;
}

struct Measured {
  std::optional<nlohmann::ordered_json> plan;  // none: the process failed, …
  std::optional<Error> error;                  // … with this, if it could say so
};

// Measures changes of the settings, each in a process of its own: memory that one has used would
// count for the next.
class Measurer {
 public:
  // The settings that were given, and not a recipe's, are a file in memory, which is gone with this
  // process however it ends. The variables are in them, and would be stronger than them.
  explicit Measurer(const Arguments& arguments)
      : settings_(memfd_create("skipway-plan.toml", MFD_CLOEXEC)) {
    std::string text;
    for (const auto& [key, value] : toml_values(arguments.config))
      if (arguments.is_given(key)) text += fmt::format("{} = {}\n", key, value);
    if (settings_.get() < 0 ||
        write(settings_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
      fail(ErrorKind::kMemory, "plan", "could not keep the settings in memory: {}",
           std::strerror(errno));
    for (const auto& [key, value] : toml_values(arguments.config))
      if (key != "data") unsetenv(variable_name(key).c_str());
  }

  Measured plan_with(const std::vector<std::string>& flags) const {
    std::vector<std::string> command = {
        "plan",    "--json",   "--quiet",
        "--alone", "--config", fmt::format("/proc/{}/fd/{}", getpid(), settings_.get())};
    command.insert(command.end(), flags.begin(), flags.end());
    const auto output = output_of_self(command);
    if (!output) return {};
    const auto object = nlohmann::ordered_json::parse(output->text, nullptr, false);
    if (output->exit_code == 0) return {object.at("plan"), {}};
    if (!object.is_object() || !object.contains("error")) return {};  // a signal ended it
    return {{},
            Error(static_cast<ErrorKind>(output->exit_code),
                  object.at("error").at("message").get<std::string>())};
  }

 private:
  Descriptor settings_;
};

nlohmann::ordered_json measure_alternatives(const Arguments& arguments) {
  const Measurer measurer(arguments);
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  const std::vector<Alternative> all = alternatives(arguments);
  for (size_t i = 0; i < all.size(); ++i) {
    show_status(fmt::format("measuring {} ({} of {}) …", all[i].name, i + 1, all.size()));
    auto [result, error] = measurer.plan_with(all[i].flags);
    if (!result) {
      log_warning("{} could not be measured{}; try it alone: skipway plan {}", all[i].name,
                  error ? fmt::format(": {}", error->what()) : "", all[i].name);
      continue;
    }
    (*result)["change"] = all[i].name;
    results.push_back(std::move(*result));
  }
  clear_status();
  // Minutes are the same for all, and so are epochs.
  const bool by_time = arguments.config.minutes > 0;
  std::stable_sort(results.begin(), results.end(), [&](const auto& a, const auto& b) {
    return by_time ? a.at("epochs") > b.at("epochs") : a.at("wall_s") < b.at("wall_s");
  });
  return results;
}

// A batch fits when its step was made with all its images at once, in memory that is there.
nlohmann::ordered_json find_largest_batch(const Arguments& arguments) {
  int64_t images = 0;
  {
    Dataset dataset = prepare(arguments.config);
    take_evaluation_split(arguments.config, dataset);
    images = dataset.train.size();
  }
  release_cached_memory(at::kCPU);  // the images', which the processes to come have anew
  const int64_t available = available_memory_bytes();
  limit_memory(available);
  const Measurer measurer(arguments);
  nlohmann::ordered_json measured = nlohmann::ordered_json::array();
  std::optional<Error> last_error;
  const int64_t largest = largest_that_fits(arguments.config.batch, images, [&](int64_t batch) {
    show_status(fmt::format("measuring --batch {} …", batch));
    std::vector<std::string> flags = {"--batch", std::to_string(batch), "--microbatch", "auto"};
    // Memory has nothing to do with whether the minutes are enough.
    if (arguments.config.minutes > 0)
      flags.insert(flags.end(), {"--minutes", "0", "--epochs", "10"});
    const auto [plan, error] = measurer.plan_with(flags);
    if (error) last_error = error;
    // Too little memory may also end a process where nobody expected it: as a bug.
    if (error && error->kind() != ErrorKind::kMemory && error->kind() != ErrorKind::kInternal)
      throw *error;
    nlohmann::ordered_json row = {{"batch", batch}, {"fits", false}};
    if (plan && plan->at("micro_batch") == batch && plan->at("peak_rss_bytes") <= available) {
      row["fits"] = true;
      row["peak_rss_bytes"] = plan->at("peak_rss_bytes");
      row["images_per_s"] = plan->at("stages").back().at("images_per_s");
    }
    measured.push_back(row);
    return row["fits"].get<bool>();
  });
  clear_status();
  if (largest == 0 && last_error && last_error->kind() == ErrorKind::kInternal) throw *last_error;
  if (largest == 0)
    fail(ErrorKind::kMemory, "plan",
         "expected memory for a step of one image, got {} that is free here, which did not do; "
         "close other programs, or take a smaller --model or --image-size",
         format_bytes(static_cast<double>(available)));
  std::sort(measured.begin(), measured.end(),
            [](const auto& a, const auto& b) { return a.at("batch") < b.at("batch"); });
  return {{"available_bytes", available},
          {"train_images", images},
          {"largest_batch", largest},
          {"measured", measured}};
}

void show(const nlohmann::ordered_json& plan) {
  for (const auto& stage : plan.at("stages"))
    print_result(fmt::format(
        "{0} x {0} pixels{1} to {2:.0f} % of the run: {3:.3f} s a step of {4}, {5:.0f} images/s",
        stage.at("side").get<int>(), stage.at("shallow").get<bool>() ? ", first blocks" : "",
        100 * stage.at("until").get<double>(), stage.at("step_s").get<double>(),
        plan.at("batch").get<int>(), stage.at("images_per_s").get<double>()));
  if (plan.contains("early_step_s"))
    print_result(fmt::format("the first {:g} epochs: {:.3f} s a step",
                             plan.at("early_epochs").get<double>(),
                             plan.at("early_step_s").get<double>()));
  print_result(
      fmt::format("{:.2f} epochs, {} steps; {} in all, {:.0f} s of it for {}; peak memory {}",
                  plan.at("epochs").get<double>(), plan.at("steps").get<int64_t>(),
                  format_duration(plan.at("wall_s")), plan.at("evaluation_s").get<double>(),
                  plan.at("evaluations") == 1
                      ? plan.at("views") == 1 ? "the evaluation without TTA" : "the evaluation"
                      : fmt::format("{} evaluations", plan.at("evaluations").dump()),
                  format_bytes(plan.at("peak_rss_bytes"))));
}

void show_alternatives(const nlohmann::ordered_json& others) {
  print_result(fmt::format("\n{:<18}{:>8}{:>12}{:>12}{:>14}", "otherwise", "epochs", "in all",
                           "memory", "last images/s"));
  for (const auto& other : others)
    print_result(fmt::format("{:<18}{:>8.2f}{:>12}{:>12}{:>14.0f}",
                             other.at("change").get<std::string>(),
                             other.at("epochs").get<double>(), format_duration(other.at("wall_s")),
                             format_bytes(other.at("peak_rss_bytes")),
                             other.at("stages").back().at("images_per_s").get<double>()));
  print_result("ranked by what was measured; which is the most accurate, only a run tells");
}

void show_largest_batch(const nlohmann::ordered_json& memory) {
  print_result(fmt::format("{:>8}{:>12}{:>14}", "batch", "memory", "last images/s"));
  for (const auto& row : memory.at("measured")) {
    if (row.at("fits").get<bool>())
      print_result(fmt::format("{:>8}{:>12}{:>14.0f}", row.at("batch").get<int64_t>(),
                               format_bytes(row.at("peak_rss_bytes")),
                               row.at("images_per_s").get<double>()));
    else
      print_result(fmt::format("{:>8}{:>12}", row.at("batch").get<int64_t>(), "too much"));
  }
  const auto largest = memory.at("largest_batch").get<int64_t>();
  print_result(fmt::format("{} free: {}", format_bytes(memory.at("available_bytes")),
                           largest == memory.at("train_images").get<int64_t>()
                               ? "all training images fit in one batch"
                               : fmt::format("--batch {} is the largest that fits, to an eighth; "
                                             "larger ones with --microbatch {}",
                                             largest, largest)));
}

int run_memory(Arguments arguments) {
  take_settings_of_weights(arguments);
  const nlohmann::ordered_json memory = find_largest_batch(arguments);
  if (arguments.json)
    print_json({{"schema", kSchema}, {"ok", true}, {"memory", memory}});
  else
    show_largest_batch(memory);
  return 0;
}

int run_plan(Arguments arguments, bool alone) {
  take_settings_of_weights(arguments);
  const nlohmann::ordered_json plan = measure(arguments.config);
  release_cached_memory(at::kCPU);
  nlohmann::ordered_json others = nlohmann::ordered_json::array();
  if (!alone) others = measure_alternatives(arguments);
  if (arguments.json) {
    print_json({{"schema", kSchema}, {"ok", true}, {"plan", plan}, {"alternatives", others}});
    return 0;
  }
  show(plan);
  if (!others.empty()) show_alternatives(others);
  return 0;
}

}  // namespace

void add_plan(CLI::App& program, Run& chosen) {
  CLI::App* command = program.add_subcommand(
      "plan",
      "What `train` with the same flags will cost here, measured, and what else it could be");
  struct Flags {
    bool alone = false, memory = false;
  };
  const auto flags = std::make_shared<Flags>();
  CLI::Option* alone =
      command->add_flag("--alone", flags->alone, "measure these settings only, no alternatives");
  command
      ->add_flag("--memory", flags->memory,
                 "the largest batch that fits into memory here, found by trying, and nothing else")
      ->excludes(alone);
  const auto finish = add_arguments(*command);
  command->callback([finish, flags, &chosen] {
    chosen = [finish, flags] {
      return flags->memory ? run_memory(finish()) : run_plan(finish(), flags->alone);
    };
  });
}

}  // namespace skipway
