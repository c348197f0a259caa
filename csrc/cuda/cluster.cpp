#include "cuda/cluster.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "cuda/cluster_limits.h"

namespace seq::cuda {

namespace {

constexpr int kMaxBlocks = 16;

// Clocks of a step, for choosing among shapes: estimates, no GPU has measured them. Products of resident fragments are
// bound by the tensor cores (in float32 by what splits the numbers), the others by shared memory; one warp computes the
// cell of a group, some of them on each scheduler; a step waits at least once for what its peers push.
template <class Layout>
int64_t clocks(const ClusterShape& s, const ClusterCell& cell, Math math, int rounds) {
  constexpr int kSchedulers = 4, kLoad = 4, kPushedBytes = 16, kAlone = 200, kExchange = 800;
  constexpr int kMultiply = 7, kMultiplyExactly = 30, kCell = 500, kExactCell = 1200;
  const bool exact = math == Math::kFloat32;
  const int fragments = s.owned * s.groups * cell.gates * cell.depths;
  const int64_t product =
      divided_up(fragments, kSchedulers) * (exact ? kMultiplyExactly : kMultiply) + s.warps * s.overflow * kLoad;
  const int64_t cells = divided_up(s.owned, kSchedulers) * (exact ? kExactCell : kCell);
  const int pushed = std::is_same_v<Layout, ForwardLayout> ? cell.depths * kOperandBytes : kLanesBytes;
  const int64_t tile = product + cells + s.groups * pushed / kPushedBytes;
  return rounds * std::max(tile * s.tiles, tile + (s.blocks == 1 ? kAlone : kExchange));
}

// Of so many blocks, on the current GPU; 0: it has no such clusters. Less than its multiprocessors allow, since a
// cluster lies in one part of the GPU (GPC). Asked once: all cells' kernels fill a multiprocessor.
int clusters_at_once(const ClusterLayer& layer, const Limits& limits, int blocks) {
  static std::mutex mutex;
  static std::map<std::pair<int, int>, int> known;  // by device and blocks
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = known.try_emplace({limits.device, blocks});
  if (is_new) found->second = cluster_kernels(layer.cell, layer.math)->clusters_at_once(blocks);
  return found->second;
}

// The fastest shape by the estimate, or none that fits. Every block has a group of its own.
template <class Layout>
std::optional<ClusterShape> best_shape(const ClusterLayer& layer, const Limits& limits) {
  const ClusterCell cell = cell_of(layer);
  const int groups = groups_of(layer);
  const int64_t tiles = tiles_of(layer);
  std::optional<ClusterShape> best;
  int64_t best_clocks = 0;
  for (int blocks = 1; blocks <= std::min(kMaxBlocks, groups); ++blocks) {
    ClusterShape s;
    s.blocks = blocks, s.groups = groups, s.owned = divided_up(groups, blocks), s.directions = layer.directions;
    s.inverse = divided_up(1 << 16, s.owned);
    if (s.owned > kMaxWarps || (blocks - 1) * s.owned >= groups) continue;
    s.slices = std::min({kMaxSlices, kMaxWarps / s.owned, groups});
    s.warps = std::is_same_v<Layout, ForwardLayout> ? s.owned * s.slices : std::min(kMaxWarps, groups);
    const int all_at_once = clusters_at_once(layer, limits, blocks);
    if (all_at_once == 0) continue;
    const int at_once = std::max(all_at_once / layer.directions, 1);
    const auto bytes = [&](int64_t of_tiles) {
      s.tiles = static_cast<int>(of_tiles), s.held = 2 * s.tiles;
      return Layout(s, cell).bytes;
    };
    if (bytes(1) > limits.shared_bytes) continue;
    const int fit = (limits.shared_bytes - bytes(0)) / (bytes(1) - bytes(0));
    s.shared_bytes = bytes(std::min<int64_t>((tiles + at_once - 1) / at_once, fit));
    s.overflow = Layout(s, cell).overflow;
    s.clusters = static_cast<int>((tiles + s.tiles - 1) / s.tiles);
    const int64_t needed = clocks<Layout>(s, cell, layer.math, divided_up(s.clusters * s.directions, all_at_once));
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
  if (!cluster_kernels(layer.cell, layer.math)) return no_kernel(layer);
  if (capability < 90 || capability >= 120) return other_capability("9.0 to 11", capability);
  if (const std::string older = compiled_for_older(90, capability); !older.empty()) return older;
  const Limits limits;
  if (layer.hidden <= kMaxBlocks * kMaxWarps * kGroupUnits && best_shape<ForwardLayout>(layer, limits) &&
      best_shape<BackwardLayout>(layer, limits))
    return "";
  int blocks = kMaxBlocks;
  while (blocks > 0 && clusters_at_once(layer, limits, blocks) == 0) --blocks;
  return too_large(layer, limits, kMaxWarps, "a cluster of " + std::to_string(blocks) + " blocks");
}

ClusterShape forward_shape(const ClusterLayer& layer) { return *best_shape<ForwardLayout>(layer, Limits()); }
ClusterShape backward_shape(const ClusterLayer& layer) { return *best_shape<BackwardLayout>(layer, Limits()); }

const ClusterKernels* cluster_kernels(int cell, Math math) {
  return with_math(math, [&](auto kind) { return cluster_kernels_for<kind()>(cell); });
}

}  // namespace seq::cuda
