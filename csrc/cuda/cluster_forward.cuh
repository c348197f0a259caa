// The forward walk of engine "cluster".
//
// Block r of a cluster owns `owned` unit groups of 16 units, all their gates. Gate j of a group is one 16-row side of a
// product, so that the accumulators of a lane hold all gates of four (unit, row) pairs, and the cell is computed from
// registers. Warp (slice, group) multiplies a slice of the depth H; the warp of slice 0 adds the others' sums in order,
// computes the cell, and pushes the new h of its group, as operands, into every block of the cluster.
//
// Resident for the whole launch: the weights, in registers and, what does not fit there, in shared memory; the states
// of the own units, float32 in shared memory; h of all units, in shared memory twice: that of step n of a tile lies in
// buffer n % 2 and has one barrier for each block that it comes from.
//
// A step of a tile: wait for the slices of h as they are needed -> multiply -> add the slices -> cell -> push -> store
// outputs, load gx and resets for the next turn. Nothing says that a buffer is free again, since whoever writes h of
// step n + 2 has had h of step n + 1 from every block, which pushed it after all its warps had read h of step n.
#pragma once

#include "cuda/cluster_exchange.cuh"

namespace seq::cuda {

namespace {

using ForwardArguments = ClusterArguments<ClusterForward, ForwardLayout>;

// Exchange: how blocks give each other h, as in cluster_exchange.cuh.
template <class Cell, class P, class Exchange>
struct ClusterForwardKernel {
  using S = typename P::Data;
  using L = typename P::Lane;
  using Traits = CellTraits<Cell>;
  static constexpr int kGates = Traits::kGates, kStates = Traits::kStates, kSaved = Traits::kSaved;
  static constexpr int kDepths = P::kDepths;
  SEQ_HD static constexpr ClusterCell cell() { return {kGates, kStates, kSaved, kDepths}; }
  static constexpr int kResidentGroups = ForwardLayout::resident_groups(cell());

  const ClusterForward& c;
  const Forward& f;
  const ClusterShape& shape;
  const ForwardLayout& at;
  const GroupMemory& memory;
  const Thread me;
  const int H, own, slice, group, depth_begin, depth_end;  // own: of the block's groups; depths in groups

  __device__ ClusterForwardKernel(const ForwardArguments& a, const Thread& me)
      : c(a.walks[me.direction]),
        f(c.walk),
        shape(a.shape),
        at(a.at),
        memory(a.memory),
        me(me),
        H(static_cast<int>(f.hidden)),
        own(me.warp % shape.owned),
        slice(me.warp / shape.owned),
        group(me.rank * shape.owned + own),
        depth_begin(shape.groups * slice / shape.slices),
        depth_end(shape.groups * (slice + 1) / shape.slices) {}

  __device__ __forceinline__ bool works() const { return group < shape.groups; }
  __device__ __forceinline__ bool leads() const { return works() && slice == 0; }
  __device__ __forceinline__ int unit(int i) const { return group * kGroupUnits + me.unit(i); }
  __device__ __forceinline__ TileRow row(int tile, int i) const {
    return shared_at<TileRow>(at.rows)[tile * kTileRows + me.row(i)];
  }
  __device__ __forceinline__ TileRange range(int tile) const { return shared_at<TileRange>(at.ranges)[tile]; }

  __device__ __forceinline__ float& own_state(int tile, int e, int i) const {
    return shared_at<float>(at.state)[(((tile * shape.owned + own) * kStates + e) * 4 + i) * kWarpLanes + me.lane];
  }
  __device__ __forceinline__ float& own_gx(int gate, int i) const {
    return shared_at<float>(at.gx)[((own * kGates + gate) * 4 + i) * kWarpLanes + me.lane];
  }
  __device__ __forceinline__ float& own_bias(int of_h, int gate, int unit_of_group) const {
    return shared_at<float>(at.bias)[((own * 2 + of_h) * kGates + gate) * kGroupUnits + unit_of_group];
  }
  // This lane's words of the fragments that are not in registers.
  __device__ __forceinline__ uint4* overflow() const {
    return shared_at<uint4>(at.weights) + me.warp * at.overflow * kWarpLanes + me.lane;
  }
  __device__ __forceinline__ void set_up() const {
    Exchange::set_up(*this);
    set_up_tiles(c.steps, f.lengths, me.cluster, shape, shared_at<TileRow>(at.rows), shared_at<TileRange>(at.ranges));
    if (leads()) {
      for (int i = me.lane; i < kGates * kGroupUnits; i += kWarpLanes) {
        const int gate = i / kGroupUnits, u = i % kGroupUnits, unit = group * kGroupUnits + u;
        own_bias(0, gate, u) = unit < H ? load_or_zero<S>(f.b_ih, gate * f.hidden + unit).v : 0.f;
        own_bias(1, gate, u) = unit < H ? load_or_zero<S>(f.b_hh, gate * f.hidden + unit).v : 0.f;
      }
    }
    Exchange::meet();
  }

  // Past its slice a warp loads what it does not use; the packed weights have room for that at their end.
  __device__ __forceinline__ void load_weights(uint32_t (&resident)[kResidentGroups][kDepths][kGates][4]) const {
    constexpr int kFragments = kDepths * kGates;  // of a group of depth
    const uint4* from = static_cast<const uint4*>(c.weights) +
                        static_cast<int64_t>(group * shape.groups + depth_begin) * kFragments * kWarpLanes + me.lane;
#pragma unroll
    for (int i = 0; i < kResidentGroups; ++i)
#pragma unroll
      for (int depth = 0; depth < kDepths; ++depth)
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate, from += kWarpLanes) load_fragment(resident[i][depth][gate], from);
    uint4* to = overflow();
    for (int left = (depth_end - depth_begin - kResidentGroups) * kFragments; left > 0; --left) {
      *to = *from;
      to += kWarpLanes, from += kWarpLanes;
    }
  }

  __device__ __forceinline__ void multiply(float (&sums)[kGates][4], int tile, int n,
                                           const uint32_t (&resident)[kResidentGroups][kDepths][kGates][4]) const {
    float odd[4] = {};  // with a single gate, each fragment would wait for the one before
    const auto sum_of = [&](int gate, int fragment) -> float (&)[4] {
      return kGates == 1 && fragment % 2 == 1 ? odd : sums[gate];
    };
    auto source = Exchange::first_source(*this);
    const uint2* b = Exchange::operand(*this, tile, n, depth_begin) + me.lane;
#pragma unroll
    for (int j = 0; j < kResidentGroups; ++j) {
      if (depth_begin + j < depth_end) {
        Exchange::wait_for(*this, source, tile, n, depth_begin + j);
#pragma unroll
        for (int depth = 0; depth < kDepths; ++depth, b += kWarpLanes)
#pragma unroll
          for (int gate = 0; gate < kGates; ++gate)
            P::multiply(sum_of(gate, j * kDepths + depth), resident[j][depth][gate], *b);
      }
    }
    const uint4* from = overflow();
    for (int i = depth_begin + kResidentGroups; i < depth_end; ++i) {
      Exchange::wait_for(*this, source, tile, n, i);
#pragma unroll
      for (int depth = 0; depth < kDepths; ++depth, b += kWarpLanes)
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate, from += kWarpLanes) {
          uint32_t a[4];
          load_fragment(a, from);
          P::multiply(sum_of(gate, depth), a, *b);
        }
    }
#pragma unroll
    for (int i = 0; kGates == 1 && i < 4; ++i) sums[0][i] += odd[i];
  }

  // The sums of all slices, in order, in the warp of slice 0; `turn` counts the turns of the block.
  __device__ __forceinline__ void add_slices(float (&sums)[kGates][4], int turn) const {
    if (shape.slices == 1) return;
    float4* buffer = shared_at<float4>(at.partial) +
                     ((turn % 2) * shape.owned + own) * (shape.slices - 1) * kGates * kWarpLanes + me.lane;
    if (slice > 0) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        const float (&v)[4] = sums[gate];
        buffer[((slice - 1) * kGates + gate) * kWarpLanes] = make_float4(v[0], v[1], v[2], v[3]);
      }
    }
    named_barrier(1 + own, shape.slices * kWarpLanes);
    if (slice > 0) return;
#pragma unroll 1  // all at once would take the registers of weights
    for (int other = 0; other < shape.slices - 1; ++other) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        const float4 v = buffer[(other * kGates + gate) * kWarpLanes];
        sums[gate][0] += v.x, sums[gate][1] += v.y, sums[gate][2] += v.z, sums[gate][3] += v.w;
      }
    }
  }

  __device__ __forceinline__ bool is_reset(const TileRow& row, int t) const {
    return f.resets && t < row.end && f.resets[first_row(c.steps, t) + row.row];
  }

  // gx of a turn, and whether the step after it begins with a reset.
  __device__ __forceinline__ void load_ahead(bool (&reset)[2], int k, int tile) const {
    const int t = time_of(c.steps, k);
    const int64_t first = first_row(c.steps, t) - c.gates_first;
    const TileRow rows[2] = {row(tile, 0), row(tile, 1)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const TileRow r = rows[i & 1];
      const bool part = t < r.end && unit(i) < H;
      const float* from = static_cast<const float*>(c.gx) + (part ? (first + r.row) * kGates * f.hidden + unit(i) : 0);
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) copy_ahead(&own_gx(gate, i), from + gate * f.hidden, part);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) reset[i] = k + 1 < range(tile).end && is_reset(rows[i], time_of(c.steps, k + 1));
  }

  // Where state e, h or one beside it, of a row lies in [B, H] or [S-1][B, H].
  __device__ __forceinline__ int64_t at_state(int e, int64_t row, int i) const {
    return (e > 0 ? e - 1 : 0) * f.state_plane + row * f.hidden + unit(i);
  }
  __device__ __forceinline__ float reset_state(int e, int64_t row, int i) const {
    return load_or_zero<S>(e == 0 ? f.reset_h : f.reset_c, at_state(e, row, i)).v;
  }

  // The states that value i enters the walk with, a reset's where the first step begins with one; h is given.
  __device__ __forceinline__ float begin(int tile, int i) const {
    const TileRow r = row(tile, i);
    const bool exists = r.row >= 0 && unit(i) < H;
    const bool reset = exists && is_reset(r, time_of(c.steps, range(tile).begin));
#pragma unroll
    for (int e = 0; e < kStates; ++e) {
      float value = 0;
      if (exists && reset)
        value = reset_state(e, r.row, i);
      else if (exists)
        value = e == 0 ? load<S>(f.h, at_state(0, r.row, i)).v : load<float>(f.c, at_state(e, r.row, i)).v;
      own_state(tile, e, i) = value;
    }
    return own_state(tile, 0, i);
  }

  // The h that enters step n of a tile, to all blocks.
  __device__ __forceinline__ void push_h(const float (&v)[4], int tile, int n) const {
    P::spread(v, me.lane, [&](int slot, uint2 value) { Exchange::give(*this, tile, n, slot, value); });
    Exchange::given(*this, tile, n);
  }

  // The cell for the four values of a lane, and all that follows from them.
  __device__ __forceinline__ void compute(const float (&sums)[kGates][4], const bool (&reset)[2], int k,
                                          int tile) const {
    const bool last = k + 1 == range(tile).end;
    const int t = time_of(c.steps, k);
    const TileRow rows[2] = {row(tile, 0), row(tile, 1)};
    L state_new[4][kStates], saved[4][kSaved > 0 ? kSaved : 1];
    float h_next[4];
    wait_for_copies();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      L gx[kGates], gh[kGates], state[kStates];
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        gx[gate] = L(own_gx(gate, i) + own_bias(0, gate, me.unit(i)));
        gh[gate] = L(sums[gate][i] + own_bias(1, gate, me.unit(i)));
      }
#pragma unroll
      for (int e = 0; e < kStates; ++e) state[e] = L(own_state(tile, e, i));
      Traits::template forward<0>(gx, gh, state, static_cast<const L*>(nullptr), state_new[i], saved[i]);

      const bool part = t < rows[i & 1].end && unit(i) < H;
      state_new[i][0] = L(widen(narrow<S>(state_new[i][0].v)));
#pragma unroll
      for (int e = 0; e < kStates; ++e) {
        const float next = part ? state_new[i][e].v : state[e].v;
        own_state(tile, e, i) = next;
        if (e == 0) h_next[i] = next;
      }
    }
    if (reset[0] || reset[1]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!reset[i & 1] || unit(i) >= H) continue;
#pragma unroll
        for (int e = 0; e < kStates; ++e) own_state(tile, e, i) = reset_state(e, rows[i & 1].row, i);
        h_next[i] = own_state(tile, 0, i);
      }
    }
    if (!last) push_h(h_next, tile, k + 1 - range(tile).begin);

    const int64_t first = first_row(c.steps, t);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const TileRow r = rows[i & 1];
      if (r.row < 0 || unit(i) >= H) continue;
      if (t < r.end) {
        store<S>(f.y, (first + r.row) * f.y_stride + unit(i), state_new[i][0]);
#pragma unroll
        for (int e = 1; e < kStates; ++e)
          if (f.c_all)
            store<float>(f.c_all, (e - 1) * f.c_all_plane + (first + r.row) * f.hidden + unit(i), state_new[i][e]);
        if (c.saved) {
#pragma unroll
          for (int j = 0; j < kSaved; ++j)
            store<float>(c.saved, ((first + r.row - c.saved_first) * kSaved + j) * f.hidden + unit(i), saved[i][j]);
        }
      }
      if (last) {
        store<S>(f.h, at_state(0, r.row, i), L(h_next[i]));
#pragma unroll
        for (int e = 1; e < kStates; ++e) store<float>(f.c, at_state(e, r.row, i), L(own_state(tile, e, i)));
      }
    }
  }

  __device__ __forceinline__ void run() const {
    set_up();
    if (works()) {
      uint32_t resident[kResidentGroups][kDepths][kGates][4];
      load_weights(resident);
      const Turns turns(shared_at<TileRange>(at.ranges), shape.tiles, 1);
      Turns::Turn turn = turns.first();
      bool reset[2] = {};
      if (leads()) {
        for (int tile = 0; tile < shape.tiles; ++tile) {
          if (range(tile).begin >= range(tile).end) continue;
          float v[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) v[i] = begin(tile, i);
          push_h(v, tile, 0);
        }
        if (turn.exists) load_ahead(reset, turn.k, turn.tile);
      }
      for (int count = 0; turn.exists; ++count) {
        float sums[kGates][4] = {};
        multiply(sums, turn.tile, turn.k - range(turn.tile).begin, resident);
        add_slices(sums, count);
        if (slice == 0) compute(sums, reset, turn.k, turn.tile);
        turn = turns.after(turn);
        if (slice == 0 && turn.exists) load_ahead(reset, turn.k, turn.tile);
      }
    }
    Exchange::meet();  // a block that has ended has no shared memory to push to
  }
};

template <class Cell, Math kMath, class Exchange>
__global__ void __launch_bounds__(Exchange::kWarps* kWarpLanes, 1)
    cluster_forward(const __grid_constant__ ForwardArguments a) {
  if constexpr (Exchange::kExists) {
    const Thread me(a.shape);
    ClusterForwardKernel<Cell, Products<kMath>, Exchange>(a, me).run();
  }
}

}  // namespace

}  // namespace seq::cuda
