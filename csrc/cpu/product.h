// The product microkernel: tile[rows][kVectors lanes] = a[rows, K] * panel[K][kVectors lanes], accumulated in
// registers.
//
// panel: K lines of kVectors vectors, aligned to 64 bytes (see pack.h), streamed once per tile of rows, which the
// processor's prefetching keeps up with from L2. a: rows lda apart, or side by side with lda from one k to the next
// (kAcross); one broadcast per row and k.
//
// Every element is one chain of multiply-adds over k = 0, 1, .., in this order and in no other, so that its bits depend
// neither on the number of rows nor on which rows share its tile. A chain may be cut and go on from what the tile
// holds. With few rows the chains are too few to hide the latency of the multiply-add: there several panels are walked
// side by side.
//
// Of pairs (kPairs): what stands for a number, in a and in the panel, is a pair of bfloat16, of one k and the next; K
// and lda count pairs, and an instruction adds the products of both.
#pragma once

namespace seq::SEQ_ISA {

// Accumulators that leave room for the operands: 12 of 16 vector registers, 24 of 32.
constexpr int kAccumulators = SEQ_LANE_BYTES == 64 ? 24 : 12;
constexpr int64_t kPartBytes = 96 << 10;  // of a panel, that stay in L2
constexpr int kLatencyCover = 8;          // multiply-adds in flight that keep both units busy

constexpr int tile_rows(int vectors) {
  const int rows = kAccumulators / vectors;
  return rows > 8 ? 8 : rows;
}

// The first of n in even parts of at most `most`, at least 1. Of the rows of a step: a tile of few would wait for its
// lines of the panel.
SEQ_INLINE int64_t even_part(int64_t n, int64_t most) {
  const int64_t parts = n > most ? (n + most - 1) / most : 1;
  return n > parts ? (n + parts - 1) / parts : 1;
}

// Panels side by side for a tile of `rows` rows.
constexpr int panels_at_once(int rows, int vectors) { return (kLatencyCover + rows * vectors - 1) / (rows * vectors); }

// Numbers in the largest tile.
template <class T>
constexpr int64_t tile_size(int vectors) {
  const int most = panels_at_once(1, vectors), rows = tile_rows(vectors);
  int size = rows;
  for (int r = 1; r <= most; ++r) size = r * panels_at_once(r, vectors) > size ? r * panels_at_once(r, vectors) : size;
  return size * vectors * Lanes<T>::kWidth;
}

// sum + x w, of pairs the two products.
template <bool kPairs, class T>
SEQ_INLINE Lanes<T> multiply_add(Lanes<T> sum, Lanes<T> x, Lanes<T> w) {
#if defined(SEQ_ADD_PAIRS)
  if constexpr (kPairs) return typename Lanes<T>::Value(SEQ_ADD_PAIRS(sum.v, x.v, w.v));
#endif
  return sum + x * w;
}

// tile: [kPanels][kRows][kVectors lanes], which the chains go on from where `on`; panels K lines apart.
template <class T, int kRows, int kVectors, int kPanels, bool kAcross = false, bool kPairs = false>
__attribute__((noinline)) void product_tile(const T* panel, int64_t K, const T* a, int64_t lda, T* tile, bool on) {
  using L = Lanes<T>;
  L acc[kPanels][kRows][kVectors];
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j)
        acc[p][r][j] = on ? L::load(tile + ((p * kRows + r) * kVectors + j) * L::kWidth) : L(T(0));

  for (int64_t k = 0; k < K; ++k) {
    const T* line = panel + k * (kVectors * L::kWidth);
    const auto number = [&](int r) {
      const T* at = kAcross ? a + k * lda + r : a + r * lda + k;
      if constexpr (kPairs) return L::bits(at);
      return L(*at);
    };
    if constexpr (kPanels > 1 || kRows <= kVectors) {
      L x[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) x[r] = number(r);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) {
          const L w = L::load(line + p * K * (kVectors * L::kWidth) + j * L::kWidth);
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) acc[p][r][j] = multiply_add<kPairs>(acc[p][r][j], x[r], w);
        }
    } else {
      L w[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) w[j] = L::load(line + j * L::kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const L x = number(r);
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) acc[0][r][j] = multiply_add<kPairs>(acc[0][r][j], x, w[j]);
      }
    }
  }

#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) acc[p][r][j].store(tile + ((p * kRows + r) * kVectors + j) * L::kWidth);
}

template <class T>
using ProductFn = void (*)(const T*, int64_t, const T*, int64_t, T*, bool);

// The microkernels of 1 .. tile_rows(kVectors) rows, by number of rows, of one panel or of several.
template <class T, int kVectors, bool kAcross, bool kPairs, int... kRows>
constexpr ProductFn<T> one_panel(int rows, std::integer_sequence<int, kRows...>) {
  constexpr ProductFn<T> all[] = {&product_tile<T, kRows + 1, kVectors, 1, kAcross, kPairs>...};
  return all[rows - 1];
}
template <class T, int kVectors, bool kPairs, int... kRows>
constexpr ProductFn<T> several_panels(int rows, std::integer_sequence<int, kRows...>) {
  constexpr ProductFn<T> all[] = {
      &product_tile<T, kRows + 1, kVectors, panels_at_once(kRows + 1, kVectors), false, kPairs>...};
  return all[rows - 1];
}

// The tile of `rows` rows for one panel.
template <class T, int kVectors, bool kAcross = false, bool kPairs = false>
SEQ_INLINE void product_with_one(int rows, const T* panel, int64_t K, const T* a, int64_t lda, T* tile,
                                 bool on = false) {
  const auto tiles = std::make_integer_sequence<int, tile_rows(kVectors)>{};
  one_panel<T, kVectors, kAcross, kPairs>(rows, tiles)(panel, K, a, lda, tile, on);
}

// The tiles of `rows` rows for panels from `panel` on, of which there are `left`: as many as are done at once, which
// is the result. The tile of panel p starts at p * rows * kVectors vectors.
template <class T, int kVectors, bool kPairs = false>
SEQ_INLINE int product(int rows, const T* panel, int64_t left, int64_t K, const T* a, int64_t lda, T* tile) {
  const int several = panels_at_once(rows, kVectors);
  if (several > 1 && left >= several) {
    const auto tiles = std::make_integer_sequence<int, tile_rows(kVectors)>{};
    several_panels<T, kVectors, kPairs>(rows, tiles)(panel, K, a, lda, tile, /*on=*/false);
    return several;
  }
  product_with_one<T, kVectors, false, kPairs>(rows, panel, K, a, lda, tile);
  return 1;
}

// The same for up to group_rows rows: where one tile does not hold them, kDepth lines of the panel lie in L2 while the
// tiles pass by. The tile of panel p starts at p * rows * kVectors vectors as well.
constexpr int64_t group_rows(int vectors) { return 8 * tile_rows(vectors); }

template <class T>
constexpr int64_t group_size(int vectors) {
  const int64_t of_group = group_rows(vectors) * vectors * Lanes<T>::kWidth;
  return tile_size<T>(vectors) > of_group ? tile_size<T>(vectors) : of_group;
}

template <class T, int kVectors, bool kPairs = false>
SEQ_INLINE int product_of_group(int64_t rows, const T* panel, int64_t left, int64_t K, const T* a, int64_t lda,
                                T* tile) {
  constexpr int kTile = tile_rows(kVectors);
  constexpr int64_t kLine = kVectors * Lanes<T>::kWidth, kDepth = kPartBytes / (kLine * sizeof(T));
  if (rows <= kTile) return product<T, kVectors, kPairs>(static_cast<int>(rows), panel, left, K, a, lda, tile);
  for (int64_t k0 = 0; k0 < K; k0 += kDepth)
    for (int64_t i = 0; i < rows;) {
      const int count = static_cast<int>(even_part(rows - i, kTile));
      product_with_one<T, kVectors, false, kPairs>(count, panel + k0 * kLine, K - k0 < kDepth ? K - k0 : kDepth,
                                                   a + i * lda + k0, lda, tile + i * kLine, k0 > 0);
      i += count;
    }
  return 1;
}

}  // namespace seq::SEQ_ISA
