// The kernels of stepwise.h, a step at a time, and the table of all. Included once by each stepwise_<type>.cu.
#include "cells/list.h"
#include "cuda/stepwise_common.cuh"
#include "cuda/stepwise_rows.cuh"

namespace seq::cuda {

namespace {

// Where a reset cuts before step `next`, the reset state takes the place of h and of the states beside it.
template <class Cell, class S>
__device__ void enter_h(const Forward& f, const Step& next, int64_t b, int64_t u) {
  if (is_reset(f, next, b)) store<S>(f.h, b * f.width + u, load_or_zero<S>(f.reset_h, b * f.width + u));
}
template <class Cell, class S>
__device__ void enter_c(const Forward& f, const Step& next, int64_t b, int64_t u) {
  using W = Stepwise<Cell, S>;
  if (W::kExtra > 0 && is_reset(f, next, b)) {
    for (int e = 0; e < W::kExtra; ++e) {
      const int64_t at = W::at_state(f, e, b, u);
      store<Compute<S>>(f.c, at, load_or_zero<S>(f.reset_c, at));
    }
  }
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) begin(Forward f, int64_t batch, Step first) {
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

// The last phase also acts for the rows that only begin at the next step.
template <class Cell, class S, int kPhase>
__global__ void __launch_bounds__(kThreads) forward(Forward f, ForwardStep s) {
  using W = Stepwise<Cell, S>;
  using Traits = typename W::Traits;
  using L = typename W::L;
  using T = typename W::T;
  constexpr bool kLast = kPhase == W::kLastPhase;
  const int64_t b = this_row(), u = this_unit(), H = f.hidden, row = s.now.first + b;
  if (u >= H || b >= (kLast ? rows_of(s.now, s.next) : s.now.alive)) return;
  const bool projected = f.width != H;

  if (takes_part(f, s.now, b)) {
    L gx[W::kGates], gh[W::kGates], state[W::kStates], state_new[W::kStates], saved[W::kSavedOrOne];
    W::template load_gates<kPhase>(f, s.gx, s.gh, b, u, gx, gh);
    if constexpr (kPhase > 0) W::load_saved(s.saved, b, H, u, saved);
    state[0] = projected ? L(0) : load<S>(f.h, b * H + u);
#pragma unroll
    for (int e = 0; e < W::kExtra; ++e) state[1 + e] = load<T>(f.c, W::at_state(f, e, b, u));

    Traits::template forward<kPhase>(gx, gh, state, state_new, saved);

    if (s.saved) W::store_saved(s.saved, b, H, u, saved);
    if constexpr (!kLast) {
      store<S>(f.operand, b * H + u, Cell::template operand<kPhase + 1>(saved, state));
    } else {
#pragma unroll
      for (int e = 0; e < W::kExtra; ++e) {
        store<T>(f.c, W::at_state(f, e, b, u), state_new[1 + e]);
        if (f.c_all) store<T>(f.c_all, e * f.c_all_plane + row * H + u, state_new[1 + e]);
      }
      if (projected) {
        store<S>(f.operand, b * H + u, state_new[0]);
      } else {
        store<S>(f.h, b * H + u, state_new[0]);
        store<S>(f.y, row * f.y_stride + u, state_new[0]);
      }
    }
  } else if (kLast && b < s.now.alive) {
    const L zeros[W::kSavedOrOne] = {};
    if (s.saved) W::store_saved(s.saved, b, H, u, zeros);
    if (f.c_all)
      for (int e = 0; e < W::kExtra; ++e) store<T>(f.c_all, e * f.c_all_plane + row * H + u, L(0));
    if (projected)
      store<S>(f.operand, b * H + u, L(0));
    else
      store<S>(f.y, row * f.y_stride + u, L(0));
  }
  if constexpr (kLast) {
    if (!projected) enter_h<Cell, S>(f, s.next, b, u);
    enter_c<Cell, S>(f, s.next, b, u);
  }
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) project(Forward f, ForwardStep s) {
  using L = Lane<Compute<S>>;
  const int64_t b = this_row(), u = this_unit(), P = f.width, row = s.now.first + b;
  if (u >= P || b >= rows_of(s.now, s.next)) return;
  if (b < s.now.alive) {
    const bool part = takes_part(f, s.now, b);
    const L h = part ? load<Compute<S>>(s.gh, b * P + u) : L(0);
    if (part) store<S>(f.h, b * P + u, h);
    store<S>(f.y, row * f.y_stride + u, h);
  }
  enter_h<Cell, S>(f, s.next, b, u);
}

// The gradient of the state that left step `now`, but for what y and c_all add: what the step after has given back and,
// where a reset cut between the two, nothing, since the reset state had it.
template <class T>
__device__ Lane<T> cut(const Backward& w, const Step& after, int64_t b, void* dreset, int64_t at, Lane<T> gradient) {
  if (!is_reset(w, after, b)) return gradient;
  if (dreset) store<T>(dreset, at, load<T>(dreset, at) + gradient);
  return Lane<T>(0);
}
template <class T>
__device__ Lane<T> take_h(const Backward& w, const BackwardStep& s, int64_t b, int64_t u) {
  const int64_t at = b * w.width + u;
  Lane<T> sum = load<T>(w.dh, at);
  if (s.product && takes_part(w, s.after, b)) sum = sum + load<T>(s.product, at);
  return cut(w, s.after, b, w.dreset_h, at, sum);
}
template <class T>
__device__ Lane<T> take_c(const Backward& w, const BackwardStep& s, int64_t b, int64_t at) {
  return cut(w, s.after, b, w.dreset_c, at, load<T>(w.dc, at));
}

// The last phase, which comes first, also acts for the rows that have their first step after this one.
template <class Cell, class S, int kPhase>
__global__ void __launch_bounds__(kThreads) backward(Backward w, BackwardStep s) {
  using W = Stepwise<Cell, S>;
  using Traits = typename W::Traits;
  using L = typename W::L;
  using T = typename W::T;
  constexpr bool kLast = kPhase == W::kLastPhase;
  const int64_t b = this_row(), u = this_unit(), H = w.hidden, row = s.now.first + b;
  if (u >= H || b >= (kLast ? rows_of(s.now, s.after) : s.now.alive)) return;
  const bool projected = w.width != H, part = takes_part(w, s.now, b);

  L ds[W::kStates];
  ds[0] = projected ? L(0) : kLast ? take_h<T>(w, s, b, u) : load<T>(w.dh, b * H + u);
#pragma unroll
  for (int e = 0; e < W::kExtra; ++e) {
    const int64_t at = W::at_state(w, e, b, u);
    ds[1 + e] = kLast ? take_c<T>(w, s, b, at) : load<T>(w.dc, at);
  }
  if (part) {
    L saved[W::kSavedOrOne], state[W::kStates], state_new[W::kStates], dgx[W::kGates], dgh[W::kGates];
    W::load_saved(s.saved, b, H, u, saved);
    W::load_entering(w, s.now, s.before, b, u, state);
    state_new[0] = projected ? L(0) : load<S>(w.y, row * w.y_stride + u);
#pragma unroll
    for (int e = 0; e < W::kExtra; ++e) {
      const int64_t at = e * w.c_all_plane + row * H + u;
      state_new[1 + e] = load<T>(w.c_all, at);
      if (kLast && w.dc_all) ds[1 + e] = ds[1 + e] + load<T>(w.dc_all, at);
    }
    const L d_operand = load_or_zero<T>(s.d_operand, b * H + u);
    if (kLast && projected) ds[0] = d_operand;
    if (kLast && !projected && w.dy) ds[0] = ds[0] + load<S>(w.dy, row * w.dy_stride + u);
#pragma unroll
    for (int g = 0; g < W::kGates; ++g) {
      dgx[g] = kLast ? L(0) : load<S>(s.dgx, (b * W::kGates + g) * H + u);
      dgh[g] = kLast ? L(0) : load<S>(s.dgh, (b * W::kGates + g) * H + u);
    }

    Traits::template backward<kPhase>(saved, state, state_new, ds, d_operand, dgx, dgh);

#pragma unroll
    for (int g = 0; g < W::kGates; ++g) {
      store<S>(s.dgx, (b * W::kGates + g) * H + u, dgx[g]);
      if (!Traits::kSameGrads) store<S>(s.dgh, (b * W::kGates + g) * H + u, dgh[g]);
    }
  } else if (b < s.now.alive) {
    for (int g = 0; g < W::kGates; ++g) {
      store<S>(s.dgx, (b * W::kGates + g) * H + u, L(0));
      if (!Traits::kSameGrads) store<S>(s.dgh, (b * W::kGates + g) * H + u, L(0));
    }
  }
  if (!projected) store<T>(w.dh, b * H + u, ds[0]);
#pragma unroll
  for (int e = 0; e < W::kExtra; ++e) store<T>(w.dc, W::at_state(w, e, b, u), ds[1 + e]);
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) backward_project(Backward w, BackwardStep s) {
  using T = Compute<S>;
  const int64_t b = this_row(), u = this_unit(), P = w.width;
  if (u >= P || b >= rows_of(s.now, s.after)) return;
  Lane<T> dh = take_h<T>(w, s, b, u);
  if (takes_part(w, s.now, b)) {
    store<S>(s.dh_out, b * P + u, dh + load_or_zero<S>(w.dy, (s.now.first + b) * w.dy_stride + u));
    dh = Lane<T>(0);
  } else if (b < s.now.alive) {
    store<S>(s.dh_out, b * P + u, Lane<T>(0));
  }
  store<T>(w.dh, b * P + u, dh);
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) finish(Backward w, int64_t batch, BackwardStep s) {
  using W = Stepwise<Cell, S>;
  using T = Compute<S>;
  const int64_t b = this_row(), u = this_unit();
  if (b >= batch) return;
  if (u < w.width) store<T>(w.dh, b * w.width + u, take_h<T>(w, s, b, u));
  if (u < w.hidden) {
    for (int e = 0; e < W::kExtra; ++e) {
      const int64_t at = W::at_state(w, e, b, u);
      store<T>(w.dc, at, take_c<T>(w, s, b, at));
    }
  }
}

template <class Cell, class S, int kPhase>
Error launch_forward(const Forward& f, const ForwardStep& s, Stream stream) {
  const int64_t rows = kPhase == Stepwise<Cell, S>::kLastPhase ? rows_of(s.now, s.next) : s.now.alive;
  return launch_over(rows, f.hidden, stream, &forward<Cell, S, kPhase>, f, s);
}

template <class Cell, class S, int kPhase>
Error launch_backward(const Backward& w, const BackwardStep& s, Stream stream) {
  const int64_t rows = kPhase == Stepwise<Cell, S>::kLastPhase ? rows_of(s.now, s.after) : s.now.alive;
  return launch_over(rows, w.hidden, stream, &backward<Cell, S, kPhase>, w, s);
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
    return launch_over(batch, std::max(f.hidden, f.width), stream, &begin<Cell, S>, f, batch, first);
  };
  k.forward[0] = &launch_forward<Cell, S, 0>;
  k.backward[0] = &launch_backward<Cell, S, 0>;
  k.finish = [](const Backward& w, int64_t batch, const BackwardStep& s, Stream stream) {
    return launch_over(batch, std::max(w.hidden, w.width), stream, &finish<Cell, S>, w, batch, s);
  };
  k.entering = [](const Walk& w, const StepTable& table, const Rows& rows, Stream stream) {
    return launch_over_table(w.width, &entering<Cell, S>, w, table, rows, stream);
  };
  if constexpr (Traits::kSaved > 0) k.recompute[0] = &launch_recompute<Cell, S, 0>;
  if constexpr (Traits::phases() > 1) {
    k.forward[1] = &launch_forward<Cell, S, 1>;
    k.backward[1] = &launch_backward<Cell, S, 1>;
    k.recompute[1] = &launch_recompute<Cell, S, 1>;
    k.operand[1] = &launch_operand<Cell, S, 1>;
  }
  if constexpr (Traits::projects()) {
    k.project = [](const Forward& f, const ForwardStep& s, Stream stream) {
      return launch_over(rows_of(s.now, s.next), f.width, stream, &project<Cell, S>, f, s);
    };
    k.backward_project = [](const Backward& w, const BackwardStep& s, Stream stream) {
      return launch_over(rows_of(s.now, s.after), w.width, stream, &backward_project<Cell, S>, w, s);
    };
    k.unprojected = [](const Walk& w, const StepTable& table, const Rows& rows, Stream stream) {
      return launch_over_table(w.hidden, &unprojected<Cell, S>, w, table, rows, stream);
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
