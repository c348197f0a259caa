// The backward walk of engine "cluster", from the last step to the first.
//
// Block r of a cluster owns the same unit groups as in the forward walk: it computes their gates' gradients dgh, and
// multiplies them with their rows of W_hh. What that gives is a part of dh of all units of the step before, which is
// pushed to their owners, one slot for each block that it comes from; the owner adds the slots in order. Sums of
// float32 cross the cluster once, whatever the number of gates.
//
// Resident for the whole launch: the rows of W_hh, transposed, in registers and, what does not fit there, in shared
// memory; the gradients of the own units' states, float32 in shared memory; the slots, twice: those of step n of a tile
// in buffer n % 2, with one barrier.
//
// A step of a tile: the warps of the own groups wait for the slots -> add them -> cell -> dgh as operands into shared
// memory; then all warps, each for its groups of dh: multiply -> push. What nobody waits for comes after that: the
// gates' gradients are stored, and what the cell reads is loaded a turn ahead. Nothing says that a slot is free again,
// since whoever pushes for step n + 2 has had the slots of step n + 1 from every block, which pushed them after all its
// warps had read the slots of step n.
#pragma once

#include "cuda/cluster_exchange.cuh"

namespace seq::cuda {

namespace {

using BackwardArguments = ClusterArguments<ClusterBackward, BackwardLayout>;

// What else the cell reads for the four values of a lane, as it was loaded: a conversion would wait for it. Of h,
// number 0 of the states, in S.
template <class S, int kStates>
struct BackwardAhead {
  S h_entering[4], h_leaving[4], h_grad[4];
  float entering[kStates][4], leaving[kStates][4], grad[kStates][4];
};

// Exchange: how blocks give each other parts of dh, as in cluster_exchange.cuh.
template <class Cell, class P, class Exchange>
struct ClusterBackwardKernel {
  using S = typename P::Data;
  using L = typename P::Lane;
  using Traits = CellTraits<Cell>;
  static constexpr int kGates = Traits::kGates, kStates = Traits::kStates, kSaved = Traits::kSaved;
  static constexpr int kDepths = P::kDepths;
  using Ahead = BackwardAhead<S, kStates>;

  const ClusterBackward& c;
  const Backward& w;
  const ClusterShape& shape;
  const BackwardLayout& at;
  const GroupMemory& memory;
  const Thread me;
  const int H, owned, group;  // owned: groups of this block; group: of this warp, where it leads one

  __device__ ClusterBackwardKernel(const BackwardArguments& a, const Thread& me)
      : c(a.walks[me.direction]),
        w(c.walk),
        shape(a.shape),
        at(a.at),
        memory(a.memory),
        me(me),
        H(static_cast<int>(w.hidden)),
        owned(smaller(shape.owned, shape.groups - me.rank * shape.owned)),
        group(me.rank * shape.owned + me.warp) {}

  __device__ __forceinline__ bool leads() const { return me.warp < owned; }
  __device__ __forceinline__ int unit(int i) const { return group * kGroupUnits + me.unit(i); }
  __device__ __forceinline__ TileRow row(int tile, int i) const {
    return shared_at<TileRow>(at.rows)[tile * kTileRows + me.row(i)];
  }
  __device__ __forceinline__ TileRange range(int tile) const { return shared_at<TileRange>(at.ranges)[tile]; }

  // The operands of all gates of the own groups; `turn` counts the turns of the block.
  __device__ __forceinline__ uint2* operand(int turn, int gate, int own) const {
    return shared_at<uint2>(at.operand) + (((turn % 2) * kGates + gate) * owned + own) * kDepths * kWarpLanes;
  }
  __device__ __forceinline__ float& own_grad(int tile, int e, int i) const {
    return shared_at<float>(at.state)[(((tile * shape.owned + me.warp) * kStates + e) * 4 + i) * kWarpLanes + me.lane];
  }
  __device__ __forceinline__ float& own_saved(int j, int i) const {
    return shared_at<float>(at.saved)[((me.warp * kSaved + j) * 4 + i) * kWarpLanes + me.lane];
  }
  // This lane's words of the fragments that are not in registers.
  __device__ __forceinline__ uint4* overflow() const {
    return shared_at<uint4>(at.weights) + me.warp * at.overflow * kWarpLanes + me.lane;
  }

  __device__ __forceinline__ void set_up() const {
    Exchange::set_up(*this);
    set_up_tiles(c.steps, w.lengths, me.cluster, shape, shared_at<TileRow>(at.rows), shared_at<TileRange>(at.ranges));
    Exchange::meet();
  }

  // A warp multiplies for the groups of dh number warp, warp + warps, ..., counted from the block's own, so that blocks
  // push to different ones; a group takes the fragments of all depths: gate by gate, own group by own group.
  __device__ __forceinline__ int depths() const { return kGates * owned * kDepths; }
  __device__ __forceinline__ int groups_of_warp() const { return divided_up(shape.groups - me.warp, shape.warps); }
  __device__ __forceinline__ int dh_group(int number) const {
    const int g = me.rank * shape.owned + me.warp + number * shape.warps;
    return g < shape.groups ? g : g - shape.groups;
  }

  __device__ __forceinline__ void load_weights(uint32_t (&resident)[kResidentBackward][4]) const {
    const int count = groups_of_warp() * depths();
    // Of this warp's fragment number f.
    const auto packed = [&](int f) {
      const int number = f / depths(), gate = f % depths() / (owned * kDepths), rest = f % (owned * kDepths);
      const int64_t at = dh_group(number) * kGates + gate;
      return static_cast<const uint4*>(c.weights) +
             ((at * shape.groups + me.rank * shape.owned) * kDepths + rest) * kWarpLanes + me.lane;
    };
#pragma unroll
    for (int f = 0; f < kResidentBackward; ++f) load_fragment(resident[f], packed(f < count ? f : 0));
    for (int f = kResidentBackward; f < count; ++f) overflow()[(f - kResidentBackward) * kWarpLanes] = *packed(f);
  }

  // The products of a warp, fragment by fragment; what a group gets goes to its owner.
  struct Product {
    const ClusterBackwardKernel& kernel;
    const uint2* const b;
    const int tile, depths;
    const int n;
    int number = 0, next = depths > 1 ? 1 : 0;  // the depth of the next fragment
    // Of even and of odd fragments, since each would wait for the one before: operands, loaded two fragments ahead, and
    // sums.
    uint2 operands[2] = {b[0], b[next * kWarpLanes]};
    float sums[2][4] = {};

    __device__ __forceinline__ void multiply(int parity, const uint32_t (&a)[4]) {
      P::multiply(sums[parity], a, operands[parity]);
      const bool ends = next == 0;
      next = next + 1 < depths ? next + 1 : 0;
      operands[parity] = b[next * kWarpLanes];
      if (!ends) return;
      const auto whole = [&](int i) { return sums[0][i] + sums[1][i]; };
      Exchange::give(kernel, tile, n, kernel.dh_group(number++), make_float4(whole(0), whole(1), whole(2), whole(3)));
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[0][i] = sums[1][i] = 0;
    }
  };

  __device__ __forceinline__ void multiply(int turn, int tile, int n,
                                           const uint32_t (&resident)[kResidentBackward][4]) const {
    const int count = groups_of_warp() * depths();
    Product product{*this, operand(turn, 0, 0) + me.lane, tile, depths(), n};
#pragma unroll
    for (int f = 0; f < kResidentBackward; ++f) {
      if (f < count) product.multiply(f % 2, resident[f]);
    }
    const uint4* from = overflow();
    for (int f = kResidentBackward; f < count; f += 2, from += 2 * kWarpLanes) {
      uint32_t a[2][4];
      load_fragment(a[0], from);
      if (f + 1 < count) load_fragment(a[1], from + kWarpLanes);
      product.multiply(kResidentBackward % 2, a[0]);
      if (f + 1 < count) product.multiply(1 - kResidentBackward % 2, a[1]);
    }
    Exchange::given(*this, tile, n);
  }

  __device__ __forceinline__ bool is_reset(const TileRow& row, int t) const {
    return w.resets && t < row.end && w.resets[first_row(c.steps, t) + row.row];
  }
  // Where state e, h or one beside it, of a row lies in [B, H] or [S-1][B, H].
  __device__ __forceinline__ int64_t at_state(int e, int64_t row, int i) const {
    return (e > 0 ? e - 1 : 0) * w.state_plane + row * w.hidden + unit(i);
  }
  // h, and state e beside it, that left the step of a data row.
  __device__ __forceinline__ S h_left(int64_t data_row, int i) const {
    return static_cast<const S*>(w.y)[data_row * w.y_stride + unit(i)];
  }
  __device__ __forceinline__ float left(int e, int64_t data_row, int i) const {
    return load<float>(w.c_all, (e - 1) * w.c_all_plane + data_row * w.hidden + unit(i)).v;
  }

  __device__ __forceinline__ void load_ahead(Ahead& ahead, int k, int tile) const {
    const int t = time_of(c.steps, k), t_before = time_of(c.steps, k - 1);
    const TileRow rows[2] = {row(tile, 0), row(tile, 1)};
    const bool reset[2] = {is_reset(rows[0], t), is_reset(rows[1], t)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const TileRow r = rows[i & 1];
      if (t >= r.end || unit(i) >= H) continue;
      const int64_t now = first_row(c.steps, t) + r.row;
      const bool follows = !(c.steps.begins && k == 0) && t_before < r.end && !reset[i & 1];
      const int64_t before = follows ? first_row(c.steps, t_before) + r.row : 0;
#pragma unroll
      for (int j = 0; j < kSaved; ++j)
        copy_ahead(&own_saved(j, i),
                   static_cast<const float*>(c.saved) + ((now - c.saved_first) * kSaved + j) * w.hidden + unit(i),
                   true);
      const S* const initial = static_cast<const S*>(reset[i & 1] ? w.reset_h : w.h0);
      const S* const dy = static_cast<const S*>(w.dy);
      const S zero = narrow<S>(0.f);
      ahead.h_leaving[i] = h_left(now, i);
      ahead.h_entering[i] = follows ? h_left(before, i) : initial ? initial[at_state(0, r.row, i)] : zero;
      ahead.h_grad[i] = dy ? dy[now * w.dy_stride + unit(i)] : zero;
#pragma unroll
      for (int e = 1; e < kStates; ++e) {
        ahead.leaving[e][i] = left(e, now, i);
        ahead.entering[e][i] =
            follows ? left(e, before, i) : load_or_zero<S>(reset[i & 1] ? w.reset_c : w.c0, at_state(e, r.row, i)).v;
        ahead.grad[e][i] = load_or_zero<float>(w.dc_all, (e - 1) * w.c_all_plane + now * w.hidden + unit(i)).v;
      }
    }
  }

  // The gradients of the states that enter step n, which the step before has left: the slots are added to dh, and where
  // the step began with a reset, its state takes them all.
  __device__ __forceinline__ void receive(int tile, int n, const bool (&reset)[2]) const {
    float sums[4] = {};
    Exchange::take(*this, tile, n, sums);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      own_grad(tile, 0, i) += sums[i];
      if (!reset[i & 1] || unit(i) >= H) continue;
#pragma unroll
      for (int e = 0; e < kStates; ++e) {
        float* const to = static_cast<float*>(e == 0 ? w.dreset_h : w.dreset_c);
        if (to) to[at_state(e, row(tile, i).row, i)] += own_grad(tile, e, i);
        own_grad(tile, e, i) = 0;
      }
    }
  }

  // The gates' gradients of a lane's values.
  struct Gradients {
    float dgx[kGates][4], dgh[kGates][4];
  };

  // Also as operands for the products.
  __device__ __forceinline__ void compute(Gradients& grads, const Ahead& ahead, int k, int tile, int turn) const {
    const int t = time_of(c.steps, k);
    const TileRow rows[2] = {row(tile, 0), row(tile, 1)};
    wait_for_copies();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool part = t < rows[i & 1].end && unit(i) < H;
      L saved[kSaved > 0 ? kSaved : 1], entering[kStates], leaving[kStates], ds[kStates], dx[kGates], dh[kGates];
#pragma unroll
      for (int j = 0; j < kSaved; ++j) saved[j] = L(own_saved(j, i));
#pragma unroll
      for (int e = 0; e < kStates; ++e) {
        entering[e] = L(e == 0 ? widen(ahead.h_entering[i]) : ahead.entering[e][i]);
        leaving[e] = L(e == 0 ? widen(ahead.h_leaving[i]) : ahead.leaving[e][i]);
        ds[e] = L(own_grad(tile, e, i) + (e == 0 ? widen(ahead.h_grad[i]) : ahead.grad[e][i]));
      }
      Traits::template backward<0>(saved, entering, leaving, static_cast<const L*>(nullptr), ds, L(0), dx, dh);
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        grads.dgx[gate][i] = part ? dx[gate].v : 0.f;
        grads.dgh[gate][i] = part ? dh[gate].v : 0.f;
      }
#pragma unroll
      for (int e = 0; e < kStates; ++e)
        if (part) own_grad(tile, e, i) = ds[e].v;
    }
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      uint2* const to = operand(turn, gate, me.warp);
      P::spread(grads.dgh[gate], me.lane, [&](int slot, uint2 value) { to[slot] = value; });
    }
  }

  __device__ __forceinline__ void store_gates(const Gradients& grads, int k, int tile) const {
    const int t = time_of(c.steps, k);
    const int64_t first = first_row(c.steps, t) - c.gates_first;
    const TileRow rows[2] = {row(tile, 0), row(tile, 1)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const TileRow r = rows[i & 1];
      if (t >= r.end || unit(i) >= H) continue;
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        const int64_t at = ((first + r.row) * kGates + gate) * w.hidden + unit(i);
        store<S>(c.dgx, at, L(grads.dgx[gate][i]));
        if (!Traits::kSameGrads) store<S>(c.dgh, at, L(grads.dgh[gate][i]));
      }
    }
  }

  // The gradients of the states of a tile that leave its last step of the launch, or enter its first.
  template <class Move>
  __device__ __forceinline__ void for_grads(int tile, const Move& move) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const TileRow r = row(tile, i);
#pragma unroll
      for (int e = 0; e < kStates; ++e) {
        float* const all = static_cast<float*>(e == 0 ? w.dh : w.dc);
        move(r.row >= 0 && unit(i) < H ? all + at_state(e, r.row, i) : nullptr, own_grad(tile, e, i));
      }
    }
  }
  template <class Call>
  __device__ __forceinline__ void for_tiles(const Call& call) const {
    for (int tile = 0; tile < shape.tiles; ++tile)
      if (leads() && range(tile).begin < range(tile).end) call(tile);
  }

  __device__ __forceinline__ void run() const {
    set_up();
    uint32_t resident[kResidentBackward][4];
    load_weights(resident);
    const Turns turns(shared_at<TileRange>(at.ranges), shape.tiles, -1);
    Turns::Turn turn = turns.first();
    Ahead ahead{};
    for_tiles([&](int tile) { for_grads(tile, [](const float* from, float& own) { own = from ? *from : 0.f; }); });
    if (leads() && turn.exists) load_ahead(ahead, turn.k, turn.tile);
    for (int count = 0; turn.exists; ++count) {
      const Turns::Turn next = turns.after(turn);
      const int n = range(turn.tile).end - 1 - turn.k;
      Gradients grads;
      if (leads()) {
        if (n > 0) {
          bool reset[2];
          for (int i = 0; i < 2; ++i) reset[i] = is_reset(row(turn.tile, i), time_of(c.steps, turn.k + 1));
          receive(turn.tile, n - 1, reset);
        }
        compute(grads, ahead, turn.k, turn.tile, count);
      }
      __syncthreads();
      multiply(count, turn.tile, n, resident);
      if (leads()) {
        store_gates(grads, turn.k, turn.tile);
        if (next.exists) load_ahead(ahead, next.k, next.tile);
      }
      turn = next;
    }
    for_tiles([&](int tile) {
      bool reset[2];
      for (int i = 0; i < 2; ++i) reset[i] = is_reset(row(tile, i), time_of(c.steps, range(tile).begin));
      receive(tile, range(tile).end - range(tile).begin - 1, reset);
      for_grads(tile, [](float* to, float own) {
        if (to) *to = own;
      });
    });
    Exchange::meet();  // a block that has ended has no shared memory to push to
  }
};

template <class Cell, Math kMath, class Exchange>
__global__ void __launch_bounds__(Exchange::kWarps* kWarpLanes, 1)
    cluster_backward(const __grid_constant__ BackwardArguments a) {
  if constexpr (Exchange::kExists) {
    const Thread me(a.shape);
    ClusterBackwardKernel<Cell, Products<kMath>, Exchange>(a, me).run();
  }
}

}  // namespace

}  // namespace seq::cuda
