// What engines "cluster" and "group" ask of the GPU and of a layer before they choose a shape.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "cuda/architectures.h"
#include "cuda/cluster_layout.h"

namespace seq::cuda {

// Of the current GPU.
struct Limits {
  int device = 0, multiprocessors = 0, shared_bytes = 0;

  Limits() {
    const auto read = [&](int* value, cudaDeviceAttr attribute) {
      if (cudaDeviceGetAttribute(value, attribute, device) != cudaSuccess) (void)cudaGetLastError();
    };
    if (cudaGetDevice(&device) != cudaSuccess) (void)cudaGetLastError();
    read(&multiprocessors, cudaDevAttrMultiProcessorCount);
    read(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  }
};

inline ClusterCell cell_of(const ClusterLayer& layer) {
  const CellCounts& cell = kCells[layer.cell];
  const bool half = layer.math == Math::kBfloat16 || layer.math == Math::kFloat16;
  return {cell.gates, cell.states, cell.saved, half ? 1 : 2};
}

inline int groups_of(const ClusterLayer& layer) { return divided_up(static_cast<int>(layer.hidden), kGroupUnits); }
inline int64_t tiles_of(const ClusterLayer& layer) {
  return std::max<int64_t>((layer.batch + kTileRows - 1) / kTileRows, 1);
}

inline std::string no_kernel(const ClusterLayer& layer) {
  return std::string("cell ") + kCells[layer.cell].name +
         " has more than one phase, parameters of its own or no recurrent product";
}
inline std::string other_capability(const std::string& needed, int capability) {
  return "it needs a GPU of compute capability " + needed + ", this one has " + version(capability);
}
// Its kernels are empty where they are compiled for less than `needed`. The empty text: they are not.
inline std::string compiled_for_older(int needed, int capability) {
  const int compiled = compiled_for();
  if (compiled >= needed) return "";
  return "it needs kernels for compute capability " + version(needed) + ", those that run here were compiled for " +
         version(compiled) + "; build the extension with TORCH_CUDA_ARCH_LIST=" + version(capability);
}
// `blocks`: in words, which the layer does not fit.
inline std::string too_large(const ClusterLayer& layer, const Limits& limits, int warps, const std::string& blocks) {
  const ClusterCell cell = cell_of(layer);
  const int64_t kib = (layer.hidden * layer.hidden * cell.gates * 2 * cell.depths) >> 10;
  return "the recurrent weights, " + std::to_string(kib) + " KiB for " + std::to_string(layer.hidden) +
         " hidden units, must fit the registers and shared memory of " + blocks + ", of which each has " +
         std::to_string(warps * kResident * kFragmentBytes >> 10) + " + " + std::to_string(limits.shared_bytes >> 10) +
         " KiB, with room for the states";
}

}  // namespace seq::cuda
