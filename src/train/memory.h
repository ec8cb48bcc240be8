// Going on with fewer images at once when memory runs out, for training and evaluation alike.
#pragma once
#include <c10/core/Device.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/log.h"

namespace skipway {

/// What the exception that is being handled says, when it is about memory: LibTorch's for a GPU and
/// for the CPU, or the language's own. To be called in a catch block.
std::optional<std::string> out_of_memory();

/// Gives what LibTorch keeps for later back to a GPU; nothing on a CPU. Not run on a GPU.
void release_cached_memory(c10::Device device);

/// The result of work(), which takes at most `at_once` of `images` images at a time. Each time
/// memory does not suffice, at_once is halved for good, that is said in the log, and work() begins
/// again. `what` is done with the images. Errors: kMemory when one image is too many.
template <typename Work>
auto with_fewer_images(int64_t& at_once, int64_t images, c10::Device device, std::string_view what,
                       Work&& work) {
  while (true) {
    std::string reason;
    try {
      return work();
    } catch (...) {
      const auto said = out_of_memory();
      if (!said) throw;
      reason = *said;
    }
    // Behind the catch block neither tensors nor the exception hold any memory.
    release_cached_memory(device);
    const int64_t tried = std::min(at_once, images);
    if (tried <= 1)
      fail(ErrorKind::kMemory, "memory",
           "expected memory for {} one image at a time, got: {}; close other programs, or take a "
           "smaller --model or --image-size",
           what, reason);
    at_once = tried / 2;
    log_warning("out of memory: {} goes on with {} images at once in place of {}", what, at_once,
                tried);
  }
}

}  // namespace skipway
