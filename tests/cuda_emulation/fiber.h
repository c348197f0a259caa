// A stack of its own, and the switch to it and back.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace emulation {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;

  // Runs `body` on this fiber's stack until it pauses or ends; true: it ended.
  bool start(const std::function<void()>& body);
  bool resume();

  // Back to whoever started or resumed this fiber. On the fiber's own stack.
  void pause();

 private:
  struct Machine;
  std::unique_ptr<Machine> machine_;
};

}  // namespace emulation
