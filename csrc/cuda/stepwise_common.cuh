// What the kernels of stepwise.h share: which thread has which row and unit, who takes part, how a cell's values lie.
#pragma once

#include "cuda/lane.cuh"
#include "cuda/launch.cuh"
#include "cuda/stepwise.h"
#include "engine/cell_traits.h"

namespace seq::cuda {

namespace {

constexpr int kUnitsPerBlock = 64, kRowsPerBlock = 4, kThreads = kUnitsPerBlock * kRowsPerBlock;
// Of a multiprocessor, at least: without a number ptxas keeps to 40 or 48 registers, and spills.
constexpr int kBlocksAtOnce = 2;

__device__ int64_t this_row() { return static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.y; }
__device__ int64_t this_unit() { return static_cast<int64_t>(blockIdx.y) * kUnitsPerBlock + threadIdx.x; }

// A kernel for `rows` rows and `units` units of each member.
template <class... Parameters>
Error launch_over(int64_t members, int64_t rows, int64_t units, Stream stream, void (*kernel)(Parameters...),
                  const std::type_identity_t<Parameters>&... arguments) {
  if (rows == 0) return nullptr;
  const auto blocks = [](int64_t n, int64_t each) { return static_cast<unsigned>((n + each - 1) / each); };
  return launch(dim3(blocks(rows, kRowsPerBlock), blocks(units, kUnitsPerBlock), static_cast<unsigned>(members)),
                dim3(kUnitsPerBlock, kRowsPerBlock), stream, kernel, arguments...);
}

// From what the first member has to what that of this block has. Where there is nothing it is 0 bytes apart.
template <class P>
__device__ void move(P*& p, int64_t apart) {
  p = reinterpret_cast<P*>(reinterpret_cast<uintptr_t>(p) + blockIdx.z * apart);
}
__device__ void to_member(Walk& w) {
  move(w.lengths, w.apart.lengths), move(w.resets, w.apart.resets);
  move(w.b_ih, w.apart.b_ih), move(w.b_hh, w.apart.b_hh), move(w.unit, w.apart.unit);
  move(w.h0, w.apart.h0), move(w.reset_h, w.apart.reset_h), move(w.c0, w.apart.c0), move(w.reset_c, w.apart.reset_c);
  move(w.y, w.apart.y), move(w.c_all, w.apart.c_all);
  move(w.factors.decay_h.data, w.apart.factors.decay_h), move(w.factors.decay_c.data, w.apart.factors.decay_c);
  move(w.factors.drop.data, w.apart.factors.drop);
  move(w.factors.keep_h.data, w.apart.factors.keep_h), move(w.factors.keep_c.data, w.apart.factors.keep_c);
}
__device__ void to_member(Forward& f) {
  to_member(static_cast<Walk&>(f));
  move(f.h, f.states_apart.h), move(f.dropped, f.states_apart.dropped);
  move(f.c, f.states_apart.c), move(f.operand, f.states_apart.operand);
}
__device__ void to_member(ForwardStep& s) {
  move(s.gx, s.apart.gx), move(s.gh, s.apart.gh), move(s.saved, s.apart.saved);
}
__device__ void to_member(Backward& b) {
  to_member(static_cast<Walk&>(b));
  move(b.dy, b.grads_apart.dy), move(b.dc_all, b.grads_apart.dc_all);
  move(b.dh, b.grads_apart.dh), move(b.dc, b.grads_apart.dc);
  move(b.dreset_h, b.grads_apart.dreset_h), move(b.dreset_c, b.grads_apart.dreset_c);
  move(b.ddecay_h.data, b.grads_apart.ddecay_h), move(b.ddecay_c.data, b.grads_apart.ddecay_c);
}
__device__ void to_member(BackwardStep& s) {
  move(s.saved, s.apart.saved), move(s.d_operand, s.apart.d_operand), move(s.product, s.apart.product);
  move(s.dgx, s.apart.dgx), move(s.dgh, s.apart.dgh), move(s.dh_out, s.apart.dh_out);
}
__device__ void to_member(Rows& rows) {
  move(rows.gx, rows.apart.gx), move(rows.gh, rows.apart.gh), move(rows.saved, rows.apart.saved);
  move(rows.out, rows.apart.out), move(rows.dgx, rows.apart.dgx);
}

__device__ bool takes_part(const Walk& w, const Step& step, int64_t b) {
  return b < step.alive && (!w.lengths || step.t < w.lengths[b]);
}
__device__ bool is_reset(const Walk& w, const Step& step, int64_t b) {
  return w.resets && takes_part(w, step, b) && w.resets[step.first + b];
}
// Whether the gradient of the state that enters step `now` from step `before` ends there.
__device__ bool is_detached(const Walk& w, const Step& now, const Step& before, int64_t b) {
  return w.detach_every > 0 && (w.reverse ? now.t + 1 : now.t) % w.detach_every == 0 && takes_part(w, before, b);
}
__host__ __device__ int64_t rows_of(const Step& one, const Step& other) {
  return one.alive > other.alive ? one.alive : other.alive;
}

// x times the factor of a step and row, if there is one.
template <class T>
__device__ Lane<T> times(const Factor<const void>& factor, int64_t t, int64_t b, int64_t u, Lane<T> x, int state = 0) {
  return factor ? load<T>(factor.data, factor.at(t, b, state) + u) * x : x;
}

// keep old + (1 - keep) fresh
template <class T>
__device__ Lane<T> mixed(const Factor<const void>& keep, int64_t t, int64_t b, int64_t u, Lane<T> old, Lane<T> fresh,
                         int state = 0) {
  if (!keep) return fresh;
  const Lane<T> k = load<T>(keep.data, keep.at(t, b, state) + u);
  return k * old + (Lane<T>(1) - k) * fresh;
}

template <class Cell, class S>
struct Stepwise {
  using T = Compute<S>;
  using L = Lane<T>;
  using Traits = CellTraits<Cell>;
  static constexpr int kGates = Traits::kGates, kStates = Traits::kStates, kSaved = Traits::kSaved;
  static constexpr int kExtra = Traits::kExtra, kLastPhase = Traits::phases() - 1;
  static constexpr int kSavedOrOne = kSaved > 0 ? kSaved : 1;
  static constexpr int kParametersOrOne = Traits::parameters() > 0 ? Traits::parameters() : 1;

  // Whether h is made after the cell: projected, or with a norm of c'.
  static __device__ bool output_later(const Walk& w) { return Traits::norms_state() || w.width != w.hidden; }

  // Where the state beside h, number e, of a row lies in a [S-1][B, H] buffer.
  static __device__ int64_t at_state(const Walk& w, int e, int64_t b, int64_t u) {
    return e * w.state_plane + b * w.hidden + u;
  }

  // Where value j of `count` that a row has for every unit lies, by head.
  static __device__ int64_t at_gate(const Walk& w, int64_t row, int count, int j, int64_t u) {
    const int64_t H = w.hidden, own = w.head_hidden;
    if (own == H) return (row * count + j) * H + u;
    const int64_t head = static_cast<uint32_t>(u) / static_cast<uint32_t>(own);
    return row * count * H + (head * (count - 1) + j) * own + u;
  }
  static __device__ int64_t at_saved(const Walk& w, int64_t row, int j, int64_t u) {
    constexpr int kOfNorms = Traits::norms() > 0 ? kGates : 0;
    return at_gate(w, row, kSaved + (has_keep(w) ? kStates : 0) + kOfNorms, j, u);
  }

  static __device__ void load_saved(const Walk& w, const void* from, int64_t row, int64_t u, L* saved) {
#pragma unroll
    for (int j = 0; j < kSaved; ++j) saved[j] = load<T>(from, at_saved(w, row, j, u));
  }
  static __device__ void store_saved(const Walk& w, void* to, int64_t row, int64_t u, const L* saved) {
#pragma unroll
    for (int j = 0; j < kSaved; ++j) store<T>(to, at_saved(w, row, j, u), saved[j]);
  }

  // What the cell gave for the states, beside the saved values where there is a `keep`.
  static __device__ bool has_keep(const Walk& w) { return w.factors.keep_h || w.factors.keep_c; }
  static __device__ void load_new(const Walk& w, const void* from, int64_t row, int64_t u, L* state_new) {
    for (int j = 0; j < kStates; ++j) state_new[j] = load<T>(from, at_saved(w, row, kSaved + j, u));
  }
  static __device__ void store_new(const Walk& w, void* to, int64_t row, int64_t u, const L* state_new) {
    for (int j = 0; j < kStates; ++j) store<T>(to, at_saved(w, row, kSaved + j, u), state_new[j]);
  }

  static __device__ void load_parameters(const Walk& w, int64_t u, L* p) {
#pragma unroll
    for (int j = 0; j < Traits::unit(); ++j) p[j] = load_or_zero<S>(w.unit, j * w.hidden + u);
#pragma unroll
    for (int j = 0; j < Traits::options(); ++j) p[Traits::unit() + j] = L(static_cast<T>(w.options[j]));
  }

  // The gates of phase kPhase, biases added.
  template <int kPhase>
  static __device__ void load_gates(const Walk& w, const void* from_x, const void* from_h, int64_t row, int64_t u,
                                    L* gx, L* gh) {
    constexpr int kBegin = Traits::phase_begin(kPhase), kCount = Traits::phase_gates(kPhase);
    const int64_t H = w.hidden;
#pragma unroll
    for (int g = kBegin; g < kBegin + kCount; ++g) {
      gx[g] = load<T>(from_x, at_gate(w, row, kGates, g, u)) + load_or_zero<S>(w.b_ih, g * H + u);
      gh[g] = load_or_zero<T>(from_h, at_gate(w, row, kCount, g - kBegin, u)) + load_or_zero<S>(w.b_hh, g * H + u);
    }
  }

  // Where the state that entered step `now` came from: the reset state, that of the step before, or the initial state.
  static __device__ L source_h(const Walk& w, const Step& now, const Step& before, int64_t b, int64_t u) {
    const bool reset = is_reset(w, now, b);
    if (!reset && takes_part(w, before, b)) return load<S>(w.y, (before.first + b) * w.y_stride + u);
    return load_or_zero<S>(reset ? w.reset_h : w.h0, b * w.width + u);
  }
  static __device__ L source_c(const Walk& w, const Step& now, const Step& before, int64_t b, int64_t u, int e) {
    const bool reset = is_reset(w, now, b);
    if (!reset && takes_part(w, before, b))
      return load<T>(w.c_all, e * w.c_all_plane + (before.first + b) * w.hidden + u);
    return load_or_zero<S>(reset ? w.reset_c : w.c0, at_state(w, e, b, u));
  }

  // The state that entered step `now`, the h of it as it is stored. A projected h is not of the width of the units;
  // cells that project do not read it.
  static __device__ L entering_h(const Walk& w, const Step& now, const Step& before, int64_t b, int64_t u) {
    const L h = source_h(w, now, before, b, u);
    return w.factors.decay_h ? stored<S>(times<T>(w.factors.decay_h, now.t, b, u, h)) : h;
  }
  static __device__ void load_entering(const Walk& w, const Step& now, const Step& before, int64_t b, int64_t u, L* s) {
    s[0] = u < w.width ? entering_h(w, now, before, b, u) : L(0);
#pragma unroll
    for (int e = 0; e < kExtra; ++e)
      s[1 + e] = times<T>(w.factors.decay_c, now.t, b, u, source_c(w, now, before, b, u, e), e);
  }
};

}  // namespace

}  // namespace seq::cuda
