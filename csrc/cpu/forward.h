// The forward walk of one direction, vectorised across units.
//
// A step, for one thread: for each of its blocks of units, for each tile of rows: product microkernel (all gates of the
// block in registers, then in a tile of L1), the cell on the tile, states and outputs stored. The panel of a block is
// read from L1 or L2 once per tile; h of the step lies in L1 for all blocks. h is double-buffered by the parity of the
// walk step, so that one barrier per phase is enough. h[k+1] receives the state that *enters* the next step: where that
// step is a reset, the reset state, and decayed.
#pragma once

#include "cpu/rows.h"

namespace seq::SEQ_ISA {

template <class Cell, class T>
struct ForwardWalk {
  using Traits = CellTraits<Cell>;
  using L = Lanes<T>;
  static constexpr int kWidth = L::kWidth;
  static constexpr int kExtra = Traits::kExtra;

  static constexpr int widest_phase() {
    int widest = 0;
    for (int p = 0; p < Traits::phases(); ++p)
      widest = Traits::phase_gates(p) > widest ? Traits::phase_gates(p) : widest;
    return widest;
  }
  // Vectors of units per block, so that a line of a panel has 2 to 4 vectors.
  static constexpr int kUnitVectors = widest_phase() > 2 ? 1 : 2;
  static constexpr int64_t kBlock = kUnitVectors * kWidth;
  static constexpr int kProjectionVectors = 2;
  static constexpr int64_t kProjectionBlock = kProjectionVectors * kWidth;

  // What one step means for one row: where its data lie.
  struct Row {
    int64_t k, t, place, data, batch;
    int64_t t_next;  // -1: the row does not go on; known where something happens between steps
    bool reset, reset_next;
  };
  static SEQ_INLINE Row row_at(const Forward<T>& f, int64_t k, int64_t t, int64_t t_next, int64_t place) {
    Row row{k, t, place, f.plan->row(t, place), f.plan->batch_row(place), -1, false, false};
    if (f.resets || f.has_factors) {
      if (t_next >= 0 && place < f.plan->alive[t_next]) row.t_next = t_next;
      row.reset = f.is_reset(t, place);
      row.reset_next = row.t_next >= 0 && f.is_reset(t_next, place);
    }
    return row;
  }

  static SEQ_INLINE void store_h(const Forward<T>& f, const Row& row, int64_t u, int64_t n, L h) {
    const int64_t at = row.place * f.width + u, next = (row.k + 1) % 2;
    if (f.has_factors) h = mixed(f.factors.keep_h.of(row.t, row.batch), u, n, L::load(f.h[row.k % 2] + at, n), h);
    h = rounded(h, f.rounding);
    h.store(f.y + row.data * f.y_stride + u, n);
    if (row.reset_next) h = state_or_zero(f.reset_h, row.batch * f.width + u, n);
    if (f.has_factors && row.t_next >= 0) {
      h = times(f.factors.decay_h.of(row.t_next, row.batch), u, n, h);
      if (f.factors.drop) times(f.factors.drop.of(row.t_next, row.batch), u, n, h).store(f.dropped[next] + at, n);
    }
    h.store(f.h[next] + at, n);
    if constexpr (kHasPairs<T>)
      if (f.halves[next]) store_bfloat16(h, f.halves[next] + row.place * f.halves_stride + u);
  }

  // The cell, phase kPhase, on n <= kWidth units from u on of one row. gh: the product, gate_stride apart.
  template <int kPhase>
  static SEQ_INLINE void cell(const Forward<T>& f, const Row& row, int64_t dense, int64_t saved_row, int64_t u,
                              int64_t n, const T* gh_at, int64_t gate_stride, int64_t gh_n) {
    constexpr int kBegin = Traits::phase_begin(kPhase), kEnd = Traits::phase_begin(kPhase + 1);
    constexpr bool kLast = kPhase == Traits::phases() - 1;
    const int64_t H = f.hidden;
    L gx[Traits::kGates], gh[Traits::kGates], s[Traits::kStates], s_new[Traits::kStates];
    L saved[Traits::kSaved > 0 ? Traits::kSaved : 1], p[Traits::parameters() > 0 ? Traits::parameters() : 1];
    load_parameters<Traits>(f, u, n, p);
    const T* x = f.gx + (dense - f.gx_first) * f.gates_stride + u;
#pragma GCC unroll 8
    for (int g = kBegin; g < kEnd; ++g) {
      gx[g] = L::load(x + g * H, n);
      gh[g] = Traits::recurrent() ? L::load(gh_at + (g - kBegin) * gate_stride, gh_n) : L(T(0));
      if (f.b_hh) gh[g] = gh[g] + L::load(f.b_hh + g * H + u, n);
    }
    T* kept = f.saved ? f.saved + saved_row * f.saved_width + u : nullptr;
    if constexpr (Traits::phases() > 1) {
#pragma GCC unroll 8
      for (int j = 0; j < Traits::kSaved; ++j) saved[j] = kPhase > 0 ? L::load(kept + j * H, n) : L(T(0));
    }
    // A projected h is not of the width of the units; cells that project do not read it.
    s[0] = Traits::projects() && f.width != H ? L(T(0)) : L::load(f.h[row.k % 2] + row.place * f.width + u, n);
#pragma GCC unroll 8
    for (int e = 0; e < kExtra; ++e) {
      s[1 + e] = row.reset ? state_or_zero(f.reset_c, e * f.state_plane + row.batch * H + u, n)
                           : L::load(f.c + (e * f.plan->batch + row.place) * H + u, n);
      if (f.has_factors) s[1 + e] = times(f.factors.decay_c.of(row.t, row.batch, e), u, n, s[1 + e]);
    }

    Traits::template forward<kPhase>(gx, gh, s, p, s_new, saved);

    if (Traits::kSaved > 0 && kept) {
#pragma GCC unroll 8
      for (int j = 0; j < Traits::kSaved; ++j) saved[j].store(kept + j * H, n);
    }
    if constexpr (!kLast) {
      L operand = Cell::template operand<kPhase + 1>(saved, s);
      if (f.has_factors) operand = times(f.factors.drop.of(row.t, row.batch), u, n, operand);
      operand.store(f.operand + row.place * H + u, n);
    } else {
      if (f.has_keep()) {
        for (int j = 0; j < Traits::kStates && kept; ++j) s_new[j].store(kept + (Traits::kSaved + j) * H, n);
        for (int e = 0; e < kExtra; ++e)
          s_new[1 + e] = mixed(f.factors.keep_c.of(row.t, row.batch, e), u, n, s[1 + e], s_new[1 + e]);
      }
#pragma GCC unroll 8
      for (int e = 0; e < kExtra; ++e) {
        s_new[1 + e].store(f.c + (e * f.plan->batch + row.place) * H + u, n);
        if (f.c_all) s_new[1 + e].store(f.c_all + e * f.c_all_plane + row.data * f.c_all_stride + u, n);
      }
      if (f.width != H)
        s_new[0].store(f.operand + row.place * H + u, n);
      else if constexpr (!Traits::norms_state())
        store_h(f, row, u, n, s_new[0]);
    }
  }

  // The cell on `count` rows from place `first` on and the block of units from u on.
  // product: [count][gates of the phase][kBlock].
  template <int kPhase>
  static void any_cells(const Forward<T>& f, int64_t k, int64_t first, int64_t count, int64_t u, const T* product) {
    const int64_t t = f.step(k), t_next = k + 1 < f.plan->steps ? f.step(k + 1) : -1;
    for (int64_t i = first; i < first + count; ++i) {
      const Row row = row_at(f, k, t, t_next, i);
      const int64_t dense = f.plan->start[t] + i, saved_row = f.saved_row(t, i);
      for (int64_t j = 0; j < kBlock && u + j < f.hidden; j += kWidth)
        cell<kPhase>(f, row, dense, saved_row, u + j, f.hidden - u - j, product + j, kBlock, kWidth);
      product += Traits::phase_gates(kPhase) * kBlock;
    }
  }

  // The same for a whole block where the cell makes h and nothing happens between steps. What the compiler knows of
  // such a walk saves it a third of the cells' time.
  template <int kPhase>
  static void usual_cells(const Forward<T>& f, int64_t k, int64_t first, int64_t count, int64_t u, const T* product) {
    Forward<T> known = f;
    const Plan plan = *f.plan;
    known.plan = &plan, known.width = f.hidden, known.resets = nullptr, known.has_factors = false;
    const int64_t t = f.step(k);
    for (int64_t i = first; i < first + count; ++i) {
      const Row row = row_at(known, k, t, -1, i);
      for (int64_t j = 0; j < kBlock; j += kWidth)
        cell<kPhase>(known, row, plan.start[t] + i, known.saved_row(t, i), u + j, kWidth, product + j, kBlock, kWidth);
      product += Traits::phase_gates(kPhase) * kBlock;
    }
  }

  template <int kPhase>
  static void phase(const Forward<T>& f, const Panels<T>& panels, const Share& share, int64_t k, int64_t rows) {
    constexpr int kVectors = Traits::phase_gates(kPhase) * kUnitVectors;
    const int64_t K = kPhase == 0 ? f.width : f.hidden, blocks = blocks_of(f.hidden, kBlock);
    const bool usual = f.width == f.hidden && !f.resets && !f.has_factors;
    const T* from = kPhase > 0 ? f.operand : f.factors.drop ? f.dropped[k % 2] : f.h[k % 2];
    const bool pairs = kHasPairs<T> && kPhase == 0 && f.halves[0];
    constexpr int64_t kGroup = group_rows(kVectors);
    alignas(64) T tile[group_size<T>(kVectors)];
    const int64_t last = share.last(blocks);
    for (int64_t b = share.first(blocks), done = 1; b < last; b += done) {
      const T* panel = panels.phase[kPhase] + b * (pairs ? K / 2 : K) * kVectors * kWidth;
      for (int64_t i0 = 0; i0 < rows; i0 += kGroup) {
        const int64_t first = share.row_begin + i0, count = rows - i0 < kGroup ? rows - i0 : kGroup;
        const int64_t left = rows <= kGroup ? last - b : 1;
        if constexpr (kHasPairs<T> && kPhase == 0) {
          const T* words = reinterpret_cast<const T*>(f.halves[k % 2]);
          const int64_t stride = f.halves_stride / 2;
          if (pairs)
            done = product_of_group<T, kVectors, true>(count, panel, left, K / 2, words + first * stride, stride, tile);
        }
        if (!pairs) done = product_of_group<T, kVectors>(count, panel, left, K, from + first * K, K, tile);
        for (int64_t p = 0; p < done; ++p) {
          const int64_t u = (b + p) * kBlock;
          const T* product = tile + p * count * kVectors * kWidth;
          if (usual && u + kBlock <= f.hidden)
            usual_cells<kPhase>(f, k, first, count, u, product);
          else
            any_cells<kPhase>(f, k, first, count, u, product);
        }
      }
    }
  }

  // h = projection of what the cell left in `operand`.
  static void project(const Forward<T>& f, const Panels<T>& panels, const Share& share, int64_t k, int64_t rows) {
    constexpr int kVectors = kProjectionVectors, kTile = tile_rows(kVectors);
    const int64_t blocks = blocks_of(f.width, kProjectionBlock);
    const int64_t t = f.step(k), t_next = k + 1 < f.plan->steps ? f.step(k + 1) : -1;
    alignas(64) T tile[tile_size<T>(kVectors)];
    for (int64_t b = share.first(blocks); b < share.last(blocks); ++b) {
      for (int64_t done = 0, count; done < rows; done += count) {
        const int64_t i = share.row_begin + done;
        count = even_part(rows - done, kTile);
        product_with_one<T, kVectors>(static_cast<int>(count), panels.projection + b * f.hidden * kProjectionBlock,
                                      f.hidden, f.operand + i * f.hidden, f.hidden, tile);
        for (int64_t r = 0; r < count; ++r) {
          const Row row = row_at(f, k, t, t_next, i + r);
          for (int j = 0; j < kVectors; ++j) {
            const int64_t u = b * kProjectionBlock + j * kWidth, n = f.width - u;
            if (n <= 0) break;
            store_h(f, row, u, n, L::load(tile + (r * kVectors + j) * kWidth));
          }
        }
      }
    }
  }

  template <int kPhase = 0>
  static SEQ_INLINE void phases(const Forward<T>& f, const Panels<T>& panels, const Share& share, int64_t k,
                                int64_t rows) {
    if constexpr (Traits::recurrent())
      phase<kPhase>(f, panels, share, k, rows);
    else
      stepwise<kPhase>(f, share, k, nullptr);
    share.meet();
    if constexpr (kPhase + 1 < Traits::phases()) phases<kPhase + 1>(f, panels, share, k, rows);
  }

  static void run(const Forward<T>& f, const Panels<T>& panels, const Share& share, int64_t k0, int64_t k1) {
    for (int64_t k = k0; k < k1; ++k) {
      const int64_t rows = rows_alive(*f.plan, share, f.step(k));
      phases(f, panels, share, k, rows);
      if (f.width != f.hidden) {
        project(f, panels, share, k, rows);
        share.meet();
      }
    }
  }

  // Engine "stepwise": phase of walk step k, gh [places, gates of the phase, H]; null for a cell without a product.
  template <int kPhase>
  static void stepwise(const Forward<T>& f, const Share& share, int64_t k, const T* gh) {
    const int64_t t = f.step(k), t_next = k + 1 < f.plan->steps ? f.step(k + 1) : -1, H = f.hidden;
    const int64_t rows = rows_alive(*f.plan, share, t), blocks = blocks_of(H, kWidth);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const Row row = row_at(f, k, t, t_next, i);
      const int64_t dense = f.plan->start[t] + i, saved_row = f.saved_row(t, i);
      const T* product = gh ? gh + i * Traits::phase_gates(kPhase) * H : nullptr;
      for (int64_t b = share.first(blocks); b < share.last(blocks); ++b) {
        const int64_t u = b * kWidth, n = H - u;
        cell<kPhase>(f, row, dense, saved_row, u, n, product ? product + u : nullptr, H, n);
      }
    }
  }

  static void stepwise_projected(const Forward<T>& f, const Share& share, int64_t k, const T* h) {
    const int64_t t = f.step(k), t_next = k + 1 < f.plan->steps ? f.step(k + 1) : -1;
    const int64_t rows = rows_alive(*f.plan, share, t), blocks = blocks_of(f.width, kWidth);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const Row row = row_at(f, k, t, t_next, i);
      for (int64_t b = share.first(blocks); b < share.last(blocks); ++b) {
        const int64_t u = b * kWidth, n = f.width - u;
        store_h(f, row, u, n, L::load(h + i * f.width + u, n));
      }
    }
  }
};

}  // namespace seq::SEQ_ISA
