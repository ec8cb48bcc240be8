// Where a Config comes from: flags, variables, files, a recipe, in that order of strength; and how
// it is written to TOML and read back. The fields themselves are in train/config.h.
#pragma once
#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "train/config.h"

namespace skipway {

struct Arguments {
  Config config;
  /// Key -> "default", "recipe article", "skipway.toml", the file of --config, "SKIPWAY_LR",
  /// "--lr".
  std::map<std::string, std::string> origins;
  bool json = false;

  /// Whether `key` was set, and is not what its recipe or nobody says.
  bool is_given(const std::string& key) const;
};

/// Of an option whose text must not be empty, as a script's variable that is not set leaves it.
CLI::Validator not_empty();

/// Declares a flag for every field of Config, and --config, --json and --quiet, on `command`. The
/// function that comes back is called after parsing: it lays the layers
///   flags > SKIPWAY_<KEY> > --config FILE > skipway.toml in working_directory > recipe's defaults
/// on each other and validates. The key `data` has no variable, because SKIPWAY_DATA is the folder
/// of the data sets. Of minutes and epochs the stronger layer wins; both in one layer are an error.
/// A variable that begins with SKIPWAY_ and is not known gives a warning in the log, and so does a
/// recipe over a weaker layer that has another and settings in which the two differ.
/// Errors: kUsage naming the key, the value, where it stands and, for an unknown key, the nearest
/// known one; kData when a file cannot be read.
std::function<Arguments()> add_arguments(CLI::App& command,
                                         const std::filesystem::path& working_directory = ".");

/// --json and --quiet, as every command has them.
CLI::Option* add_json_flag(CLI::App& command, bool& json);
/// Declares --quiet alone: main.cc has read it before.
CLI::Option* add_quiet_flag(CLI::App& command);

/// One `key = value  # origin` a line, exact for every value. A run keeps it without run_dir, so
/// that `train --config RUN/config.toml` writes another folder.
std::string to_toml(const Config& config, const std::map<std::string, std::string>& origins,
                    bool with_run_dir = false);

/// Reads what to_toml writes, or any flat TOML of known keys; what is missing is the recipe's
/// default. `where` names the text in errors. Errors: kUsage, also from validate().
Config from_toml(const std::string& text, const std::string& where);

/// Text of each field as TOML writes it, by key, in the order of visit().
std::vector<std::pair<std::string, std::string>> toml_values(const Config& config);

/// "SKIPWAY_LR" for "lr".
std::string variable_name(std::string key);

/// "--batch-norm-images" for "batch_norm_images".
std::string flag_name(std::string key);

/// CLI11's layout of a help text, with switches as "--tta,--no-tta".
std::shared_ptr<CLI::FormatterBase> help_formatter();

/// "skipway data list": the command with those it belongs to.
std::string full_name(const CLI::App& command);

/// What was wrong with the arguments of `command`, with "did you mean" for an unknown flag.
Error usage_error(const CLI::App& command, const CLI::ParseError& error);

/// "; did you mean 'batch'?" for the candidate that is nearest to `name`, or "" when none is near.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace skipway
