#include "model/threads.h"

#include <ATen/Parallel.h>

#include <cstdint>
#include <functional>

namespace skipway {

kernels::Threads all_threads() {
  const int count = at::get_num_threads();
  return {count, [count](const std::function<void(int)>& task) {
            at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              for (int64_t thread = begin; thread < end; ++thread) task(static_cast<int>(thread));
            });
          }};
}

}  // namespace skipway
