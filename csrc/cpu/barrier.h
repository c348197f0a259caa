// A barrier that cannot hang on fewer threads than asked: parties arrive with a weight, and the barrier opens when the
// weights of those who arrived add up to the total. A thread that was given the work of three parties arrives with
// weight 3; one that was given all the work never waits.
#pragma once

#include <atomic>
#include <cstdint>

namespace seq::cpu {

class Barrier {
 public:
  explicit Barrier(int64_t total) : total_(total) {}

  // Waits until every party has arrived as often as this one.
  void arrive_and_wait(int64_t weight);

 private:
  const int64_t total_;
  alignas(64) std::atomic<int64_t> arrived_{0};
};

}  // namespace seq::cpu
