// The kernels of stepwise.h, a step at a time, and the table of all. Included once by each stepwise_<type>.cu.
#include "cells/list.h"
#include "cuda/stepwise_common.cuh"
#include "cuda/stepwise_norm.cuh"
#include "cuda/stepwise_rows.cuh"

namespace seq::cuda {

namespace {

// Of h and the states beside it makes what enters step `next`: the reset state where a reset cuts, and decayed.
template <class Cell, class S>
__device__ void enter_h(const Forward& f, const Step& next, int64_t b, int64_t u) {
  using T = Compute<S>;
  const int64_t at = b * f.width + u;
  const bool reset = is_reset(f, next, b);
  if (!reset && !(f.has_factors && takes_part(f, next, b))) return;
  const Lane<T> h = reset ? load_or_zero<S>(f.reset_h, at) : load<S>(f.h, at);
  store<S>(f.h, at, times<T>(f.factors.decay_h, next.t, b, u, h));
  if (f.dropped) store<S>(f.dropped, at, times<T>(f.factors.drop, next.t, b, u, load<S>(f.h, at)));
}
template <class Cell, class S>
__device__ void enter_c(const Forward& f, const Step& next, int64_t b, int64_t u) {
  using W = Stepwise<Cell, S>;
  using T = Compute<S>;
  const bool reset = is_reset(f, next, b);
  if (!reset && !(f.has_factors && takes_part(f, next, b))) return;
  for (int e = 0; e < W::kExtra; ++e) {
    const int64_t at = W::at_state(f, e, b, u);
    const Lane<T> c = reset ? load_or_zero<S>(f.reset_c, at) : load<T>(f.c, at);
    store<T>(f.c, at, times<T>(f.factors.decay_c, next.t, b, u, c, e));
  }
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) begin(Forward f, int64_t batch, Step first) {
  to_member(f);
  using W = Stepwise<Cell, S>;
  const int64_t b = this_row(), u = this_unit();
  if (b >= batch) return;
  if (u < f.width) {
    store<S>(f.h, b * f.width + u, load_or_zero<S>(f.h0, b * f.width + u));
    enter_h<Cell, S>(f, first, b, u);
  }
  if (u < f.hidden) {
    for (int e = 0; e < W::kExtra; ++e) {
      const int64_t at = W::at_state(f, e, b, u);
      store<Compute<S>>(f.c, at, load_or_zero<S>(f.c0, at));
    }
    enter_c<Cell, S>(f, first, b, u);
  }
}

// Whoever takes no part returns at once; the last phase also acts for the rows that only begin at the next step.
template <class Cell, class S, int kPhase>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) forward(Forward f, ForwardStep s) {
  to_member(f), to_member(s);
  using W = Stepwise<Cell, S>;
  using Traits = typename W::Traits;
  using L = typename W::L;
  using T = typename W::T;
  constexpr bool kLast = kPhase == W::kLastPhase;
  const int64_t b = this_row(), u = this_unit(), H = f.hidden, row = s.now.first + b;
  const bool part = takes_part(f, s.now, b), later = W::output_later(f);
  if (u >= H || !(part || (kLast && takes_part(f, s.next, b)))) return;

  if (part) {
    L gx[W::kGates], gh[W::kGates], state[W::kStates], state_new[W::kStates], saved[W::kSavedOrOne];
    L p[W::kParametersOrOne];
    W::load_parameters(f, u, p);
    W::template load_gates<kPhase>(f, s.gx, s.gh, b, u, gx, gh);
    if constexpr (kPhase > 0) W::load_saved(f, s.saved, b, u, saved);
    state[0] = later ? L(0) : load<S>(f.h, b * H + u);
#pragma unroll
    for (int e = 0; e < W::kExtra; ++e) state[1 + e] = load<T>(f.c, W::at_state(f, e, b, u));

    Traits::template forward<kPhase>(gx, gh, state, p, state_new, saved);

    if (s.saved) W::store_saved(f, s.saved, b, u, saved);
    if constexpr (!kLast) {
      const L operand = Cell::template operand<kPhase + 1>(saved, state);
      store<S>(f.operand, b * H + u, times<T>(f.factors.drop, s.now.t, b, u, operand));
    } else {
      if (W::has_keep(f)) {
        if (s.saved) W::store_new(f, s.saved, b, u, state_new);
        if (!later) state_new[0] = mixed<T>(f.factors.keep_h, s.now.t, b, u, state[0], state_new[0]);
        for (int e = 0; e < W::kExtra; ++e)
          state_new[1 + e] = mixed<T>(f.factors.keep_c, s.now.t, b, u, state[1 + e], state_new[1 + e], e);
      }
#pragma unroll
      for (int e = 0; e < W::kExtra; ++e) {
        store<T>(f.c, W::at_state(f, e, b, u), state_new[1 + e]);
        if (f.c_all) store<T>(f.c_all, e * f.c_all_plane + row * H + u, state_new[1 + e]);
      }
      if (later) {
        if (f.operand) store<S>(f.operand, b * H + u, state_new[0]);
      } else {
        store<S>(f.h, b * H + u, state_new[0]);
        store<S>(f.y, row * f.y_stride + u, state_new[0]);
      }
    }
  }
  if constexpr (kLast) {
    if (!later) enter_h<Cell, S>(f, s.next, b, u);
    enter_c<Cell, S>(f, s.next, b, u);
  }
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) project(Forward f, ForwardStep s) {
  to_member(f), to_member(s);
  using T = Compute<S>;
  using L = Lane<T>;
  const int64_t b = this_row(), u = this_unit(), P = f.width, row = s.now.first + b;
  if (u >= P) return;
  if (takes_part(f, s.now, b)) {
    L h = load<T>(s.gh, b * P + u);
    if (f.factors.keep_h) h = mixed<T>(f.factors.keep_h, s.now.t, b, u, load<S>(f.h, b * P + u), h);
    store<S>(f.h, b * P + u, h);
    store<S>(f.y, row * f.y_stride + u, h);
  }
  enter_h<Cell, S>(f, s.next, b, u);
}

// The gradient of the state that left step `now`, but for what y and c_all add: what the step after has given back,
// `gradient`, decayed as the state was and, where a reset cut between the two, nothing, since the reset state had it.
// at: where the number lies in dreset; state, e: what entered `after`, and which of the states beside h it is.
template <class T>
__device__ Lane<T> pass_back(const Backward& w, const BackwardStep& s, int64_t b, int64_t u, Lane<T> gradient,
                             const Factor<const void>& decay, const Factor<void>& ddecay, Lane<T> state, void* dreset,
                             int64_t at, int e) {
  if (!takes_part(w, s.after, b)) return gradient;
  if (ddecay) store<T>(ddecay.data, ddecay.at(s.after.t, b, e) + u, gradient * state);
  gradient = times<T>(decay, s.after.t, b, u, gradient, e);
  const bool reset = is_reset(w, s.after, b);
  if (reset && dreset) store<T>(dreset, at, load<T>(dreset, at) + gradient);
  return reset || is_detached(w, s.after, s.now, b) ? Lane<T>(0) : gradient;
}
template <class Cell, class S>
__device__ Lane<Compute<S>> take_h(const Backward& w, const BackwardStep& s, int64_t b, int64_t u) {
  using W = Stepwise<Cell, S>;
  using T = Compute<S>;
  const int64_t at = b * w.width + u;
  Lane<T> sum = load<T>(w.dh, at);
  if (s.product && takes_part(w, s.after, b))
    sum = sum + times<T>(w.factors.drop, s.after.t, b, u, load<T>(s.product, at));
  const Lane<T> state = w.ddecay_h ? W::source_h(w, s.after, s.now, b, u) : Lane<T>(0);
  return pass_back<T>(w, s, b, u, sum, w.factors.decay_h, w.ddecay_h, state, w.dreset_h, at, 0);
}
template <class Cell, class S>
__device__ Lane<Compute<S>> take_c(const Backward& w, const BackwardStep& s, int64_t b, int64_t u, int e) {
  using W = Stepwise<Cell, S>;
  using T = Compute<S>;
  const int64_t at = W::at_state(w, e, b, u);
  const Lane<T> state = w.ddecay_c ? W::source_c(w, s.after, s.now, b, u, e) : Lane<T>(0);
  return pass_back<T>(w, s, b, u, load<T>(w.dc, at), w.factors.decay_c, w.ddecay_c, state, w.dreset_c, at, e);
}

// Takes the share of a `keep` out of a gradient.
template <class T>
__device__ Lane<T> take_part(const Factor<const void>& keep, int64_t t, int64_t b, int64_t u, Lane<T>& gradient,
                             int e) {
  if (!keep) return Lane<T>(0);
  const Lane<T> taken = load<T>(keep.data, keep.at(t, b, e) + u) * gradient;
  gradient = gradient - taken;
  return taken;
}

// The last phase, which comes first, also acts for the rows that have their first step after this one.
template <class Cell, class S, int kPhase>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) backward(Backward w, BackwardStep s) {
  to_member(w), to_member(s);
  using W = Stepwise<Cell, S>;
  using Traits = typename W::Traits;
  using L = typename W::L;
  using T = typename W::T;
  constexpr bool kLast = kPhase == W::kLastPhase;
  const int64_t b = this_row(), u = this_unit(), H = w.hidden, row = s.now.first + b;
  const bool part = takes_part(w, s.now, b), later = W::output_later(w);
  if (u >= H || !(part || (kLast && takes_part(w, s.after, b)))) return;

  L ds[W::kStates];
  ds[0] = later ? L(0) : kLast ? take_h<Cell, S>(w, s, b, u) : load<T>(w.dh, b * H + u);
#pragma unroll
  for (int e = 0; e < W::kExtra; ++e)
    ds[1 + e] = kLast ? take_c<Cell, S>(w, s, b, u, e) : load<T>(w.dc, W::at_state(w, e, b, u));
  if (part) {
    L saved[W::kSavedOrOne], state[W::kStates], state_new[W::kStates], dgx[W::kGates], dgh[W::kGates];
    L p[W::kParametersOrOne];
    W::load_parameters(w, u, p);
    W::load_saved(w, s.saved, b, u, saved);
    W::load_entering(w, s.now, s.before, b, u, state);
    state_new[0] = later ? L(0) : load<S>(w.y, row * w.y_stride + u);
#pragma unroll
    for (int e = 0; e < W::kExtra; ++e) {
      const int64_t at = e * w.c_all_plane + row * H + u;
      state_new[1 + e] = load<T>(w.c_all, at);
      if (kLast && w.dc_all) ds[1 + e] = ds[1 + e] + load<T>(w.dc_all, at);
    }
    L d_operand = load_or_zero<T>(s.d_operand, b * H + u);
    if (!kLast) d_operand = times<T>(w.factors.drop, s.now.t, b, u, d_operand);
    if (kLast && later) ds[0] = d_operand;
    if (kLast && !later && w.dy) ds[0] = ds[0] + load<S>(w.dy, row * w.dy_stride + u);
    const bool keep = W::has_keep(w);
    L passed[W::kStates] = {};
    if (keep) {
      W::load_new(w, s.saved, b, u, state_new);
      if (kLast && !later) passed[0] = take_part<T>(w.factors.keep_h, s.now.t, b, u, ds[0], 0);
      for (int e = 0; kLast && e < W::kExtra; ++e)
        passed[1 + e] = take_part<T>(w.factors.keep_c, s.now.t, b, u, ds[1 + e], e);
    }
    if constexpr (Traits::norms_state()) ds[1] = ds[1] + load<T>(w.dc_normed, b * H + u);
#pragma unroll
    for (int g = 0; g < W::kGates; ++g) {
      dgx[g] = kLast ? L(0) : load<S>(s.dgx, W::at_gate(w, b, W::kGates, g, u));
      dgh[g] = kLast ? L(0) : load<S>(s.dgh, W::at_gate(w, b, W::kGates, g, u));
    }

    Traits::template backward<kPhase>(saved, state, state_new, p, ds, d_operand, dgx, dgh);

    if (keep) {
      for (int j = 0; j < W::kStates; ++j) ds[j] = ds[j] + passed[j];
    }
#pragma unroll
    for (int g = 0; g < W::kGates; ++g) {
      store<S>(s.dgx, W::at_gate(w, b, W::kGates, g, u), dgx[g]);
      if (!Traits::kSameGrads) store<S>(s.dgh, W::at_gate(w, b, W::kGates, g, u), dgh[g]);
    }
  }
  if (!later) store<T>(w.dh, b * H + u, ds[0]);
#pragma unroll
  for (int e = 0; e < W::kExtra; ++e) store<T>(w.dc, W::at_state(w, e, b, u), ds[1 + e]);
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) backward_project(Backward w, BackwardStep s) {
  to_member(w), to_member(s);
  using T = Compute<S>;
  const int64_t b = this_row(), u = this_unit(), P = w.width;
  const bool part = takes_part(w, s.now, b);
  if (u >= P || !(part || takes_part(w, s.after, b))) return;
  Lane<T> dh = take_h<Cell, S>(w, s, b, u);
  if (part) {
    Lane<T> whole = dh + load_or_zero<S>(w.dy, (s.now.first + b) * w.dy_stride + u);
    dh = take_part<T>(w.factors.keep_h, s.now.t, b, u, whole, 0);
    store<S>(s.dh_out, b * P + u, whole);
  }
  store<T>(w.dh, b * P + u, dh);
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) finish(Backward w, int64_t batch, BackwardStep s) {
  to_member(w), to_member(s);
  using W = Stepwise<Cell, S>;
  using T = Compute<S>;
  const int64_t b = this_row(), u = this_unit();
  if (b >= batch) return;
  if (u < w.width) store<T>(w.dh, b * w.width + u, take_h<Cell, S>(w, s, b, u));
  if (u < w.hidden) {
    for (int e = 0; e < W::kExtra; ++e) {
      store<T>(w.dc, W::at_state(w, e, b, u), take_c<Cell, S>(w, s, b, u, e));
    }
  }
}

template <class Cell, class S, int kPhase>
Error launch_forward(const Forward& f, const ForwardStep& s, Stream stream) {
  const int64_t rows = kPhase == Stepwise<Cell, S>::kLastPhase ? rows_of(s.now, s.next) : s.now.alive;
  return launch_over(f.members, rows, f.hidden, stream, &forward<Cell, S, kPhase>, f, s);
}

template <class Cell, class S>
Error launch_project(const Forward& f, const ForwardStep& s, Stream stream) {
  return launch_over(f.members, rows_of(s.now, s.next), f.width, stream, &project<Cell, S>, f, s);
}

template <class Cell, class S, int kPhase>
Error launch_backward(const Backward& w, const BackwardStep& s, Stream stream) {
  const int64_t rows = kPhase == Stepwise<Cell, S>::kLastPhase ? rows_of(s.now, s.after) : s.now.alive;
  return launch_over(w.members, rows, w.hidden, stream, &backward<Cell, S, kPhase>, w, s);
}

template <class Cell, class S, int kPhase>
Error launch_recompute(const Walk& w, const StepTable& table, const Rows& rows, Stream stream) {
  return launch_over_table(w.hidden, &recompute<Cell, S, kPhase>, w, table, rows, stream);
}

template <class Cell, class S, int kPhase>
Error launch_operand(const Walk& w, const StepTable& table, const Rows& rows, Stream stream) {
  return launch_over_table(w.hidden, &operand<Cell, S, kPhase>, w, table, rows, stream);
}

template <class Cell, class S>
Kernels table_of() {
  using Traits = CellTraits<Cell>;
  Kernels k{};
  k.begin = [](const Forward& f, int64_t batch, const Step& first, Stream stream) {
    return launch_over(f.members, batch, std::max(f.hidden, f.width), stream, &begin<Cell, S>, f, batch, first);
  };
  if constexpr (Traits::norms() > 0) {
    k.forward[0] = &launch_normed_forward<Cell, S>, k.backward[0] = &launch_normed_backward<Cell, S>;
    k.normalize = &launch_normalize<Cell, S>, k.normalize_backward = &launch_normalize_backward<Cell, S>;
  } else {
    k.forward[0] = &launch_forward<Cell, S, 0>, k.backward[0] = &launch_backward<Cell, S, 0>;
  }
  k.finish = [](const Backward& w, int64_t batch, const BackwardStep& s, Stream stream) {
    return launch_over(w.members, batch, std::max(w.hidden, w.width), stream, &finish<Cell, S>, w, batch, s);
  };
  k.entering = [](const Walk& w, const StepTable& table, const Rows& rows, Stream stream) {
    return launch_over_table(w.width, &entering<Cell, S>, w, table, rows, stream);
  };
  k.recompute[0] = &launch_recompute<Cell, S, 0>;
  if constexpr (Traits::phases() > 1) {
    k.forward[1] = &launch_forward<Cell, S, 1>;
    k.backward[1] = &launch_backward<Cell, S, 1>;
    k.recompute[1] = &launch_recompute<Cell, S, 1>;
    k.operand[1] = &launch_operand<Cell, S, 1>;
  }
  if constexpr (Traits::projects()) {
    k.project = &launch_project<Cell, S>;
    k.backward_project = [](const Backward& w, const BackwardStep& s, Stream stream) {
      return launch_over(w.members, rows_of(s.now, s.after), w.width, stream, &backward_project<Cell, S>, w, s);
    };
    k.unprojected = [](const Walk& w, const StepTable& table, const Rows& rows, Stream stream) {
      return launch_over_table(w.hidden, &unprojected<Cell, S>, w, table, rows, stream);
    };
  }
  if constexpr (Traits::unit() > 0) {
    k.unit_gradient = [](const Walk& w, const StepTable& table, const Rows& rows, Stream stream) {
      return launch_over_table(w.hidden, &unit_gradient<Cell, S>, w, table, rows, stream);
    };
  }
  return k;
}

}  // namespace

template <Type kType>
const Kernels& stepwise_kernels_for(int cell) {
#define SEQ_TABLE(Cell) table_of<Cell, Data<kType>>(),
  static const Kernels tables[] = {SEQ_FOR_EACH_CELL(SEQ_TABLE)};
#undef SEQ_TABLE
  return tables[cell];
}

}  // namespace seq::cuda
