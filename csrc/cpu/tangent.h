// The forward and the backward walk of one direction on dual numbers, which give the derivatives of a walk and of its
// gradients in one direction.
//
// A row is a pair of rows, the value and behind it the tangent: h [.., 2, P], c [.., 2, H], gates [.., 2, G, H],
// saved [.., 2, kSaved, H], b_hh [2, G, H]. To Forward and Backward, and to whatever goes number by number, it is one
// row of twice the width: their `hidden` and `width` count both. saved and operand are kept by dense row, of all steps.
//
// What a cell does to values and tangents is its own forward and backward on Dual lanes. The products take the two rows
// of a pair through the same panels; where W has a tangent as well, its product with the values goes to the tangents.
// Where all h are known, and are all that the backward of the cell reads, the forward multiplies tangents alone: the
// backward of the cell gives the derivatives of its h' by everything, and these times the tangents are that of h'.
#pragma once

#include "cpu/rows.h"

namespace seq::SEQ_ISA {

template <class Cell, class T>
struct TangentWalk {
  using Traits = CellTraits<Cell>;
  using L = Lanes<T>;
  using D = Dual<T>;
  using F = ForwardWalk<Cell, T>;
  using B = BackwardWalk<Cell, T>;
  using Entering = typename B::Entering;
  static constexpr int kWidth = L::kWidth, kExtra = Traits::kExtra, kGates = Traits::kGates, kStates = Traits::kStates;
  static constexpr int kSaved = Traits::kSaved, kSavedRoom = kSaved > 0 ? kSaved : 1;
  static constexpr int kLastPhase = Traits::phases() - 1;
  static_assert(!Traits::projects() || kLastPhase == 0, "`operand` holds one thing");
  static_assert(Traits::plain());

  // out(place, block, tile of the pair, distance to its tangents) for pairs of rows of a [.., K], lda apart, times
  // panels of kVectors vectors, over the share's part of the blocks. kValues: else the tile is of the tangents alone.
  template <int kVectors, bool kValues = true, class Out>
  static SEQ_INLINE void multiply(const T* panels, const T* tangents, int64_t blocks, int64_t K, const T* a,
                                  int64_t lda, const Share& share, int64_t rows, Out out) {
    constexpr int kEach = kValues ? 2 : 1;  // rows of a pair
    constexpr int64_t kLine = kVectors * kWidth, kGroup = group_rows(kVectors) / kEach;
    alignas(64) T tile[group_size<T>(kVectors)], of_values[group_size<T>(kVectors)];
    const int64_t last = share.last(blocks);
    for (int64_t b = share.first(blocks), done = 1; b < last; b += done)
      for (int64_t i0 = 0; i0 < rows; i0 += kGroup) {
        const int64_t count = rows - i0 < kGroup ? rows - i0 : kGroup, left = rows <= kGroup ? last - b : 1;
        const T* from = a + 2 * i0 * lda;
        done = product_of_group<T, kVectors>(kEach * count, panels + b * K * kLine, left, K,
                                             kValues ? from : from + lda, kValues ? lda : 2 * lda, tile);
        for (int64_t p = 0; p < done; ++p) {
          T* pairs = tile + p * kEach * count * kLine;
          if (tangents) {
            product_of_group<T, kVectors>(count, tangents + (b + p) * K * kLine, 1, K, from, 2 * lda, of_values);
            for (int64_t i = 0; i < count; ++i)
              for (int j = 0; j < kVectors; ++j) {
                T* to = pairs + (kEach * i + kEach - 1) * kLine + j * kWidth;
                (L::load(to) + L::load(of_values + i * kLine + j * kWidth)).store(to);
              }
          }
          for (int64_t i = 0; i < count; ++i) out(share.row_begin + i0 + i, b + p, pairs + kEach * i * kLine, kLine);
        }
      }
  }

  // out(place, unit, count of units, dual lanes): units in the order of the columns.
  template <int kVectors, class Out>
  static SEQ_INLINE void multiply_columns(const T* panels, const T* tangents, int64_t units, int64_t K, const T* a,
                                          int64_t lda, const Share& share, int64_t rows, Out out) {
    constexpr int64_t kBlock = kVectors * kWidth;
    multiply<kVectors>(panels, tangents, blocks_of(units, kBlock), K, a, lda, share, rows,
                       [&](int64_t place, int64_t b, const T* pair, int64_t apart) __attribute__((always_inline)) {
                         for (int64_t j = 0; j < kBlock; j += kWidth) {
                           const int64_t u = b * kBlock + j;
                           if (u >= units) break;
                           out(place, u, units - u, D::load(pair + j, apart, kWidth));
                         }
                       });
  }

  static SEQ_INLINE D state_or_zero(const T* states, int64_t offset, int64_t apart, int64_t n) {
    return states ? D::load(states + offset, apart, n) : D(T(0));
  }

  static SEQ_INLINE void store_h(const Forward<T>& f, const typename F::Row& row, int64_t u, int64_t n, D h) {
    F::store_h(f, row, u, n, h.v);
    F::store_h(f, row, f.width / 2 + u, n, h.d);
  }

  // The cell, phase kPhase, on n units from u on of one row. gh: the product, gates gate_stride and tangents gh_apart
  // apart, gh_n units.
  template <int kPhase>
  static SEQ_INLINE void forward_cell(const Forward<T>& f, const typename F::Row& row, int64_t u, int64_t n,
                                      const T* gh_at, int64_t gate_stride, int64_t gh_apart, int64_t gh_n) {
    constexpr int kBegin = Traits::phase_begin(kPhase), kEnd = Traits::phase_begin(kPhase + 1);
    const int64_t H = f.hidden / 2, dense = f.plan->start[row.t] + row.place;
    D gx[kGates], gh[kGates], s[kStates], s_new[kStates], saved[kSavedRoom];
    const T* x = f.gx + (dense - f.gx_first) * 2 * kGates * H + u;
#pragma GCC unroll 8
    for (int g = kBegin; g < kEnd; ++g) {
      gx[g] = D::load(x + g * H, kGates * H, n);
      gh[g] =
          D::load(gh_at + (g - kBegin) * gate_stride, gh_apart, gh_n) + state_or_zero(f.b_hh, g * H + u, kGates * H, n);
    }
    T* kept = f.saved ? f.saved + dense * 2 * kSaved * H + u : nullptr;
    if constexpr (kLastPhase > 0) {
#pragma GCC unroll 8
      for (int j = 0; j < kSaved; ++j) saved[j] = kPhase > 0 ? D::load(kept + j * H, kSaved * H, n) : D(T(0));
    }
    const bool projected = f.width != f.hidden;
    s[0] = projected ? D(T(0)) : D::load(f.h[row.k % 2] + row.place * f.width + u, H, n);
#pragma GCC unroll 8
    for (int e = 0; e < kExtra; ++e)
      s[1 + e] = row.reset ? state_or_zero(f.reset_c, e * f.state_plane + row.batch * f.hidden + u, H, n)
                           : D::load(f.c + (e * f.plan->batch + row.place) * f.hidden + u, H, n);

    Traits::template forward<kPhase, D>(gx, gh, s, nullptr, s_new, saved);

    if (kSaved > 0 && kept) {
#pragma GCC unroll 8
      for (int j = 0; j < kSaved; ++j) saved[j].store(kept + j * H, kSaved * H, n);
    }
    if constexpr (kPhase < kLastPhase) {
      Cell::template operand<kPhase + 1>(saved, s).store(f.operand + dense * f.hidden + u, H, n);
    } else {
#pragma GCC unroll 8
      for (int e = 0; e < kExtra; ++e) {
        s_new[1 + e].store(f.c + (e * f.plan->batch + row.place) * f.hidden + u, H, n);
        if (f.c_all) s_new[1 + e].store(f.c_all + e * f.c_all_plane + row.data * f.hidden + u, H, n);
      }
      if (projected)
        s_new[0].store(f.operand + dense * f.hidden + u, H, n);
      else
        store_h(f, row, u, n, s_new[0]);
    }
  }

  // The same where h' is known; gh: the product with the tangents.
  static SEQ_INLINE void known_cell(const Forward<T>& f, const typename F::Row& row, int64_t u, int64_t n,
                                    const T* gh_at, int64_t gate_stride, int64_t gh_n) {
    const int64_t H = f.hidden / 2, dense = f.plan->start[row.t] + row.place;
    const T* h = f.h[row.k % 2] + row.place * f.width + u;
    const L s = L::load(h, n), s_new = L::load(f.known + row.data * f.known_stride + u, n);
    L ds(T(1)), dgx[kGates], dgh[kGates];
    Traits::template backward<0, L>(nullptr, &s, &s_new, nullptr, &ds, L(T(0)), dgx, dgh);
    L tangent = ds * L::load(h + H, n);
    const T* x = f.gx + ((dense - f.gx_first) * 2 + 1) * kGates * H + u;
#pragma GCC unroll 8
    for (int g = 0; g < kGates; ++g) {
      L gh = L::load(gh_at + g * gate_stride, gh_n);
      if (f.b_hh) gh = gh + L::load(f.b_hh + (kGates + g) * H + u, n);
      tangent = tangent + dgx[g] * L::load(x + g * H, n) + dgh[g] * gh;
    }
    store_h(f, row, u, n, {s_new, tangent});
  }

  static SEQ_INLINE void forward_known(const Forward<T>& f, const Panels<T>& panels, const Panels<T>& tangents,
                                       const Share& share, int64_t k, int64_t rows) {
    const int64_t H = f.hidden / 2, t = f.step(k), t_next = k + 1 < f.plan->steps ? f.step(k + 1) : -1;
    multiply<kGates * F::kUnitVectors, false>(
        panels.phase[0], tangents.phase[0], blocks_of(H, F::kBlock), H, f.h[k % 2] + share.row_begin * f.width, H,
        share, rows, [&](int64_t place, int64_t b, const T* product, int64_t) __attribute__((always_inline)) {
          const auto row = F::row_at(f, k, t, t_next, place);
          for (int64_t j = 0; j < F::kBlock; j += kWidth) {
            const int64_t u = b * F::kBlock + j;
            if (u >= H) break;
            known_cell(f, row, u, H - u, product + j, F::kBlock, kWidth);
          }
        });
    share.meet();
  }

  template <int kPhase = 0>
  static SEQ_INLINE void forward_phases(const Forward<T>& f, const Panels<T>& panels, const Panels<T>& tangents,
                                        const Share& share, int64_t k, int64_t rows) {
    constexpr int kVectors = Traits::phase_gates(kPhase) * F::kUnitVectors;
    const int64_t H = f.hidden / 2, K = kPhase == 0 ? f.width / 2 : H;
    const int64_t t = f.step(k), t_next = k + 1 < f.plan->steps ? f.step(k + 1) : -1;
    const T* from = kPhase == 0 ? f.h[k % 2] + share.row_begin * f.width
                                : f.operand + (f.plan->start[t] + share.row_begin) * f.hidden;
    multiply<kVectors>(panels.phase[kPhase], tangents.phase[kPhase], blocks_of(H, F::kBlock), K, from, K, share, rows,
                       [&](int64_t place, int64_t b, const T* pair, int64_t apart) __attribute__((always_inline)) {
                         const auto row = F::row_at(f, k, t, t_next, place);
                         for (int64_t j = 0; j < F::kBlock; j += kWidth) {
                           const int64_t u = b * F::kBlock + j;
                           if (u >= H) break;
                           forward_cell<kPhase>(f, row, u, H - u, pair + j, F::kBlock, apart, kWidth);
                         }
                       });
    share.meet();
    if constexpr (kPhase < kLastPhase) forward_phases<kPhase + 1>(f, panels, tangents, share, k, rows);
  }

  static void forward(const Forward<T>& f, const Panels<T>& panels, const Panels<T>& tangents, const Share& share,
                      int64_t k0, int64_t k1) {
    for (int64_t k = k0; k < k1; ++k) {
      const int64_t t = f.step(k), rows = rows_alive(*f.plan, share, t);
      if constexpr (Traits::from_output())
        if (f.known) {
          forward_known(f, panels, tangents, share, k, rows);
          continue;
        }
      forward_phases(f, panels, tangents, share, k, rows);
      if (f.width == f.hidden) continue;
      const int64_t t_next = k + 1 < f.plan->steps ? f.step(k + 1) : -1, H = f.hidden / 2;
      multiply_columns<F::kProjectionVectors>(
          panels.projection, tangents.projection, f.width / 2, H,
          f.operand + (f.plan->start[t] + share.row_begin) * f.hidden, H, share, rows,
          [&](int64_t place, int64_t u, int64_t n, D h)
              __attribute__((always_inline)) { store_h(f, F::row_at(f, k, t, t_next, place), u, n, h); });
      share.meet();
    }
  }

  // The cell's backward, phase kPhase, on n units from u on of one row.
  template <int kPhase>
  static SEQ_INLINE void backward_cell(const Backward<T>& b, const Entering& from, int64_t u, int64_t n, D d_operand) {
    const int64_t t = from.t, place = from.place, H = b.hidden / 2, data = b.plan->row(t, place),
                  dense = b.plan->start[t] + place;
    const bool projected = b.width != b.hidden;
    D saved[kSavedRoom], s[kStates], s_new[kStates], ds[kStates], dgx[kGates], dgh[kGates];
#pragma GCC unroll 8
    for (int j = 0; j < kSaved; ++j) saved[j] = D::load(b.saved + (dense * 2 * kSaved + j) * H + u, kSaved * H, n);
    s[0] = projected ? D(T(0)) : state_or_zero(from.h, u, H, n);
    s_new[0] = projected ? D(T(0)) : D::load(b.y + data * b.y_stride + u, H, n);
    T* dh = b.dh + place * b.width + u;
    if (kPhase == kLastPhase && projected) {
      ds[0] = d_operand;
    } else {
      ds[0] = D::load(dh, H, n);
      if (kPhase == kLastPhase) ds[0] = ds[0] + state_or_zero(b.dy, data * b.dy_stride + u, H, n);
    }
#pragma GCC unroll 8
    for (int e = 0; e < kExtra; ++e) {
      s[1 + e] = state_or_zero(B::c_of(from, e), u, H, n);
      s_new[1 + e] = D::load(b.c_all + e * b.c_all_plane + data * b.hidden + u, H, n);
      ds[1 + e] = D::load(b.dc + (e * b.plan->batch + place) * b.hidden + u, H, n);
      if (kPhase == kLastPhase)
        ds[1 + e] = ds[1 + e] + state_or_zero(b.dc_all, e * b.c_all_plane + data * b.hidden + u, H, n);
    }
    T* gx = b.dgx + (dense - b.first) * 2 * kGates * H + u;
    T* gh = b.dgh + (dense - b.first) * 2 * kGates * H + u;
#pragma GCC unroll 8
    for (int g = 0; g < kGates; ++g) {
      dgx[g] = kPhase == kLastPhase ? D(T(0)) : D::load(gx + g * H, kGates * H, n);
      dgh[g] = kPhase == kLastPhase ? D(T(0)) : D::load(gh + g * H, kGates * H, n);
    }

    Traits::template backward<kPhase, D>(saved, s, s_new, nullptr, ds, d_operand, dgx, dgh);

#pragma GCC unroll 8
    for (int g = 0; g < kGates; ++g) {
      dgx[g].store(gx + g * H, kGates * H, n);
      if (!Traits::kSameGrads) dgh[g].store(gh + g * H, kGates * H, n);
    }
    if (!projected) ds[0].store(dh, H, n);
#pragma GCC unroll 8
    for (int e = 0; e < kExtra; ++e) {
      if (kPhase == 0 && from.reset) {
        T* dreset = b.dreset_c ? b.dreset_c + e * b.state_plane + from.batch * b.hidden : nullptr;
        ds[1 + e].v = B::pass_back(from, nullptr, nullptr, nullptr, dreset, u, n, ds[1 + e].v);
        ds[1 + e].d = B::pass_back(from, nullptr, nullptr, nullptr, dreset, H + u, n, ds[1 + e].d);
      }
      ds[1 + e].store(b.dc + (e * b.plan->batch + place) * b.hidden + u, H, n);
    }
  }

  template <int kPhase>
  static SEQ_INLINE void backward_phases(const Backward<T>& b, const Panels<T>& panels, const Panels<T>& tangents,
                                         const Share& share, int64_t k, int64_t rows) {
    const int64_t t = b.step(k), H = b.hidden / 2, P = b.width / 2;
    const int64_t dense = b.plan->start[t] + share.row_begin - b.first;
    const auto cell = [&](int64_t place, int64_t u, int64_t n, D d_operand) __attribute__((always_inline)) {
      backward_cell<kPhase>(b, B::entering(b, k, t, place), u, n, d_operand);
    };
    if constexpr (kPhase < kLastPhase) {
      constexpr int kNext = kPhase + 1;
      multiply_columns<B::kUnitVectors>(panels.phase[kNext], tangents.phase[kNext], H, Traits::phase_gates(kNext) * H,
                                        b.dgh + (dense * 2 * kGates + Traits::phase_begin(kNext)) * H, kGates * H,
                                        share, rows, cell);
    } else if (b.width == b.hidden) {
      const int64_t blocks = blocks_of(H, B::kBlock);
      for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i)
        for (int64_t u = share.first(blocks) * B::kBlock; u < share.last(blocks) * B::kBlock && u < H; u += kWidth)
          cell(i, u, H - u, D(T(0)));
    } else {
      share.meet();  // values and tangents in one: another part of the units than the rest
      B::add_dy(b, share, k, rows);
      share.meet();
      multiply_columns<B::kUnitVectors>(panels.projection, tangents.projection, H, P, b.dh_out + dense * b.width, P,
                                        share, rows, cell);
    }
    share.meet();
    if constexpr (kPhase > 0) backward_phases<kPhase - 1>(b, panels, tangents, share, k, rows);
  }

  static void backward(const Backward<T>& b, const Panels<T>& panels, const Panels<T>& tangents, const Share& share,
                       int64_t k0, int64_t k1) {
    const int64_t H = b.hidden / 2, P = b.width / 2;
    for (int64_t k = k1 - 1; k >= k0; --k) {
      const int64_t t = b.step(k), rows = rows_alive(*b.plan, share, t);
      backward_phases<kLastPhase>(b, panels, tangents, share, k, rows);
      const int64_t dense = b.plan->start[t] + share.row_begin - b.first;
      multiply_columns<B::kUnitVectors>(panels.phase[0], tangents.phase[0], P, Traits::phase_gates(0) * H,
                                        b.dgh + dense * 2 * kGates * H, kGates * H, share, rows,
                                        [&](int64_t i, int64_t u, int64_t n, D product) __attribute__((always_inline)) {
                                          B::carry_h(b, k, t, i, u, n, product.v);
                                          B::carry_h(b, k, t, i, P + u, n, product.d);
                                        });
    }
    // The buffers of gradients are the next walk step's only after every thread has read them.
    share.meet();
  }

  // Engine "stepwise".
  template <int kPhase>
  static void forward_stepwise(const Forward<T>& f, const Share& share, int64_t k, const T* gh) {
    const int64_t t = f.step(k), t_next = k + 1 < f.plan->steps ? f.step(k + 1) : -1, H = f.hidden / 2;
    const int64_t rows = rows_alive(*f.plan, share, t), apart = Traits::phase_gates(kPhase) * H;
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const auto row = F::row_at(f, k, t, t_next, i);
      for (int64_t u = 0; u < H; u += kWidth)
        forward_cell<kPhase>(f, row, u, H - u, gh + i * 2 * apart + u, H, apart, H - u);
    }
  }

  template <int kPhase>
  static void backward_stepwise(const Backward<T>& b, const Share& share, int64_t k, const T* d_operand) {
    const int64_t t = b.step(k), H = b.hidden / 2, rows = rows_alive(*b.plan, share, t);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const Entering from = B::entering(b, k, t, i);
      for (int64_t u = 0; u < H; u += kWidth)
        backward_cell<kPhase>(b, from, u, H - u, state_or_zero(d_operand, i * b.hidden + u, H, H - u));
    }
  }
};

}  // namespace seq::SEQ_ISA
