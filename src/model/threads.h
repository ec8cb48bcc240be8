// LibTorch's pool of threads, for the kernels.
#pragma once
#include <cstdint>

#include "kernels/types.h"

namespace skipway {

/// As many as at::set_num_threads() said last.
kernels::Threads all_threads();

/// What a program that computes begins with: memory that each step can use again
/// (prepare_allocator()), and so many threads; 0: usable_cores().
void prepare_process(int64_t threads);

}  // namespace skipway
