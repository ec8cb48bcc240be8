// `lr-find`: which learning rate the settings of `train` bear, as a picture and a number. Writes
// the picture and nothing else.
#include "train/lr_find.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <memory>
#include <system_error>

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/data_loading.h"
#include "cli/terminal.h"
#include "report/lr_plot.h"
#include "train/plan.h"

namespace skipway {
namespace {

struct LrFindFlags {
  double from = 1e-3, to = 3;
  int64_t steps = 100;
  std::string plot = "lr-find.svg";
};

// That the picture can be written, before minutes are spent on it. There is one a call; a file that
// is there is somebody's.
void check_place(const fs::path& plot) {
  require_new_file(plot, "lr-find", "--plot", "give another name, or \"\" for none");
  const fs::path folder = fs::absolute(plot).parent_path();
  std::error_code code;
  if (!fs::is_directory(folder, code) || access(folder.c_str(), W_OK | X_OK) != 0)
    fail(ErrorKind::kDisk, "lr-find",
         "expected a file in a folder that can be written to, got {} at --plot; make that folder, "
         "or give another, or \"\" for none",
         plot.string());
}

void check(const LrFindFlags& flags) {
  if (!(std::isfinite(flags.from) && std::isfinite(flags.to) && 0 < flags.from &&
        flags.from < flags.to))
    fail(ErrorKind::kUsage, "lr-find", "expected 0 < --from < --to, got {} and {}", flags.from,
         flags.to);
  if (!flags.plot.empty() && fs::path(flags.plot).extension() != ".svg")
    fail(ErrorKind::kUsage, "lr-find",
         "expected a name that ends with .svg, got \"{}\" at --plot; no other kind of picture is "
         "written",
         flags.plot);
  if (!flags.plot.empty()) check_place(flags.plot);
}

nlohmann::ordered_json to_json(const LrFindResult& result, const LrFindFlags& flags) {
  nlohmann::ordered_json points = nlohmann::ordered_json::array();
  for (const LrPoint& p : result.points)
    points.push_back({{"lr", p.lr}, {"loss", p.loss}, {"smoothed", p.smoothed}});
  return {{"schema", "skipway.lr-find/1"},
          {"ok", true},
          {"steepest", result.steepest ? nlohmann::ordered_json(*result.steepest) : nullptr},
          {"lowest", result.lowest},
          {"diverged", result.diverged},
          {"plot", flags.plot},
          {"points", points}};
}

int run_lr_find(Arguments arguments, LrFindFlags flags) {
  flags.plot = expand_user(flags.plot).string();
  check(flags);
  take_settings_of_weights(arguments);
  const Config& config = arguments.config;
  Dataset dataset = prepare(config);
  const Split evaluation_split = take_evaluation_split(config, dataset);
  Learner learner(config, dataset);
  // What the length of the run decides, such as the filters' share of the rate, becomes known here.
  if (config.minutes > 0) make_plan(config, learner, evaluation_split, process_wall_s());
  const LrFindOptions options{flags.from, flags.to, flags.steps, [&](int64_t done) {
                                show_status(fmt::format("step {} of {}", done, flags.steps));
                              }};
  const LrFindResult result = lr_find(learner, options);
  clear_status();
  if (!flags.plot.empty()) write_file_atomic(flags.plot, lr_plot(result));
  if (arguments.json) {
    print_json(to_json(result, flags));
    return 0;
  }
  const char* end = result.diverged ? ", and it diverged further on" : "";
  if (result.steepest) {
    print_result(
        fmt::format("steepest {:.3g}   where the loss falls fastest: a peak rate that is safe",
                    *result.steepest));
    print_result(fmt::format("lowest   {:.3g}   where it stops falling{}: too much for a whole run",
                             result.lowest, end));
  } else {
    print_result(fmt::format(
        "no rate: the loss never falls, or the steps are too few to tell{}; a lower --from, more "
        "--steps",
        end));
  }
  if (!flags.plot.empty()) print_result(fmt::format("plot     {}", flags.plot));
  return 0;
}

}  // namespace

void add_lr_find(CLI::App& program, Run& chosen) {
  CLI::App* command = program.add_subcommand(
      "lr-find", "Which learning rate these settings bear; leaves a plot and nothing else");
  const auto flags = std::make_shared<LrFindFlags>();
  command->add_option("--from", flags->from, "rate of the first step")->capture_default_str();
  command->add_option("--to", flags->to, "rate of the last step")->capture_default_str();
  command->add_option("--steps", flags->steps, "training steps")
      ->check(CLI::Range(2, 100000).description(""))
      ->capture_default_str();
  command->add_option("--plot", flags->plot, "SVG to write; \"\": none")->capture_default_str();
  const auto finish = add_arguments(*command);
  command->callback([finish, flags, &chosen] {
    chosen = [finish, flags] { return run_lr_find(finish(), *flags); };
  });
}

}  // namespace skipway
