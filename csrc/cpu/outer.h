// out [M, N] = a^T b over a list of rows of a [.., M] and b [.., N]: the gradient of a weight by a group of rows, which
// are few and lie apart. N = 0: the sums [M] of the rows of a.
//
// Rows of a batch lie a power of two apart as often as not, so that few sets of a cache would have to hold them all:
// kAcross columns of b are copied to panels of one tile each, and pass by columns of a that are copied as well. A part
// of kLong rows is summed on its own, then added, as in gemm.h. Where all is one part and out is large, it is written
// past the caches: they would have to read it first.
#pragma once

namespace seq::SEQ_ISA {

template <class T>
struct OuterWalk {
  using L = Lanes<T>;
  static constexpr int kVectors = 2, kWidth = L::kWidth, kTile = tile_rows(kVectors);
  static constexpr int64_t kLine = kVectors * kWidth, kLong = 128, kCopied = 4 * kTile, kAcross = 1024 / sizeof(T);

  // kRows columns of a from m on, from their copy, by the columns of b from n on, from their panel. first: nothing is
  // in out yet.
  template <int kRows>
  static SEQ_INLINE void tile(const Outer<T>& g, int64_t count, bool first, const T* a, const T* panel, int64_t m,
                              int64_t n) {
    L sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sum[r][j] = L(T(0));
    for (int64_t k = 0; k < count; ++k, a += kCopied, panel += kLine) {
      L x[kVectors];
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) x[j] = L::load(panel + j * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const L w(a[r]);
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) sum[r][j] = sum[r][j] + w * x[j];
      }
    }
    T* out = g.out + m * g.N + n;
    if (streams(g) && g.N - n >= kLine) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) sum[r][j].stream(out + r * g.N + j * kWidth);
      return;
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) {
        T* to = out + r * g.N + j * kWidth;
        const int64_t left = g.N - n - j * kWidth;
        if (left <= 0) break;
        if (!first) sum[r][j] = L::load(to, left) + sum[r][j];
        sum[r][j].store(to, left);
      }
  }

  static SEQ_INLINE bool streams(const Outer<T>& g) { return g.past_caches && g.count <= kLong; }

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
    alignas(64) T copy[kLong * kCopied], panels[kLong * kAcross];
    for (int64_t n0 = 0; n0 < g.N; n0 += kAcross) {
      const int64_t n1 = n0 + kAcross < g.N ? n0 + kAcross : g.N;
      for (int64_t k0 = 0; k0 == 0 || k0 < g.count; k0 += kLong) {
        const int64_t count = g.count - k0 < kLong ? g.count - k0 : kLong;
        const int64_t* rows = g.rows + k0;
        for (int64_t k = 0; k < count; ++k)
          for (int64_t n = n0; n < n1; n += kLine)
            for (int j = 0; j < kVectors; ++j)
              L::load(g.b + rows[k] * g.ldb + n + j * kWidth, n1 - n - j * kWidth)
                  .store(panels + (n - n0) * count + k * kLine + j * kWidth);
        for (int64_t m = 0; m < g.M; m += kCopied) {
          const int64_t columns = g.M - m < kCopied ? g.M - m : kCopied;
          for (int64_t k = 0; k < count; ++k)
            for (int64_t j = 0; j < columns; j += kWidth)
              L::load(g.a + rows[k] * g.lda + m + j, columns - j).store(copy + k * kCopied + j, columns - j);
          for (int64_t n = n0; n < n1; n += kLine) {
            const T* panel = panels + (n - n0) * count;
            int64_t i = 0;
            for (; i + kTile <= columns; i += kTile) tile<kTile>(g, count, k0 == 0, copy + i, panel, m + i, n);
            for (; i < columns; ++i) tile<1>(g, count, k0 == 0, copy + i, panel, m + i, n);
          }
        }
      }
    }
    if (streams(g)) end_of_streams();
  }
};

}  // namespace seq::SEQ_ISA
