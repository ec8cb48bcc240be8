#include "record/sealed_file.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "base/files.h"

namespace skipway {
namespace {

constexpr const char* kHashKey = "contents_sha256";

// Parts are preceded by their lengths, so that none can pass for its neighbour. Metadata goes in as
// the JSON that is stored, where bytes that are not UTF-8 (a path may have them) are replaced.
std::string contents_hash(const NamedTensors& tensors,
                          const std::map<std::string, std::string>& metadata) {
  Hash hash(HashKind::kSha256);
  const auto add = [&hash](std::string_view bytes) {
    hash.update(fmt::format("{}:", bytes.size()));
    hash.update(bytes);
  };
  add(nlohmann::json(metadata).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  for (const auto& [name, tensor] : tensors) {
    add(name);
    add(fmt::format("{} {}", c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), "x")));
    add(bytes_of(stored_form(tensor)));
  }
  return hash.hex();
}

}  // namespace

void write_sealed(const std::filesystem::path& path, const NamedTensors& tensors,
                  std::map<std::string, std::string> metadata) {
  metadata[kHashKey] = contents_hash(tensors, metadata);
  write_safetensors(path, tensors, metadata);
}

SafetensorsFile read_sealed(const std::filesystem::path& path, bool required) {
  SafetensorsFile file = read_safetensors(path);
  const auto entry = file.metadata.extract(kHashKey);
  if (entry.empty() && required)
    fail(ErrorKind::kCheckpoint, "files", "expected {} in the metadata of {}; no checkpoint",
         kHashKey, path.string());
  if (!entry.empty() && entry.mapped() != contents_hash(file.tensors, file.metadata))
    fail(ErrorKind::kCheckpoint, "files",
         "expected contents with SHA-256 {}, got others in {}; the file is damaged", entry.mapped(),
         path.string());
  return file;
}

}  // namespace skipway
