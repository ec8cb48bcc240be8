#include "model/threads.h"

#include <ATen/Parallel.h>

#include <cstdint>
#include <functional>

#include "base/allocator.h"
#include "base/process.h"

namespace skipway {

kernels::Threads all_threads() {
  const int count = at::get_num_threads();
  return {count, [count](const std::function<void(int)>& task) {
            at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              for (int64_t thread = begin; thread < end; ++thread) task(static_cast<int>(thread));
            });
          }};
}

void prepare_process(int64_t threads) {
  prepare_allocator();
  at::set_num_threads(static_cast<int>(threads > 0 ? threads : usable_cores()));
}

}  // namespace skipway
