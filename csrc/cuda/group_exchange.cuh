// How the blocks of engine "group" give each other what they have computed: through global memory, in buffers that are
// used in turn, with a count for each piece that its writers raise and its readers wait for, step after step. What
// engine "cluster" says of when a buffer is free holds here as well. What a reader has waited for in vain is NaN to it.
#pragma once

#include "cuda/cluster_exchange.cuh"
#include "cuda/group.h"

namespace seq::cuda {

namespace {

// Of a tile among all of the launch.
template <class Kernel>
__device__ __forceinline__ int64_t tile_of_all(const Kernel& k, int tile) {
  return (static_cast<int64_t>(k.me.cluster) * k.shape.directions + k.me.direction) * k.shape.tiles + tile;
}
// Of what is given to, or by, a group.
template <class Kernel>
__device__ __forceinline__ unsigned long long* count_of(const Kernel& k, int tile, int group) {
  return k.memory.counts + tile_of_all(k, tile) * k.shape.groups + group;
}

template <class Kernel>
__device__ __forceinline__ bool wait_for_count(const Kernel& k, int tile, int group, unsigned long long least) {
  return wait_for(count_of(k, tile, group), least, k.memory.gave_up, k.memory.failed);
}

// Values that other blocks have written, of which `left` exist, or more than there is room for. All are on their way
// before the first is used: each is a way to the L2 and back.
template <class Value, int kAtOnce, class At>
__device__ __forceinline__ void load_at_once(Value (&values)[kAtOnce], int left, const At& at) {
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i)
    if (i < left) values[i] = load_fresh(at(i));
}

// h of all units. The warp that leads a group writes its operand; a warp takes what it multiplies into shared memory of
// its own.
struct GroupForwardExchange {
  static constexpr bool kExists = kHasProducts;
  static constexpr int kWarps = kGroupWarps;

  template <class Kernel>
  static __device__ __forceinline__ uint2* slots(const Kernel& k, int tile, int n, int group) {
    return static_cast<uint2*>(k.memory.slots) +
           ((tile_of_all(k, tile) * 2 + n % 2) * k.shape.groups + group) * k.kDepths * kWarpLanes;
  }
  template <class Kernel>
  static __device__ __forceinline__ uint2* operand(const Kernel& k, int /*tile*/, int /*n*/, int of_group) {
    return shared_at<uint2>(k.at.h) + (k.own * k.shape.groups + of_group) * k.kDepths * kWarpLanes;
  }

  template <class Kernel>
  static __device__ __forceinline__ void set_up(const Kernel&) {}
  static __device__ __forceinline__ void meet() { __syncthreads(); }

  struct Source {};
  template <class Kernel>
  static __device__ __forceinline__ Source first_source(const Kernel&) {
    return {};
  }
  template <class Kernel>
  static __device__ __forceinline__ void wait_for(const Kernel& k, Source, int tile, int n, int i) {
    if (i != k.depth_begin) return;
    bool mine = true;
    for (int j = k.depth_begin + k.me.lane; j < k.depth_end; j += kWarpLanes) mine &= wait_for_count(k, tile, j, n + 1);
    const bool received = warp_agrees(mine);
    const uint2* from = slots(k, tile, n, k.depth_begin) + k.me.lane;
    uint2* to = operand(k, tile, n, k.depth_begin) + k.me.lane;
    // Other conditions for the stores than for the loads: the same ones would have to be kept until then, for which a
    // thread has too few predicates, and the last loads would wait for the first stores.
    const uint2* const end = to + (k.depth_end - k.depth_begin) * k.kDepths * kWarpLanes;
    constexpr int kAtOnce = 8;
#pragma unroll 1
    for (int left = (k.depth_end - k.depth_begin) * k.kDepths; left > 0; left -= kAtOnce) {
      uint2 words[kAtOnce];
      load_at_once(words, left, [&](int i) { return from + i * kWarpLanes; });
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i, to += kWarpLanes)
        if (to < end) *to = received ? words[i] : make_uint2(~0u, ~0u);
      from += kAtOnce * kWarpLanes;
    }
  }

  template <class Kernel>
  static __device__ __forceinline__ void give(const Kernel& k, int tile, int n, int slot, uint2 value) {
    slots(k, tile, n, k.group)[slot] = value;
  }
  template <class Kernel>
  static __device__ __forceinline__ void given(const Kernel& k, int tile, int /*n*/) {
    warp_barrier();
    if (k.me.lane == 0) raise(count_of(k, tile, k.group));
  }
};

// Parts of dh: for each group a slot of each block, and a count that all of them raise.
struct GroupBackwardExchange {
  static constexpr bool kExists = kHasProducts;
  static constexpr int kWarps = kGroupWarps;

  template <class Kernel>
  static __device__ __forceinline__ float4* slot(const Kernel& k, int tile, int n, int group, int from) {
    return static_cast<float4*>(k.memory.slots) +
           (((tile_of_all(k, tile) * 2 + n % 2) * k.shape.groups + group) * k.shape.blocks + from) * kWarpLanes +
           k.me.lane;
  }

  template <class Kernel>
  static __device__ __forceinline__ void set_up(const Kernel&) {}
  static __device__ __forceinline__ void meet() { __syncthreads(); }

  template <class Kernel>
  static __device__ __forceinline__ void take(const Kernel& k, int tile, int n, float (&sums)[4]) {
    const bool received = warp_agrees(wait_for_count(k, tile, k.group, static_cast<int64_t>(n + 1) * k.shape.blocks));
    constexpr int kAtOnce = 8;
    for (int from = 0; from < k.shape.blocks; from += kAtOnce) {
      float4 parts[kAtOnce];
      load_at_once(parts, k.shape.blocks - from, [&](int i) { return slot(k, tile, n, k.group, from + i); });
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (from + i < k.shape.blocks) add(sums, parts[i]);
    }
    if (!received) sums[0] = sums[1] = sums[2] = sums[3] = __uint_as_float(~0u);
  }
  template <class Kernel>
  static __device__ __forceinline__ void give(const Kernel& k, int tile, int n, int group, float4 value) {
    *slot(k, tile, n, group, k.me.rank) = value;
  }
  // A lane for each group, so that the warp makes known once what it has given to all.
  template <class Kernel>
  static __device__ __forceinline__ void given(const Kernel& k, int tile, int /*n*/) {
    warp_barrier();
    for (int i = k.me.lane; i < k.groups_of_warp(); i += kWarpLanes) raise(count_of(k, tile, k.dh_group(i)));
  }
};

}  // namespace

}  // namespace seq::cuda
