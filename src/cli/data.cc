// `data list`, `fetch`, `check` and `show`: known data sets, downloads, the lint and a picture of
// samples.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/data_loading.h"
#include "cli/errors.h"
#include "cli/terminal.h"
#include "data/augment.h"
#include "data/batches.h"
#include "data/check.h"
#include "data/dataset.h"
#include "data/fetch.h"
#include "data/grid.h"
#include "data/image.h"
#include "data/known.h"
#include "train/config.h"

namespace skipway {
namespace {

constexpr const char* kSchema = "skipway.data/1";
constexpr const char* kModule = "data";
// Small images are enlarged until a person sees something.
constexpr int64_t kShownSide = 96;
constexpr double kShownPasses = 16;  // a run that crops, by 2 pixels
struct CommonFlags {
  bool json = false;
};

struct FetchFlags : CommonFlags {
  std::string name;
};

struct CheckFlags : CommonFlags {
  std::string spec;
  Config config;  // image_size, seed, mean, std
};

struct ShowFlags : CommonFlags {
  std::string spec;
  Config config;  // image_size, seed and those of augment_keys()
  bool augmented = false;
  std::string out = "skipway-samples.png";
  bool force = false;
  int64_t count = 64;
  int64_t columns = 8;
  int64_t epoch = 0;
};

int64_t bytes_of(const KnownDataset& dataset) {
  int64_t bytes = 0;
  for (const KnownFile& file : dataset.files) bytes += file.bytes;
  return bytes;
}

// ---- list ----

int list(const CommonFlags& flags) {
  nlohmann::ordered_json datasets = nlohmann::ordered_json::array();
  size_t widest = 0;
  for (const KnownDataset& dataset : known_datasets())
    widest = std::max(widest, dataset.name.size());
  for (const KnownDataset& dataset : known_datasets()) {
    const auto path = find_local(dataset);
    const int64_t bytes = bytes_of(dataset);
    if (flags.json) {
      datasets.push_back({{"name", dataset.name},
                          {"description", dataset.description},
                          {"bytes", bytes},
                          {"path", path ? nlohmann::ordered_json(path->string()) : nullptr}});
      continue;
    }
    print_result(fmt::format("{:{}}  {:>8}  {}", dataset.name, widest,
                             format_bytes(static_cast<double>(bytes)), dataset.description));
    print_result(fmt::format("{:{}}  {:>8}  {}", "", widest, "",
                             path ? styled(path->string(), "green")
                                  : styled("not here: skipway data fetch " + dataset.name, "dim")));
  }
  if (flags.json) {
    print_json({{"schema", kSchema},
                {"ok", true},
                {"data_directory", data_directory().string()},
                {"datasets", datasets}});
  }
  return 0;
}

// ---- fetch ----

fs::path fetch_shown(const KnownDataset& dataset) {
  FetchOptions options;
  options.progress = fetch_progress_display();
  fs::path folder = fetch_dataset(dataset, options);
  clear_status();
  return folder;
}

int fetch(const FetchFlags& flags) {
  const KnownDataset* dataset = find_known_dataset(flags.name);
  if (!dataset) {
    std::vector<std::string> names;
    for (const KnownDataset& known : known_datasets()) names.push_back(known.name);
    fail(ErrorKind::kUsage, kModule, "expected one of {}, got \"{}\"", fmt::join(names, ", "),
         flags.name);
  }
  const Stopwatch watch;
  const fs::path own = data_directory() / dataset->folder;
  auto path = find_local(*dataset);
  // What lies where downloads go, or would be put by hand, is compared with its checksum; what is
  // unpacked elsewhere is the user's.
  const KnownFile& first = dataset->files.front();
  const bool is_damaged =
      path == data_directory() / first.name && !has_right_checksum(*path, first);
  if (!path || is_damaged || *path == own || *path == own / first.name) {
    const fs::path folder = fetch_shown(*dataset);
    path = find_local(*dataset).value_or(folder);
  }
  if (flags.json) {
    print_json({{"schema", kSchema},
                {"ok", true},
                {"dataset", dataset->name},
                {"path", path->string()},
                {"wall_s", watch.seconds()}});
  } else {
    print_result(fmt::format("{} is at {}", dataset->name, path->string()));
  }
  return 0;
}

// ---- check ----

std::string_view level_name(FindingLevel level) {
  switch (level) {
    case FindingLevel::kError:
      return "error";
    case FindingLevel::kWarning:
      return "warning";
    case FindingLevel::kNote:
      return "note";
  }
  return "note";
}

std::string_view level_style(FindingLevel level) {
  switch (level) {
    case FindingLevel::kError:
      return "red";
    case FindingLevel::kWarning:
      return "yellow";
    case FindingLevel::kNote:
      return "dim";
  }
  return "dim";
}

void show_findings(const Dataset& dataset, const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    print_result(fmt::format("{} {}: {}",
                             styled(level_name(finding.level), level_style(finding.level)),
                             finding.code, finding.message));
    for (const std::string& example : finding.examples) print_result("    " + example);
  }
  const auto count = [&](FindingLevel level) {
    return std::ranges::count(findings, level, &Finding::level);
  };
  print_result(fmt::format("{}: {} + {} images of {} classes; errors {}, warnings {}, notes {}",
                           dataset.name, dataset.train.size(), dataset.test.size(),
                           dataset.classes.size(), count(FindingLevel::kError),
                           count(FindingLevel::kWarning), count(FindingLevel::kNote)));
}

int check(const CheckFlags& flags) {
  const auto asked_for = configured_normalisation(flags.config);
  const Dataset dataset = load_data(flags.spec, flags.config);
  const Normalisation own = channel_statistics(dataset.train.images);
  const std::vector<Finding> findings = check_dataset(dataset, asked_for.value_or(own));
  const auto errors = std::ranges::count(findings, FindingLevel::kError, &Finding::level);
  std::optional<Error> failure;
  if (errors > 0)
    failure = Error(ErrorKind::kData,
                    fmt::format("found what is wrong in {} ways at {}", errors, dataset.source));
  if (flags.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Finding& finding : findings) {
      list.push_back({{"level", level_name(finding.level)},
                      {"code", finding.code},
                      {"message", finding.message},
                      {"examples", finding.examples}});
    }
    print_json({{"schema", kSchema},
                {"ok", true},
                {"dataset", dataset.name},
                {"source", dataset.source},
                {"classes", dataset.classes},
                {"image_size", dataset.image_size},
                {"train", dataset.train.size()},
                {"test", dataset.test.size()},
                {"mean", own.mean},
                {"std", own.std},
                {"findings", list}},
               failure);
  } else {
    show_findings(dataset, findings);
  }
  return exit_code_of(failure);
}

// ---- show ----

// The first images that training sees in the epoch. Augmented: a row of them as stored, then a row
// for each epoch from that one on, as the model gets them.
at::Tensor samples(const Split& split, const ShowFlags& flags, const AugmentOptions& options) {
  const uint64_t seed = flags.config.seed;
  const int64_t wanted = flags.augmented ? flags.columns : flags.count;
  Batches batches(split, std::min(wanted, split.size()), /*augmentation=*/{}, {}, seed);
  const at::Tensor indices = batches.at_step(flags.epoch * batches.steps_per_epoch()).indices;
  const at::Tensor originals = split.images.index_select(0, indices);
  if (!flags.augmented) return originals;
  std::vector<at::Tensor> rows{originals};
  const int64_t row_count = std::max<int64_t>(2, (flags.count + flags.columns - 1) / flags.columns);
  for (int64_t row = 1; row < row_count; ++row) {
    const int64_t epoch = flags.epoch + row - 1;
    const at::Tensor images = augment(split.images, indices, options, seed, epoch);
    rows.push_back(options.mix.any() ? mix(images, indices, options.mix, seed, epoch).images
                                     : images);
  }
  return at::cat(rows);
}

int show(const ShowFlags& flags) {
  const fs::path out = expand_user(flags.out);
  if (!flags.force) require_new_file(out, kModule, "--out", "give --force to replace it");
  augment_options(flags.config, kShownPasses);  // a wrong word is said before the data are read
  const Dataset dataset = load_data(flags.spec, flags.config);
  const AugmentOptions options =
      augment_options(flags.config, kShownPasses, flags.augmented ? dataset.image_size : 0);
  if (flags.augmented)
    for (const std::string& warning : augment_warnings(options, dataset.image_size))
      log_warning("{}", warning);
  const at::Tensor images = samples(dataset.train, flags, options);
  const int64_t columns = flags.augmented ? std::min(flags.columns, dataset.train.size())
                                          : std::min(flags.columns, images.size(0));
  const int64_t scale = std::max<int64_t>(1, kShownSide / dataset.image_size);
  write_png(out, image_grid(images, columns, scale));
  if (flags.json) {
    print_json({{"schema", kSchema},
                {"ok", true},
                {"file", out.string()},
                {"dataset", dataset.name},
                {"images", images.size(0)},
                {"columns", columns},
                {"augmented", flags.augmented},
                {"epoch", flags.epoch},
                {"seed", flags.config.seed}});
  } else {
    print_result(fmt::format("{} images of {} are in {}{}", images.size(0), dataset.name,
                             out.string(),
                             flags.augmented ? fmt::format("; the first row as stored, then one "
                                                           "row for each epoch from {} on",
                                                           flags.epoch)
                                             : ""));
  }
  return 0;
}

// ---- flags ----

void add_common_flags(CLI::App& command, CommonFlags& flags) {
  add_json_flag(command, flags.json);
  add_quiet_flag(command);
}

// Flags of `train`, with their names, defaults and help from the one place that has them.
void add_config_flags(CLI::App& command, Config& config, const std::vector<std::string>& keys) {
  visit(config, [&](const std::string& key, auto& field, const char* help) {
    if (std::ranges::find(keys, key) == keys.end()) return;
    command.add_option(flag_name(key), field, help)->capture_default_str();
  });
}

// `augment` and what it names, which visit() has beside each other.
std::vector<std::string> augment_keys() {
  std::vector<std::string> keys;
  const Config config;
  visit(config, [&](const std::string& key, const auto&, const char*) {
    const bool ended = !keys.empty() && keys.back() == "cutmix_alpha";
    if (key == "augment" || (!keys.empty() && !ended)) keys.push_back(key);
  });
  return keys;
}

void add_spec(CLI::App& command, std::string& spec) {
  command.add_option("data", spec, "what train --data takes: a name, a folder or an archive")
      ->required();
}

template <typename Flags>
void run_with(CLI::App& command, Run& chosen, const std::shared_ptr<Flags>& flags,
              int (*run)(const Flags&)) {
  add_common_flags(command, *flags);
  command.callback([flags, run, &chosen] { chosen = [flags, run] { return run(*flags); }; });
}

}  // namespace

void add_data(CLI::App& program, Run& chosen) {
  CLI::App* data = program.add_subcommand("data", "Data sets: list, download, check, look at");

  CLI::App* command = data->add_subcommand("list", "Data sets known by name, and where they are");
  run_with(*command, chosen, std::make_shared<CommonFlags>(), &list);

  command = data->add_subcommand("fetch", "Download a known data set; goes on where it stopped");
  auto fetch_flags = std::make_shared<FetchFlags>();
  command->add_option("name", fetch_flags->name, "as in `data list`")->required();
  run_with(*command, chosen, fetch_flags, &fetch);

  command =
      data->add_subcommand("check", "Broken files, duplicates, overlaps, classes, statistics");
  auto check_flags = std::make_shared<CheckFlags>();
  add_spec(*command, check_flags->spec);
  add_config_flags(*command, check_flags->config, {"image_size", "seed", "mean", "std"});
  run_with(*command, chosen, check_flags, &check);

  command =
      data->add_subcommand("show", "A picture of training images, as stored or as trained on");
  auto show_flags = std::make_shared<ShowFlags>();
  add_spec(*command, show_flags->spec);
  command->add_flag("--augmented", show_flags->augmented,
                    "below the stored images, what each epoch makes of them");
  command->add_option("--out", show_flags->out, "PNG file to write")
      ->check(not_empty())
      ->capture_default_str();
  command->add_flag("--force", show_flags->force, "replace the file when it exists");
  command->add_option("--count", show_flags->count, "images in the picture")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command->add_option("--columns", show_flags->columns, "images in a row")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command->add_option("--epoch", show_flags->epoch, "the epoch to look at, from 0")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  add_config_flags(*command, show_flags->config, {"image_size", "seed"});
  add_config_flags(*command, show_flags->config, augment_keys());
  run_with(*command, chosen, show_flags, &show);
}

}  // namespace skipway
