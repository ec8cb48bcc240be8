// The program: parses the command line, runs one subcommand, turns errors into exit codes. What the
// subcommands do is in their own files.
#include <c10/util/Exception.h>
#include <torch/version.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "train/memory.h"

namespace skipway {
namespace {

constexpr std::string_view kExamples =
    "Examples:\n"
    "  skipway train                          ResNet-18 on CIFAR-10 in fifteen minutes\n"
    "  skipway train --data photos --epochs 5 --batch 64\n"
    "  skipway predict runs/001 cat.jpg --top 3\n"
    "\n"
    "Exit codes: 0 done, 1 bug, 2 usage, 3 data, 4 environment or device, 5 memory, 6 diverged,\n"
    "7 weights do not fit, 8 a check failed, 9 disk or permission, 130, 143 stopped, state saved.";

std::string_view kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInternal:
      return "internal";
    case ErrorKind::kUsage:
      return "usage";
    case ErrorKind::kData:
      return "data";
    case ErrorKind::kDevice:
      return "device";
    case ErrorKind::kMemory:
      return "memory";
    case ErrorKind::kDiverged:
      return "diverged";
    case ErrorKind::kCheckpoint:
      return "checkpoint";
    case ErrorKind::kCheck:
      return "check";
    case ErrorKind::kDisk:
      return "disk";
  }
  return "internal";
}

Error memory_error(std::string_view what) {
  return Error(
      ErrorKind::kMemory,
      fmt::format(
          "[memory] expected enough memory, got: {}; a smaller --microbatch or --batch needs less",
          what));
}

Error bug(std::string_view what) {
  return Error(ErrorKind::kInternal,
               fmt::format("[internal] {}\nThis is a bug in Skipway. Please report it with the "
                           "command and the output of `skipway doctor --json`.",
                           what));
}

std::string_view first_line(std::string_view text) { return text.substr(0, text.find('\n')); }

// The exception that is being handled, in Skipway's terms.
Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::filesystem::filesystem_error& error) {
    return Error(ErrorKind::kDisk, fmt::format("[files] {}", error.what()));
  } catch (const c10::Error& error) {
    const auto memory = out_of_memory();
    return memory ? memory_error(*memory) : bug(first_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    const auto memory = out_of_memory();
    return memory ? memory_error(*memory) : bug(error.what());
  }
}

const CLI::App& deepest_command(const CLI::App& app) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  return chosen.empty() ? app : deepest_command(*chosen.front());
}

// What holds for every command at any depth. A command that only has others shows its help when
// none is given.
void prepare(CLI::App& command) {
  command.footer("");
  command.require_subcommand(0);
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

// Fills `chosen`; false when there is nothing left to do but to end with `exit_code`.
bool parse(CLI::App& program, const std::vector<std::string>& args, const Run& chosen,
           int& exit_code) {
  try {
    // CLI11 takes them reversed.
    program.parse(std::vector<std::string>(args.rbegin(), args.rend()));
  } catch (const CLI::CallForHelp&) {
    print_result(trimmed(program.help()));  // of the command that was given
    return false;
  } catch (const CLI::CallForVersion& version) {
    print_result(version.what());
    return false;
  } catch (const CLI::ParseError& error) {
    throw usage_error(deepest_command(program), error);
  }
  if (!chosen) {
    print_line(trimmed(program.help()));
    exit_code = static_cast<int>(ErrorKind::kUsage);
  }
  return static_cast<bool>(chosen);
}

void report(const Error& error, const CLI::App& program, bool json) {
  clear_status();
  print_line(fmt::format("{} {}", styled("error:", "red"), error.what()));
  if (!json) return;
  const std::vector<CLI::App*> commands = program.get_subcommands();
  print_json({{"schema", fmt::format("skipway.{}/1",
                                     commands.empty() ? "error" : commands.front()->get_name())},
              {"ok", false},
              {"error",
               {{"kind", kind_name(error.kind())},
                {"exit_code", error.exit_code()},
                {"message", error.what()}}}});
}

int run(const std::vector<std::string>& args) {
  const auto has = [&](std::string_view word) {
    return std::find(args.begin(), args.end(), word) != args.end();
  };
  add_log_sink([quiet = has("--quiet")](LogLevel level, std::string_view line) {
    if (level == LogLevel::kWarning)
      print_line(fmt::format("{} {}", styled("warning:", "yellow"), line));
    else if (!quiet)
      print_line(line);
  });

  CLI::App program("Trains a ResNet on small images in the time you have.", "skipway");
  program.set_version_flag("--version", "skipway " SKIPWAY_VERSION " (LibTorch " TORCH_VERSION ")");
  program.formatter(help_formatter());
  program.footer(std::string(kExamples));
  Run chosen;
  try {
    add_commands(program, chosen);
    int exit_code = 0;
    return parse(program, args, chosen, exit_code) ? chosen() : exit_code;
  } catch (const CLI::CallForHelp& help) {  // of a command that parses its own arguments
    print_result(trimmed(help.what()));
    return 0;
  } catch (...) {
    const Error error = current_error();
    report(error, program, has("--json"));
    return error.exit_code();
  }
}

}  // namespace
}  // namespace skipway

int main(int argc, char** argv) {
  // A reader of the output that goes away must not end a training run.
  std::signal(SIGPIPE, SIG_IGN);
  return skipway::run({argv + 1, argv + argc});
}
