// How many images memory suffices for: going on with fewer at once when it runs out, in training
// and evaluation alike, and the search for the largest batch.
#pragma once
#include <c10/core/Device.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/log.h"

namespace skipway {

/// What the exception that is being handled says, when it is about memory: LibTorch's for a GPU and
/// for the CPU, or the language's own. To be called in a catch block.
std::optional<std::string> out_of_memory();

/// Gives what is kept for later back: LibTorch to a GPU, which was not run; malloc to the system.
void release_cached_memory(c10::Device device);

/// The result of work(), which takes at most `at_once` of `images` images at a time. Each time
/// memory does not suffice, at_once is halved for good, that is said in the log, and work() begins
/// again; `forget` drops what a failed attempt has left. `what` is done with the images. Errors:
/// kMemory when one image is too many.
template <typename Work>
auto with_fewer_images(int64_t& at_once, int64_t images, c10::Device device, std::string_view what,
                       Work&& work, const std::function<void()>& forget = {}) {
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
    if (forget) forget();
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

/// The largest number up to `most` for which fits() is true, to an eighth; 0: not even 1. fits() is
/// expensive, and asked from `first` on: twice as many until it is false, or half until it is true.
template <typename Fits>
int64_t largest_that_fits(int64_t first, int64_t most, Fits&& fits) {
  int64_t good = 0, bad = most + 1;
  for (int64_t n = std::min(first, most); n > good && n < bad;) {
    if (fits(n)) {
      good = n;
      n = bad <= most ? n : std::min(2 * n, most);
    } else {
      bad = n;
      n = good > 0 ? n : n / 2;
    }
  }
  while (bad <= most && good > 0 && bad - good > std::max<int64_t>(1, good / 8)) {
    const int64_t middle = (good + bad) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

}  // namespace skipway
