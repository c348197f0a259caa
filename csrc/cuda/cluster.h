// Engine "cluster" on a GPU of compute capability 9.0 to 11: the walk over the steps of a chunk is one launch. A
// cluster of blocks holds all of W_hh on chip and walks its rows of the batch; clusters know nothing of each other.
// How: cluster_forward.cuh and cluster_backward.cuh.
//
// Legend: cuda/stepwise.h. A unit group is 16 units, a tile 8 rows of the batch; the last of each may be cut.
#pragma once

#include <string>
#include <type_traits>

#include "cuda/stepwise.h"

namespace seq::cuda {

// What products are made of. kFloat32: three of TF32 for each, which together are a product in float32.
enum class Math { kTf32, kFloat32, kBfloat16, kFloat16 };

// call(std::integral_constant<Math, math>())
template <class Call>
auto with_math(Math math, const Call& call) {
  switch (math) {
    case Math::kTf32:
      return call(std::integral_constant<Math, Math::kTf32>());
    case Math::kFloat32:
      return call(std::integral_constant<Math, Math::kFloat32>());
    case Math::kBfloat16:
      return call(std::integral_constant<Math, Math::kBfloat16>());
    case Math::kFloat16:
      return call(std::integral_constant<Math, Math::kFloat16>());
  }
  __builtin_unreachable();
}

// The steps of one launch in one direction, steps t0 .. t0 + count in time.
struct ClusterSteps {
  int64_t t0 = 0, batch = 0;
  int count = 0;
  bool reverse = false, packed = false;
  bool begins = false;             // the first walk step of all is among them
  const int64_t* order = nullptr;  // [B] on the device: the rows of the batch in the order of their lengths, the
                                   // longest first; null: as they come
  int64_t base = 0;                // packed data: start[1 + i] + base is the first data row of step t0 + i; one step
  int32_t start[kStepsPerTable + 3] = {};  // more at each end
};

struct ClusterWalk {
  ClusterSteps steps;
  const void* weights = nullptr;  // W_hh, packed for the forward or the backward
  int64_t gates_first = 0;        // the data row of gx[0] or dgx[0], dgh[0]
  int64_t saved_first = 0;        // the data row of saved[0]
};

struct ClusterForward : ClusterWalk {
  Forward walk;              // h and c: the states that enter the first step, in the end those that leave the last
  const void* gx = nullptr;  // T [rows, G, H], without bias
  void* saved = nullptr;     // T [rows, kSaved, H]; null: not kept
};

struct ClusterBackward : ClusterWalk {
  Backward walk;                        // dh and dc: the gradients of the states that leave the last step, in the end
                                        // of those that enter the first
  const void* saved = nullptr;          // T [rows, kSaved, H]
  void *dgx = nullptr, *dgh = nullptr;  // S [rows, G, H]
};

// What engine "group" has in global memory: where blocks leave what they give each other, counts of that, zeros at
// first, whether a block has waited in vain, 0 at first, and the same in memory of the host.
struct GroupMemory {
  void* slots = nullptr;
  unsigned long long *counts = nullptr, *gave_up = nullptr;
  int* failed = nullptr;
};

// How a layer lies on a GPU.
struct ClusterShape {
  int blocks = 0;    // of a cluster
  int groups = 0;    // unit groups of the layer
  int owned = 0;     // unit groups of a block; the last block may have fewer
  int inverse = 0;   // 2^16 / owned, rounded up; engine "cluster"
  int slices = 0;    // forward: among how many warps the depth of a product is shared
  int warps = 0;     // of a block
  int overflow = 0;  // fragments of weights of a warp that are not in its registers
  int tiles = 0;     // of a cluster
  int held = 0;      // how often what blocks give each other is in shared memory: operands of all units, or slots
  int clusters = 0;  // of one direction
  int directions = 0;
  int shared_bytes = 0;
  int64_t slot_bytes = 0, counts = 0;  // of GroupMemory

  // group / owned, for fewer than 2^16 / owned groups; a division takes longer than the product of a fragment.
  SEQ_HD int owner(int group) const { return group * inverse >> 16; }
};

// The layer, as far as its shape goes.
struct ClusterLayer {
  int64_t batch, hidden;
  int directions, cell;  // cell: its place in cells/list.h
  Math math;
};

// One cell for one kind of product; a walk for each direction, side by side.
struct ClusterKernels {
  // w_hh S [G*H, H] -> packed_bytes(), in the order in which a walk's warps read it.
  Error (*pack)(const void* w_hh, int64_t hidden, bool backward, void* packed, Stream);
  Error (*forward)(const ClusterForward* walks, const ClusterShape&, const GroupMemory&, Stream);
  Error (*backward)(const ClusterBackward* walks, const ClusterShape&, const GroupMemory&, Stream);
  // How many clusters of so many of the largest blocks the current GPU runs at once; null for engine "group".
  int (*clusters_at_once)(int blocks) = nullptr;
};

// By the place of the cell in cells/list.h; null where the engine does not have the cell.
const ClusterKernels* cluster_kernels(int cell, Math math);

// The same for one kind of product, each compiled in its own cluster_<math>.cu.
template <Math kMath>
const ClusterKernels* cluster_kernels_for(int cell);

int64_t packed_bytes(const ClusterLayer& layer);

// Why the current GPU, of this compute capability (90 for 9.0), cannot walk such a layer; empty where it can.
std::string cluster_refusal(const ClusterLayer& layer, int capability);

// For a layer that is not refused.
ClusterShape forward_shape(const ClusterLayer& layer);
ClusterShape backward_shape(const ClusterLayer& layer);

}  // namespace seq::cuda
