// `config show`: what `train` with the same flags would use, and where each value comes from.
#include <fmt/format.h>

#include <string>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/data_loading.h"
#include "cli/terminal.h"
#include "train/pretrained.h"

namespace skipway {
namespace {

void show_as_json(const Arguments& arguments) {
  nlohmann::ordered_json settings = nlohmann::ordered_json::object();
  visit(arguments.config, [&](const char* key, const auto& value, const char*) {
    settings[key] = {{"value", value}, {"origin", arguments.origins.at(key)}};
  });
  print_json({{"schema", "skipway.config/1"}, {"ok", true}, {"config", settings}});
}

int show(Arguments arguments) {
  // What shows settings fetches nothing.
  if (!is_fetched(arguments.config.weights)) take_settings_of_weights(arguments);
  if (arguments.json) {
    show_as_json(arguments);
    return 0;
  }
  const std::string text = to_toml(arguments.config, arguments.origins, /*with_run_dir=*/true);
  print_result(std::string_view(text).substr(0, text.size() - 1));
  return 0;
}

}  // namespace

void add_config(CLI::App& program, Run& chosen) {
  CLI::App* config = program.add_subcommand("config", "Settings and where they come from");
  CLI::App* command =
      config->add_subcommand("show", "What `train` with the same flags would use, as TOML");
  const auto finish = add_arguments(*command);
  command->callback([finish, &chosen] { chosen = [finish] { return show(finish()); }; });
}

}  // namespace skipway
