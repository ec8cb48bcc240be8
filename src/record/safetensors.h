// The safetensors file format (huggingface/safetensors): 8 bytes header length, JSON header, raw
// little-endian tensors. Not what the tensors mean.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "base/tensors.h"

namespace skipway {

struct SafetensorsFile {
  NamedTensors tensors;                         // in the order of their offsets
  std::map<std::string, std::string> metadata;  // "__metadata__"
};

/// As a file has it: on the CPU and contiguous; a copy of a tensor that is not.
at::Tensor stored_form(const at::Tensor& tensor);

/// Writes atomically, with one tensor at a time in its stored form. Tensors may be anywhere, of any
/// stride; they are stored contiguous (a channels_last weight [k,c,h,w] as k,c,h,w). Types: F64 F32
/// F16 BF16 I64 I32 I16 I8 U8 BOOL. The first tensor begins at a multiple of 8, each other where
/// the one before it ends. Errors: kDisk; kInternal for a name twice or another type.
void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata);

/// Reads and checks before believing: header length against file size, JSON, type names, shape
/// times size against offsets, overlaps, gaps, order. Errors: kCheckpoint with the path and what
/// does not fit.
SafetensorsFile read_safetensors(const std::filesystem::path& path);

}  // namespace skipway
