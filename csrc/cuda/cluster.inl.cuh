// The table of cells of cluster.h for one kind of product. Included once by each cluster_<math>.cu.
#include "cells/list.h"
#include "cuda/cluster_backward.cuh"
#include "cuda/cluster_forward.cuh"
#include "cuda/cluster_pack.cuh"

namespace seq::cuda {

namespace {

template <class Cell, Math kMath>
const ClusterKernels* cluster_table_of() {
  // Four states of a thread's rows, as the sLSTM has, would not stay in its registers: that is for engine "group".
  if constexpr (kOnChip<Cell> && CellTraits<Cell>::kStates <= 2) {
    static const ClusterKernels kernels{
        &launch_pack<Products<kMath>, Cell::kGates>,
        [](const ClusterForward* walks, const ClusterShape& shape, const GroupMemory&, Stream stream) {
          return launch_cluster(grid_of(shape), block_of(shape), shape.blocks, shape.shared_bytes, stream,
                                &cluster_forward<Cell, kMath, ClusterForwardExchange>,
                                arguments_of<ForwardLayout>(walks, shape, kClusterCell<Cell, kMath>));
        },
        [](const ClusterBackward* walks, const ClusterShape& shape, const GroupMemory&, Stream stream) {
          return launch_cluster(grid_of(shape), block_of(shape), shape.blocks, shape.shared_bytes, stream,
                                &cluster_backward<Cell, kMath, ClusterBackwardExchange>,
                                arguments_of<BackwardLayout>(walks, shape, kClusterCell<Cell, kMath>));
        },
        [](int blocks) {
          return clusters_at_once(dim3(kMaxWarps * kWarpLanes), blocks,
                                  &cluster_forward<Cell, kMath, ClusterForwardExchange>);
        }};
    return &kernels;
  } else {
    return nullptr;
  }
}

}  // namespace

template <Math kMath>
const ClusterKernels* cluster_kernels_for(int cell) {
#define SEQ_TABLE(Cell) cluster_table_of<Cell, kMath>(),
  static const ClusterKernels* const tables[] = {SEQ_FOR_EACH_CELL(SEQ_TABLE)};
#undef SEQ_TABLE
  return tables[cell];
}

}  // namespace seq::cuda
