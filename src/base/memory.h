// Memory of this process: how the C library hands it out, and how much was used.
#pragma once
#include <cstdint>

namespace skipway {

/// Makes malloc keep and reuse the large blocks that every training step frees, where it would give
/// them back to the operating system and fault them in again. Call once, before the first large
/// allocation.
void prepare_allocator();

/// The largest resident set of this process so far [bytes].
int64_t peak_rss_bytes();

}  // namespace skipway
