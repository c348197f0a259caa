// The backward walk of one direction, vectorised across units.
//
// A step, for one thread: the cell's backward on its units (gradients of the gates stored once, in a buffer of their
// own), a barrier, then dh += dgh * W_hh on the same units by the product microkernel. The gradients of the state
// between steps, dh and dc, lie by place in two small buffers; a row joins at its last step and is left at its first.
// A decay and a reset are between them: `pass_back`. dW and dx are the caller's: one matrix product each over many
// steps.
#pragma once

#include "cpu/rows.h"

namespace seq::SEQ_ISA {

template <class Cell, class T>
struct BackwardWalk {
  using Traits = CellTraits<Cell>;
  using L = Lanes<T>;
  static constexpr int kWidth = L::kWidth, kExtra = Traits::kExtra, kGates = Traits::kGates;
  static constexpr int kUnitVectors = 2, kLastPhase = Traits::phases() - 1;
  static constexpr int64_t kBlock = kUnitVectors * kWidth;
  static constexpr int kTile = tile_rows(kUnitVectors);

  // Where the state that entered walk step k of a row came from: the previous step, the initial or the reset state.
  struct Entering {
    int64_t t, place, batch;
    const T *h = nullptr, *c = nullptr;  // null: zeros
    int64_t c_plane = 0;
    bool reset = false, detached = false;
  };
  static SEQ_INLINE Entering entering(const Walk<T>& w, int64_t k, int64_t t, int64_t place) {
    const int64_t batch = w.plan->batch_row(place), H = w.hidden, P = w.width;
    Entering from{t, place, batch};
    from.reset = w.is_reset(t, place);
    if (from.reset || w.enters(k, place)) {
      const T *h = from.reset ? w.reset_h : w.h0, *c = from.reset ? w.reset_c : w.c0;
      from.h = h ? h + batch * P : nullptr, from.c = c ? c + batch * H : nullptr, from.c_plane = w.state_plane;
    } else {
      const int64_t before = w.plan->row(w.step(k - 1), place);
      from.h = w.y + before * w.y_stride, from.c = w.c_all ? w.c_all + before * w.c_all_stride : nullptr;
      from.c_plane = w.c_all_plane;
      from.detached = w.detaches(t);
    }
    return from;
  }
  static SEQ_INLINE const T* c_of(const Entering& from, int e) { return from.c ? from.c + e * from.c_plane : nullptr; }

  static SEQ_INLINE void load_entering(const Walk<T>& w, const Entering& from, int64_t u, int64_t n, L* s) {
    s[0] = from.h && w.width == w.hidden ? L::load(from.h + u, n) : L(T(0));
#pragma GCC unroll 8
    for (int e = 0; e < kExtra; ++e) s[1 + e] = state_or_zero(c_of(from, e), u, n);
    if (w.has_factors) {
      s[0] = times(w.factors.decay_h.of(from.t, from.batch), u, n, s[0]);
      for (int e = 0; e < kExtra; ++e) s[1 + e] = times(w.factors.decay_c.of(from.t, from.batch, e), u, n, s[1 + e]);
    }
  }

  // Takes `part` of a gradient, the share of a `keep`, out of it.
  static SEQ_INLINE L take_part(const T* part, int64_t u, int64_t n, L& gradient) {
    if (!part) return L(T(0));
    const L taken = L::load(part + u, n) * gradient;
    gradient = gradient - taken;
    return taken;
  }

  // The gradient of a state that entered, on its way to `state`, where it came from. Pointers to its units, or null.
  static SEQ_INLINE L pass_back(const Entering& from, const T* state, const T* decay, T* ddecay, T* dreset, int64_t u,
                                int64_t n, L gradient) {
    if (ddecay) (gradient * state_or_zero(state, u, n)).store(ddecay + u, n);
    gradient = times(decay, u, n, gradient);
    if (from.reset && dreset) (L::load(dreset + u, n) + gradient).store(dreset + u, n);
    return from.reset || from.detached ? L(T(0)) : gradient;
  }

  // The gates' gradients as bfloat16, `apart` numbers between gates.
  static SEQ_INLINE void store_halves(const L* gates, uint16_t* to, int64_t apart, int64_t n) {
    if constexpr (kHasPairs<T>) {
      for (int g = 0; g < kGates; ++g) {
        if (n >= kWidth) {
          store_bfloat16(gates[g], to + g * apart);
        } else {
          uint16_t part[kWidth];
          store_bfloat16(gates[g], part);
          __builtin_memcpy(to + g * apart, part, n * sizeof(uint16_t));
        }
      }
    }
  }

  // The cell's backward, phase kPhase, on n units from u on of one row.
  template <int kPhase>
  static SEQ_INLINE void cell(const Backward<T>& b, const Entering& from, int64_t u, int64_t n, L d_operand) {
    const int64_t t = from.t, place = from.place, H = b.hidden, B = b.plan->batch, data = b.plan->row(t, place);
    const bool later = Traits::norms_state() || b.width != H, keep = b.has_keep();  // later: h is not made by the cell
    L saved[Traits::kSaved > 0 ? Traits::kSaved : 1], s[Traits::kStates], s_new[Traits::kStates], ds[Traits::kStates];
    L dgx[kGates], dgh[kGates], passed[Traits::kStates] = {};
    L p[Traits::parameters() > 0 ? Traits::parameters() : 1];
    load_parameters<Traits>(b, u, n, p);
    const T* kept = b.saved + b.saved_row(t, place) * b.saved_width + u;
    if constexpr (Traits::kSaved > 0) {
#pragma GCC unroll 8
      for (int j = 0; j < Traits::kSaved; ++j) saved[j] = L::load(kept + j * H, n);
    }
    load_entering(b, from, u, n, s);
    s_new[0] = later ? L(T(0)) : L::load(b.y + data * b.y_stride + u, n);
    T* dh = b.dh + place * b.width + u;
    if (kPhase == kLastPhase && later) {
      ds[0] = d_operand;
    } else {
      ds[0] = L::load(dh, n);
      if (kPhase == kLastPhase && b.dy) ds[0] = ds[0] + L::load(b.dy + data * b.dy_stride + u, n);
    }
#pragma GCC unroll 8
    for (int e = 0; e < kExtra; ++e) {
      s_new[1 + e] = L::load(b.c_all + e * b.c_all_plane + data * b.c_all_stride + u, n);
      ds[1 + e] = L::load(b.dc + (e * B + place) * H + u, n);
      if (kPhase == kLastPhase && b.dc_all)
        ds[1 + e] = ds[1 + e] + L::load(b.dc_all + e * b.c_all_plane + data * b.c_all_stride + u, n);
    }
    if (keep) {
      for (int j = 0; j < Traits::kStates; ++j) s_new[j] = L::load(kept + (Traits::kSaved + j) * H, n);
      if (kPhase == kLastPhase) {
        passed[0] = take_part(later ? nullptr : b.factors.keep_h.of(t, from.batch), u, n, ds[0]);
        for (int e = 0; e < kExtra; ++e)
          passed[1 + e] = take_part(b.factors.keep_c.of(t, from.batch, e), u, n, ds[1 + e]);
      }
    }
    if constexpr (Traits::norms_state()) ds[1] = ds[1] + L::load(b.dc_normed + place * H + u, n);
    if (kPhase != kLastPhase && b.has_factors) d_operand = times(b.factors.drop.of(t, from.batch), u, n, d_operand);
    const int64_t gates = (b.plan->start[t] + place - b.first) * b.gates_stride + u;
    T *gx = b.dgx + gates, *gh = b.dgh + gates;
#pragma GCC unroll 8
    for (int g = 0; g < kGates; ++g) {
      dgx[g] = kPhase == kLastPhase ? L(T(0)) : L::load(gx + g * H, n);
      dgh[g] = kPhase == kLastPhase ? L(T(0)) : L::load(gh + g * H, n);
    }

    Traits::template backward<kPhase>(saved, s, s_new, p, ds, d_operand, dgx, dgh);

    if (b.halves) {
      store_halves(dgx, reinterpret_cast<uint16_t*>(b.dgx) + gates, H, n);
      if (!Traits::kSameGrads) store_halves(dgh, reinterpret_cast<uint16_t*>(b.dgh) + gates, H, n);
    } else {
#pragma GCC unroll 8
      for (int g = 0; g < kGates; ++g) {
        dgx[g].store(gx + g * H, n);
        if (!Traits::kSameGrads) dgh[g].store(gh + g * H, n);
      }
    }
    if (keep && kPhase == kLastPhase) {
      for (int j = 0; j < Traits::kStates; ++j) ds[j] = ds[j] + passed[j];
    }
    if (!later) ds[0].store(dh, n);
#pragma GCC unroll 8
    for (int e = 0; e < kExtra; ++e) {
      if (kPhase == 0 && b.between()) {
        T* dreset = b.dreset_c ? b.dreset_c + e * b.state_plane + from.batch * H : nullptr;
        ds[1 + e] = pass_back(from, c_of(from, e), b.factors.decay_c.of(t, from.batch, e),
                              b.ddecay_c.of(t, from.batch, e), dreset, u, n, ds[1 + e]);
      }
      ds[1 + e].store(b.dc + (e * B + place) * H + u, n);
    }
  }

  // dh += product, on n units of h: with it the gradient of the h that entered is whole, and goes where that came from.
  static SEQ_INLINE void carry_h(const Backward<T>& b, int64_t k, int64_t t, int64_t place, int64_t u, int64_t n,
                                 L product) {
    T* dh = b.dh + place * b.width + u;
    if (b.between()) {
      const Entering from = entering(b, k, t, place);
      T* dreset = b.dreset_h ? b.dreset_h + from.batch * b.width : nullptr;
      product = times(b.factors.drop.of(t, from.batch), u, n, product);
      pass_back(from, from.h, b.factors.decay_h.of(t, from.batch), b.ddecay_h.of(t, from.batch), dreset, u, n,
                L::load(dh, n) + product)
          .store(dh, n);
    } else {
      (L::load(dh, n) + product).store(dh, n);
    }
  }

  // out(place, unit, count of units, lanes) for a[rows, K] * panel, over the share's blocks of `units` units.
  template <bool kPairs = false, class Out>
  static SEQ_INLINE void multiply(const T* panels, int64_t K, const T* a, int64_t lda, int64_t units,
                                  const Share& share, int64_t rows, Out out) {
    const int64_t last = share.last(blocks_of(units, kBlock));
    alignas(64) T tile[tile_size<T>(kUnitVectors)];
    for (int64_t b = share.first(blocks_of(units, kBlock)), done = 1; b < last; b += done)
      for (int64_t i = 0, count; i < rows; i += count) {
        count = even_part(rows - i, kTile);
        const int64_t left = rows <= kTile ? last - b : 1;
        done = product<T, kUnitVectors, kPairs>(static_cast<int>(count), panels + b * K * kBlock, left, K, a + i * lda,
                                                lda, tile);
        for (int64_t p = 0; p < done; ++p)
          for (int64_t r = 0; r < count; ++r)
            for (int j = 0; j < kUnitVectors; ++j) {
              const int64_t u = (b + p) * kBlock + j * kWidth;
              if (u >= units) break;
              out(share.row_begin + i + r, u, units - u, L::load(tile + ((p * count + r) * kUnitVectors + j) * kWidth));
            }
      }
  }

  static void add_dy(const Backward<T>& b, const Share& share, int64_t k, int64_t rows) {
    const int64_t t = b.step(k), blocks = blocks_of(b.width, kBlock);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      T* dh = b.dh + i * b.width;
      T* out = b.dh_out + (b.plan->start[t] + i - b.first) * b.width;
      const T* dy = b.dy ? b.dy + b.plan->row(t, i) * b.dy_stride : nullptr;
      const T* keep = b.factors.keep_h.of(t, b.plan->batch_row(i));
      for (int64_t u = share.first(blocks) * kBlock; u < share.last(blocks) * kBlock && u < b.width; ++u) {
        out[u] = dh[u] + (dy ? dy[u] : T(0));
        dh[u] = keep ? keep[u] * out[u] : T(0);
        out[u] -= dh[u];
      }
    }
  }

  // The cell's backward on `rows` rows from place `first` on and the units [begin, end), whole vectors, where the cell
  // makes h and nothing happens between steps: as in the forward walk, what the compiler knows makes it faster.
  template <int kPhase>
  static void usual_cells(const Backward<T>& b, int64_t k, int64_t first, int64_t rows, int64_t begin, int64_t end) {
    Backward<T> known = b;
    const Plan plan = *b.plan;
    known.plan = &plan, known.width = b.hidden, known.resets = nullptr, known.has_factors = false;
    known.detach_every = 0;
    for (int64_t i = first; i < first + rows; ++i) {
      const Entering from = entering(known, k, b.step(k), i);
      for (int64_t u = begin; u < end; u += kWidth) cell<kPhase>(known, from, u, kWidth, L(T(0)));
    }
  }

  template <int kPhase>
  static SEQ_INLINE void phases(const Backward<T>& b, const Panels<T>& panels, const Share& share, int64_t k,
                                int64_t rows) {
    const int64_t t = b.step(k), H = b.hidden;
    const int64_t dense = b.plan->start[t] + share.row_begin - b.first;
    if constexpr (kPhase == kLastPhase) {
      if (b.width != H) {
        add_dy(b, share, k, rows);
        share.meet();
        multiply(panels.projection, b.width, b.dh_out + dense * b.width, b.width, H, share, rows,
                 [&](int64_t i, int64_t u, int64_t n, L product)
                     __attribute__((always_inline)) { cell<kPhase>(b, entering(b, k, t, i), u, n, product); });
      } else {
        const int64_t blocks = blocks_of(H, kBlock), begin = share.first(blocks) * kBlock;
        const int64_t most = share.last(blocks) * kBlock, end = most < H ? most : H;
        const int64_t whole = b.between() ? begin : end - end % kWidth;
        if (begin < whole) usual_cells<kPhase>(b, k, share.row_begin, rows, begin, whole);
        for (int64_t i = share.row_begin; whole < end && i < share.row_begin + rows; ++i) {
          const Entering from = entering(b, k, t, i);
          for (int64_t u = whole; u < end; u += kWidth) cell<kPhase>(b, from, u, end - u, L(T(0)));
        }
      }
    } else {
      constexpr int kNext = kPhase + 1;
      multiply(panels.phase[kNext], Traits::phase_gates(kNext) * H,
               b.dgh + dense * b.gates_stride + Traits::phase_begin(kNext) * H, b.gates_stride, H, share, rows,
               [&](int64_t i, int64_t u, int64_t n, L product)
                   __attribute__((always_inline)) { cell<kPhase>(b, entering(b, k, t, i), u, n, product); });
    }
    share.meet();
    if constexpr (kPhase > 0) phases<kPhase - 1>(b, panels, share, k, rows);
  }

  // What the first phase's product gives to dh, of its gradient d [dense rows, gates_stride].
  static SEQ_INLINE void carry(const Backward<T>& b, const Panels<T>& panels, const Share& share, int64_t k,
                               const T* d) {
    const int64_t t = b.step(k), rows = rows_alive(*b.plan, share, t), K = Traits::phase_gates(0) * b.hidden;
    const int64_t first = (b.plan->start[t] + share.row_begin - b.first) * b.gates_stride;
    const auto out = [&](int64_t i, int64_t u, int64_t n, L product)
                         __attribute__((always_inline)) { carry_h(b, k, t, i, u, n, product); };
    if constexpr (kHasPairs<T>) {
      if (b.halves)
        return multiply<true>(panels.phase[0], K / 2, d + first / 2, b.gates_stride / 2, b.width, share, rows, out);
    }
    multiply(panels.phase[0], K, d + first, b.gates_stride, b.width, share, rows, out);
  }

  static void run(const Backward<T>& b, const Panels<T>& panels, const Share& share, int64_t k0, int64_t k1) {
    for (int64_t k = k1 - 1; k >= k0; --k) {
      const int64_t t = b.step(k), rows = rows_alive(*b.plan, share, t);
      phases<kLastPhase>(b, panels, share, k, rows);
      if constexpr (Traits::recurrent()) {
        carry(b, panels, share, k, b.dgh);
      } else if (b.between()) {
        const int64_t blocks = blocks_of(b.hidden, kBlock), first = share.first(blocks), last = share.last(blocks);
        for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i)
          for (int64_t u = first * kBlock; u < last * kBlock && u < b.hidden; u += kWidth)
            carry_h(b, k, t, i, u, b.hidden - u, L(T(0)));
      }
    }
    // The buffers of gradients are the next walk step's only after every thread has read them.
    share.meet();
  }

  // Engine "stepwise".
  template <int kPhase>
  static void stepwise(const Backward<T>& b, const Share& share, int64_t k, const T* d_operand) {
    const int64_t t = b.step(k), H = b.hidden, rows = rows_alive(*b.plan, share, t), blocks = blocks_of(H, kWidth);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const Entering from = entering(b, k, t, i);
      for (int64_t j = share.first(blocks); j < share.last(blocks); ++j) {
        const int64_t u = j * kWidth, n = H - u;
        cell<kPhase>(b, from, u, n, d_operand ? L::load(d_operand + i * H + u, n) : L(T(0)));
      }
    }
  }

  static void stepwise_projected(const Backward<T>& b, const Share& share, int64_t k) {
    add_dy(b, share, k, rows_alive(*b.plan, share, b.step(k)));
  }

  static void stepwise_carry(const Backward<T>& b, const Share& share, int64_t k, const T* product) {
    const int64_t t = b.step(k), rows = rows_alive(*b.plan, share, t), blocks = blocks_of(b.width, kWidth);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      for (int64_t j = share.first(blocks); j < share.last(blocks); ++j) {
        const int64_t u = j * kWidth, n = b.width - u;
        carry_h(b, k, t, i, u, n, state_or_zero(product, i * b.width + u, n));
      }
    }
  }

  // The gates of step t again, from gx, gh and the states that entered.
  template <int kPhase>
  static void recompute(const Forward<T>& f, const Share& share, int64_t k, const T* gh, T* operand) {
    const int64_t t = f.step(k), H = f.hidden, rows = rows_alive(*f.plan, share, t);
    constexpr int kBegin = Traits::phase_begin(kPhase), kCount = Traits::phase_gates(kPhase);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const Entering from = entering(f, k, t, i);
      const int64_t dense = f.plan->start[t] + i - f.gx_first;
      T* kept = f.saved + f.saved_row(t, i) * f.saved_width;
      for (int64_t u = 0; u < H; u += kWidth) {
        const int64_t n = H - u;
        L gates_x[kGates], gates_h[kGates], s[Traits::kStates], s_new[Traits::kStates];
        L saved[Traits::kSaved > 0 ? Traits::kSaved : 1], p[Traits::parameters() > 0 ? Traits::parameters() : 1];
        load_parameters<Traits>(f, u, n, p);
#pragma GCC unroll 8
        for (int g = 0; g < kCount; ++g) {
          gates_x[kBegin + g] = L::load(f.gx + dense * f.gates_stride + (kBegin + g) * H + u, n);
          gates_h[kBegin + g] = state_or_zero(gh, (dense * kCount + g) * H + u, n);
          if (f.b_hh) gates_h[kBegin + g] = gates_h[kBegin + g] + L::load(f.b_hh + (kBegin + g) * H + u, n);
        }
        if constexpr (Traits::phases() > 1) {
#pragma GCC unroll 8
          for (int j = 0; j < Traits::kSaved; ++j) saved[j] = kPhase > 0 ? L::load(kept + j * H + u, n) : L(T(0));
        }
        load_entering(f, from, u, n, s);
        Traits::template forward<kPhase>(gates_x, gates_h, s, p, s_new, saved);
#pragma GCC unroll 8
        for (int j = 0; j < Traits::kSaved; ++j) saved[j].store(kept + j * H + u, n);
        if constexpr (kPhase < kLastPhase) {
          const L next = Cell::template operand<kPhase + 1>(saved, s);
          times(f.factors.drop.of(t, from.batch), u, n, next).store(operand + dense * H + u, n);
        } else {
          for (int j = 0; f.has_keep() && j < Traits::kStates; ++j)
            s_new[j].store(kept + (Traits::kSaved + j) * H + u, n);
          for (int e = 0; f.restores && e < kExtra; ++e)
            mixed(f.factors.keep_c.of(t, from.batch, e), u, n, s[1 + e], s_new[1 + e])
                .store(f.c_all + e * f.c_all_plane + f.plan->row(t, i) * f.c_all_stride + u, n);
        }
      }
    }
  }

  // What the product of phase kPhase > 0 read at step t, again: for the gradient of its weights.
  template <int kPhase>
  static void gather_operand(const Backward<T>& b, const Share& share, int64_t k, T* out) {
    const int64_t t = b.step(k), H = b.hidden, rows = rows_alive(*b.plan, share, t);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const Entering from = entering(b, k, t, i);
      const T* kept = b.saved + b.saved_row(t, i) * b.saved_width;
      for (int64_t u = 0; u < H; u += kWidth) {
        const int64_t n = H - u;
        L s[Traits::kStates], saved[Traits::kSaved];
        for (int j = 0; j < Traits::kSaved; ++j) saved[j] = L::load(kept + j * H + u, n);
        load_entering(b, from, u, n, s);
        const L operand = Cell::template operand<kPhase>(saved, s);
        times(b.factors.drop.of(t, from.batch), u, n, operand).store(out + (b.plan->start[t] + i - b.first) * H + u, n);
      }
    }
  }

  // What the product of the first phase read.
  static void gather_entering(const Walk<T>& w, const Share& share, int64_t k, int64_t first, T* out) {
    const int64_t t = w.step(k), rows = rows_alive(*w.plan, share, t);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const Entering from = entering(w, k, t, i);
      T* to = out + (w.plan->start[t] + i - first) * w.width;
      if (from.h)
        __builtin_memcpy(to, from.h, sizeof(T) * w.width);
      else
        __builtin_memset(to, 0, sizeof(T) * w.width);
      if (!w.has_factors) continue;
      const T *decay = w.factors.decay_h.of(t, from.batch), *drop = w.factors.drop.of(t, from.batch);
      for (int64_t u = 0; u < w.width; u += kWidth) {
        const int64_t n = w.width - u;
        times(drop, u, n, times(decay, u, n, L::load(to + u, n))).store(to + u, n);
      }
    }
  }

  // For cells with unit weights: what each row of step t adds to their gradients, [dense rows, U, H].
  static void unit_gradient(const Backward<T>& b, const Share& share, int64_t k, T* out) {
    const int64_t t = b.step(k), H = b.hidden, rows = rows_alive(*b.plan, share, t);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const Entering from = entering(b, k, t, i);
      const int64_t data = b.plan->row(t, i), dense = b.plan->start[t] + i - b.first;
      for (int64_t u = 0; u < H; u += kWidth) {
        const int64_t n = H - u;
        L s[Traits::kStates], s_new[Traits::kStates], dgx[kGates], d[Traits::unit()];
        load_entering(b, from, u, n, s);
        s_new[0] = b.width == H ? L::load(b.y + data * b.y_stride + u, n) : L(T(0));
        for (int e = 0; e < kExtra; ++e)
          s_new[1 + e] = L::load(b.c_all + e * b.c_all_plane + data * b.c_all_stride + u, n);
        if (b.has_keep())
          for (int j = 0; j < Traits::kStates; ++j)
            s_new[j] = L::load(b.saved + b.saved_row(t, i) * b.saved_width + (Traits::kSaved + j) * H + u, n);
        for (int g = 0; g < kGates; ++g) dgx[g] = L::load(b.dgx + dense * b.gates_stride + g * H + u, n);
        Cell::unit_gradient(s, s_new, dgx, d);
        for (int j = 0; j < Traits::unit(); ++j) d[j].store(out + (dense * Traits::unit() + j) * H + u, n);
      }
    }
  }

  // For cells that project: h before its projection, for the gradient of W_hr.
  static void gather_unprojected(const Backward<T>& b, const Share& share, int64_t k, T* out) {
    const int64_t t = b.step(k), H = b.hidden, rows = rows_alive(*b.plan, share, t);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const int64_t data = b.plan->row(t, i);
      const T* kept = b.saved + b.saved_row(t, i) * b.saved_width;
      for (int64_t u = 0; u < H; u += kWidth) {
        const int64_t n = H - u;
        L s_new[Traits::kStates], saved[Traits::kSaved];
        for (int j = 0; j < Traits::kSaved; ++j) saved[j] = L::load(kept + j * H + u, n);
        for (int e = 0; e < kExtra; ++e)
          s_new[1 + e] = L::load(b.has_keep() ? kept + (Traits::kSaved + 1 + e) * H + u
                                              : b.c_all + e * b.c_all_plane + data * b.c_all_stride + u,
                                 n);
        Cell::output(saved, s_new).store(out + (b.plan->start[t] + i - b.first) * H + u, n);
      }
    }
  }
};

}  // namespace seq::SEQ_ISA
