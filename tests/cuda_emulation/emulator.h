// Runs CUDA kernels on the host: one fiber per CUDA thread, all on the calling thread, in an order that is shuffled by
// a seed. A fiber runs until it waits at a barrier or ends, so that what only a barrier orders is seen out of order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>

namespace emulation {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  Dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct Index3 {
  unsigned x, y, z;
};

// Null, or why a GPU would refuse.
const char* refusal(const Dim3& grid, const Dim3& block, size_t shared_bytes, size_t parameter_bytes);

// The streams that kernels were launched on since the last call.
std::set<void*> take_streams();

// Every thread of the grid, one launch at a time. False: a deadlock, after which no thread runs any more.
bool run(const Dim3& grid, const Dim3& block, size_t shared_bytes, void* stream, const std::function<void()>& kernel);

// Lets the other threads run until `ready`. For barriers.
void wait_until(const std::function<bool()>& ready);

void block_barrier();
unsigned char* shared_memory();  // of the block that runs

// Deliberate faults, which tests must notice.
enum class Fault {
  kNone,
  kNoBarriers,    // barriers let everybody pass
  kShiftedIndex,  // the last thread of a block takes itself for its neighbour
};
void set_fault(Fault fault);
void set_seed(uint64_t seed);

}  // namespace emulation

// Of the CUDA thread that runs.
extern emulation::Index3 threadIdx, blockIdx;
extern emulation::Dim3 blockDim, gridDim;
