#include "train/memory.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <exception>
#include <new>

namespace skipway {

std::optional<std::string> out_of_memory() {
  const auto first_line = [](std::string_view text) {
    return std::string(text.substr(0, text.find('\n')));
  };
  try {
    throw;
  } catch (const c10::OutOfMemoryError& error) {  // not run on a GPU
    return first_line(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return "the system gave none";
  } catch (const std::exception& error) {
    // LibTorch's own allocator says the second. oneDNN, whose errors have a type of their own that
    // LibTorch does not export, says what it could not make, and never why. cuBLAS and cuDNN have a
    // word of their own (not run on a GPU).
    const std::string line = first_line(error.what());
    for (const char* sign :
         {"out of memory", "can't allocate memory", "not enough memory", "could not create a",
          "could not execute a primitive", "STATUS_ALLOC_FAILED"})
      if (line.find(sign) != std::string::npos) return line;
  } catch (...) {
  }
  return std::nullopt;
}

void release_cached_memory(c10::Device device) {
  if (device.is_cpu())
    malloc_trim(0);  // what one thread's heap keeps is of no use to another's
  else
    at::getDeviceAllocator(device.type())->emptyCache();
}

}  // namespace skipway
