// out [batch, R] = x w^T (+ bias) for few rows x, with the bits of engine "panel" and without its packed weights: for a
// single step, which is too short to pay for them.
//
// Part of a panel is laid out in L1, multiplied with all rows and forgotten, so that w is read once. A sum is the same
// chain of multiply-adds as in product.h; that of an input product is made of the same parts as in gemm.h.
#pragma once

namespace seq::SEQ_ISA {

template <class T>
struct OrderedRows {
  using L = Lanes<T>;
  static constexpr int kVectors = 2, kTile = tile_rows(kVectors);
  static constexpr int64_t kBlock = kVectors * L::kWidth;
  static constexpr int64_t kMost = 32;                                  // rows of x
  static constexpr int64_t kDepth = (16 << 10) / (kBlock * sizeof(T));  // lines of a panel in L1

  // Blocks [begin, end) of kBlock rows of w [R, K], contiguous.
  static void run(const T* w, int64_t R, int64_t K, bool parts, int64_t begin, int64_t end, const T* x, int64_t batch,
                  const T* bias, T* out) {
    alignas(64) T panel[kBlock * kDepth], sums[kMost * kBlock];
    const int64_t part = parts ? GemmWalk<T>::part(K) : K;
    for (int64_t r = begin * kBlock; r < end * kBlock && r < R; r += kBlock) {
      const T* rows = w + r * K;
      for (int64_t k0 = 0; k0 < K; k0 += part) {
        const int64_t k1 = k0 + part < K ? k0 + part : K;
        for (int64_t k = k0; k < k1; k += kDepth) {
          const int64_t depth = k + kDepth < k1 ? kDepth : k1 - k;
          pack_gates(rows + k, K, R - r, 0, 1, depth, kBlock, 0, 1, panel);
          if (k + depth < K)
            ask_for(rows + k + depth, K, R - r, K - k - depth);
          else
            ask_for(rows + kBlock * K, K, R - r - kBlock, K);
          for (int64_t i = 0, count; i < batch; i += count) {
            count = even_part(batch - i, kTile);
            product_with_one<T, kVectors>(static_cast<int>(count), panel, depth, x + i * K + k, K, sums + i * kBlock,
                                          k > k0);
          }
        }
        for (int64_t i = 0; i < batch; ++i)
          for (int64_t j = 0; j < kBlock && r + j < R; j += L::kWidth) {
            const int64_t n = R - r - j;
            T* to = out + i * R + r + j;
            L sum = L::load(sums + i * kBlock + j);
            if (k0 > 0)
              sum = sum + L::load(to, n);
            else if (bias)
              sum = sum + L::load(bias + r + j, n);
            sum.store(to, n);
          }
      }
    }
  }

 private:
  // For the next part, of up to `rows` rows and `left` columns, while the present one is multiplied: the processor does
  // not by itself fetch ahead along so many rows.
  static SEQ_INLINE void ask_for(const T* w, int64_t K, int64_t rows, int64_t left) {
    const int64_t depth = left < kDepth ? left : kDepth;
    for (int64_t j = 0; j < rows && j < kBlock; ++j)
      for (int64_t k = 0; k < depth; k += 64 / sizeof(T)) __builtin_prefetch(w + j * K + k, /*write=*/0, /*to L2*/ 2);
  }
};

}  // namespace seq::SEQ_ISA
