// Memory for tensors on the CPU, of which each training step takes and frees the same blocks.
#pragma once

namespace skipway {

/// Makes malloc keep what a step frees, where it would give it back to the operating system and
/// fault it in again, and LibTorch take its blocks in a way that lets the next step use them again.
/// Call before the first large allocation.
void prepare_allocator();

}  // namespace skipway
