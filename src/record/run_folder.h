// The folder a run leaves behind: names of its files, and writing them. cli.md's contract of
// `runs/NNN`.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace skipway {

class RunFolder {
 public:
  /// Makes `requested`, or the next free runs/NNN (three digits, more when needed) when it is
  /// empty. Safe when two runs start together. Errors: kUsage when `requested` exists and is not an
  /// empty folder; kDisk.
  static RunFolder create(const std::filesystem::path& requested);
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
  std::filesystem::path model() const { return path_ / "model.safetensors"; }
  std::filesystem::path log_txt() const { return path_ / "log.txt"; }
  std::filesystem::path trouble() const { return path_ / "trouble"; }  // folder
  std::filesystem::path report_html() const { return path_ / "report.html"; }

  /// Appends one line to metrics.jsonl, flushed. Errors: kDisk.
  void append_metrics(const nlohmann::ordered_json& line) const;
  /// All whole lines of metrics.jsonl (a last line cut off by a crash is left out). Errors: kData
  /// for a damaged line before the last.
  std::vector<nlohmann::ordered_json> read_metrics() const;

 private:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

/// The machine and the build: version, LibTorch, processor, instruction set, cores, memory,
/// operating system, hostname left out.
nlohmann::ordered_json environment();

}  // namespace skipway
