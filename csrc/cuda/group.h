// Engine "group" on a GPU of compute capability 8.0 or newer, for weights that no cluster holds: the kernels of engine
// "cluster", whose clusters are here groups of any number of blocks, all on the GPU at the same time, and exchange
// through global memory (group_exchange.cuh).
#pragma once

#include "cuda/cluster.h"

namespace seq::cuda {

constexpr int kGroupWarps = 8;  // of a block, at most: with more, a thread has too few registers

// As those of cluster.h.
const ClusterKernels* group_kernels(int cell, Math math);
template <Math kMath>
const ClusterKernels* group_kernels_for(int cell);

std::string group_refusal(const ClusterLayer& layer, int capability);
ClusterShape group_forward_shape(const ClusterLayer& layer);
ClusterShape group_backward_shape(const ClusterLayer& layer);

// In memory of the host that kernels write to: not 0 once a block has waited in vain, of any walk. What it has not
// received is NaN to it, so that results tell as well, as they must where a graph is replayed.
// Null where there is no such memory now.
int* group_failure();

}  // namespace seq::cuda
