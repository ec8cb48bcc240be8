// The folder a run leaves behind, `runs/NNN`: names of its files, and writing them.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace skipway {

class RunFolder {
 public:
  /// Makes `requested`, or the next free runs/NNN (three digits, more when needed) when it is
  /// empty. Safe when two runs start together. Errors, which name the `flag` that gave it: kUsage
  /// when `requested` exists and is not an empty folder; kDisk.
  static RunFolder create(const std::filesystem::path& requested,
                          std::string_view flag = "--run-dir");
  /// What create() will refuse, said before the work that its folder is for; makes nothing. Errors:
  /// kUsage, kDisk as create().
  static void require_free(const std::filesystem::path& requested,
                           std::string_view flag = "--run-dir");
  /// Opens an existing run. Errors: kUsage when it is no run folder (no model.safetensors,
  /// last.safetensors or config.toml in it), listing nearby runs.
  static RunFolder open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config_toml() const { return path_ / "config.toml"; }
  std::filesystem::path env_json() const { return path_ / "env.json"; }
  std::filesystem::path metrics_jsonl() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path tensorboard() const { return path_ / "tb"; }
  std::filesystem::path last() const { return path_ / "last.safetensors"; }
  std::filesystem::path previous() const { return path_ / "previous.safetensors"; }
  /// A checkpoint on its way to `last`.
  std::filesystem::path next() const { return path_ / "next.safetensors"; }
  std::filesystem::path model() const { return path_ / "model.safetensors"; }
  std::filesystem::path log_txt() const { return path_ / "log.txt"; }
  std::filesystem::path trouble() const { return path_ / "trouble"; }  // folder
  std::filesystem::path report_html() const { return path_ / "report.html"; }

  /// Whether one of last, previous and next is there: a kill between two renames leaves the run in
  /// any of them. True also when that cannot be told.
  bool has_checkpoint() const;
  /// An opened folder of weights that were not trained here, as `import` makes it: without settings
  /// and without a checkpoint.
  bool is_imported() const;

  /// log.txt, open to be appended to, and locked (flock) for as long as it is open, so that of two
  /// processes one trains in the folder. The kernel gives the lock back when the process ends,
  /// however it ends: a run that was killed leaves nothing to clear away. Who only reads needs no
  /// lock. A file system that has no locks gets a warning in the log. Errors: kDisk, when another
  /// process has the lock too.
  Descriptor open_log() const;

  /// For a run that never began: removes what it wrote, and the folder if create() made it and
  /// nothing else is in it. Does nothing where there may be a checkpoint.
  void discard() const;

  /// Appends one line to metrics.jsonl, and brings it to the disk. Errors: kDisk.
  void append_metrics(const nlohmann::ordered_json& line) const;
  /// All whole lines of metrics.jsonl (a last line cut off by a crash is left out, and so is one
  /// whose event is no text or whose step is no number). Errors: kCheckpoint for a damaged line
  /// before the last, which where it `is_to_be_mended` is left out as well, with a warning in the
  /// log.
  std::vector<nlohmann::ordered_json> read_metrics(bool is_to_be_mended = false) const;

 private:
  RunFolder(std::filesystem::path path, bool is_new) : path_(std::move(path)), is_new_(is_new) {}
  std::filesystem::path path_;
  bool is_new_;  // made by create(), not a folder that was there
};

/// The machine and the build: version, LibTorch, processor, instruction set, cores, memory,
/// operating system, hostname left out.
nlohmann::ordered_json environment();

}  // namespace skipway
