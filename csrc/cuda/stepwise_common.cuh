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

// A kernel for `rows` rows and `units` units.
template <class... Parameters>
Error launch_over(int64_t rows, int64_t units, Stream stream, void (*kernel)(Parameters...),
                  const std::type_identity_t<Parameters>&... arguments) {
  if (rows == 0) return nullptr;
  const auto blocks = [](int64_t n, int64_t each) { return static_cast<unsigned>((n + each - 1) / each); };
  return launch(dim3(blocks(rows, kRowsPerBlock), blocks(units, kUnitsPerBlock)), dim3(kUnitsPerBlock, kRowsPerBlock),
                stream, kernel, arguments...);
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

  // Where the state beside h, number e, of a row lies in a [S-1][B, H] buffer.
  static __device__ int64_t at_state(const Walk& w, int e, int64_t b, int64_t u) {
    return e * w.state_plane + b * w.hidden + u;
  }

  static __device__ void load_saved(const Walk& w, const void* from, int64_t row, int64_t u, L* saved) {
#pragma unroll
    for (int j = 0; j < kSaved; ++j) saved[j] = load<T>(from, row * w.saved_width + j * w.hidden + u);
  }
  static __device__ void store_saved(const Walk& w, void* to, int64_t row, int64_t u, const L* saved) {
#pragma unroll
    for (int j = 0; j < kSaved; ++j) store<T>(to, row * w.saved_width + j * w.hidden + u, saved[j]);
  }

  // What the cell gave for the states, beside the saved values where there is a `keep`.
  static __device__ bool has_keep(const Walk& w) { return w.factors.keep_h || w.factors.keep_c; }
  static __device__ void load_new(const Walk& w, const void* from, int64_t row, int64_t u, L* state_new) {
    for (int j = 0; j < kStates; ++j) state_new[j] = load<T>(from, row * w.saved_width + (kSaved + j) * w.hidden + u);
  }
  static __device__ void store_new(const Walk& w, void* to, int64_t row, int64_t u, const L* state_new) {
    for (int j = 0; j < kStates; ++j) store<T>(to, row * w.saved_width + (kSaved + j) * w.hidden + u, state_new[j]);
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
      gx[g] = load<T>(from_x, (row * kGates + g) * H + u) + load_or_zero<S>(w.b_ih, g * H + u);
      gh[g] = load_or_zero<T>(from_h, (row * kCount + g - kBegin) * H + u) + load_or_zero<S>(w.b_hh, g * H + u);
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
