// Safetensors files that carry a hash of their contents, so that a changed bit is seen.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "base/tensors.h"
#include "record/safetensors.h"

namespace skipway {

/// write_safetensors() with "contents_sha256" among the metadata: over metadata, names, types,
/// shapes and bytes. Errors: as there.
void write_sealed(const std::filesystem::path& path, const NamedTensors& tensors,
                  std::map<std::string, std::string> metadata);

/// read_safetensors() without that entry. Errors: as there; kCheckpoint when the contents are not
/// those that were written, or when there is no hash and one is `required`.
SafetensorsFile read_sealed(const std::filesystem::path& path, bool required);

}  // namespace skipway
