// The kernels of stepwise.h for many steps at once: what the backward needs again.
#pragma once

#include "cuda/stepwise_common.cuh"

namespace seq::cuda {

namespace {

// A row of a table: its step, the step before it in the order of the walk, and its row of the batch.
struct TableRow {
  Step now, before;
  int64_t b;
  bool exists;
};

__device__ TableRow row_of_table(const StepTable& table, int64_t r) {
  const int64_t row = table.start[1] + r;
  if (row >= table.start[1 + table.count]) return {{}, {}, 0, false};
  int low = 1, high = table.count;  // the last step that starts at this row or before
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.start[middle] <= row)
      low = middle;
    else
      high = middle - 1;
  }
  const auto step = [&](int i) { return Step{table.t0 + i - 1, table.start[i], table.start[i + 1] - table.start[i]}; };
  const Step now = step(low);
  return {now, step(table.reverse ? low + 1 : low - 1), row - now.first, true};
}

template <class Cell, class S, int kPhase>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) recompute(Walk w, StepTable table, Rows rows) {
  to_member(w), to_member(rows);
  using W = Stepwise<Cell, S>;
  using L = typename W::L;
  const int64_t r = this_row(), u = this_unit(), H = w.hidden;
  const TableRow at = row_of_table(table, r);
  if (!at.exists || u >= H || !takes_part(w, at.now, at.b)) return;
  L gx[W::kGates], gh[W::kGates], state[W::kStates], state_new[W::kStates], saved[W::kSavedOrOne];
  L p[W::kParametersOrOne];
  W::load_parameters(w, u, p);
  W::template load_gates<kPhase>(w, rows.gx, rows.gh, r, u, gx, gh);
  if constexpr (kPhase > 0) W::load_saved(w, rows.saved, r, u, saved);
  W::load_entering(w, at.now, at.before, at.b, u, state);
  W::Traits::template forward<kPhase>(gx, gh, state, p, state_new, saved);
  W::store_saved(w, rows.saved, r, u, saved);
  if constexpr (kPhase < W::kLastPhase) {
    const L operand = Cell::template operand<kPhase + 1>(saved, state);
    store<S>(rows.out, r * H + u, times<typename W::T>(w.factors.drop, at.now.t, at.b, u, operand));
  } else {
    if (W::has_keep(w)) W::store_new(w, rows.saved, r, u, state_new);
    const int64_t row = at.now.first + at.b;
    for (int e = 0; rows.restores && e < W::kExtra; ++e)
      store<typename W::T>(
          w.c_all, e * w.c_all_plane + row * H + u,
          mixed<typename W::T>(w.factors.keep_c, at.now.t, at.b, u, state[1 + e], state_new[1 + e], e));
  }
}

// rows.out [rows, units]: call(row, r, u), or 0 where a row does not take part.
template <class S, class Call>
__device__ void gather(const Walk& w, const StepTable& table, const Rows& rows, int64_t units, const Call& call) {
  const int64_t r = this_row(), u = this_unit();
  const TableRow at = row_of_table(table, r);
  if (!at.exists || u >= units) return;
  store<S>(rows.out, r * units + u, takes_part(w, at.now, at.b) ? call(at, r, u) : Lane<Compute<S>>(0));
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) entering(Walk w, StepTable table, Rows rows) {
  to_member(w), to_member(rows);
  using W = Stepwise<Cell, S>;
  gather<S>(w, table, rows, w.width, [&](const TableRow& at, int64_t, int64_t u) {
    return times<typename W::T>(w.factors.drop, at.now.t, at.b, u, W::entering_h(w, at.now, at.before, at.b, u));
  });
}

template <class Cell, class S, int kPhase>
__global__ void __launch_bounds__(kThreads) operand(Walk w, StepTable table, Rows rows) {
  to_member(w), to_member(rows);
  using W = Stepwise<Cell, S>;
  gather<S>(w, table, rows, w.hidden, [&](const TableRow& at, int64_t r, int64_t u) {
    typename W::L saved[W::kSavedOrOne], state[W::kStates];
    W::load_saved(w, rows.saved, r, u, saved);
    W::load_entering(w, at.now, at.before, at.b, u, state);
    return times<typename W::T>(w.factors.drop, at.now.t, at.b, u, Cell::template operand<kPhase>(saved, state));
  });
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) unprojected(Walk w, StepTable table, Rows rows) {
  to_member(w), to_member(rows);
  using W = Stepwise<Cell, S>;
  gather<S>(w, table, rows, w.hidden, [&](const TableRow& at, int64_t r, int64_t u) {
    typename W::L saved[W::kSavedOrOne], state_new[W::kStates];
    W::load_saved(w, rows.saved, r, u, saved);
    const int64_t row = at.now.first + at.b;
    for (int e = 0; e < W::kExtra; ++e)
      state_new[1 + e] = load<typename W::T>(w.c_all, e * w.c_all_plane + row * w.hidden + u);
    if (W::has_keep(w)) W::load_new(w, rows.saved, r, u, state_new);
    return Cell::output(saved, state_new);
  });
}

template <class Cell, class S>
__global__ void __launch_bounds__(kThreads) unit_gradient(Walk w, StepTable table, Rows rows) {
  to_member(w), to_member(rows);
  using W = Stepwise<Cell, S>;
  using L = typename W::L;
  using T = typename W::T;
  constexpr int kUnit = W::Traits::unit();
  const int64_t r = this_row(), u = this_unit(), H = w.hidden;
  const TableRow at = row_of_table(table, r);
  if (!at.exists || u >= H) return;
  L d[kUnit] = {};
  if (takes_part(w, at.now, at.b)) {
    L state[W::kStates], state_new[W::kStates], dgx[W::kGates];
    W::load_entering(w, at.now, at.before, at.b, u, state);
    const int64_t row = at.now.first + at.b;
    state_new[0] = w.width == H ? load<S>(w.y, row * w.y_stride + u) : L(0);
    for (int e = 0; e < W::kExtra; ++e) state_new[1 + e] = load<T>(w.c_all, e * w.c_all_plane + row * H + u);
    if (W::has_keep(w)) W::load_new(w, rows.saved, r, u, state_new);
    for (int g = 0; g < W::kGates; ++g) dgx[g] = load<S>(rows.dgx, W::at_gate(w, r, W::kGates, g, u));
    Cell::unit_gradient(state, state_new, dgx, d);
  }
  for (int j = 0; j < kUnit; ++j) store<T>(rows.out, (r * kUnit + j) * H + u, d[j]);
}

Error launch_over_table(int64_t units, void (*kernel)(Walk, StepTable, Rows), const Walk& w, const StepTable& table,
                        const Rows& rows, Stream stream) {
  return launch_over(w.members, table.start[1 + table.count] - table.start[1], units, stream, kernel, w, table, rows);
}

}  // namespace

}  // namespace seq::cuda
