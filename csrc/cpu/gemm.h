// out = a b, the products of many rows around a walk: x W_ih^T before it, dW and dx after it.
//
// b lies in panels of kBlock columns (pack.h). Part of a panel lies in L2 while rows of a, which stay there as well,
// pass it by. Where K is long, so that only few rows would stay, it is cut, and out is read and written once more for
// each part. Where a is given transposed (dW), some of its columns are first copied to L1, and the panels, which stay
// in L2, pass them by.
//
// How an element is summed depends on K alone, so that its bits do not depend on the other rows.
#pragma once

namespace seq::SEQ_ISA {

template <class T>
struct GemmWalk {
  using L = Lanes<T>;
  static constexpr int kVectors = 2, kWidth = L::kWidth;
  static constexpr int64_t kBlock = kVectors * kWidth, kTile = tile_rows(kVectors);
  static constexpr int64_t kStreamed = (384 << 10) / sizeof(T);  // numbers of a that stay in L2

  // A part of K on its own, then added: sums over thousands of rows keep the accuracy of short ones. far: no cache may
  // hold out, so that what is added to is asked for before the product.
  template <bool kAcross, bool kPairs>
  static SEQ_INLINE void tile(const Gemm<T>& g, int64_t block, int64_t k0, int64_t k1, const T* a, int64_t lda,
                              int64_t row, int rows, bool far) {
    alignas(64) T sum[kTile * kBlock];
    const int64_t u = block * kBlock;
    const bool add = k0 > 0 || g.add;
    if (far && add)
      for (int r = 0; r < rows; ++r)
        for (int j = 0; j < kVectors; ++j) __builtin_prefetch(g.out + (row + r) * g.ldo + u + j * kWidth, /*write=*/1);
    product_with_one<T, kVectors, kAcross, kPairs>(rows, g.panels + (block * g.K + k0) * kBlock, k1 - k0, a, lda, sum);
    for (int r = 0; r < rows; ++r)
      for (int j = 0; j < kVectors; ++j) {
        const int64_t at = u + j * kWidth, n = g.N - at;
        if (n <= 0) break;
        T* out = g.out + (row + r) * g.ldo + at;
        L value = L::load(sum + r * kBlock + j * kWidth);
        if (add)
          value = value + L::load(out, n);
        else if (g.bias)
          value = value + L::load(g.bias + at, n);
        value.store(out, n);
      }
  }

  static SEQ_INLINE int rows_of(int64_t i, int64_t end) { return static_cast<int>(end - i < kTile ? end - i : kTile); }

  // How many lines of a panel a part of K has.
  static constexpr int64_t kLongest = 1024;
  static SEQ_INLINE int64_t part(int64_t K) { return even_part(K, K > kLongest ? 512 : 768); }

  template <bool kPairs>
  static void rows(const Gemm<T>& g, int64_t begin, int64_t end) {
    const int64_t depth = part(g.K), together = g.K > kLongest ? depth : g.K + 1;  // of no K, one part
    const int64_t at_once = (kStreamed / (together * kTile) + 1) * kTile;
    for (int64_t i0 = begin; i0 < end; i0 += at_once) {
      const int64_t i1 = i0 + at_once < end ? i0 + at_once : end;
      for (int64_t k0 = 0; k0 == 0 || k0 < g.K; k0 += together)
        for (int64_t b = 0; b < blocks_of(g.N, kBlock); ++b)
          for (int64_t k = k0; k == k0 || (k < g.K && k < k0 + together); k += depth)
            for (int64_t i = i0; i < i1; i += kTile)
              tile<false, kPairs>(g, b, k, k + depth < g.K ? k + depth : g.K, g.a + i * g.lda + k, g.lda, i,
                                  rows_of(i, i1), k == k0);
    }
  }

  // Columns of a that are copied, and of how many rows at most.
  static constexpr int64_t kCopied = kTile % 8 == 0 ? 2 * kTile : 4 * kTile;
  static constexpr int64_t kLong = (18 << 10) / (kCopied * sizeof(T));

  // Columns [i, i + n) of line k, to lie side by side.
  template <bool kPairs>
  static SEQ_INLINE void copy_line(const Gemm<T>& g, int64_t k, int64_t i, int64_t n, T* to) {
    if constexpr (kPairs) {
      const uint16_t* from = reinterpret_cast<const uint16_t*>(g.a) + 2 * k * g.lda + i;
      const uint16_t* next = g.odd && k + 1 == g.K ? nullptr : from + g.lda;
      for (int64_t j = 0; j < n; j += kWidth)
        interleaved(from + j, next ? next + j : nullptr, n - j).store(to + j, n - j);
    } else {
      const T* from = g.a + k * g.lda + i;
      if (n == kCopied)
#pragma GCC unroll 8
        for (int64_t j = 0; j < kCopied; j += kWidth) L::load(from + j).store(to + j);
      else
        for (int64_t j = 0; j < n; j += kWidth) L::load(from + j, n - j).store(to + j, n - j);
    }
  }

  template <bool kPairs>
  static void columns(const Gemm<T>& g, int64_t begin, int64_t end) {
    alignas(64) T copy[kLong * kCopied];
    const int64_t blocks = blocks_of(g.N, kBlock), depth = even_part(g.K, kLong),
                  at_once = kStreamed / (depth * kBlock);
    for (int64_t k0 = 0; k0 == 0 || k0 < g.K; k0 += depth) {
      const int64_t k1 = k0 + depth < g.K ? k0 + depth : g.K;
      for (int64_t b0 = 0; b0 < blocks; b0 += at_once)
        for (int64_t i0 = begin; i0 < end; i0 += kCopied) {
          const int64_t i1 = i0 + kCopied < end ? i0 + kCopied : end;
          for (int64_t k = k0; k < k1; ++k) copy_line<kPairs>(g, k, i0, i1 - i0, copy + (k - k0) * kCopied);
          for (int64_t b = b0; b < b0 + at_once && b < blocks; ++b)
            for (int64_t i = i0; i < i1; i += kTile)
              tile<true, kPairs>(g, b, k0, k1, copy + i - i0, kCopied, i, rows_of(i, i1), true);
        }
    }
  }

  // Rows [begin, end) of out.
  static void run(const Gemm<T>& g, int64_t begin, int64_t end) {
    if constexpr (kHasPairs<T>)
      if (g.pairs) return g.transposed ? columns<true>(g, begin, end) : rows<true>(g, begin, end);
    g.transposed ? columns<false>(g, begin, end) : rows<false>(g, begin, end);
  }
};

}  // namespace seq::SEQ_ISA
