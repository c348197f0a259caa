#include "fiber.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define TO_FIBER(m) __sanitizer_start_switch_fiber(&(m).caller_shadow, (m).stack, kStackBytes)
#define IN_FIBER(m) __sanitizer_finish_switch_fiber((m).own_shadow, &(m).caller_stack, &(m).caller_bytes)
#define TO_CALLER(m) __sanitizer_start_switch_fiber(&(m).own_shadow, (m).caller_stack, (m).caller_bytes)
#define IN_CALLER(m) __sanitizer_finish_switch_fiber((m).caller_shadow, nullptr, nullptr)
#else
#define TO_FIBER(m)
#define IN_FIBER(m)
#define TO_CALLER(m)
#define IN_CALLER(m)
#endif

namespace emulation {

namespace {
constexpr size_t kStackBytes = 256 << 10;  // touched pages only
}

#if defined(__x86_64__)

// swapcontext asks the kernel for the signal mask at every switch, which costs most of the emulation's time.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, .-emulation_switch
)");

#endif

struct Fiber::Machine {
  void* stack = nullptr;
  const std::function<void()>* body = nullptr;
  bool ended = true;
  void* own_shadow = nullptr;
  void* caller_shadow = nullptr;
  const void* caller_stack = nullptr;
  size_t caller_bytes = 0;

#if defined(__x86_64__)
  void *own = nullptr, *caller = nullptr;

  void prepare() {
    auto* top = reinterpret_cast<uintptr_t*>(static_cast<char*>(stack) + kStackBytes);
    *--top = 0;  // of a caller that there is not; keeps the stack aligned as after a call
    *--top = reinterpret_cast<uintptr_t>(&entry);
    for (int i = 0; i < 6; ++i) *--top = 0;
    own = top;
  }
  void to_fiber() { emulation_switch(&caller, own); }
  void to_caller() { emulation_switch(&own, caller); }
#else
  ucontext_t own, caller;

  void prepare() {
    getcontext(&own);
    own.uc_stack = {stack, 0, kStackBytes};
    makecontext(&own, &entry, 0);
  }
  void to_fiber() { swapcontext(&caller, &own); }
  void to_caller() { swapcontext(&own, &caller); }
#endif

  static thread_local Machine* entered;

  static void entry() {
    Machine& m = *entered;
    IN_FIBER(m);
    (*m.body)();
    m.ended = true;
    TO_CALLER(m);
    m.to_caller();
  }

  bool enter() {
    entered = this;
    TO_FIBER(*this);
    to_fiber();
    IN_CALLER(*this);
    return ended;
  }
};

thread_local Fiber::Machine* Fiber::Machine::entered = nullptr;

Fiber::Fiber() : machine_(std::make_unique<Machine>()) {
  machine_->stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (machine_->stack == MAP_FAILED) throw std::bad_alloc();
}

Fiber::~Fiber() { munmap(machine_->stack, kStackBytes); }

bool Fiber::start(const std::function<void()>& body) {
  machine_->body = &body;
  machine_->ended = false;
  machine_->prepare();
  return machine_->enter();
}

bool Fiber::resume() { return machine_->enter(); }

void Fiber::pause() {
  TO_CALLER(*machine_);
  machine_->to_caller();
  IN_FIBER(*machine_);
}

}  // namespace emulation
