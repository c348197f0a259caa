#include "emulator.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "fiber.h"

emulation::Index3 threadIdx, blockIdx;
emulation::Dim3 blockDim, gridDim;

namespace emulation {

namespace {

struct Barrier {
  unsigned arrived = 0, threads = 0;
  uint64_t generation = 0;
  void pass_if_complete() {
    if (arrived == 0 || arrived < threads) return;
    arrived = 0;
    ++generation;
  }
};

struct Block {
  Index3 index;
  std::vector<unsigned char> shared;
  Barrier barrier;
};

struct Waiting {
  Index3 thread;
  Block* block;
  std::unique_ptr<Fiber> fiber;
};

std::mutex launches;
std::set<void*> streams;
Block* block_now = nullptr;
Fiber* fiber_now = nullptr;
bool progress = false;
Fault fault = Fault::kNone;
std::mt19937_64 order;

std::vector<std::unique_ptr<Fiber>>& idle() {
  static std::vector<std::unique_ptr<Fiber>> fibers;
  return fibers;
}

std::unique_ptr<Fiber> take_fiber() {
  if (idle().empty()) return std::make_unique<Fiber>();
  auto fiber = std::move(idle().back());
  idle().pop_back();
  return fiber;
}

// The threads of blocks that run together.
bool run_blocks(std::vector<Block>& blocks, const std::function<void()>& kernel) {
  const Dim3 dim = blockDim;
  const unsigned threads = dim.x * dim.y * dim.z;
  std::vector<unsigned> turn(blocks.size() * threads);
  std::iota(turn.begin(), turn.end(), 0u);
  std::shuffle(turn.begin(), turn.end(), order);

  std::vector<Waiting> waiting;
  // True: the thread has ended.
  const auto enter = [&](Waiting& w, bool begin) {
    threadIdx = w.thread, blockIdx = w.block->index;
    block_now = w.block, fiber_now = w.fiber.get();
    const bool ended = begin ? w.fiber->start(kernel) : w.fiber->resume();
    if (!ended) return false;
    idle().push_back(std::move(w.fiber));
    --w.block->barrier.threads;  // who has ended is not waited for
    w.block->barrier.pass_if_complete();
    progress = true;
    return true;
  };

  for (auto& block : blocks) block.barrier.threads = threads;
  for (const unsigned i : turn) {
    Block& block = blocks[i / threads];
    unsigned t = i % threads;
    if (fault == Fault::kShiftedIndex && t == threads - 1 && t > 0) --t;
    Waiting w{{t % dim.x, t / dim.x % dim.y, t / (dim.x * dim.y)}, &block, take_fiber()};
    if (!enter(w, true)) waiting.push_back(std::move(w));
  }
  while (!waiting.empty()) {
    progress = false;
    std::shuffle(waiting.begin(), waiting.end(), order);
    std::erase_if(waiting, [&](Waiting& w) { return enter(w, false); });
    if (!progress) return false;
  }
  return true;
}

}  // namespace

const char* refusal(const Dim3& grid, const Dim3& block, size_t shared_bytes, size_t parameter_bytes) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return "invalid configuration argument: grid";
  if (block.x == 0 || block.y == 0 || block.z == 0 || block.z > 64 || block.x * block.y * block.z > 1024)
    return "invalid configuration argument: block";
  if (shared_bytes > (227 << 10)) return "invalid configuration argument: shared memory";
  if (parameter_bytes > 4096) return "invalid configuration argument: parameters";
  return nullptr;
}

std::set<void*> take_streams() { return std::exchange(streams, {}); }

bool run(const Dim3& grid, const Dim3& block, size_t shared_bytes, void* stream, const std::function<void()>& kernel) {
  const std::lock_guard lock(launches);
  streams.insert(stream);
  gridDim = grid, blockDim = block;
  std::vector<uint64_t> turn(static_cast<uint64_t>(grid.x) * grid.y * grid.z);
  std::iota(turn.begin(), turn.end(), 0ull);
  std::shuffle(turn.begin(), turn.end(), order);
  for (const uint64_t i : turn) {
    std::vector<Block> blocks(1);
    blocks[0].index = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                       static_cast<unsigned>(i / grid.x / grid.y)};
    blocks[0].shared.assign(shared_bytes, 0xff);  // NaN to whoever reads what nobody wrote
    if (!run_blocks(blocks, kernel)) return false;
  }
  return true;
}

void wait_until(const std::function<bool()>& ready) {
  while (!ready()) fiber_now->pause();
  progress = true;
}

void block_barrier() {
  if (fault == Fault::kNoBarriers) return;
  Barrier& barrier = block_now->barrier;
  const uint64_t generation = barrier.generation;
  ++barrier.arrived;
  barrier.pass_if_complete();
  wait_until([&] { return barrier.generation != generation; });
}

unsigned char* shared_memory() { return block_now->shared.data(); }

void set_fault(Fault f) { fault = f; }
void set_seed(uint64_t seed) { order.seed(seed); }

}  // namespace emulation
