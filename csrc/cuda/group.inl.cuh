// The table of cells of group.h for one kind of product. Included once by each group_<math>.cu.
#include "cells/list.h"
#include "cuda/cluster_backward.cuh"
#include "cuda/cluster_forward.cuh"
#include "cuda/cluster_pack.cuh"
#include "cuda/group.h"
#include "cuda/group_exchange.cuh"

namespace seq::cuda {

namespace {

template <class Cell, Math kMath>
const ClusterKernels* group_table_of() {
  if constexpr (kOnChip<Cell>) {
    static const ClusterKernels kernels{
        &launch_pack<Products<kMath>, Cell::kGates>,
        [](const ClusterForward* walks, const ClusterShape& shape, const GroupMemory& memory, Stream stream) {
          return launch_together(grid_of(shape), block_of(shape), shape.shared_bytes, stream,
                                 &cluster_forward<Cell, kMath, GroupForwardExchange>,
                                 arguments_of<ForwardLayout>(walks, shape, kClusterCell<Cell, kMath>, memory));
        },
        [](const ClusterBackward* walks, const ClusterShape& shape, const GroupMemory& memory, Stream stream) {
          return launch_together(grid_of(shape), block_of(shape), shape.shared_bytes, stream,
                                 &cluster_backward<Cell, kMath, GroupBackwardExchange>,
                                 arguments_of<BackwardLayout>(walks, shape, kClusterCell<Cell, kMath>, memory));
        }};
    return &kernels;
  } else {
    return nullptr;
  }
}

}  // namespace

template <Math kMath>
const ClusterKernels* group_kernels_for(int cell) {
#define SEQ_TABLE(Cell) group_table_of<Cell, kMath>(),
  static const ClusterKernels* const tables[] = {SEQ_FOR_EACH_CELL(SEQ_TABLE)};
#undef SEQ_TABLE
  return tables[cell];
}

}  // namespace seq::cuda
