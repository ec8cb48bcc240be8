// Files of torch.save: the zip form that PyTorch writes since 1.6 (.pth, .pt), and the form before
// it, which is read only. Not what the tensors mean.
#pragma once
#include <filesystem>

#include "base/tensors.h"

namespace skipway {

/// The tensors of a file, at any place of nested dicts: their keys joined by "." are the names
/// ("state_dict.conv1.weight"). Other values (an epoch, a learning rate) are left out. Tensors that
/// shared storage share it here. Types: F64 F32 F16 BF16 I64 I32 I16 I8 U8. Nothing in the file is
/// run: of functions only those are known that put a tensor together, and their names are data.
/// Errors: kData for what is cut short, damaged, lies about a size, is of another type or byte
/// order, and for any other function or class, by its name.
NamedTensors read_torch_file(const std::filesystem::path& path);

/// Writes a state_dict, atomically, as `torch.load` reads it with its defaults. Tensors may be
/// anywhere, of any stride; they are stored contiguous. Types: as above. Errors: kDisk; kInternal
/// for another type, or for 4 GB and more.
void write_torch_file(const std::filesystem::path& path, const NamedTensors& tensors);

}  // namespace skipway
