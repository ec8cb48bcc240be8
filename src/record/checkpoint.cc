// Saving and loading checkpoints so that a kill, a full disk or a flipped bit loses at most one of
// them. Not the file format; see safetensors.h.
#include "record/checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "record/sealed_file.h"

namespace skipway {
namespace {

constexpr std::string_view kModelPrefix = "model.";
constexpr std::string_view kOptimizerPrefix = "optimizer.";
constexpr std::string_view kEmaPrefix = "ema.";

// What killed processes left of this file before it was whole.
void remove_unfinished(const fs::path& path) {
  const std::string beginning = path.filename().string() + ".tmp";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path.parent_path(), ignored))
    if (entry.path().filename().string().starts_with(beginning)) fs::remove(entry.path(), ignored);
}

Checkpoint load_from(const fs::path& path) {
  SafetensorsFile file = read_sealed(path, /*required=*/true);
  Checkpoint checkpoint;
  checkpoint.metadata = std::move(file.metadata);
  for (auto& [name, tensor] : file.tensors) {
    if (name.starts_with(kModelPrefix)) {
      checkpoint.model.emplace_back(name.substr(kModelPrefix.size()), std::move(tensor));
    } else if (name.starts_with(kOptimizerPrefix)) {
      checkpoint.optimizer.emplace_back(name.substr(kOptimizerPrefix.size()), std::move(tensor));
    } else if (name.starts_with(kEmaPrefix)) {
      checkpoint.ema.emplace_back(name.substr(kEmaPrefix.size()), std::move(tensor));
    } else {
      fail(ErrorKind::kCheckpoint, "checkpoint",
           "expected a name with model., optimizer. or ema., got {} in {}", name, path.string());
    }
  }
  return checkpoint;
}

}  // namespace

void save_checkpoint(const RunFolder& run, const Checkpoint& checkpoint, bool keeps_last) {
  NamedTensors tensors;
  const auto add = [&tensors](std::string_view prefix, const NamedTensors& group) {
    for (const auto& [name, tensor] : group)
      tensors.emplace_back(std::string(prefix) + name, tensor);
  };
  add(kModelPrefix, checkpoint.model);
  add(kOptimizerPrefix, checkpoint.optimizer);
  add(kEmaPrefix, checkpoint.ema);

  // The new file is whole before an old one is touched, and there is a `last` at any time, but on
  // file systems without hard links; the two renames are what a kill can part.
  const fs::path next = run.next();
  remove_unfinished(next);
  remove_unfinished(run.previous());
  write_sealed(next, tensors, checkpoint.metadata);
  if (keeps_last && fs::exists(run.last())) {
    std::error_code unlinked, ignored;
    const fs::path second_name = temporary_name(run.previous());
    fs::create_hard_link(run.last(), second_name, unlinked);
    rename_file(unlinked ? run.last() : second_name, run.previous());
    fs::remove(second_name, ignored);  // which renaming leaves where `previous` was `last` already
  }
  rename_file(next, run.last());
}

std::optional<Checkpoint> load_previous_checkpoint(const RunFolder& run) {
  try {
    return load_from(run.previous());
  } catch (const Error&) {
    return std::nullopt;
  }
}

Checkpoint load_checkpoint(const RunFolder& run) {
  std::vector<std::string> reasons;
  ErrorKind kind = ErrorKind::kCheckpoint;
  for (const fs::path& path : {run.next(), run.last(), run.previous()}) {
    if (path == run.next() && !fs::exists(path)) continue;  // as it should be
    try {
      Checkpoint checkpoint = load_from(path);
      if (!reasons.empty())
        log_warning("going on from {}, because: {}", path.string(), fmt::join(reasons, "; "));
      return checkpoint;
    } catch (const Error& error) {
      reasons.emplace_back(error.what());
      if (error.kind() == ErrorKind::kDisk) kind = ErrorKind::kDisk;
    }
  }
  fail(kind, "checkpoint",
       "expected a whole checkpoint in {}, got none: {}; `skipway train --config {}` begins the "
       "same run anew",
       run.path().string(), fmt::join(reasons, "; "), shell_quoted(run.config_toml().string()));
}

}  // namespace skipway
