#include "train/same_run.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "base/files.h"
#include "base/tensors.h"

namespace skipway {
namespace {

// What `weights` named has become part of the checkpoint. A run that memory ended may go on with
// fewer images at once.
const std::set<std::string, std::less<>> kMayChange = {
    "data", "device", "threads", "run_dir", "weights", "microbatch", "eval_batch"};

// "key = value  # where from": the line by its key.
std::map<std::string, std::string> lines_by_key(std::string_view text) {
  std::map<std::string, std::string> lines;
  while (!text.empty()) {
    const std::string line(text.substr(0, text.find('\n')));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const std::string key = line.substr(0, line.find_first_of(" =#"));
    if (!key.empty() && !kMayChange.contains(key)) lines[key] = line.substr(0, line.find("  # "));
  }
  return lines;
}

}  // namespace

std::string changed_setting(std::string_view begun, std::string_view now) {
  const auto before = lines_by_key(begun), after = lines_by_key(now);
  for (const auto& [key, line] : before)
    if (const auto found = after.find(key); found == after.end() || found->second != line)
      return key;
  for (const auto& [key, line] : after)
    if (!before.contains(key)) return key;
  return "";
}

std::string labels_sha256(const Dataset& dataset) {
  Hash hash(HashKind::kSha256);
  for (const std::string& name : dataset.classes)
    hash.update(fmt::format("{}:{}", name.size(), name));
  const at::Tensor labels = dataset.train.labels.to(at::kCPU).contiguous();
  hash.update(bytes_of(labels));
  return hash.hex();
}

std::string names_sha256(const Split& split) {
  Hash hash(HashKind::kSha256);
  for (const std::string& name : split.names) hash.update(fmt::format("{}:{}", name.size(), name));
  return hash.hex();
}

}  // namespace skipway
