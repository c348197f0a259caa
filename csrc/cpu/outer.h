// out [M, N] = a^T b over a list of rows of a [.., M] and b [.., N]: the gradient of a weight by a group of rows, which
// are few and lie apart, so that nothing is packed. N = 0: the sums [M] of the rows of a.
//
// A part of kLong rows is summed on its own, then added, as in gemm.h; columns of a are copied to lie side by side.
#pragma once

namespace seq::SEQ_ISA {

template <class T>
struct OuterWalk {
  using L = Lanes<T>;
  static constexpr int kWidth = L::kWidth, kTile = tile_rows(2);
  static constexpr int64_t kLong = 96, kCopied = 4 * kTile;

  // kRows columns of a, from their copy, by kVectors vectors of columns of b from n on.
  template <int kRows, int kVectors>
  static SEQ_INLINE void tile(const Outer<T>& g, int64_t k0, int64_t k1, const T* a, int64_t m, int64_t n) {
    L sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sum[r][j] = L(T(0));
    const int64_t left = g.N - n;
    for (int64_t k = k0; k < k1; ++k, a += kCopied) {
      const T* b = g.b + g.rows[k] * g.ldb + n;
      L x[kVectors];
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) x[j] = L::load(b + j * kWidth, left - j * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const L w(a[r]);
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) sum[r][j] = sum[r][j] + w * x[j];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) {
        T* out = g.out + (m + r) * g.N + n + j * kWidth;
        if (k0 > 0) sum[r][j] = L::load(out, left - j * kWidth) + sum[r][j];
        sum[r][j].store(out, left - j * kWidth);
      }
  }

  // `count` columns of a from m on.
  template <int kVectors>
  static SEQ_INLINE void block(const Outer<T>& g, int64_t k0, int64_t k1, const T* a, int64_t m, int64_t count,
                               int64_t n) {
    int64_t i = 0;
    for (; i + kTile <= count; i += kTile) tile<kTile, kVectors>(g, k0, k1, a + i, m + i, n);
    for (; i < count; ++i) tile<1, kVectors>(g, k0, k1, a + i, m + i, n);
  }

  static void sums(const Outer<T>& g) {
    for (int64_t m = 0; m < g.M; m += kWidth) {
      L total(T(0));
      for (int64_t k0 = 0; k0 < g.count; k0 += kLong) {
        L sum(T(0));
        for (int64_t k = k0; k < k0 + kLong && k < g.count; ++k)
          sum = sum + L::load(g.a + g.rows[k] * g.lda + m, g.M - m);
        total = total + sum;
      }
      total.store(g.out + m, g.M - m);
    }
  }

  static void run(const Outer<T>& g) {
    if (g.N == 0) return sums(g);
    alignas(64) T copy[kLong * kCopied];
    for (int64_t k0 = 0; k0 == 0 || k0 < g.count; k0 += kLong) {
      const int64_t k1 = k0 + kLong < g.count ? k0 + kLong : g.count;
      for (int64_t m = 0; m < g.M; m += kCopied) {
        const int64_t count = g.M - m < kCopied ? g.M - m : kCopied;
        for (int64_t k = k0; k < k1; ++k)
          for (int64_t j = 0; j < count; j += kWidth)
            L::load(g.a + g.rows[k] * g.lda + m + j, count - j).store(copy + (k - k0) * kCopied + j, count - j);
        int64_t n = 0;
        for (; n + kWidth < g.N; n += 2 * kWidth) block<2>(g, k0, k1, copy, m, count, n);
        if (n < g.N) block<1>(g, k0, k1, copy, m, count, n);
      }
    }
  }
};

}  // namespace seq::SEQ_ISA
