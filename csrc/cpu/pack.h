// Weights laid out for the product microkernel: one panel per block of units.
//
// Forward, phase with gates [first, last): panel b = [K][last - first][block] with the units of block b, from rows
// g*H + u of W; K = columns of W.  Transposed (for backward): panel b = [rows of W][block] with the columns of block b.
// Units past the end are 0. A panel starts on 64 bytes.
#pragma once

namespace seq::SEQ_ISA {

SEQ_INLINE int64_t blocks_of(int64_t units, int64_t block) { return (units + block - 1) / block; }

template <class T>
void pack_gates(const T* w, int64_t ld, int64_t hidden, int first, int last, int64_t K, int64_t block, int64_t begin,
                int64_t end, T* out) {
  const int64_t gates = last - first, line = gates * block;
  constexpr int64_t kChunk = 16;
  for (int64_t b = begin; b < end; ++b) {
    T* panel = out + b * K * line;
    for (int64_t k0 = 0; k0 < K; k0 += kChunk) {
      const int64_t k1 = k0 + kChunk < K ? k0 + kChunk : K;
      for (int64_t g = 0; g < gates; ++g)
        for (int64_t j = 0; j < block; ++j) {
          const int64_t u = b * block + j;
          const T* from = w + ((first + g) * hidden + u) * ld;
          T* to = panel + g * block + j;
          for (int64_t k = k0; k < k1; ++k) to[k * line] = u < hidden ? from[k] : T(0);
        }
    }
  }
}

template <class T>
void pack_columns(const T* w, int64_t ld, int64_t columns, int64_t rows, int64_t block, int64_t begin, int64_t end,
                  T* out) {
  for (int64_t b = begin; b < end; ++b) {
    T* panel = out + b * rows * block;
    const int64_t count = columns - b * block < block ? columns - b * block : block;
    for (int64_t k = 0; k < rows; ++k)
      for (int64_t j = 0; j < block; ++j) panel[k * block + j] = j < count ? w[k * ld + b * block + j] : T(0);
  }
}

}  // namespace seq::SEQ_ISA
