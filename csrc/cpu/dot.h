// The products of a few rows b with weights as they lie, of the forward and the backward of one step:
//
//   dot_rows    out[b][r]  = x[b] . w[r] + bias[r]
//   add_rows    out[b][k] += d[b][0] w[0][k] + d[b][1] w[1][k] + ..
//   outer_rows  out[r][k]  = d[0][r] x[0][k] + d[1][r] x[1][k] + ..
//
// For one step there is no time to pack: every weight is read (or its gradient written) once, in order, four rows of W
// at a time; x, d or out of the row lies in L1. What it costs is W: weights of a half type are read as they are, half
// the bytes, and become float in a register or, where many rows b want them, in L1.
#pragma once

namespace seq::SEQ_ISA {

// The sum of the lanes: halves are added as long as they are vectors of 16 bytes at least.
template <class T, int kBytes>
SEQ_INLINE T sum_of_bytes(const T* parts) {
  typedef T Half __attribute__((vector_size(kBytes / 2)));
  Half low, high;
  __builtin_memcpy(&low, parts, sizeof(Half));
  __builtin_memcpy(&high, parts + kBytes / 2 / sizeof(T), sizeof(Half));
  low += high;
  T halves[kBytes / 2 / sizeof(T)];
  __builtin_memcpy(halves, &low, sizeof(Half));
  if constexpr (kBytes / 2 > 16) {
    return sum_of_bytes<T, kBytes / 2>(halves);
  } else {
    T sum = halves[0];
    for (int j = 1; j < static_cast<int>(kBytes / 2 / sizeof(T)); ++j) sum += halves[j];
    return sum;
  }
}

template <class T>
SEQ_INLINE T sum_of(Lanes<T> v) {
  T parts[Lanes<T>::kWidth];
  v.store(parts);
  return sum_of_bytes<T, SEQ_LANE_BYTES>(parts);
}

// How weights that lie as W are loaded as lanes of T.
template <class T>
struct AsTheyAre {
  using W = T;
  static SEQ_INLINE Lanes<T> load(const T* p) { return Lanes<T>::load(p); }
  static SEQ_INLINE Lanes<T> load(const T* p, int64_t n) { return Lanes<T>::load(p, n); }
};

template <Rounding kType>
struct FromHalf {
  using W = uint16_t;
  static SEQ_INLINE Lanes<float> load(const uint16_t* p) { return from_half<kType>(p); }
  static SEQ_INLINE Lanes<float> load(const uint16_t* p, int64_t n) {
    if (n >= Lanes<float>::kWidth) return load(p);
    uint16_t part[Lanes<float>::kWidth] = {};
    for (int64_t j = 0; j < n; ++j) part[j] = p[j];
    return load(part);
  }
};

template <class From, class T, int kRows>
SEQ_INLINE void dot_block(const typename From::W* w, int64_t ld, int64_t K, const T* x, const T* bias, T* out) {
  using L = Lanes<T>;
  constexpr int kWidth = L::kWidth;
  L even[kRows], odd[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = L(T(0));
  int64_t k = 0;
  for (; k + 2 * kWidth <= K; k += 2 * kWidth) {
    const L x0 = L::load(x + k), x1 = L::load(x + k + kWidth);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      even[r] = even[r] + x0 * From::load(w + r * ld + k);
      odd[r] = odd[r] + x1 * From::load(w + r * ld + k + kWidth);
    }
  }
  for (; k < K; k += kWidth) {
    const L x0 = L::load(x + k, K - k);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) even[r] = even[r] + x0 * From::load(w + r * ld + k, K - k);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) out[r] = sum_of(even[r] + odd[r]) + (bias ? bias[r] : T(0));
}

// kRows rows of w, for all of the `batch` rows of x.
template <class From, int kRows, class T>
SEQ_INLINE void dot_batch(const typename From::W* w, int64_t ld, int64_t K, const T* x, int64_t batch, const T* bias,
                          T* out, int64_t ldo) {
  for (int64_t b = 0; b < batch; ++b) dot_block<From, T, kRows>(w, ld, K, x + b * K, bias, out + b * ldo);
}

// Rows [begin, end) of w, for all of the `batch` rows of x.
template <class T>
void dot_rows(const T* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const T* x, int64_t batch, const T* bias,
              T* out, int64_t ldo) {
  using From = AsTheyAre<T>;
  int64_t r = begin;
  for (; r + 4 <= end; r += 4) dot_batch<From, 4>(w + r * ld, ld, K, x, batch, bias ? bias + r : nullptr, out + r, ldo);
  for (; r < end; ++r) dot_batch<From, 1>(w + r * ld, ld, K, x, batch, bias ? bias + r : nullptr, out + r, ldo);
}

// The same with weights of a half type. scratch: 4 * K floats.
template <Rounding kType>
void dot_half_rows(const uint16_t* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const float* x, int64_t batch,
                   const float* bias, float* out, int64_t ldo, float* scratch) {
  using From = FromHalf<kType>;
  constexpr int64_t kBatchThatPaysForScratch = 3;
  int64_t r = begin;
  for (; r + 4 <= end; r += 4) {
    const float* add = bias ? bias + r : nullptr;
    if (batch < kBatchThatPaysForScratch) {
      dot_batch<From, 4>(w + r * ld, ld, K, x, batch, add, out + r, ldo);
      continue;
    }
    for (int64_t j = 0; j < 4; ++j)
      for (int64_t k = 0; k < K; k += Lanes<float>::kWidth)
        From::load(w + (r + j) * ld + k, K - k).store(scratch + j * K + k, K - k);
    dot_batch<AsTheyAre<float>, 4>(scratch, K, K, x, batch, add, out + r, ldo);
  }
  for (; r < end; ++r) dot_batch<From, 1>(w + r * ld, ld, K, x, batch, bias ? bias + r : nullptr, out + r, ldo);
}

// Columns [begin, end) of out, which starts from zero unless `add`.
template <class T>
void add_rows(const T* w, int64_t ld, int64_t rows, int64_t begin, int64_t end, const T* d, int64_t batch, bool add,
              T* out, int64_t ldo) {
  using L = Lanes<T>;
  constexpr int kWidth = L::kWidth, kRows = 4;
  for (int64_t b = 0; b < batch; ++b) {
    T* to = out + b * ldo;
    const T* by = d + b * rows;
    if (!add) __builtin_memset(to + begin, 0, sizeof(T) * (end - begin));
    for (int64_t r = 0; r < rows; r += kRows) {
      const int count = static_cast<int>(rows - r < kRows ? rows - r : kRows);
      L scale[kRows];
      const T* from[kRows];
      for (int j = 0; j < kRows; ++j) {
        scale[j] = L(j < count ? by[r + j] : T(0));
        from[j] = w + (j < count ? r + j : r) * ld;
      }
      for (int64_t k = begin; k < end; k += kWidth) {
        const int64_t n = end - k;
        L sum = L::load(to + k, n);
#pragma GCC unroll 4
        for (int j = 0; j < kRows; ++j) sum = sum + scale[j] * L::load(from[j] + k, n);
        sum.store(to + k, n);
      }
    }
  }
}

// Rows [begin, end) of out [.., K]; d [batch, rows].
template <class T>
void outer_rows(const T* d, int64_t rows, int64_t begin, int64_t end, const T* x, int64_t batch, int64_t K, T* out) {
  using L = Lanes<T>;
  constexpr int kWidth = L::kWidth;
  for (int64_t r = begin; r < end; ++r) {
    T* to = out + r * K;
    for (int64_t k = 0; k < K; k += kWidth) {
      const int64_t n = K - k;
      L sum = L(d[r]) * L::load(x + k, n);
      for (int64_t b = 1; b < batch; ++b) sum = sum + L(d[b * rows + r]) * L::load(x + b * K + k, n);
      sum.store(to + k, n);
    }
  }
}

}  // namespace seq::SEQ_ISA
