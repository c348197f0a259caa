// Cells that normalise (cell_traits.h): their norms, row by row, and their walks.
//
// A step, for one thread and its rows: the products of all gates, into a buffer; the norm of each row of it; the cell;
// where c' is normalised, h from that. Threads split the rows and never meet. The backward takes the same places the
// other way, with the mean and variance of a row computed again from what was kept of the product: the same sums in the
// same order give the same bits.
#pragma once

#include "cpu/backward.h"
#include "cpu/dot.h"
#include "cpu/forward.h"

namespace seq::SEQ_ISA {

// All of a norm is computed in double: it takes differences of near numbers, and is a small part of a step.
using Wide = Lanes<double>;

// The first n lanes, from numbers of T; the rest are 0.
template <class T>
SEQ_INLINE Wide load_wide(const T* p, int64_t n) {
  typedef T Value __attribute__((vector_size(Wide::kWidth * sizeof(T))));
  Value value = {};
  if (n >= Wide::kWidth)
    __builtin_memcpy(&value, p, sizeof(Value));
  else
    __builtin_memcpy(&value, p, n * sizeof(T));
  return __builtin_convertvector(value, Wide::Value);
}
template <class T>
SEQ_INLINE void store_narrow(Wide wide, T* p, int64_t n) {
  typedef T Value __attribute__((vector_size(Wide::kWidth * sizeof(T))));
  const Value value = __builtin_convertvector(wide.v, Value);
  if (n >= Wide::kWidth)
    __builtin_memcpy(p, &value, sizeof(Value));
  else
    __builtin_memcpy(p, &value, n * sizeof(T));
}

// (x - mean) / deviation of n numbers, the value of each.
template <class T>
class RowNorm {
 public:
  RowNorm(const T* x, int64_t n) : x_(x), n_(n) {
    Wide sum(0.), squares(0.);
    for (int64_t u = 0; u < n; u += kWidth) sum = sum + load(x, u);
    mean_ = mean_of(sum);
    for (int64_t u = 0; u < n; u += kWidth) {
      Wide d = load(x, u) - mean_;
      if (n - u < kWidth) d = first(d, n - u);
      squares = squares + d * d;
    }
    inverse_ = Wide(1 / __builtin_sqrt(sum_of(squares) / static_cast<double>(n) + kNormEpsilon));
  }

  // out = gain * value + bias, which may be null; out may be x.
  void apply(const T* gain, const T* bias, T* out) const {
    for (int64_t u = 0; u < n_; u += kWidth) {
      const Wide scaled = load(gain, u) * value(u);
      store(bias ? scaled + load(bias, u) : scaled, out, u);
    }
  }

  // The gradient of gain from d, that of what `apply` gives.
  void backward_gain(const T* d, T* out) const {
    for (int64_t u = 0; u < n_; u += kWidth) store(load(d, u) * value(u), out, u);
  }

  // The gradient of x: with g = gain * d it is (g - mean(g) - value mean(g value)) / deviation. g is stored in `out`
  // before its mean is taken, so that it is the same number both times. out may be d.
  void backward(const T* gain, const T* d, T* out) const {
    Wide sum(0.), along(0.);
    for (int64_t u = 0; u < n_; u += kWidth) store(load(gain, u) * load(d, u), out, u);
    for (int64_t u = 0; u < n_; u += kWidth) {
      const Wide g = load(out, u);
      sum = sum + g;
      along = along + g * value(u);
    }
    const Wide mean = mean_of(sum), mean_along = mean_of(along);
    for (int64_t u = 0; u < n_; u += kWidth) store((load(out, u) - mean - value(u) * mean_along) * inverse_, out, u);
  }

 private:
  static constexpr int kWidth = Wide::kWidth;
  // Zeros from lane n on.
  static SEQ_INLINE Wide first(Wide wide, int64_t n) {
    double part[kWidth];
    wide.store(part);
    return load_wide(part, n);
  }
  SEQ_INLINE Wide load(const T* p, int64_t u) const { return load_wide(p + u, n_ - u); }
  SEQ_INLINE void store(Wide wide, T* p, int64_t u) const { store_narrow(wide, p + u, n_ - u); }
  SEQ_INLINE Wide value(int64_t u) const { return (load(x_, u) - mean_) * inverse_; }
  SEQ_INLINE Wide mean_of(Wide sum) const { return Wide(sum_of(sum) / static_cast<double>(n_)); }

  const T* x_;
  int64_t n_;
  Wide mean_, inverse_;
};

template <class Cell, class T>
struct NormWalk {
  using Traits = CellTraits<Cell>;
  using L = Lanes<T>;
  using F = ForwardWalk<Cell, T>;
  using B = BackwardWalk<Cell, T>;
  static constexpr int kWidth = L::kWidth, kGates = Traits::kGates;

  // One row, [G, H].
  static void normalize_row(int64_t H, const T* product, const T* gain, const T* bias, T* out) {
    for (int j = 0; j < Traits::norms(); ++j) {
      const int64_t begin = Traits::norm_begin(j) * H, end = Traits::norm_begin(j + 1) * H;
      const RowNorm<T> norm(product + begin, end - begin);
      norm.apply(gain + begin, bias ? bias + begin : nullptr, out + begin);
    }
  }

  static void normalize_row_backward(int64_t H, const T* product, const T* gain, const T* d, T* d_gain, T* out) {
    for (int j = 0; j < Traits::norms(); ++j) {
      const int64_t begin = Traits::norm_begin(j) * H, end = Traits::norm_begin(j + 1) * H;
      const RowNorm<T> norm(product + begin, end - begin);
      if (d_gain) norm.backward_gain(d + begin, d_gain + begin);
      norm.backward(gain + begin, d + begin, out + begin);
    }
  }

  static void normalize(const NormRows<T>& r, int64_t begin, int64_t end) {
    const int64_t H = r.hidden, GH = kGates * H;
    for (int64_t i = begin; i < end; ++i) {
      const T* product = r.product + i * GH;
      if (r.kept) __builtin_memcpy(r.kept + i * r.kept_stride, product, sizeof(T) * GH);
      normalize_row(H, product, r.gain, r.bias, r.out + i * GH);
    }
  }

  static void normalize_backward(const NormRows<T>& r, int64_t begin, int64_t end) {
    const int64_t H = r.hidden, GH = kGates * H;
    for (int64_t i = begin; i < end; ++i)
      normalize_row_backward(H, r.product + i * GH, r.gain, r.d + i * GH,
                             r.d_gain ? r.d_gain + i * r.d_gain_stride : nullptr, r.out + i * GH);
  }

  // The gains of the product with h, and of c'; the bias of c' follows it.
  static const T* gain_h(const Walk<T>& w) { return w.unit + kGates * w.hidden; }
  static const T* gain_c(const Walk<T>& w) { return w.unit + 2 * kGates * w.hidden; }
  static T* saved_of(const Walk<T>& w, int64_t t, int64_t place) {
    return w.saved + w.saved_row(t, place) * w.saved_width;
  }
  // In a row of saved.
  static int64_t product_at(const Walk<T>& w) { return w.saved_width - kGates * w.hidden; }

  // The last two saved values of a row, which `output` takes: o and c', the latter normalised.
  static const T* held_of(const Walk<T>& w, const T* saved) { return saved + (Traits::kSaved - 2) * w.hidden; }
  static RowNorm<T> norm_of(const Walk<T>& w, const T* saved) { return {held_of(w, saved) + w.hidden, w.hidden}; }

  // All of walk step k once h W_hh^T [places, G, H] is there.
  static void forward_phase(const Forward<T>& f, const Share& share, int64_t k, const T* product) {
    const int64_t t = f.step(k), H = f.hidden, GH = kGates * H, rows = rows_alive(*f.plan, share, t);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
      const T* from = product + i * GH;
      if (f.saved) __builtin_memcpy(saved_of(f, t, i) + product_at(f), from, sizeof(T) * GH);
      normalize_row(H, from, gain_h(f), nullptr, f.product + i * GH);
    }
    F::template stepwise<0>(f, share, k, f.product);
    if constexpr (Traits::norms_state()) {
      for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i) {
        const T *saved = saved_of(f, t, i), *o = held_of(f, saved);
        T* h = f.operand + i * H;
        norm_of(f, saved).apply(gain_c(f), gain_c(f) + H, h);
        for (int64_t u = 0; u < H; u += kWidth)
          Cell::output(L::load(o + u, H - u), L::load(h + u, H - u)).store(h + u, H - u);
      }
      F::stepwise_projected(f, share, k, f.operand);
    }
  }

  static void forward(const Forward<T>& f, const Panels<T>& panels, const Share& share, int64_t k0, int64_t k1) {
    const int64_t K = f.width, GH = kGates * f.hidden;
    for (int64_t k = k0; k < k1; ++k) {
      const T* h = f.factors.drop ? f.dropped[k % 2] : f.h[k % 2];
      B::multiply(panels.phase[0], K, h + share.row_begin * K, K, GH, share, rows_alive(*f.plan, share, f.step(k)),
                  [&](int64_t i, int64_t u, int64_t n, L product)
                      __attribute__((always_inline)) { product.store(f.product + i * GH + u, n); });
      forward_phase(f, share, k, f.product);
    }
  }

  // The gradients of o, in the place of that of h, and of c'.
  static void output_backward(const Backward<T>& b, const T* saved, T* dh, T* dc, T* d_unit) {
    const RowNorm<T> norm = norm_of(b, saved);
    const T *gain = gain_c(b), *o = held_of(b, saved);
    const int64_t H = b.hidden;
    norm.apply(gain, gain + H, dc);
    for (int64_t u = 0; u < H; u += kWidth) {
      L d_o, d_normed;
      Cell::output_backward(L::load(o + u, H - u), L::load(dc + u, H - u), L::load(dh + u, H - u), d_o, d_normed);
      d_o.store(dh + u, H - u);
      d_normed.store(dc + u, H - u);
    }
    if (d_unit) {
      norm.backward_gain(dc, d_unit);
      __builtin_memcpy(d_unit + H, dc, sizeof(T) * H);
    }
    norm.backward(gain, dc, dc);
  }

  // All of walk step k but for the product with W_hh.
  static void backward_phase(const Backward<T>& b, const Share& share, int64_t k, const T*) {
    constexpr int kUnit = Traits::norm_unit();
    const int64_t t = b.step(k), H = b.hidden, GH = kGates * H, rows = rows_alive(*b.plan, share, t);
    const int64_t dense = b.plan->start[t] - b.first;
    const auto d_unit = [&](int64_t i, int j) { return b.d_unit ? b.d_unit + ((dense + i) * kUnit + j) * H : nullptr; };
    T* dh = nullptr;
    if constexpr (Traits::norms_state()) {
      B::stepwise_projected(b, share, k);
      dh = b.dh_out + dense * H;
      for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i)
        output_backward(b, saved_of(b, t, i), dh + i * H, b.dc_normed + i * H, d_unit(i, 2 * kGates));
    }
    B::template stepwise<0>(b, share, k, dh);
    for (int64_t i = share.row_begin; i < share.row_begin + rows; ++i)
      normalize_row_backward(H, saved_of(b, t, i) + product_at(b), gain_h(b), b.dgh + (dense + i) * GH,
                             d_unit(i, kGates), b.d_product + (dense + i) * GH);
  }

  static void backward(const Backward<T>& b, const Panels<T>& panels, const Share& share, int64_t k0, int64_t k1) {
    for (int64_t k = k1 - 1; k >= k0; --k) {
      backward_phase(b, share, k, nullptr);
      B::carry(b, panels, share, k, b.d_product);
    }
  }
};

}  // namespace seq::SEQ_ISA
