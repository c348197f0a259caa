#include "cpu/barrier.h"

#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace seq::cpu {

void Barrier::arrive_and_wait(int64_t weight) {
  const int64_t before = arrived_.fetch_add(weight, std::memory_order_acq_rel);
  const int64_t open = (before / total_ + 1) * total_;
  // Spin for about a step of a small layer, then let others run: on a busy machine the missing party needs the core.
  for (int spins = 0; arrived_.load(std::memory_order_acquire) < open; ++spins) {
    if (spins < 2000) {
#if defined(__x86_64__)
      _mm_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace seq::cpu
