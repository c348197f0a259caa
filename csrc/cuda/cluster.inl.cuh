// The table of cells of cluster.h for one kind of product. Included once by each cluster_<math>.cu.
#include "cells/list.h"
#include "cuda/cluster_backward.cuh"
#include "cuda/cluster_forward.cuh"
#include "cuda/cluster_pack.cuh"

namespace seq::cuda {

namespace {

template <class Cell, Math kMath>
constexpr ClusterCell kClusterCell{Cell::kGates, Cell::kStates, Cell::kSaved, Products<kMath>::kDepths};

template <class Cell, Math kMath>
const ClusterKernels* cluster_table_of() {
  using Traits = CellTraits<Cell>;
  if constexpr (Traits::phases() == 1 && Traits::parameters() == 0 && Traits::recurrent()) {
    static const ClusterKernels kernels{
        &launch_pack<Products<kMath>, Cell::kGates>,
        [](const ClusterForward* walks, int directions, const ClusterShape& shape, Stream stream) {
          return launch_walks(&cluster_forward<Cell, kMath>, walks, directions, shape, kClusterCell<Cell, kMath>,
                              stream);
        },
        [](const ClusterBackward* walks, int directions, const ClusterShape& shape, Stream stream) {
          return launch_walks(&cluster_backward<Cell, kMath>, walks, directions, shape, kClusterCell<Cell, kMath>,
                              stream);
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
