// How the blocks of engine "cluster" give each other what they have computed: pushes into distributed shared memory,
// counted by barriers of the receiving block; a block without others stores, and counts. Engine "group" has one more of
// each, group_exchange.cuh. All functions are of a kernel, which has the shape, the layout `at` and the thread `me`.
#pragma once

#include "cuda/cluster_common.cuh"

namespace seq::cuda {

namespace {

// h of all units, as operands of kDepths times 32 slots for each group, in shared memory twice for each tile: that of
// step n in buffer n % 2, with one barrier for each block that it comes from.
struct ClusterForwardExchange {
  static constexpr bool kExists = kHasClusters;
  static constexpr int kWarps = kMaxWarps;  // of a block, at most

  template <class Kernel>
  static __device__ __forceinline__ ByteBarrier* barrier(const Kernel& k, int tile, int n, int from) {
    return shared_at<ByteBarrier>(k.at.barriers) + (tile * 2 + n % 2) * k.shape.blocks + from;
  }
  template <class Kernel>
  static __device__ __forceinline__ uint2* operand(const Kernel& k, int tile, int n, int of_group) {
    return shared_at<uint2>(k.at.h) + ((tile * 2 + n % 2) * k.shape.groups + of_group) * k.kDepths * kWarpLanes;
  }
  // What block `from` pushes of h of one step.
  template <class Kernel>
  static __device__ __forceinline__ unsigned bytes_from(const Kernel& k, int from) {
    return smaller(k.shape.owned, k.shape.groups - from * k.shape.owned) * k.kDepths * kOperandBytes;
  }

  template <class Kernel>
  static __device__ __forceinline__ void set_up(const Kernel& k) {
    for (int i = threadIdx.x; i < k.shape.held * k.shape.blocks; i += blockDim.x) {
      ByteBarrier* const b = shared_at<ByteBarrier>(k.at.barriers) + i;
      init(b);
      expect(b, bytes_from(k, i % k.shape.blocks));
    }
  }
  // All blocks: before the first gives, and before one ends.
  static __device__ __forceinline__ void meet() { cluster_barrier(); }

  // Where the depth of a slice goes from what one block has pushed to what the next has.
  struct Source {
    int from, at;
  };
  template <class Kernel>
  static __device__ __forceinline__ Source first_source(const Kernel& k) {
    return {k.shape.owner(k.depth_begin), k.depth_begin};
  }
  // Before the depth group i of step n of a tile is read. The warps of the block's first group renew the barriers.
  template <class Kernel>
  static __device__ __forceinline__ void wait_for(const Kernel& k, Source& source, int tile, int n, int i) {
    if (i != source.at) return;
    ByteBarrier* b = barrier(k, tile, n, source.from);
    wait(b, n / 2 % 2);
    if (k.own == 0 && i == source.from * k.shape.owned && k.me.lane == 0) expect(b, bytes_from(k, source.from));
    source.at = ++source.from * k.shape.owned;
  }

  // A slot of the own group's h that enters step n, to all blocks; one's neighbour first, so that all push to different
  // ones.
  template <class Kernel>
  static __device__ __forceinline__ void give(const Kernel& k, int tile, int n, int slot, uint2 value) {
    uint2* to = operand(k, tile, n, k.group) + slot;
    if (k.shape.blocks == 1) {
      *to = value;
      return;
    }
    ByteBarrier* b = barrier(k, tile, n, k.me.rank);
    for (int i = 1; i <= k.shape.blocks; ++i)
      push(to, value, b, k.me.rank + i < k.shape.blocks ? k.me.rank + i : k.me.rank + i - k.shape.blocks);
  }
  // After all slots.
  template <class Kernel>
  static __device__ __forceinline__ void given(const Kernel& k, int tile, int n) {
    if (k.shape.blocks == 1) count(barrier(k, tile, n, 0), k.kDepths * kOperandBytes, k.me.lane);
  }
};

__device__ __forceinline__ void add(float (&sums)[4], float4 v) {
  sums[0] += v.x, sums[1] += v.y, sums[2] += v.z, sums[3] += v.w;
}

// Parts of dh, four floats of each lane: a slot of each block for each group of the receiving block, in shared memory
// twice for each tile: those of step n in buffer n % 2, with one barrier.
struct ClusterBackwardExchange {
  static constexpr bool kExists = kHasClusters;
  static constexpr int kWarps = kMaxWarps;  // of a block, at most

  template <class Kernel>
  static __device__ __forceinline__ ByteBarrier* barrier(const Kernel& k, int tile, int n) {
    return shared_at<ByteBarrier>(k.at.barriers) + tile * 2 + n % 2;
  }
  // What block `from` gives to group `of_owner` of its owner.
  template <class Kernel>
  static __device__ __forceinline__ float4* slot(const Kernel& k, int tile, int n, int from, int of_owner) {
    return shared_at<float4>(k.at.partial) +
           (((tile * 2 + n % 2) * k.shape.blocks + from) * k.shape.owned + of_owner) * kWarpLanes + k.me.lane;
  }
  template <class Kernel>
  static __device__ __forceinline__ unsigned bytes_of_slots(const Kernel& k) {
    return k.shape.blocks * k.owned * kLanesBytes;
  }

  template <class Kernel>
  static __device__ __forceinline__ void set_up(const Kernel& k) {
    for (int i = threadIdx.x; i < k.shape.held; i += blockDim.x) {
      ByteBarrier* const b = shared_at<ByteBarrier>(k.at.barriers) + i;
      init(b);
      expect(b, bytes_of_slots(k));
    }
  }
  static __device__ __forceinline__ void meet() { cluster_barrier(); }

  // Waits for what all blocks give to the group of this warp for step n of a tile, and adds it, block by block.
  template <class Kernel>
  static __device__ __forceinline__ void take(const Kernel& k, int tile, int n, float (&sums)[4]) {
    ByteBarrier* b = barrier(k, tile, n);
    wait(b, n / 2 % 2);
    if (k.me.warp == 0 && k.me.lane == 0) expect(b, bytes_of_slots(k));
    for (int from = 0; from < k.shape.blocks; ++from) add(sums, *slot(k, tile, n, from, k.me.warp));
  }
  // To a group of any block.
  template <class Kernel>
  static __device__ __forceinline__ void give(const Kernel& k, int tile, int n, int group, float4 value) {
    if (k.shape.blocks == 1) {
      *slot(k, tile, n, 0, group) = value;
      return;
    }
    const int owner = k.shape.owner(group);
    push(slot(k, tile, n, k.me.rank, group - owner * k.shape.owned), value, barrier(k, tile, n), owner);
  }
  // After all groups of a warp.
  template <class Kernel>
  static __device__ __forceinline__ void given(const Kernel& k, int tile, int n) {
    if (k.shape.blocks == 1) count(barrier(k, tile, n), k.groups_of_warp() * kLanesBytes, k.me.lane);
  }
};

}  // namespace

}  // namespace seq::cuda
