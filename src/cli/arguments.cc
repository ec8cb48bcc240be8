// Layers of configuration: each is a list of key, text and origin, whatever it was written in; they
// are applied to one Config from the weakest to the strongest. Not what the values mean.
#include "cli/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>

#include "base/files.h"
#include "base/log.h"
#include "model/airbench.h"

extern char** environ;

namespace skipway {
namespace {

struct Setting {
  std::string key;
  std::string text;
  std::string origin;  // for config.toml
  std::string where;   // for errors: "--lr", "skipway.toml:3"
};
using Layer = std::vector<Setting>;

// Variables that begin with SKIPWAY_ and are no fields of Config.
const std::set<std::string> kOtherVariables = {"SKIPWAY_DATA",   "SKIPWAY_TORCH",
                                               "SKIPWAY_CUDA",   "SKIPWAY_CIFAR",
                                               "SKIPWAY_MIRROR", "SKIPWAY_SETUP_S"};

// Headings in the help, each standing before its first field.
const std::map<std::string, std::string> kHeadings = {{"recipe", "Run"},
                                                      {"data", "Data"},
                                                      {"model", "Model"},
                                                      {"batch", "Optimiser"},
                                                      {"schedule", "Schedule"},
                                                      {"augment", "Augmentation"},
                                                      {"test_every", "Evaluation"},
                                                      {"precision", "Machine"}};

std::vector<std::string> keys() {
  std::vector<std::string> names;
  Config config;
  visit(config, [&](const char* name, auto&, const char*) { names.emplace_back(name); });
  return names;
}

// The whole text as a number, independent of the locale.
template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<bool> parse_bool(const std::string& text) {
  for (const char* word : {"true", "1", "yes", "on"})
    if (text == word) return true;
  for (const char* word : {"false", "0", "no", "off"})
    if (text == word) return false;
  return std::nullopt;
}

template <typename Field>
void set_field(Field& field, const Setting& setting) {
  std::optional<Field> value;
  const char* kind = "";
  if constexpr (std::is_same_v<Field, std::string>) {
    value = setting.text;
  } else if constexpr (std::is_same_v<Field, bool>) {
    kind = "true or false";
    value = parse_bool(setting.text);
  } else {
    kind = std::is_floating_point_v<Field> ? "a number"
           : std::is_unsigned_v<Field>     ? "a whole number from 0"
                                           : "a whole number";
    value = parse_number<Field>(setting.text);
  }
  if (!value)
    fail(ErrorKind::kUsage, "config", "expected {} for {}, got '{}' at {}", kind, setting.key,
         setting.text, setting.where);
  field = *value;
}

void apply(Config& config, const Setting& setting) {
  bool found = false;
  visit(config, [&](const char* name, auto& field, const char*) {
    if (setting.key != name) return;
    found = true;
    set_field(field, setting);
  });
  if (!found)
    fail(ErrorKind::kUsage, "config", "expected a known key, got '{}' at {}{}", setting.key,
         setting.where, did_you_mean(setting.key, keys()));
}

std::string quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      quoted += {'\\', c};
    else if (byte < 0x20 || byte == 0x7f)
      quoted += fmt::format("\\u{:04x}", byte);
    else
      quoted += c;
  }
  return quoted + '"';
}

template <typename Field>
std::string to_text(const Field& field) {
  if constexpr (std::is_same_v<Field, std::string>)
    return quote(field);
  else
    return fmt::format("{}",
                       field);  // doubles: the shortest text that reads back as the same value
}

// Reader of the part of TOML that a flat list of settings needs: comments, bare keys, strings of
// one line, numbers, booleans and arrays of those. CLI11's own reader knows no escapes and ends a
// string at '#'.
class TomlReader {
 public:
  TomlReader(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {}

  Layer read() {
    Layer layer;
    if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;  // a byte-order mark
    std::set<std::string> seen;
    for (skip_blank_lines(); !at_end(); skip_blank_lines()) {
      if (peek() == '[') error("a key; the settings stand in one list, without [tables]");
      const std::string place = fmt::format("{}:{}", where_, line_);
      const std::string key = read_key();
      skip_spaces();
      if (peek() != '=') error("'=' after the key");
      ++at_;
      skip_spaces();
      layer.push_back({key, peek() == '[' ? read_array() : read_value(), where_, place});
      skip_spaces();
      skip_comment();
      if (!at_end() && peek() != '\n') error("the end of the line after the value");
      if (!seen.insert(key).second) error(fmt::format("each key once, not '{}' again", key));
    }
    return layer;
  }

 private:
  bool at_end() const { return at_ >= text_.size(); }
  char peek() const { return at_end() ? '\n' : text_[at_]; }

  [[noreturn]] void error(const std::string& expected) const {
    const size_t end = std::min(text_.find('\n', at_), text_.size());
    const std::string_view rest = text_.substr(std::min(at_, text_.size()), end - at_);
    fail(ErrorKind::kUsage, "config", "expected {}, got '{}' at {}:{}", expected,
         rest.substr(0, 40), where_, line_);
  }

  void skip_spaces() {
    while (!at_end() && (peek() == ' ' || peek() == '\t' || peek() == '\r')) ++at_;
  }
  void skip_comment() {
    if (!at_end() && peek() == '#') at_ = std::min(text_.find('\n', at_), text_.size());
  }
  void skip_blank_lines() {
    for (;; ++at_, ++line_) {
      skip_spaces();
      skip_comment();
      if (at_end() || peek() != '\n') return;
    }
  }

  static bool is_bare(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '+' ||
           c == '.';
  }
  std::string read_bare(const char* expected) {
    const size_t begin = at_;
    while (!at_end() && is_bare(peek())) ++at_;
    if (at_ == begin) error(expected);
    return std::string(text_.substr(begin, at_ - begin));
  }
  std::string read_key() { return peek() == '"' ? read_string() : read_bare("a key"); }

  std::string read_value() {
    if (peek() == '"') return read_string();
    if (peek() == '\'') return read_literal();
    const size_t begin = at_;
    std::string text = read_bare("a value (text stands in quotes)");
    std::erase(text, '_');  // 1_000
    if (!parse_bool(text) && !parse_number<double>(text)) {
      at_ = begin;
      error("a value (text stands in quotes)");
    }
    return text;
  }

  // Arrays become the words that the flags take: "60,120,160".
  std::string read_array() {
    std::string joined;
    ++at_;
    for (skip_blank_lines(); peek() != ']'; skip_blank_lines()) {
      if (at_end()) error("']'");
      joined += (joined.empty() ? "" : ",") + read_value();
      skip_blank_lines();
      if (peek() == ',')
        ++at_;
      else if (peek() != ']')
        error("',' or ']'");
    }
    ++at_;
    return joined;
  }

  std::string read_literal() {
    const size_t end = text_.find_first_of("'\n", at_ + 1);
    if (end == std::string_view::npos || text_[end] == '\n') error("a closing quote");
    const std::string_view text = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return std::string(text);
  }

  std::string read_string() {
    std::string text;
    for (++at_; peek() != '"'; ++at_) {
      if (peek() == '\n') error("a closing quote");
      if (peek() != '\\') {
        text += peek();
        continue;
      }
      ++at_;
      static constexpr std::string_view kNames = "btnfr\"\\", kValues = "\b\t\n\f\r\"\\";
      if (const size_t i = kNames.find(peek()); i != std::string_view::npos)
        text += kValues[i];
      else if (peek() == 'u' || peek() == 'U')
        append_code_point(text, peek() == 'u' ? 4 : 8);
      else
        error("an escape of TOML");
    }
    ++at_;
    return text;
  }

  // Leaves at_ on the last digit.
  void append_code_point(std::string& text, size_t digits) {
    const std::string_view hex = text_.substr(at_ + 1, digits);
    uint32_t code = 0;
    const auto [end, status] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (status != std::errc() || end != hex.data() + digits || code > 0x10ffff ||
        (code >= 0xd800 && code < 0xe000))
      error("a Unicode character as hexadecimal digits");
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else {
      const int extra = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      static constexpr std::array<uint32_t, 4> kLead = {0, 0xc0, 0xe0, 0xf0};
      text += static_cast<char>(kLead[static_cast<size_t>(extra)] | (code >> (6 * extra)));
      for (int i = extra - 1; i >= 0; --i)
        text += static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3f));
    }
    at_ += digits;
  }

  std::string_view text_;
  std::string where_;
  size_t at_ = 0;
  int line_ = 1;
};

Layer environment_layer() {
  std::map<std::string, std::string> key_of;
  for (const std::string& key : keys())
    if (key != "data") key_of[variable_name(key)] = key;
  Layer layer;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (!text.starts_with("SKIPWAY_") || equals == std::string_view::npos) continue;
    const std::string name(text.substr(0, equals)), value(text.substr(equals + 1));
    if (value.empty()) continue;  // as if it were not set
    if (const auto known = key_of.find(name); known != key_of.end()) {
      layer.push_back({known->second, value, name, name});
    } else if (!kOtherVariables.contains(name)) {
      std::vector<std::string> names(kOtherVariables.begin(), kOtherVariables.end());
      for (const auto& [variable, key] : key_of) names.push_back(variable);
      log_warning("{} in the environment means nothing to Skipway{}", name,
                  did_you_mean(name, names));
    }
  }
  return layer;
}

const Setting* find(const Layer& layer, std::string_view key) {
  const auto found = std::find_if(layer.begin(), layer.end(),
                                  [&](const Setting& setting) { return setting.key == key; });
  return found == layer.end() ? nullptr : &*found;
}

bool is_positive(const Setting* setting) {
  return setting != nullptr && parse_number<double>(setting->text).value_or(0) > 0;
}

// A layer that sets one length of the run means that the other no longer counts.
Layer with_whole_length(Layer layer) {
  const Setting* minutes = find(layer, "minutes");
  const Setting* epochs = find(layer, "epochs");
  if (is_positive(minutes) && is_positive(epochs))
    fail(ErrorKind::kUsage, "config", "expected minutes or epochs, got both at {} and {}",
         minutes->where, epochs->where);
  if (is_positive(minutes) && epochs == nullptr)
    layer.push_back({"epochs", "0", minutes->origin, minutes->where});
  else if (is_positive(epochs) && minutes == nullptr)
    layer.push_back({"minutes", "0", epochs->origin, epochs->where});
  return layer;
}

// How many of them another recipe than theirs would change.
int64_t settled_settings(const Layer& layer, const std::string& recipe) {
  const auto of_layer = toml_values(recipe_config(find(layer, "recipe")->text)),
             of_recipe = toml_values(recipe_config(recipe));
  int64_t count = 0;
  for (size_t i = 0; i < of_layer.size(); ++i)
    if (of_layer[i] != of_recipe[i] && of_layer[i].first != "recipe" &&
        find(layer, of_layer[i].first) != nullptr)
      ++count;
  return count;
}

// A recipe is defaults, which any setting goes before, and a run's config.toml has all of them set.
void warn_of_settled_recipe(const std::vector<Layer>& layers) {
  const Layer* settled = nullptr;
  for (const Layer& layer : layers) {
    const Setting* recipe = find(layer, "recipe");
    if (recipe == nullptr) continue;
    if (const auto count = settled != nullptr ? settled_settings(*settled, recipe->text) : 0)
      log_warning(
          "recipe {} at {} decides nothing of {} settings that stand at {}, with the recipe {}; "
          "take out there what it should decide",
          recipe->text, recipe->where, count, find(*settled, "recipe")->where,
          find(*settled, "recipe")->text);
    settled = &layer;
  }
}

// Whether `flag` stands in `message`, and not as the beginning of another one.
bool has_flag(std::string_view message, std::string_view flag) {
  for (size_t at = message.find(flag); at != std::string_view::npos;
       at = message.find(flag, at + 1)) {
    const size_t end = at + flag.size();
    const char next = end < message.size() ? message[end] : ' ';
    if (next != '-' && (next < 'a' || next > 'z')) return true;
  }
  return false;
}

// " (--lr comes from skipway.toml:3)" for each flag in `message` whose value was not given by it.
std::string where_values_stand(std::string_view message, const std::vector<Layer>& layers) {
  std::map<std::string, std::string> where;  // by flag, of the strongest layer that has it
  for (const Layer& layer : layers)
    for (const Setting& setting : layer) where[flag_name(setting.key)] = setting.where;
  std::string said;
  for (const auto& [flag, place] : where) {
    if (place != flag && has_flag(message, flag))
      said += fmt::format(" ({} comes from {})", flag, place);
  }
  return said;
}

// `layers` from the weakest to the strongest.
Arguments lay_down(const std::vector<Layer>& layers) {
  Config start;
  const Setting* asked = nullptr;
  for (const Layer& layer : layers) {
    if (const Setting* recipe = find(layer, "recipe")) asked = recipe;
    if (const Setting* model = find(layer, "model")) start.model = model->text;
  }
  warn_of_settled_recipe(layers);
  if (asked != nullptr)
    start.recipe = asked->text;
  else if (is_airbench(start.model))
    start.recipe = start.model;  // what suits a ResNet does not suit it
  Arguments arguments;
  arguments.config = recipe_config(start.recipe);
  const auto plain = toml_values(Config()), of_recipe = toml_values(arguments.config);
  for (size_t i = 0; i < plain.size(); ++i)
    arguments.origins[plain[i].first] =
        plain[i] == of_recipe[i] ? "default" : "recipe " + start.recipe;
  for (const Layer& layer : layers) {
    for (const Setting& setting : with_whole_length(layer)) {
      apply(arguments.config, setting);
      arguments.origins[setting.key] = setting.origin;
    }
  }
  if (arguments.config.schedule == "plateau" && arguments.origins["test_every"] == "default") {
    arguments.config.test_every = 1;  // it goes by the evaluations during the run
    arguments.origins["test_every"] = "--schedule plateau";
  }
  if (arguments.config.deterministic) {  // measuring may choose otherwise the next time
    const auto settle = [&](const char* key, std::string& word, const char* fixed) {
      if (word != "auto") return;
      word = fixed;
      arguments.origins[key] = "--deterministic";
    };
    settle("kernel", arguments.config.kernel, "winograd");
    settle("precision", arguments.config.precision, "fp32");
  }
  validate(arguments.config);
  return arguments;
}

Arguments lay_down_and_say_where(const std::vector<Layer>& layers) {
  try {
    return lay_down(layers);
  } catch (const Error& error) {
    throw Error(error.kind(), error.what() + where_values_stand(error.what(), layers));
  }
}

// What CLI11 writes into while it parses. Shared by the options and by the function that lays the
// layers down.
struct Flags {
  struct Flag {
    std::string key;
    std::string text;
    CLI::Option* option = nullptr;
  };
  std::vector<std::unique_ptr<Flag>> flags;
  std::string config_file;
  bool json = false;
};

template <typename Field>
CLI::Option* add_flag(CLI::App& command, Flags::Flag& flag, const Field& preset,
                      const std::string& help) {
  const std::string name = flag_name(flag.key);
  if constexpr (std::is_same_v<Field, bool>) {
    return command.add_flag(name + ",!--no" + name.substr(1), flag.text,
                            fmt::format("{} [{}]", help, preset ? "on" : "off"));
  } else {
    // As `import` calls it.
    const char* const other_name = flag.key == "image_size" ? ",--input-size" : "";
    return command.add_option(name + other_name, flag.text, help)
        ->type_name(std::is_same_v<Field, std::string> ? "TEXT" : "N")
        ->default_str(fmt::format("{}", preset));
  }
}

}  // namespace

std::string flag_name(std::string key) {
  std::replace(key.begin(), key.end(), '_', '-');
  return "--" + key;
}

std::string variable_name(std::string key) {
  std::transform(key.begin(), key.end(), key.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  return "SKIPWAY_" + key;
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(1, (name.size() + 1) / 3) + 1;
  for (const std::string& candidate : candidates) {
    // Levenshtein distance, row by row.
    std::vector<size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 0; i < name.size(); ++i) {
      size_t diagonal = std::exchange(row[0], i + 1);
      for (size_t j = 0; j < candidate.size(); ++j) {
        const size_t replaced = diagonal + (name[i] == candidate[j] ? 0 : 1);
        diagonal = std::exchange(row[j + 1], std::min({replaced, row[j] + 1, row[j + 1] + 1}));
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best.empty() ? "" : fmt::format("; did you mean '{}'?", best);
}

std::function<Arguments()> add_arguments(CLI::App& command,
                                         const std::filesystem::path& working_directory) {
  auto flags = std::make_shared<Flags>();
  std::string heading;
  const Config presets;
  visit(presets, [&](const char* key, const auto& preset, const char* help) {
    if (const auto found = kHeadings.find(key); found != kHeadings.end()) heading = found->second;
    Flags::Flag& flag = *flags->flags.emplace_back(std::make_unique<Flags::Flag>());
    flag.key = key;
    flag.option = add_flag(command, flag, preset, help)->group(heading);
  });
  const CLI::Option* const config =
      command
          .add_option("--config", flags->config_file,
                      "TOML file of settings, stronger than skipway.toml")
          ->type_name("FILE")
          ->check(not_empty())
          ->group("Run");
  add_json_flag(command, flags->json)->group("Output");
  add_quiet_flag(command)->group("Output");

  return [flags, config, working_directory] {
    std::vector<Layer> layers;
    const auto add_file = [&](const fs::path& path, const std::string& name) {
      layers.push_back(TomlReader(read_file(path), name).read());
    };
    if (const fs::path path = working_directory / "skipway.toml"; fs::exists(path))
      add_file(path, "skipway.toml");
    if (config->count() > 0)
      add_file(working_directory / expand_user(flags->config_file), flags->config_file);
    layers.push_back(environment_layer());
    layers.emplace_back();
    for (const auto& flag : flags->flags)
      if (flag->option->count() > 0)
        layers.back().push_back(
            {flag->key, flag->text, flag_name(flag->key), flag_name(flag->key)});
    Arguments arguments = lay_down_and_say_where(layers);
    arguments.json = flags->json;
    return arguments;
  };
}

CLI::Validator not_empty() {
  return {[](const std::string& text) {
            return text.empty() ? "expected a value, got nothing" : std::string();
          },
          ""};
}

CLI::Option* add_json_flag(CLI::App& command, bool& json) {
  return command.add_flag("--json", json, "one JSON object on stdout at the end");
}
CLI::Option* add_quiet_flag(CLI::App& command) {
  return command.add_flag("--quiet")->description("only warnings and errors on stderr");
}

std::vector<std::pair<std::string, std::string>> toml_values(const Config& config) {
  std::vector<std::pair<std::string, std::string>> values;
  visit(config, [&](const char* key, const auto& field, const char*) {
    values.emplace_back(key, to_text(field));
  });
  return values;
}

bool Arguments::is_given(const std::string& key) const {
  const std::string& origin = origins.at(key);
  return origin != "default" && !origin.starts_with("recipe ");
}

std::string to_toml(const Config& config, const std::map<std::string, std::string>& origins,
                    bool with_run_dir) {
  std::string text;
  for (const auto& [key, value] : toml_values(config)) {
    if (key == "run_dir" && !with_run_dir) continue;
    const auto origin = origins.find(key);
    text += fmt::format("{} = {}", key, value);
    if (origin != origins.end()) {
      std::string comment = origin->second;
      std::replace_if(
          comment.begin(), comment.end(), [](unsigned char c) { return std::iscntrl(c) != 0; },
          '?');
      text += "  # " + comment;
    }
    text += '\n';
  }
  return text;
}

Config from_toml(const std::string& text, const std::string& where) {
  return lay_down_and_say_where({TomlReader(text, where).read()}).config;
}

std::shared_ptr<CLI::FormatterBase> help_formatter() {
  struct Formatter : CLI::Formatter {
    // CLI11 writes what a switch stands for behind its name: "--no-tta{false}".
    std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
      std::string name = CLI::Formatter::make_option_name(option, is_positional);
      if (const size_t at = name.find("{false}"); at != std::string::npos) name.erase(at, 7);
      return name;
    }
  };
  return std::make_shared<Formatter>();
}

std::string full_name(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return (parent != nullptr ? full_name(*parent) + " " : "") + command.get_name();
}

Error usage_error(const CLI::App& command, const CLI::ParseError& error) {
  std::string message = error.what();
  const std::vector<std::string> unknown = command.remaining();
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr && !unknown.empty()) {
    std::vector<std::string> known;
    for (const CLI::Option* option : command.get_options())
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    for (const CLI::App* subcommand : command.get_subcommands({}))
      known.push_back(subcommand->get_name());
    const std::string name = unknown.front().substr(0, unknown.front().find('='));
    message =
        fmt::format("expected a known {}, got '{}'{}", name.starts_with('-') ? "flag" : "argument",
                    name, did_you_mean(name, known));
  }
  for (const CLI::Option* option : command.get_options()) {
    const char* variable = std::getenv(option->get_envname().c_str());
    if (variable != nullptr && option->results() == std::vector<std::string>{variable} &&
        message.starts_with(option->get_name() + ":"))
      message += fmt::format(" (it comes from {})", option->get_envname());
  }
  return Error(ErrorKind::kUsage,
               fmt::format("[arguments] {}; see {} --help", message, full_name(command)));
}

}  // namespace skipway
