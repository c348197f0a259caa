// Runs CUDA kernels on the host: one fiber per CUDA thread, all on the calling thread, in an order that is shuffled by
// a seed. A fiber runs until it waits at a barrier or ends, so that what only a barrier orders is seen out of order.
// The blocks of a cluster run together; what one pushes into another's shared memory arrives at a random time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <set>
#include <vector>

namespace emulation {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  Dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct Index3 {
  unsigned x, y, z;
};

// The machine: an H100. Its multiprocessors lie in GPCs, a cluster in one of them.
inline std::vector<int> gpcs = {18, 18, 18, 16, 16, 16, 16, 14};
inline int device = 0;  // another when the machine is: what was asked of one may be remembered
inline int multiprocessors() { return std::accumulate(gpcs.begin(), gpcs.end(), 0); }
// Of so many blocks, with a multiprocessor for each.
inline int clusters_at_once(int blocks) {
  return std::accumulate(gpcs.begin(), gpcs.end(), 0, [=](int sum, int gpc) { return sum + gpc / blocks; });
}
inline size_t shared_bytes = 227 << 10;  // of a block
inline int capability = 90;
inline std::vector<int> compiled_for = {80, 90};  // images of kernels, each of which newer machines run as well

struct Launch {
  Dim3 grid, block;
  unsigned cluster;  // blocks, neighbours in x, that run together
  bool together;     // all blocks do
  size_t shared_bytes;
  void* stream;
};

// Null, or why a GPU would refuse.
const char* refusal(const Launch& launch, size_t parameter_bytes);

// The streams that kernels were launched on since the last call.
std::set<void*> take_streams();

// Every thread of the grid, one launch at a time, when the stream comes to it. Null, or what went wrong, after which no
// thread runs any more: every thread waits, or data were on their way to a block that has ended.
const char* run(const Launch& launch, const std::function<void()>& kernel);

// Streams. Work is done at once, until one stream waits for another: from then on in any order that streams and their
// waits allow. Null, or what went wrong.
using Work = std::function<const char*()>;
const char* give(void* stream, Work work);
// The same, for which nobody need wait.
void give_unawaited(void* stream, Work work);
// What `waiting` is given from now on comes after what `awaited` has been given so far. The host reads what `host` has
// done: all that its work depends on is done now.
const char* wait_for(void* waiting, void* awaited, void* host);
// Forgets the work for which nobody has waited; true: there was some.
bool forget_work();

// Lets the other threads run until `ready`. For barriers.
void wait_until(const std::function<bool()>& ready);

// The same for who does not wait for ever: false when nobody can go on otherwise.
bool wait_until_or_give_up(const std::function<bool()>& ready);

// Adds 1.
void raise(unsigned long long* count);

void block_barrier();
void named_barrier(unsigned id, unsigned threads);  // of the block that runs; passes when so many threads have come
void cluster_barrier();
unsigned char* shared_memory();  // of the block that runs

// A barrier in shared memory that counts arrivals and bytes: PTX's mbarrier. A phase completes when `count` threads
// have arrived and as many bytes have come as were expected; bytes may come before they are expected.
struct CountingBarrier {
  int32_t bytes_expected;
  uint8_t count, pending, phase;

  void init(uint8_t threads) { *this = {0, threads, threads, 0}; }
  void arrive_expecting(int32_t bytes);
  void complete(int32_t bytes);      // so many have come
  void wait(unsigned parity) const;  // for the phase of this parity, the first being 0
  void pass_if_complete();
};

// Copies bytes, at most 16, to the place that `to` is in the shared memory of block `rank` of the cluster, some time
// later, and then counts them at that block's `barrier`. An error in a cluster of one block, where PTX leaves it
// undefined.
void push(void* to, const void* from, size_t bytes, CountingBarrier* barrier, unsigned rank);

// Copies a number, or 0 from null, when the thread waits for its copies.
void copy_later(float* to, const float* from);
void wait_for_copies();

// What the 32 threads of a warp do together: each gives `count` words; when all have, `act` is called once with the
// words of all, thread by thread, and each thread gets its own back as `act` has left them.
void with_warp(uint32_t* words, unsigned count, void (*act)(uint32_t* of_all));

// Deliberate faults, which tests must notice.
enum class Fault {
  kNone,
  kNoBarriers,    // barriers of every kind let everybody pass
  kShiftedIndex,  // the last thread of a block takes itself for its neighbour
  kLostCounts,    // nothing is raised
  kNoHostMemory,  // the host has no memory that kernels could write to
  kNoWaits,       // no stream waits but that of the host
  kNoJoin,        // that one does not wait
  kOneMemory,     // what is freed is the host stream's, whichever it was taken on
};
void set_fault(Fault fault);
bool no_host_memory();  // that fault
bool one_memory();
void set_seed(uint64_t seed);

}  // namespace emulation

// Of the CUDA thread that runs.
extern emulation::Index3 threadIdx, blockIdx;
extern emulation::Dim3 blockDim, gridDim;
