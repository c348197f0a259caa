// out = a b, the products of many rows around a walk: x W_ih^T before it, dW and dx after it.
//
// b lies in panels of kBlock columns (pack.h). One panel's part of kDepth lines lies in L1 while rows of a, which stay
// in L2, pass it by. Where a is given transposed (dW), some of its columns are first copied to rows in L1, and the
// panels, which stay in L2, pass them by.
//
// How an element is summed depends on K alone, so that its bits do not depend on the other rows.
#pragma once

namespace seq::SEQ_ISA {

template <class T>
struct GemmWalk {
  using L = Lanes<T>;
  static constexpr int kVectors = 2, kWidth = L::kWidth;
  static constexpr int64_t kBlock = kVectors * kWidth, kTile = tile_rows(kVectors);
  static constexpr int64_t kDepth = (24 << 10) / (kBlock * sizeof(T));
  static constexpr int64_t kStreamed = (384 << 10) / sizeof(T);  // numbers that stay in L2

  // A part of K on its own, then added: sums over thousands of rows keep the accuracy of short ones.
  static SEQ_INLINE void tile(const Gemm<T>& g, int64_t block, int64_t k0, int64_t k1, const T* a, int64_t lda,
                              int64_t row, int rows) {
    alignas(64) T sum[kTile * kBlock];
    product<T, kVectors>(rows, g.panels + (block * g.K + k0) * kBlock, 1, k1 - k0, a, lda, sum);
    const int64_t u = block * kBlock;
    for (int r = 0; r < rows; ++r)
      for (int j = 0; j < kVectors; ++j) {
        const int64_t at = u + j * kWidth, n = g.N - at;
        if (n <= 0) break;
        T* out = g.out + (row + r) * g.ldo + at;
        L value = L::load(sum + r * kBlock + j * kWidth);
        if (k0 > 0 || g.add)
          value = value + L::load(out, n);
        else if (g.bias)
          value = value + L::load(g.bias + at, n);
        value.store(out, n);
      }
  }

  static SEQ_INLINE int rows_of(int64_t i, int64_t end) { return static_cast<int>(end - i < kTile ? end - i : kTile); }

  static void rows(const Gemm<T>& g, int64_t begin, int64_t end) {
    const int64_t at_once = (kStreamed / ((g.K + 1) * kTile) + 1) * kTile;
    for (int64_t i0 = begin; i0 < end; i0 += at_once) {
      const int64_t i1 = i0 + at_once < end ? i0 + at_once : end;
      for (int64_t b = 0; b < blocks_of(g.N, kBlock); ++b)
        for (int64_t k = 0; k == 0 || k < g.K; k += kDepth)
          for (int64_t i = i0; i < i1; i += kTile)
            tile(g, b, k, k + kDepth < g.K ? k + kDepth : g.K, g.a + i * g.lda + k, g.lda, i, rows_of(i, i1));
    }
  }

  // Columns of a become rows, kCopied at a time, kLong numbers of each; the rows do not share sets of the cache.
  static constexpr int64_t kCopied = kTile % 8 == 0 ? 2 * kTile : 4 * kTile, kLong = 96, kCopyStride = kLong + 16;

  static void columns(const Gemm<T>& g, int64_t begin, int64_t end) {
    alignas(64) T copy[kCopied * kCopyStride];
    const int64_t blocks = blocks_of(g.N, kBlock);
    for (int64_t k0 = 0; k0 == 0 || k0 < g.K; k0 += kLong) {
      const int64_t k1 = k0 + kLong < g.K ? k0 + kLong : g.K, at_once = kStreamed / (kLong * kBlock);
      for (int64_t b0 = 0; b0 < blocks; b0 += at_once)
        for (int64_t i0 = begin; i0 < end; i0 += kCopied) {
          const int64_t i1 = i0 + kCopied < end ? i0 + kCopied : end;
          int64_t k = k0;
          for (; k + kWidth <= k1; k += kWidth)
            pack_lanes(g.a + k * g.lda + i0, g.lda, i1 - i0, copy + k - k0, kCopyStride);
          for (; k < k1; ++k)
            for (int64_t i = i0; i < i1; ++i) copy[(i - i0) * kCopyStride + k - k0] = g.a[k * g.lda + i];
          for (int64_t b = b0; b < b0 + at_once && b < blocks; ++b)
            for (int64_t i = i0; i < i1; i += kTile)
              tile(g, b, k0, k1, copy + (i - i0) * kCopyStride, kCopyStride, i, rows_of(i, i1));
        }
    }
  }

  // Rows [begin, end) of out.
  static void run(const Gemm<T>& g, int64_t begin, int64_t end) {
    if (g.transposed)
      columns(g, begin, end);
    else
      rows(g, begin, end);
  }
};

}  // namespace seq::SEQ_ISA
