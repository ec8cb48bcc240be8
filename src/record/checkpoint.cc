// Saving and loading checkpoints so that a kill, a full disk or a flipped bit loses at most one of
// them. Not the file format; see safetensors.h.
#include "record/checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "record/safetensors.h"

namespace skipway {
namespace {

constexpr std::string_view kModelPrefix = "model.";
constexpr std::string_view kOptimizerPrefix = "optimizer.";
constexpr std::string_view kEmaPrefix = "ema.";
constexpr const char* kHashKey = "contents_sha256";

// SHA-256 over metadata, names, types, shapes and bytes: a changed bit anywhere changes it. Parts
// are preceded by their lengths, so that none can pass for its neighbour. Metadata goes in as the
// JSON that is stored, where bytes that are not UTF-8 (a path may have them) are replaced.
std::string contents_hash(const NamedTensors& tensors,
                          std::map<std::string, std::string> metadata) {
  Hash hash(HashKind::kSha256);
  const auto add = [&hash](std::string_view bytes) {
    hash.update(fmt::format("{}:", bytes.size()));
    hash.update(bytes);
  };
  metadata.erase(kHashKey);
  using Json = nlohmann::json;
  add(Json(metadata).dump(-1, ' ', false, Json::error_handler_t::replace));
  for (const auto& [name, tensor] : tensors) {
    add(name);
    add(fmt::format("{} {}", c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), "x")));
    add({static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()});
  }
  return hash.hex();
}

void rename_file(const fs::path& from, const fs::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    fail(ErrorKind::kDisk, "checkpoint", "could not rename {} to {}: {}", from.string(),
         to.filename().string(), std::strerror(errno));
}

Checkpoint load_from(const fs::path& path) {
  SafetensorsFile file = read_safetensors(path);
  const auto stored = file.metadata.find(kHashKey);
  if (stored == file.metadata.end())
    fail(ErrorKind::kCheckpoint, "checkpoint", "expected {} in the metadata of {}; no checkpoint",
         kHashKey, path.string());
  if (stored->second != contents_hash(file.tensors, file.metadata))
    fail(ErrorKind::kCheckpoint, "checkpoint",
         "expected contents with SHA-256 {}, got others in {}; the file is damaged", stored->second,
         path.string());
  file.metadata.erase(stored);

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

std::string save_checkpoint(const RunFolder& run, const Checkpoint& checkpoint) {
  NamedTensors tensors;
  const auto add = [&tensors](std::string_view prefix, const NamedTensors& group) {
    for (const auto& [name, tensor] : group)
      tensors.emplace_back(std::string(prefix) + name, tensor.detach().to(at::kCPU).contiguous());
  };
  add(kModelPrefix, checkpoint.model);
  add(kOptimizerPrefix, checkpoint.optimizer);
  add(kEmaPrefix, checkpoint.ema);
  std::map<std::string, std::string> metadata = checkpoint.metadata;
  metadata[kHashKey] = contents_hash(tensors, metadata);

  // The new file is whole before an old one is touched; the two renames are what a kill can part.
  const fs::path next = run.path() / "next.safetensors";
  const std::string sha256 = write_safetensors(next, tensors, metadata);
  if (fs::exists(run.last())) rename_file(run.last(), run.previous());
  rename_file(next, run.last());
  return sha256;
}

Checkpoint load_checkpoint(const RunFolder& run) {
  std::string reason;
  try {
    return load_from(run.last());
  } catch (const Error& error) {
    reason = error.what();
  }
  try {
    Checkpoint checkpoint = load_from(run.previous());
    log_warning("going on from {}, because: {}", run.previous().string(), reason);
    return checkpoint;
  } catch (const Error& error) {
    fail(ErrorKind::kCheckpoint, "checkpoint",
         "expected a whole checkpoint in {}, got neither last ({}) nor previous ({})",
         run.path().string(), reason, error.what());
  }
}

}  // namespace skipway
