// `diagnose`: what a run's own record says about how it went.
#include "report/diagnose.h"

#include <fmt/format.h>

#include <memory>

#include "base/files.h"
#include "base/json.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "record/run_folder.h"

namespace skipway {
namespace {

RunRecord read_record(const RunFolder& run) {
  RunRecord record;
  record.run = run.path().string();
  record.config = from_toml(read_file(run.config_toml()), run.config_toml().string());
  record.metrics = run.read_metrics();
  record.env = nlohmann::ordered_json::object();
  if (fs::exists(run.env_json())) {
    auto env = parse_json(read_file(run.env_json()));
    if (env.is_object()) record.env = std::move(env);
  }
  if (fs::exists(run.log_txt())) record.log = read_file(run.log_txt());
  record.trouble = fs::exists(run.trouble());
  return record;
}

void show(const Diagnosis& d) {
  print_result(d.accuracy ? fmt::format("accuracy {:.2f} %, {} {:.0f} %", 100 * *d.accuracy,
                                        d.low() ? "under" : "not under", 100 * kLowAccuracy)
                          : std::string("accuracy not measured"));
  if (d.sound()) print_result("sound: nothing in the record is out of order");
  for (size_t i = 0; i < d.findings.size(); ++i) {
    const Cause& f = d.findings[i];
    print_result(fmt::format("\n{}. symptom   {}\n   evidence  {}\n   fix       {}", i + 1,
                             f.symptom, f.evidence, f.fix));
  }
  if (d.findings.empty() && !d.sound())
    print_result(
        "nothing in the record explains it; see with `skipway data check` whether the labels fit, "
        "and with `skipway data show` what the model is shown");
}

int show_imported(const std::string& run, bool json) {
  if (json) {
    RunRecord none;
    none.run = run;
    nlohmann::ordered_json object = to_json(none, {});
    object["sound"] = nullptr;  // nothing is known of it
    print_json(object);
    return 0;
  }
  print_result("imported weights, which have no record of their training");
  print_result(fmt::format("how good they are says `skipway eval {} --data X`", shell_quoted(run)));
  return 0;
}

int run_diagnose(const fs::path& path, bool json) {
  const RunFolder run = RunFolder::open(path);
  if (run.is_imported()) return show_imported(run.path().string(), json);
  const RunRecord record = read_record(run);
  const Diagnosis diagnosis = diagnose(record);
  if (json)
    print_json(to_json(record, diagnosis));
  else
    show(diagnosis);
  return 0;
}

}  // namespace

void add_diagnose(CLI::App& program, Run& chosen) {
  struct Options {
    std::string run;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      program.add_subcommand("diagnose", "Why a run came out as it did: symptom, evidence, fix");
  command->add_option("run", options->run, "folder of the run")->required();
  add_json_flag(*command, options->json);
  add_quiet_flag(*command);
  command->callback([options, &chosen] {
    chosen = [options] { return run_diagnose(options->run, options->json); };
  });
}

}  // namespace skipway
