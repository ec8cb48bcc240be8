// `train` and `resume`: arguments to a run folder and a trainer, and what a person sees meanwhile.
#include <ATen/Parallel.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/process.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/data_loading.h"
#include "cli/errors.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "data/dataset.h"
#include "data/known.h"
#include "model/device.h"
#include "record/run_folder.h"
#include "report/history.h"
#include "report/report.h"
#include "train/pretrained.h"
#include "train/trainer.h"

namespace skipway {
namespace {

// A signal handler can reach nothing but a global.
std::atomic<int> received_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

// They ask the trainer to save and stop.
void catch_stop_signals() {
  handle_stop_signals([](int signal) { received_signal = signal; });
}

std::string status_line(const StepReport& r) {
  if (r.images_per_s == 0) return "warming up …";
  const double share = static_cast<double>(r.step) / static_cast<double>(r.total_steps);
  const int decimals = r.total_epochs < 100 ? 2 : 0;
  return with_bar(fmt::format("epoch {:.2f}/{:.{}f}", r.epoch, r.total_epochs, decimals), share,
                  fmt::format("{:3.0f} %  {} left  {:.0f} images/s  loss {:.3f}  lr {:.4f}",
                              100 * share, format_duration(r.eta_s), r.images_per_s, r.loss, r.lr),
                  terminal_columns());
}

std::string epoch_text(const EpochReport& report) {
  const StepReport& r = report.step;
  std::string line = fmt::format("epoch {:6.2f}/{:.2f}  loss {:.4f}  lr {:.4f}  {:.0f} images/s",
                                 r.epoch, r.total_epochs, r.loss, r.lr, r.images_per_s);
  if (report.evaluation)
    line += fmt::format("  accuracy {:.2f} %", 100 * report.evaluation->accuracy);
  return line;
}

TrainHooks make_hooks() {
  TrainHooks hooks;
  hooks.stop_signal = [] { return received_signal.load(); };
  hooks.on_epoch = [](const EpochReport& report) { log_info("{}", epoch_text(report)); };
  hooks.on_step = [](const StepReport& report) { show_status(status_line(report)); };
  hooks.on_evaluate = [](int64_t done, int64_t all) {
    show_status(fmt::format("evaluating {} of {}", done, all));
  };
  return hooks;
}

// The run's log.txt, and with it the lock on its folder, for as long as this lives. Messages and
// warnings go there by themselves, with --quiet too; what the end of the run says is added.
class RunLog {
 public:
  explicit RunLog(const RunFolder& run)
      : file_(run.open_log()), handle_(add_log_sink([this](LogLevel level, std::string_view line) {
          add(level == LogLevel::kWarning ? fmt::format("warning: {}", line) : std::string(line));
        })) {}
  ~RunLog() { remove_log_sink(handle_); }
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  // A line that cannot be written is lost: the log is no reason to end a run.
  void add(std::string_view line) const {
    const std::string text = fmt::format("{:9.2f} s  {}\n", process_wall_s(), without_style(line));
    [[maybe_unused]] const ssize_t written = write(file_.get(), text.data(), text.size());
  }

 private:
  Descriptor file_;
  int handle_;
};

void show_beginning(const Trainer& trainer, const Config& config) {
  const ModelSpec& spec = trainer.model().spec();
  const Dataset& data = trainer.dataset();
  log_info("model: {}, {} stem{}, {:.2f} million parameters", spec.name, spec.stem,
           spec.attention == "none" ? "" : ", attention " + spec.attention,
           static_cast<double>(model_cost(spec, 4).parameters) / 1e6);
  log_info("data: {}, {} training and {} test images of {} x {}, {} classes, from {}", data.name,
           data.train.size(), data.test.size(), data.image_size, data.image_size,
           data.classes.size(), data.source);
  log_info("device: {}, {} threads, {}", trainer.learner().device.str(), at::get_num_threads(),
           precision_name(trainer.learner().precision));
  const bool lr_is_known = config.lr > 0 || config.minutes == 0;
  const double lr = schedule_options(config, config.epochs).lr;
  log_info("recipe: {}, {}, batch {}, {} schedule, lr {}, seed {}", config.recipe,
           config.minutes > 0
               ? fmt::format("{:g} minute{} in all", config.minutes, config.minutes == 1 ? "" : "s")
               : fmt::format("{:g} epochs", config.epochs),
           config.batch, config.schedule, lr_is_known ? fmt::format("{:g}", lr) : "by length",
           config.seed);
}

std::vector<std::string> result_lines(const TrainResult& r, bool has_report) {
  std::vector<std::string> lines = {fmt::format(
      "{} {}, on {} {} images", styled("accuracy", "bold"), describe(r.last), r.last.n, r.split)};
  if (r.best > r.last.accuracy)
    lines.push_back(fmt::format(
        "best     {:.2f} % after epoch {:g}: chosen on the {} images, so not a fair estimate",
        100 * r.best, r.best_epoch, r.split));
  lines.push_back(fmt::format(
      "time     {} in all, {} of it training: {:.2f} epochs at {:.0f} images/s; peak memory {}",
      format_duration(r.wall_s), format_duration(r.train_wall_s), r.epochs,
      static_cast<double>(r.images) / r.train_wall_s,
      format_bytes(static_cast<double>(r.peak_rss_bytes))));
  if (has_report) lines.push_back(fmt::format("report   {}/report.html", r.run));
  lines.push_back(
      fmt::format("again    skipway train --config {}", shell_quoted(r.run + "/config.toml")));
  return lines;
}

// A path as it is found from any other folder too; the run's config.toml keeps it.
std::string found_from_anywhere(const std::string& path) {
  return fs::absolute(expand_user(path)).lexically_normal().string();
}

void make_findable(Config& config) {
  if (config.data != "auto" && find_known_dataset(config.data) == nullptr)
    config.data = found_from_anywhere(config.data);
  if (!config.weights.empty() && !is_fetched(config.weights))
    config.weights = found_from_anywhere(config.weights);
}

// Why there is no report, where there is none, which a warning says: the result, or why the run did
// not come to its end, must not be lost for it.
std::optional<Error> try_to_write_report(const RunFolder& run) {
  try {
    write_report(run);
    return std::nullopt;
  } catch (...) {
    const Error error = current_error();
    log_warning("no report: {}", error.what());
    return error;
  }
}

int finish_stopped(const RunFolder& run, const RunLog& log, const TrainResult& result, bool json) {
  const int exit_code = 128 + result.stop_signal;
  try_to_write_report(run);
  const std::string line =
      fmt::format("stopped after {:.2f} epochs, {}; go on with: skipway resume {}", result.epochs,
                  result.state_is_saved ? "state saved" : "its last finite state saved",
                  shell_quoted(result.run));
  log.add(line);
  print_line(line);
  try {
    if (json)
      print_json({{"schema", "skipway.train/1"},
                  {"ok", false},
                  {"stopped", true},
                  {"signal", result.stop_signal},
                  {"run", result.run},
                  {"epochs", result.epochs},
                  {"error", {{"kind", "stopped"}, {"exit_code", exit_code}, {"message", line}}}});
  } catch (const Error&) {  // the signal has ended the reader too; the exit code says it
  }
  return exit_code;
}

int finish(const RunFolder& run, const RunLog& log, const TrainResult& result, bool json) {
  clear_status();
  if (result.stop_signal) return finish_stopped(run, log, result, json);
  const std::optional<Error> failure = try_to_write_report(run);
  const std::vector<std::string> lines = result_lines(result, /*has_report=*/!failure);
  for (const std::string& line : lines) log.add(line);
  if (json) {
    print_json(to_json(result), failure);
  } else {
    for (const std::string& line : lines) print_result(line);
  }
  return exit_code_of(failure);
}

// The exit code of work(), which trains in `run`. What ends it too soon stands in the log and,
// from the first checkpoint on, how far the run came in its report.
template <typename Work>
int recorded(const RunFolder& run, const RunLog& log, Work&& work) {
  try {
    return work();
  } catch (...) {
    log.add(fmt::format("error: {}", current_error().what()));
    if (run.has_checkpoint()) try_to_write_report(run);
    throw;
  }
}

int train(Arguments arguments) {
  make_findable(arguments.config);
  take_settings_of_weights(arguments);
  Config& config = arguments.config;
  validated_normalisation(config);
  RunFolder::require_free(config.run_dir);  // before the data take their time
  Dataset dataset = prepare(config);
  // The run's config.toml holds what `auto` came to, so that a resumed run, and one like it, has
  // the same images and computes alike.
  if (config.data == "auto") {
    config.data = dataset.name;
    arguments.origins["data"] = "found";
  }
  if (config.precision == "auto") {
    config.precision =
        precision_name(resolve_precision("auto", resolve_device(config.device), config.kernel));
    arguments.origins["precision"] = "measured";
  }
  catch_stop_signals();  // before there is a folder that one could leave unfinished
  const RunFolder run = RunFolder::create(config.run_dir);
  const RunLog log(run);  // fails where the folder has become another's, which stays as it is
  try {
    return recorded(run, log, [&] {
      const std::string config_toml = to_toml(config, arguments.origins);
      write_file_atomic(run.config_toml(), config_toml);
      write_file_atomic(run.env_json(), environment().dump(2) + "\n");
      log_info("run: {}", run.path().string());
      Trainer trainer(config, config_toml, std::move(dataset), run, make_hooks());
      show_beginning(trainer, config);
      return finish(run, log, trainer.run(), arguments.json);
    });
  } catch (...) {
    run.discard();  // a run that never began leaves nothing behind
    throw;
  }
}

// The line of metrics.jsonl that the run ended with; none where it has not. Errors: kCheckpoint
// where the model is not the one that it speaks of.
std::optional<nlohmann::ordered_json> end_of(const RunFolder& run) {
  if (!fs::exists(run.model())) return std::nullopt;
  const auto end = history_of(run.read_metrics()).end;
  if (!end || !number_at(*end, "result/accuracy/last") || !number_at(*end, "result/accuracy/n") ||
      value_at(*end, "result/accuracy/last_tta") == nullptr ||
      text_at(*end, "result/weights_sha256").empty())
    return std::nullopt;
  if (hash_of_file(HashKind::kSha256, run.model()) != text_at(*end, "result/weights_sha256"))
    fail(ErrorKind::kCheckpoint, "resume",
         "expected the weights with which the run ended, got others at {}; move that file away, "
         "and `skipway resume` makes it again from the last state",
         run.model().string());
  return end;
}

int resume(const fs::path& path, bool json) {
  const RunFolder run = RunFolder::open(path);
  if (run.is_imported())
    fail(ErrorKind::kCheckpoint, "resume",
         "expected a run, got imported weights, which no run here has trained, at {}; `skipway "
         "train --weights {}` starts from them",
         run.path().string(), shell_quoted(run.path().string()));
  if (const auto end = end_of(run)) {
    auto result = end->at("result");
    result["run"] = run.path().string();  // where it is now
    log_info("{} is finished; its result again", run.path().string());
    const std::optional<Error> failure = try_to_write_report(run);
    if (json) {
      print_json(result, failure);
      return exit_code_of(failure);
    }
    const nlohmann::ordered_json& accuracy = result.at("accuracy");
    Evaluation last;
    last.n = accuracy.at("n");
    last.accuracy = accuracy.at("last");
    if (const auto& tta = accuracy.at("last_tta"); !tta.is_null()) {
      last.accuracy_tta = tta;
      last.views = end->value("views", int64_t{2});
    }
    print_result(
        fmt::format("accuracy {}, on {} images{}", describe(last), last.n,
                    failure ? "" : fmt::format("; the report is {}", run.report_html().string())));
    return exit_code_of(failure);
  }
  const RunLog log(run);
  return recorded(run, log, [&] {
    const std::string config_toml = read_file(run.config_toml());
    Config config = from_toml(config_toml, run.config_toml().string());
    const bool begun = run.has_checkpoint();  // or it was killed before its first step
    if (begun) config.weights.clear();        // the checkpoint has what became of them
    Dataset dataset = prepare(config);
    catch_stop_signals();
    Trainer trainer(config, config_toml, std::move(dataset), run, make_hooks());
    if (begun) trainer.restore();
    show_beginning(trainer, config);
    return finish(run, log, trainer.run(), json);
  });
}

}  // namespace

void add_train(CLI::App& program, Run& chosen) {
  CLI::App* command = program.add_subcommand("train", "Train a model: the main job");
  const auto finish = add_arguments(*command);
  command->callback([finish, &chosen] { chosen = [finish] { return train(finish()); }; });
}

void add_resume(CLI::App& program, Run& chosen) {
  struct Options {
    std::string run;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      program.add_subcommand("resume", "Go on where a run stopped; with --epochs, bit for bit");
  command->add_option("run", options->run, "folder of the run")->required();
  add_json_flag(*command, options->json);
  add_quiet_flag(*command);
  command->callback(
      [options, &chosen] { chosen = [options] { return resume(options->run, options->json); }; });
}

}  // namespace skipway
