// Streams beside the current one, for work that need not all be in one order.
#pragma once

#include <vector>

#include "ops/cuda/device.h"

namespace seq::ops {

// What is allocated before `Streams` and freed after `join` may be used on all of them.
class Streams {
 public:
  // `count` streams; the first is the current one, the others go on after what that has been given so far.
  Streams(const at::Device& device, int64_t count);
  // Joins them where an exception has passed by `join`.
  ~Streams();
  Streams(const Streams&) = delete;

  // The first goes on after what all others have been given.
  void join();
  // Stream i goes on after what stream j has been given so far.
  void wait(int64_t i, int64_t j) { wait_for(streams_[i], streams_[j]); }

  // Stream i is the current one.
  class Current {
   public:
    Current(const Streams& of, int64_t i) : before_(exchange_stream(of.streams_[i])) {}
    ~Current() { exchange_stream(before_); }
    Current(const Current&) = delete;

   private:
    const c10::Stream before_;
  };

 private:
  std::vector<c10::Stream> streams_;
  bool joined_ = false;
};

}  // namespace seq::ops
