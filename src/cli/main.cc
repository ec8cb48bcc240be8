// The program: parses the command line, runs one subcommand, turns errors into exit codes. What the
// subcommands do is in their own files.
#include <fcntl.h>
#include <torch/version.h>
#include <unistd.h>

#include <clocale>
#include <csignal>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/signals.h"
#include "cli/terminal.h"

namespace skipway {
namespace {

constexpr std::string_view kExamples =
    "Examples:\n"
    "  skipway train                          ResNet-18 on CIFAR-10 in fifteen minutes\n"
    "  skipway train --data photos --epochs 5 --batch 64\n"
    "  skipway predict runs/001 cat.jpg --top 3\n"
    "\n"
    "Exit codes: 0 done, 1 bug, 2 usage, 3 data, 4 environment or device, 5 memory, 6 diverged,\n"
    "7 weights or checkpoint do not fit, 8 a check failed, 9 disk or permission, 129, 130, 143\n"
    "stopped by a signal (train and resume save their state first).";

const CLI::App& deepest_command(const CLI::App& app) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  return chosen.empty() ? app : deepest_command(*chosen.front());
}

// What holds for every command at any depth. A command that only has others shows its help when
// none is given. What follows one and has the name of another is a file or a folder.
void prepare(CLI::App& command) {
  command.footer("");
  command.require_subcommand(0, 1);
  for (CLI::Option* option : command.get_options())  // the last one counts, as for scripts that add
    if (!option->get_positional() && option->get_expected_max() == 1)
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  for (CLI::App* subcommand : command.get_subcommands({})) prepare(*subcommand);
}

void add_commands(CLI::App& program, Run& chosen) {
  add_train(program, chosen);
  add_resume(program, chosen);
  add_eval(program, chosen);
  add_predict(program, chosen);
  add_diagnose(program, chosen);
  add_import(program, chosen);
  add_export(program, chosen);
  add_data(program, chosen);
  add_plan(program, chosen);
  add_lr_find(program, chosen);
  add_models(program, chosen);
  add_doctor(program, chosen);
  add_config(program, chosen);
  program.require_subcommand(0, 1);
  for (CLI::App* command : program.get_subcommands({})) {
    prepare(*command);
    const std::string& name = command->get_name();
    const bool uses_model =
        name == "eval" || name == "predict" || name == "import" || name == "export";
    command->group(name == "train" || name == "resume" ? "Train"
                   : uses_model                        ? "Use a trained model"
                                                       : "Look around");
  }
}

// The text without the newlines at its end, which print_result adds.
std::string_view trimmed(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

// Fills `chosen`. An exit code when there is nothing left to do.
std::optional<int> parse(CLI::App& program, const std::vector<std::string>& args,
                         const Run& chosen) {
  try {
    // CLI11 takes them reversed.
    program.parse(std::vector<std::string>(args.rbegin(), args.rend()));
  } catch (const CLI::CallForHelp&) {
    std::signal(SIGPIPE, SIG_DFL);          // as in `skipway train --help | head`
    print_result(trimmed(program.help()));  // of the command that was given
    return 0;
  } catch (const CLI::CallForVersion& version) {
    print_result(version.what());
    return 0;
  } catch (const CLI::ParseError& error) {
    throw usage_error(deepest_command(program), error);
  }
  if (chosen) return std::nullopt;
  print_line(trimmed(program.help()));
  return static_cast<int>(ErrorKind::kUsage);
}

// Of the object that the command prints when all goes well, too.
std::string schema(const CLI::App& program) {
  const std::vector<CLI::App*> commands = program.get_subcommands();
  const std::string name = commands.empty() ? "error" : commands.front()->get_name();
  return fmt::format("skipway.{}/1", name == "resume" ? "train" : name);
}

void report(const Error& error, const CLI::App& program, bool json) {
  clear_status();
  print_line(fmt::format("{} {}", styled("error:", "red"), error.what()));
  if (!json) return;
  try {
    print_json({{"schema", schema(program)}, {"ok", false}, {"error", error_json(error)}});
  } catch (const Error&) {
    // Nobody can be told on stdout; stderr and the exit code have said what went wrong.
  }
}

// Whether a switch is on in arguments that may be wrong elsewhere: the last one counts, and
// "--json=true" is one too. A value that is none is for the parser to refuse.
bool is_on(const std::vector<std::string>& args, const std::string& name) {
  bool on = false;
  for (const std::string& word : args) {
    if (word == "--") break;
    if (word == name) on = true;
    if (word.starts_with(name + "=")) CLI::detail::lexical_cast(word.substr(name.size() + 1), on);
  }
  return on;
}

int run(const std::vector<std::string>& args) {
  set_quiet(is_on(args, "--quiet"));
  add_log_sink([](LogLevel level, std::string_view line) {
    if (level == LogLevel::kWarning)
      print_line(fmt::format("{} {}", styled("warning:", "yellow"), line));
    else if (!is_quiet())
      print_line(line);
  });

  CLI::App program("Trains a ResNet on small images in the time you have.", "skipway");
  program.set_version_flag("--version", "skipway " SKIPWAY_VERSION " (LibTorch " TORCH_VERSION ")");
  program.formatter(help_formatter());
  program.footer(std::string(kExamples));
  Run chosen;
  try {
    add_commands(program, chosen);
    const std::optional<int> done = parse(program, args, chosen);
    return done ? *done : chosen();
  } catch (...) {
    const Error error = current_error();
    report(error, program, is_on(args, "--json"));
    return error.exit_code();
  }
}

// The first files that are opened would take the numbers of standard streams that are closed, and
// what is printed would land in them. In their place: nothing to read, an error for a result that
// is written, and no trace of what is said to people.
void open_closed_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(stream, F_GETFD) == -1)  // open() takes the lowest number that is free: this one
      open("/dev/null", stream == STDERR_FILENO ? O_WRONLY : O_RDONLY);
}

}  // namespace
}  // namespace skipway

int main(int argc, char** argv) {
  skipway::open_closed_streams();
  std::setlocale(LC_CTYPE, "C.UTF-8");  // libarchive gives no name that the locale cannot spell
  // A reader of the output that goes away must not end a training run.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // ulimit -f: as a full disk
  // The exit code that a shell makes of them. `train` and `resume` save first.
  skipway::handle_stop_signals([](int signal) { _exit(128 + signal); });
  return skipway::run({argv + 1, argv + argc});
}
