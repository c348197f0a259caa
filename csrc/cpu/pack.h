// Weights laid out for the product microkernel: one panel per block of units.
//
// Forward, phase with gates [first, last): panel b = [K][last - first][block] with the units of block b, from rows
// g*H + u of W; K = columns of W.  Transposed (for backward): panel b = [rows of W][block] with the columns of block b.
// Units past the end are 0. A panel starts on 64 bytes.
//
// Of pairs of bfloat16 a line holds the numbers of two k. A W of bfloat16 with an even number of columns is one of
// pairs to pack_gates as it lies; pack_pairs interleaves the rows of W for the transposed form.
#pragma once

namespace seq::SEQ_ISA {

SEQ_INLINE int64_t blocks_of(int64_t units, int64_t block) { return (units + block - 1) / block; }

// Lanes of a (0 ..) and b (kWidth ..) by index.
template <class V, int... kIndex>
SEQ_INLINE V picked(V a, V b, std::integer_sequence<int, kIndex...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, kIndex...);
#else
  typedef std::conditional_t<sizeof(V{}[0]) == 4, int32_t, int64_t> Index;
  typedef Index Mask __attribute__((vector_size(sizeof(V))));
  return __builtin_shuffle(a, b, Mask{kIndex...});
#endif
}

// Exchanges the off-diagonal blocks of kStep lanes between rows that lie kStep apart: blocks of 1, 2, 4, .. lanes in
// turn transpose a square.
template <class T, int kStep, int... kLane>
SEQ_INLINE void exchange(Lanes<T>& a, Lanes<T>& b, std::integer_sequence<int, kLane...>) {
  constexpr int kWidth = Lanes<T>::kWidth;
  using Low = std::integer_sequence<int, ((kLane & kStep) == 0 ? kLane : kWidth + kLane - kStep)...>;
  using High = std::integer_sequence<int, ((kLane & kStep) == 0 ? kLane + kStep : kWidth + kLane)...>;
  const Lanes<T> low = picked(a.v, b.v, Low{});
  b = picked(a.v, b.v, High{});
  a = low;
}

template <class T, int kStep = 1>
SEQ_INLINE void transpose(Lanes<T>* rows) {
  constexpr int kWidth = Lanes<T>::kWidth;
  if constexpr (kStep < kWidth) {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i)
      if ((i & kStep) == 0) exchange<T, kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, kWidth>{});
    transpose<T, 2 * kStep>(rows);
  }
}

// to[k * line + j] = from[j * ld + k] for j < kWidth and k < K.
template <class T>
SEQ_INLINE void pack_lanes(const T* from, int64_t ld, int64_t K, T* to, int64_t line) {
  using L = Lanes<T>;
  int64_t k = 0;
  for (; k + L::kWidth <= K; k += L::kWidth) {
    L rows[L::kWidth];
#pragma GCC unroll 16
    for (int j = 0; j < L::kWidth; ++j) rows[j] = L::load(from + j * ld + k);
    transpose(rows);
#pragma GCC unroll 16
    for (int j = 0; j < L::kWidth; ++j) rows[j].store(to + (k + j) * line);
  }
  for (; k < K; ++k)
    for (int j = 0; j < L::kWidth; ++j) to[k * line + j] = from[j * ld + k];
}

template <class T>
void pack_gates(const T* w, int64_t ld, int64_t hidden, int first, int last, int64_t K, int64_t block, int64_t begin,
                int64_t end, T* out) {
  constexpr int kWidth = Lanes<T>::kWidth;
  const int64_t gates = last - first, line = gates * block;
  for (int64_t b = begin; b < end; ++b) {
    T* panel = out + b * K * line;
    for (int64_t g = 0; g < gates; ++g)
      for (int64_t j0 = 0; j0 < block; j0 += kWidth) {
        const int64_t u = b * block + j0, count = hidden - u;
        const T* from = w + ((first + g) * hidden + u) * ld;
        T* to = panel + g * block + j0;
        if (count >= kWidth) {
          pack_lanes(from, ld, K, to, line);
        } else {
          for (int64_t k = 0; k < K; ++k)
            for (int64_t j = 0; j < kWidth; ++j) to[k * line + j] = j < count ? from[j * ld + k] : T(0);
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
    for (int64_t k = 0; k < rows; ++k) {
      const T* from = w + k * ld + b * block;
      if (count == block)
        for (int64_t j = 0; j < block; j += Lanes<T>::kWidth) Lanes<T>::load(from + j).store(panel + k * block + j);
      else
        for (int64_t j = 0; j < block; ++j) panel[k * block + j] = j < count ? from[j] : T(0);
    }
  }
}

// pack_columns of bfloat16.
inline void pack_pairs(const uint16_t* w, int64_t ld, int64_t columns, int64_t rows, int64_t block, int64_t begin,
                       int64_t end, float* out) {
  const int64_t lines = (rows + 1) / 2;
  for (int64_t b = begin; b < end; ++b) {
    float* panel = out + b * lines * block;
    for (int64_t k = 0; k < lines; ++k) {
      const uint16_t* from = w + 2 * k * ld + b * block;
      for (int64_t j = 0; j < block; j += Lanes<float>::kWidth) {
        const int64_t n = columns - b * block - j;
        const Lanes<float> pairs =
            n > 0 ? interleaved(from + j, 2 * k + 1 < rows ? from + ld + j : nullptr, n) : Lanes<float>(0.f);
        pairs.store(panel + k * block + j);
      }
    }
  }
}

}  // namespace seq::SEQ_ISA
