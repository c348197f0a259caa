// W_hh in the order in which the warps of engine "cluster" read it: fragments of kFragmentBytes, zero past the last
// unit. Forward: [group][depth group][depth][gate], 16 units of a gate times 16 units of h. Backward: the transpose,
// [depth group][gate][group][depth], 16 units of dh times 16 units of a gate.
#pragma once

#include "cuda/cluster_common.cuh"

namespace seq::cuda {

namespace {

constexpr int kPackWarps = 8;

// A warp for each fragment.
template <class P, int kGates, bool kBackward>
__global__ void __launch_bounds__(kPackWarps* kWarpLanes)
    cluster_pack(const typename P::Data* w_hh, int64_t hidden, int groups, uint4* packed) {
  if constexpr (kHasProducts) {
    const int64_t f = static_cast<int64_t>(blockIdx.x) * kPackWarps + threadIdx.x / kWarpLanes;
    const int lane = threadIdx.x % kWarpLanes, depth = (kBackward ? f : f / kGates) % P::kDepths;
    const int64_t which = f / (kBackward ? P::kDepths : kGates * P::kDepths);
    const int gate = kBackward ? which / groups % kGates : f % kGates;
    const int64_t group = kBackward ? which % groups : which / groups;
    const int64_t of_depth = kBackward ? which / groups / kGates : which % groups;
    if (f >= static_cast<int64_t>(groups) * groups * kGates * P::kDepths) return;
    uint32_t a[4];
    P::load(a, depth, lane, [&](int row, int unit) {
      const int64_t r = group * kGroupUnits + (kBackward ? unit : row);
      const int64_t k = of_depth * kGroupUnits + (kBackward ? row : unit);
      return r < hidden && k < hidden ? w_hh[(gate * hidden + r) * hidden + k] : narrow<typename P::Data>(0.f);
    });
    packed[f * kWarpLanes + lane] = make_uint4(a[0], a[1], a[2], a[3]);
  }
}

template <class P, int kGates>
Error launch_pack(const void* w_hh, int64_t hidden, bool backward, void* packed, Stream stream) {
  const int64_t groups = divided_up(static_cast<int>(hidden), kGroupUnits);
  const int64_t fragments = groups * groups * kGates * P::kDepths;
  return launch(dim3((fragments + kPackWarps - 1) / kPackWarps), dim3(kPackWarps * kWarpLanes), stream,
                backward ? &cluster_pack<P, kGates, true> : &cluster_pack<P, kGates, false>,
                static_cast<const typename P::Data*>(w_hh), hidden, static_cast<int>(groups),
                static_cast<uint4*>(packed));
}

}  // namespace

}  // namespace seq::cuda
