#include "emulator.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
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

Fault fault = Fault::kNone;
std::mt19937_64 order;

struct Barrier {
  unsigned arrived = 0, threads = 0;
  uint64_t generation = 0;

  void pass_if_complete() {
    if (arrived == 0 || arrived < threads) return;
    arrived = 0;
    ++generation;
  }
  void arrive_and_wait() {
    if (fault == Fault::kNoBarriers) return;
    const uint64_t before = generation;
    ++arrived;
    pass_if_complete();
    wait_until([&] { return generation != before; });
  }
};

struct Warp {
  std::vector<uint32_t> words[2];  // a slow thread still reads one when a fast one writes the other
  unsigned arrived = 0;
  uint64_t generation = 0;
};

constexpr unsigned kWarpThreads = 32, kNamedBarriers = 16;

struct Block {
  Index3 index;
  std::vector<unsigned char> shared;
  Barrier barrier, named[kNamedBarriers];
  std::vector<Warp> warps;
  std::vector<std::vector<std::pair<float*, const float*>>> copies;  // of each thread, to and from
};

struct Waiting {
  Index3 thread;
  Block* block;
  std::unique_ptr<Fiber> fiber;
  const std::function<bool()>* ready;
};

// Bytes on their way.
struct Pushed {
  unsigned char *to, bytes[16];
  size_t count;
  CountingBarrier* barrier;
  const Block* block;

  void arrive() const {
    std::memcpy(to, bytes, count);
    barrier->complete(static_cast<int32_t>(count));
  }
};

std::mutex launches;
std::set<void*> streams;

struct Given {
  Work work;
  void* awaited;  // a stream that must have done so much before
  uint64_t count;
  bool unawaited = false;
};
struct Queue {
  std::deque<Given> given;
  uint64_t count = 0, done = 0;

  void add(Given work) {
    given.push_back(std::move(work));
    ++count;
  }
  bool has_work() const {
    return std::any_of(given.begin(), given.end(), [](const Given& work) { return !work.unawaited; });
  }
};
std::map<void*, Queue> queues;
bool later = false;  // work is not done at once

std::vector<Block> cluster;  // that runs
Barrier whole_cluster;
std::vector<Pushed> under_way;
bool pushed_alone = false;  // in a cluster of one block
Block* block_now = nullptr;
Fiber* fiber_now = nullptr;
const std::function<bool()>* awaited = nullptr;
bool giving_up = false;  // nobody could go on

unsigned thread_now() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

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

// Some of what is under way arrives, in any order. False: there was nothing.
bool deliver() {
  if (under_way.empty()) return false;
  std::shuffle(under_way.begin(), under_way.end(), order);
  for (size_t left = order() % under_way.size() + 1; left > 0; --left) {
    under_way.back().arrive();
    under_way.pop_back();
  }
  return true;
}

// The threads of the blocks of a cluster.
const char* run_cluster(const std::function<void()>& kernel) {
  const Dim3 dim = blockDim;
  const unsigned threads = dim.x * dim.y * dim.z;
  std::vector<unsigned> turn(cluster.size() * threads);
  std::iota(turn.begin(), turn.end(), 0u);
  std::shuffle(turn.begin(), turn.end(), order);
  for (auto& block : cluster) block.barrier.threads = threads;
  whole_cluster = {0, static_cast<unsigned>(turn.size()), 0};
  under_way.clear();
  pushed_alone = false;

  std::vector<Waiting> waiting;
  bool lost = false;
  giving_up = false;
  // True: the thread has ended.
  const auto enter = [&](Waiting& w, bool begin) {
    threadIdx = w.thread, blockIdx = w.block->index;
    block_now = w.block, fiber_now = w.fiber.get();
    const bool ended = begin ? w.fiber->start(kernel) : w.fiber->resume();
    w.ready = awaited;
    if (!ended) return false;
    idle().push_back(std::move(w.fiber));
    for (Barrier* barrier : {&w.block->barrier, &whole_cluster}) {
      --barrier->threads;  // who has ended is not waited for
      barrier->pass_if_complete();
    }
    const auto is_for_it = [&](const Pushed& pushed) { return pushed.block == w.block; };
    if (w.block->barrier.threads == 0 && std::any_of(under_way.begin(), under_way.end(), is_for_it)) lost = true;
    return true;
  };

  for (const unsigned i : turn) {
    Block& block = cluster[i / threads];
    unsigned t = i % threads;
    if (fault == Fault::kShiftedIndex && t == threads - 1 && t > 0) --t;
    Waiting w{{t % dim.x, t / dim.x % dim.y, t / (dim.x * dim.y)}, &block, take_fiber(), nullptr};
    if (!enter(w, true)) waiting.push_back(std::move(w));
  }
  while (!waiting.empty()) {
    bool progress = false;
    std::shuffle(waiting.begin(), waiting.end(), order);
    std::erase_if(waiting, [&](Waiting& w) {
      if (!(*w.ready)()) return false;
      progress = true;
      return enter(w, false);
    });
    progress |= deliver();
    if (!progress && giving_up) return "deadlock: every thread waits";
    giving_up = !progress;
  }
  if (pushed_alone) return "a push in a cluster of one block";
  return lost && fault == Fault::kNone ? "a block has ended while data were on their way to it" : nullptr;
}

// The threads of a grid.
const char* run_now(const Launch& launch, const std::function<void()>& kernel) {
  const std::lock_guard lock(launches);
  streams.insert(launch.stream);
  const Dim3 &grid = launch.grid, &block = launch.block;
  gridDim = grid, blockDim = block;
  const unsigned blocks = launch.together ? grid.x : launch.cluster, clusters = grid.x / blocks;
  const unsigned warps = (block.x * block.y * block.z + kWarpThreads - 1) / kWarpThreads;
  std::vector<uint64_t> turn(static_cast<uint64_t>(clusters) * grid.y * grid.z);
  std::iota(turn.begin(), turn.end(), 0ull);
  std::shuffle(turn.begin(), turn.end(), order);
  for (const uint64_t i : turn) {
    cluster.assign(blocks, {});
    for (unsigned rank = 0; rank < blocks; ++rank) {
      Block& b = cluster[rank];
      b.index = {static_cast<unsigned>(i % clusters * blocks + rank), static_cast<unsigned>(i / clusters % grid.y),
                 static_cast<unsigned>(i / clusters / grid.y)};
      b.shared.assign(launch.shared_bytes, 0xff);  // NaN to whoever reads what nobody wrote
      b.warps.resize(warps);
      b.copies.resize(warps * kWarpThreads);
    }
    if (const char* error = run_cluster(kernel)) return error;
  }
  return nullptr;
}

// Streams in any order, until this one has done all it was given.
const char* finish(void* stream) {
  const char* error = nullptr;
  while (!queues[stream].given.empty()) {
    std::vector<Queue*> ready;
    for (auto& [_, queue] : queues)
      if (!queue.given.empty() && queues[queue.given.front().awaited].done >= queue.given.front().count)
        ready.push_back(&queue);
    if (ready.empty()) return "deadlock: every stream waits";
    Queue& queue = *ready[order() % ready.size()];
    const Given next = std::move(queue.given.front());
    queue.given.pop_front();
    ++queue.done;
    if (const char* wrong = next.work()) error = wrong;
  }
  return error;
}

}  // namespace

const char* refusal(const Launch& launch, size_t parameter_bytes) {
  const auto& [grid, block, cluster, together, shared_bytes, stream] = launch;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return "invalid configuration argument: grid";
  if (block.x == 0 || block.y == 0 || block.z == 0 || block.z > 64 || block.x * block.y * block.z > 1024)
    return "invalid configuration argument: block";
  if (together && grid.x * grid.y * grid.z > static_cast<unsigned>(multiprocessors()))
    return "too many blocks in cooperative launch";
  if (cluster == 0 || cluster > 16 || grid.x % cluster != 0) return "invalid configuration argument: cluster";
  if (cluster > 1 && clusters_at_once(static_cast<int>(cluster)) == 0) return "cluster does not fit the machine";
  if (shared_bytes > emulation::shared_bytes) return "invalid configuration argument: shared memory";
  if (parameter_bytes > 4096) return "invalid configuration argument: parameters";
  return nullptr;
}

std::set<void*> take_streams() { return std::exchange(streams, {}); }

const char* give(void* stream, Work work) {
  if (!later) return work();
  queues[stream].add({std::move(work), stream, 0});
  return nullptr;
}

void give_unawaited(void* stream, Work work) {
  if (later)
    queues[stream].add({std::move(work), stream, 0, /*unawaited=*/true});
  else
    work();
}

const char* wait_for(void* waiting, void* awaited, void* host) {
  later = true;
  if (fault != (waiting == host ? Fault::kNoJoin : Fault::kNoWaits))
    queues[waiting].add({[]() -> const char* { return nullptr; }, awaited, queues[awaited].count});
  if (waiting != host) return nullptr;
  const char* error = finish(host);
  later = std::any_of(queues.begin(), queues.end(), [](const auto& named) { return named.second.has_work(); });
  if (!later) queues.clear();
  return error;
}

bool forget_work() {
  queues.clear();
  return std::exchange(later, false);
}

const char* run(const Launch& launch, const std::function<void()>& kernel) {
  return give(launch.stream, [=] { return run_now(launch, kernel); });
}

void wait_until(const std::function<bool()>& ready) {
  while (!ready()) {
    awaited = &ready;
    fiber_now->pause();
  }
}

bool wait_until_or_give_up(const std::function<bool()>& ready) {
  if (fault == Fault::kNoBarriers) return true;
  bool gave_up = false;
  wait_until([&] { return ready() || (gave_up = giving_up); });
  return !gave_up;
}

void raise(unsigned long long* count) {
  if (fault != Fault::kLostCounts) ++*count;
}

void block_barrier() { block_now->barrier.arrive_and_wait(); }

void named_barrier(unsigned id, unsigned threads) {
  Barrier& barrier = block_now->named[id];
  barrier.threads = threads;
  barrier.arrive_and_wait();
}

void cluster_barrier() { whole_cluster.arrive_and_wait(); }

unsigned char* shared_memory() { return block_now->shared.data(); }

void CountingBarrier::pass_if_complete() {
  if (pending > 0 || bytes_expected != 0) return;
  pending = count;
  phase ^= 1;
}

void CountingBarrier::arrive_expecting(int32_t bytes) {
  bytes_expected += bytes;
  --pending;
  pass_if_complete();
}

void CountingBarrier::complete(int32_t bytes) {
  bytes_expected -= bytes;
  pass_if_complete();
}

void CountingBarrier::wait(unsigned parity) const {
  if (fault == Fault::kNoBarriers) return;
  wait_until([&] { return phase != parity; });
}

void push(void* to, const void* from, size_t bytes, CountingBarrier* barrier, unsigned rank) {
  if (cluster.size() == 1) pushed_alone = true;
  Block& there = cluster[rank];
  const auto in_its_memory = [&](void* own) {
    return there.shared.data() + (static_cast<unsigned char*>(own) - block_now->shared.data());
  };
  Pushed pushed{in_its_memory(to), {}, bytes, reinterpret_cast<CountingBarrier*>(in_its_memory(barrier)), &there};
  std::memcpy(pushed.bytes, from, bytes);
  under_way.push_back(pushed);
}

void copy_later(float* to, const float* from) { block_now->copies[thread_now()].emplace_back(to, from); }

void wait_for_copies() {
  auto& copies = block_now->copies[thread_now()];
  for (const auto& [to, from] : copies) *to = from ? *from : 0;
  copies.clear();
}

void with_warp(uint32_t* words, unsigned count, void (*act)(uint32_t* of_all)) {
  Warp& warp = block_now->warps[thread_now() / kWarpThreads];
  const uint64_t generation = warp.generation;
  auto& of_all = warp.words[generation % 2];
  of_all.resize(std::max<size_t>(of_all.size(), kWarpThreads * count));
  uint32_t* own = &of_all[thread_now() % kWarpThreads * count];
  std::copy_n(words, count, own);
  if (++warp.arrived == kWarpThreads) {
    act(of_all.data());
    warp.arrived = 0;
    ++warp.generation;
  } else {
    wait_until([&] { return warp.generation != generation; });
  }
  std::copy_n(own, count, words);
}

void set_fault(Fault f) { fault = f; }
bool no_host_memory() { return fault == Fault::kNoHostMemory; }
bool one_memory() { return fault == Fault::kOneMemory; }
void set_seed(uint64_t seed) { order.seed(seed); }

}  // namespace emulation
