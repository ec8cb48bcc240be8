// LibTorch's pool of threads, for the kernels.
#pragma once
#include "kernels/types.h"

namespace skipway {

/// As many as at::set_num_threads() said last.
kernels::Threads all_threads();

}  // namespace skipway
