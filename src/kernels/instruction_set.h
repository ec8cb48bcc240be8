// Which instructions the kernels use. No LibTorch in here.
#pragma once
#include <string>
#include <vector>

namespace skipway::kernels {

/// Names of the instruction sets that this machine can run, best first: "amx_bf16", "avx512_bf16",
/// "avx512", "avx2", "scalar".
std::vector<std::string> instruction_sets();
/// The one in use; best of instruction_sets() at the start.
std::string instruction_set_in_use();
/// For tests and benchmarks: from now on uses the named one. Not while a kernel runs. Returns
/// false for one that the machine cannot run.
bool use_instruction_set(const std::string& name);

/// Whether the one in use has vdpbf16ps, the dot product of pairs of bf16.
bool dot_in_use();
/// Whether it has tdpbf16ps too, the product of tiles of them.
bool tiles_in_use();

}  // namespace skipway::kernels
