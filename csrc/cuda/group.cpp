#include "cuda/group.h"

#include <mutex>
#include <optional>

#include "cuda/cluster_limits.h"

namespace seq::cuda {

namespace {

constexpr bool is_forward(const ForwardLayout*) { return true; }
constexpr bool is_forward(const BackwardLayout*) { return false; }

// As many blocks as fit the GPU, each with as few unit groups as that allows; or none that fits.
template <class Layout>
std::optional<ClusterShape> widest_shape(const ClusterLayer& layer, const Limits& limits) {
  constexpr bool kForward = is_forward(static_cast<Layout*>(nullptr));
  const ClusterCell cell = cell_of(layer);
  const int64_t tiles = tiles_of(layer);
  ClusterShape s;
  s.groups = groups_of(layer), s.directions = layer.directions;
  for (s.owned = 1; s.owned <= std::min(kGroupWarps, s.groups); ++s.owned) {
    s.blocks = divided_up(s.groups, s.owned);
    const int64_t at_once = limits.multiprocessors / (s.blocks * s.directions);
    if (at_once == 0) continue;
    s.slices = std::min(kGroupWarps / s.owned, s.groups);
    s.warps = kForward ? s.owned * s.slices : std::min(kGroupWarps, s.groups);
    s.tiles = static_cast<int>((tiles + at_once - 1) / at_once);
    s.clusters = static_cast<int>((tiles + s.tiles - 1) / s.tiles);
    s.held = kForward ? s.owned : 0;
    s.shared_bytes = Layout(s, cell).bytes;
    if (s.shared_bytes > limits.shared_bytes) continue;
    s.overflow = Layout(s, cell).overflow;
    s.counts = static_cast<int64_t>(s.clusters) * s.directions * s.tiles * s.groups;
    s.slot_bytes = 2 * s.counts * (kForward ? cell.depths * kOperandBytes : s.blocks * kLanesBytes);
    return s;
  }
  return std::nullopt;
}

}  // namespace

std::string group_refusal(const ClusterLayer& layer, int capability) {
  if (!group_kernels(layer.cell, layer.math)) return no_kernel(layer);
  if (capability < 80) return other_capability("8.0 or newer", capability);
  if (const std::string older = compiled_for_older(80, capability); !older.empty()) return older;
  const Limits limits;
  if (widest_shape<ForwardLayout>(layer, limits) && widest_shape<BackwardLayout>(layer, limits)) return "";
  const char* directions = layer.directions == 2 ? " for two directions" : "";
  return too_large(layer, limits, kGroupWarps,
                   "the " + std::to_string(limits.multiprocessors) + " multiprocessors" + directions);
}

ClusterShape group_forward_shape(const ClusterLayer& layer) { return *widest_shape<ForwardLayout>(layer, Limits()); }
ClusterShape group_backward_shape(const ClusterLayer& layer) { return *widest_shape<BackwardLayout>(layer, Limits()); }

int* group_failure() {
  static std::mutex guard;
  static int* failure = nullptr;
  const std::lock_guard lock(guard);
  if (failure) return failure;
  // A graph that is being captured, by any thread, would refuse this, which is no part of it.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  void* memory = nullptr;
  if (cudaHostAlloc(&memory, sizeof(int), cudaHostAllocPortable | cudaHostAllocMapped) == cudaSuccess)
    failure = new (memory) int(0);
  else
    (void)cudaGetLastError();
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  return failure;
}

const ClusterKernels* group_kernels(int cell, Math math) {
  return with_math(math, [&](auto kind) { return group_kernels_for<kind()>(cell); });
}

}  // namespace seq::cuda
