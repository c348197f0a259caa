#include "cuda/cluster.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <optional>

#include "cuda/cluster_layout.h"

namespace seq::cuda {

namespace {

// Of the current GPU.
struct Limits {
  int multiprocessors = 0, shared_bytes = 0;

  Limits() {
    int device = 0;
    const auto read = [&](int* value, cudaDeviceAttr attribute) {
      if (cudaDeviceGetAttribute(value, attribute, device) != cudaSuccess) (void)cudaGetLastError();
    };
    if (cudaGetDevice(&device) != cudaSuccess) (void)cudaGetLastError();
    read(&multiprocessors, cudaDevAttrMultiProcessorCount);
    read(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  }
};

constexpr int kMaxBlocks = 16;

ClusterCell cell_of(const ClusterLayer& layer) {
  const CellCounts& cell = kCells[layer.cell];
  const bool half = layer.math == Math::kBfloat16 || layer.math == Math::kFloat16;
  return {cell.gates, cell.states, cell.saved, half ? 1 : 2};
}

// Clocks of a step, for choosing among shapes: estimates, until a GPU has measured them. Products of resident fragments
// are bound by the tensor cores, the others by shared memory; a step waits at least once for what its peers push.
int64_t clocks(const ClusterShape& s, const ClusterCell& cell, Math math, int rounds) {
  constexpr int kSchedulers = 4, kMultiply = 7, kLoad = 4, kPushedBytes = 16, kAlone = 200, kExchange = 800;
  const int fragments = s.owned * s.groups * cell.gates * cell.depths;
  const int64_t product =
      divided_up(fragments, kSchedulers) * kMultiply * (math == Math::kFloat32 ? 3 : 1) + s.warps * s.overflow * kLoad;
  const int64_t exchange = s.groups * cell.depths * kOperandBytes / kPushedBytes;
  const int64_t tile = product + exchange;
  return rounds * std::max(tile * s.tiles, tile + (s.blocks == 1 ? kAlone : kExchange));
}

// The fastest shape by the estimate, or none that fits. Every block has a group of its own.
template <class Layout>
std::optional<ClusterShape> best_shape(const ClusterLayer& layer, const Limits& limits) {
  const ClusterCell cell = cell_of(layer);
  const int groups = divided_up(static_cast<int>(layer.hidden), kGroupUnits);
  const int64_t tiles = std::max<int64_t>((layer.batch + kTileRows - 1) / kTileRows, 1);
  std::optional<ClusterShape> best;
  int64_t best_clocks = 0;
  for (int blocks = 1; blocks <= std::min(kMaxBlocks, groups); ++blocks) {
    ClusterShape s;
    s.blocks = blocks, s.groups = groups, s.owned = divided_up(groups, blocks);
    if (s.owned > kMaxWarps || (blocks - 1) * s.owned >= groups) continue;
    s.slices = std::min({kMaxSlices, kMaxWarps / s.owned, groups});
    s.warps = std::is_same_v<Layout, ForwardLayout> ? s.owned * s.slices : std::min(kMaxWarps, groups);
    const int at_once = std::max(limits.multiprocessors / blocks / layer.directions, 1);
    const auto bytes = [&](int64_t of_tiles) {
      s.tiles = static_cast<int>(of_tiles);
      return Layout(s, cell).bytes;
    };
    if (bytes(1) > limits.shared_bytes) continue;
    const int fit = (limits.shared_bytes - bytes(0)) / (bytes(1) - bytes(0));
    s.shared_bytes = bytes(std::min<int64_t>((tiles + at_once - 1) / at_once, fit));
    s.overflow = Layout(s, cell).overflow;
    s.clusters = static_cast<int>((tiles + s.tiles - 1) / s.tiles);
    const int64_t needed = clocks(s, cell, layer.math, divided_up(s.clusters, at_once));
    if (!best || needed < best_clocks) best = s, best_clocks = needed;
  }
  return best;
}

}  // namespace

int64_t packed_bytes(const ClusterLayer& layer) {
  const ClusterCell cell = cell_of(layer);
  const int64_t groups = divided_up(static_cast<int>(layer.hidden), kGroupUnits);
  return (groups * groups * cell.gates * cell.depths + kResident) * kFragmentBytes;
}

std::string cluster_refusal(const ClusterLayer& layer, int capability) {
  const CellCounts& cell = kCells[layer.cell];
  if (!cluster_kernels(layer.cell, layer.math))
    return std::string("cell ") + cell.name + " has more than one phase, parameters of its own or no recurrent product";
  if (capability < 90) return "it needs a GPU of compute capability 9.0 or newer";
  const Limits limits;
  if (layer.hidden <= kMaxBlocks * kMaxWarps * kGroupUnits && best_shape<ForwardLayout>(layer, limits) &&
      best_shape<BackwardLayout>(layer, limits))
    return "";
  const ClusterCell needs = cell_of(layer);
  const int64_t kib = (layer.hidden * layer.hidden * needs.gates * 2 * needs.depths) >> 10;
  return "the recurrent weights, " + std::to_string(kib) + " KiB for " + std::to_string(layer.hidden) +
         " hidden units, must fit the registers and shared memory of a cluster of " + std::to_string(kMaxBlocks) +
         " blocks, of which each has " + std::to_string(kMaxWarps * kResident * kFragmentBytes >> 10) + " + " +
         std::to_string(limits.shared_bytes >> 10) + " KiB, with room for the states";
}

ClusterShape forward_shape(const ClusterLayer& layer) { return *best_shape<ForwardLayout>(layer, Limits()); }
ClusterShape backward_shape(const ClusterLayer& layer) { return *best_shape<BackwardLayout>(layer, Limits()); }

const ClusterKernels* cluster_kernels(int cell, Math math) {
  switch (math) {
    case Math::kTf32:
      return cluster_kernels_for<Math::kTf32>(cell);
    case Math::kFloat32:
      return cluster_kernels_for<Math::kFloat32>(cell);
    case Math::kBfloat16:
      return cluster_kernels_for<Math::kBfloat16>(cell);
    case Math::kFloat16:
      return cluster_kernels_for<Math::kFloat16>(cell);
  }
  __builtin_unreachable();
}

}  // namespace seq::cuda
