// The product microkernel: tile[rows][kVectors lanes] = a[rows, K] * panel[K][kVectors lanes], accumulated in
// registers.
//
// panel: K lines of kVectors vectors, aligned to 64 bytes (see pack.h), streamed once per tile of rows and shared by
// all tiles of the batch while it lies in L1. a: rows lda apart, one broadcast per row and k. With few rows, K is
// unrolled over independent accumulators, so that the latency of the multiply-add is hidden.
#pragma once

namespace seq::SEQ_ISA {

// Accumulators that leave room for the operands: 12 of 16 vector registers, 24 of 32.
constexpr int kAccumulators = SEQ_LANE_BYTES == 64 ? 24 : 12;
constexpr int kLatencyCover = 8;  // multiply-adds in flight that keep both units busy

constexpr int tile_rows(int vectors) {
  const int rows = kAccumulators / vectors;
  return rows > 8 ? 8 : rows;
}

template <class T, int kRows, int kVectors>
__attribute__((noinline)) void product_tile(const T* panel, int64_t K, const T* a, int64_t lda, T* tile) {
  using L = Lanes<T>;
  constexpr int kUnroll = (kLatencyCover + kRows * kVectors - 1) / (kRows * kVectors);
  L acc[kUnroll][kRows][kVectors];
#pragma GCC unroll 8
  for (int u = 0; u < kUnroll; ++u)
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) acc[u][r][j] = L(T(0));

  auto line = [&](int u, int64_t k) __attribute__((always_inline)) {
    const T* p = panel + k * (kVectors * L::kWidth);
    if constexpr (kRows <= kVectors) {
      L x[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) x[r] = L(a[r * lda + k]);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        const L w = L::load(p + j * L::kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) acc[u][r][j] = acc[u][r][j] + x[r] * w;
      }
    } else {
      L w[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) w[j] = L::load(p + j * L::kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const L x(a[r * lda + k]);
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) acc[u][r][j] = acc[u][r][j] + x * w[j];
      }
    }
  };
  int64_t k = 0;
  for (; k + kUnroll <= K; k += kUnroll)
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) line(u, k + u);
  for (; k < K; ++k) line(0, k);

#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      L sum = acc[0][r][j];
#pragma GCC unroll 8
      for (int u = 1; u < kUnroll; ++u) sum = sum + acc[u][r][j];
      sum.store(tile + (r * kVectors + j) * L::kWidth);
    }
}

template <class T>
using ProductFn = void (*)(const T*, int64_t, const T*, int64_t, T*);

// The microkernels of 1 .. tile_rows(kVectors) rows, by number of rows.
template <class T, int kVectors, int... kRows>
constexpr ProductFn<T> product_of(int rows, std::integer_sequence<int, kRows...>) {
  constexpr ProductFn<T> table[] = {&product_tile<T, kRows + 1, kVectors>...};
  return table[rows - 1];
}

template <class T, int kVectors>
SEQ_INLINE void product(int rows, const T* panel, int64_t K, const T* a, int64_t lda, T* tile) {
  product_of<T, kVectors>(rows, std::make_integer_sequence<int, tile_rows(kVectors)>{})(panel, K, a, lda, tile);
}

}  // namespace seq::SEQ_ISA
