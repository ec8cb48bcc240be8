// `plan`: what a run will cost on this machine, measured, and how else its time could be spent.
// Starts nothing and leaves no file.
#include "train/plan.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/process.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/data_loading.h"
#include "cli/terminal.h"
#include "model/device.h"

namespace skipway {
namespace {

constexpr const char* kSchema = "skipway.plan/1";

// Settings that compete for the same minutes.
struct Alternative {
  std::string name;
  std::vector<std::string> flags;
};

std::vector<Alternative> alternatives(const Config& config) {
  std::vector<Alternative> all;
  for (const int64_t batch : {config.batch / 2, config.batch * 2})
    if (batch > 0)
      all.push_back({fmt::format("--batch {}", batch), {"--batch", std::to_string(batch)}});
  if (config.resize != "none") all.push_back({"--resize none", {"--resize", "none"}});
  for (const char* model : {"resnet18", "resnet34"})
    if (config.weights.empty() && config.model != model && config.model.starts_with("resnet"))
      all.push_back({fmt::format("--model {}", model), {"--model", model}});
  return all;
}

nlohmann::ordered_json measure(const Config& config, bool quiet) {
  Dataset dataset = prepare(config, quiet);
  const Split evaluation_split = take_evaluation_split(config, dataset);
  Learner learner(config, dataset);
  if (!quiet) show_status("measuring …");
  const Plan plan = make_plan(config, learner, evaluation_split);
  clear_status();
  const int64_t per_epoch = learner.batches.steps_per_epoch();
  const double begun_s = process_wall_s();  // a run would have come as far by now
  const int64_t steps = plan.budget.total_steps(0, 0, begun_s);
  nlohmann::ordered_json parts = nlohmann::ordered_json::array();
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    const Stage& stage = plan.stages[i];
    parts.push_back({{"side", stage.side},
                     {"shallow", stage.shallow},
                     {"until", stage.end},
                     {"step_s", plan.steps_s[i]},
                     {"images_per_s", static_cast<double>(config.batch) / plan.steps_s[i]}});
  }
  return {{"model", config.model},
          {"batch", config.batch},
          {"precision", precision_name(learner.precision)},
          {"kernel", learner.device.is_cpu() ? learner.model->kernels().in_use() : "torch"},
          {"passes", plan.passes},
          {"epochs", static_cast<double>(steps) / static_cast<double>(per_epoch)},
          {"steps", steps},
          {"wall_s", begun_s + plan.budget.left_s(0, 0, steps)},
          {"evaluation_s", plan.evaluation_s},
          {"peak_rss_bytes", peak_rss_bytes()},
          {"stages", parts}};
}

// Each in a process of its own: memory that one has used would count for the next.
nlohmann::ordered_json measure_alternatives(const Arguments& arguments) {
  const std::string settings =
      (fs::temp_directory_path() / fmt::format("skipway-plan-{}.toml", getpid())).string();
  write_file_atomic(settings, to_toml(arguments.config, arguments.origins));
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  const std::vector<Alternative> all = alternatives(arguments.config);
  for (size_t i = 0; i < all.size(); ++i) {
    if (!arguments.quiet)
      show_status(fmt::format("measuring {} ({} of {}) …", all[i].name, i + 1, all.size()));
    std::vector<std::string> command = {"plan",    "--json",   "--quiet",
                                        "--alone", "--config", settings};
    command.insert(command.end(), all[i].flags.begin(), all[i].flags.end());
    const auto output = output_of_self(command);
    if (!output) {
      log_warning("{} could not be measured; try it alone: skipway plan {}", all[i].name,
                  all[i].name);
      continue;
    }
    nlohmann::ordered_json result = nlohmann::ordered_json::parse(*output).at("plan");
    result["change"] = all[i].name;
    results.push_back(result);
  }
  clear_status();
  fs::remove(settings);
  std::stable_sort(results.begin(), results.end(),
                   [](const auto& a, const auto& b) { return a.at("epochs") > b.at("epochs"); });
  return results;
}

void show(const nlohmann::ordered_json& plan) {
  for (const auto& stage : plan.at("stages"))
    print_result(fmt::format(
        "{0} x {0} pixels{1} to {2:.0f} % of the run: {3:.3f} s a step of {4}, {5:.0f} images/s",
        stage.at("side").get<int>(), stage.at("shallow").get<bool>() ? ", first blocks" : "",
        100 * stage.at("until").get<double>(), stage.at("step_s").get<double>(),
        plan.at("batch").get<int>(), stage.at("images_per_s").get<double>()));
  print_result(fmt::format(
      "{:.2f} epochs, {} steps; {} in all, {:.0f} s of it for the evaluation; peak memory {}",
      plan.at("epochs").get<double>(), plan.at("steps").get<int64_t>(),
      format_duration(plan.at("wall_s")), plan.at("evaluation_s").get<double>(),
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
}

int run_plan(Arguments arguments, bool alone) {
  take_settings_of_weights(arguments);
  const nlohmann::ordered_json plan = measure(arguments.config, arguments.quiet);
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
  const auto alone = std::make_shared<bool>(false);
  command->add_flag("--alone", *alone, "measure these settings only, no alternatives");
  const auto finish = add_arguments(*command);
  command->callback([finish, alone, &chosen] {
    chosen = [finish, alone] { return run_plan(finish(), *alone); };
  });
}

}  // namespace skipway
