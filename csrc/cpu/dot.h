// The products of a few rows b with weights as they lie, of the forward and the backward of one step:
//
//   dot_rows    out[b][r]  = x[b] . w[r] + bias[r]
//   add_rows    out[b][k] += d[b][0] w[0][k] + d[b][1] w[1][k] + ..
//   outer_rows  out[r][k]  = d[0][r] x[0][k] + d[1][r] x[1][k] + ..
//
// For one step there is no time to pack: every weight is read from memory (or its gradient written) once, in order,
// four rows of W at a time, which lie in L1 while the rows b pass by, some of them at once so that a weight in a
// register serves them all; long rows one by one where b is one row. Weights of float16 are read as they are, half the
// bytes, and become float in a register or, where many rows b want them, in L1; those of bfloat16 in split.h, but for
// few rows b on processors that multiply pairs of it (lanes.h).
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

// x, the partner of a weight in a product, a number to a lane. kNumbers: of a vector.
template <class T>
struct OfNumbers {
  using X = T;
  static constexpr int kNumbers = Lanes<T>::kWidth;
  static SEQ_INLINE Lanes<T> load_x(const T* p, int64_t n) { return Lanes<T>::load(p, n); }
  static SEQ_INLINE Lanes<T> add_product(Lanes<T> sum, Lanes<T> x, Lanes<T> w) { return sum + x * w; }
};

// How weights that lie as W are loaded as lanes, and their gradients stored.
template <class T>
struct AsTheyAre : OfNumbers<T> {
  using W = T;
  static SEQ_INLINE Lanes<T> load(const T* p) { return Lanes<T>::load(p); }
  static SEQ_INLINE Lanes<T> load(const T* p, int64_t n) { return Lanes<T>::load(p, n); }
  static SEQ_INLINE void store(Lanes<T> v, T* p, int64_t n) { v.store(p, n); }
};

template <Rounding kType>
struct AsHalf : OfNumbers<float> {
  using W = uint16_t;
  static SEQ_INLINE Lanes<float> load(const uint16_t* p) { return from_half<kType>(p); }
  static SEQ_INLINE Lanes<float> load(const uint16_t* p, int64_t n) {
    return load_first<Lanes<float>::kWidth>(
        p, n, [](const uint16_t* from) __attribute__((always_inline)) { return load(from); });
  }
  static SEQ_INLINE void store(Lanes<float> v, uint16_t* p, int64_t n) {
    store_first<Lanes<float>::kWidth>(p, n,
                                      [v](uint16_t* to) __attribute__((always_inline)) { to_half<kType>(v, to); });
  }
};

#if defined(SEQ_ADD_PAIRS)
// bfloat16, two numbers to a lane, x as well.
struct AsPairs {
  using W = uint16_t;
  using X = uint16_t;
  static constexpr int kNumbers = 2 * Lanes<float>::kWidth;
  static SEQ_INLINE Lanes<float> load(const uint16_t* p) {
    Lanes<float> pairs;
    __builtin_memcpy(&pairs.v, p, sizeof(pairs.v));
    return pairs;
  }
  static SEQ_INLINE Lanes<float> load(const uint16_t* p, int64_t n) {
    return load_first<kNumbers>(p, n, [](const uint16_t* from) __attribute__((always_inline)) { return load(from); });
  }
  static SEQ_INLINE Lanes<float> load_x(const uint16_t* p, int64_t n) { return load(p, n); }
  static SEQ_INLINE Lanes<float> add_product(Lanes<float> sum, Lanes<float> x, Lanes<float> w) {
    return multiply_add<true>(sum, x, w);
  }
};
#endif

// The products of kRows rows of w with one of x, still in lanes: kSums sums of each are under way at once.
template <class From, int kRows, int kSums, class T>
SEQ_INLINE void dot_lanes(const typename From::W* w, int64_t ld, int64_t K, const typename From::X* x, Lanes<T>* out) {
  using L = Lanes<T>;
  constexpr int kNumbers = From::kNumbers;
  L sum[kRows][kSums];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) sum[r][s] = L(T(0));
  int64_t k = 0;
  for (; k + kSums * kNumbers <= K; k += kSums * kNumbers) {
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) {
      const auto value = From::load_x(x + k + s * kNumbers, kNumbers);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r)
        sum[r][s] = From::add_product(sum[r][s], value, From::load(w + r * ld + k + s * kNumbers));
    }
  }
  for (; k < K; k += kNumbers) {
    const auto value = From::load_x(x + k, K - k);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) sum[r][0] = From::add_product(sum[r][0], value, From::load(w + r * ld + k, K - k));
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int s = 1; s < kSums; ++s) sum[r][0] = sum[r][0] + sum[r][s];
    out[r] = sum[r][0];
  }
}

template <class From, int kRows, int kSums = 2, class T>
SEQ_INLINE void dot_block(const typename From::W* w, int64_t ld, int64_t K, const typename From::X* x, const T* bias,
                          T* out) {
  Lanes<T> sums[kRows];
  dot_lanes<From, kRows, kSums>(w, ld, K, x, sums);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) out[r] = sum_of(sums[r]) + (bias ? bias[r] : T(0));
}

// The sums of the lanes of kWidth vectors v, in their order: neighbours exchange halves, and are added.
template <class T, int kStep = 1>
SEQ_INLINE Lanes<T> sums_of(Lanes<T>* v) {
  constexpr int kWidth = Lanes<T>::kWidth;
  if constexpr (kStep == kWidth) {
    return v[0];
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth / kStep; i += 2) {
      exchange<T, kStep>(v[i], v[i + 1], std::make_integer_sequence<int, kWidth>{});
      v[i / 2] = v[i] + v[i + 1];
    }
    return sums_of<T, 2 * kStep>(v);
  }
}

// Rows [begin, end) of w with one row of x.
template <class From, class T>
SEQ_INLINE void dot_one(const typename From::W* w, int64_t ld, int64_t begin, int64_t end, int64_t K,
                        const typename From::X* x, const T* bias, T* out) {
  using L = Lanes<T>;
  constexpr int kWidth = L::kWidth, kRows = kWidth < 4 ? kWidth : 4;
  // From this size on by themselves: the hardware fetches one stream ahead better than four that soon end with a page.
  constexpr int64_t kBytesOfLongRow = 2048;
  int64_t r = begin;
  if (K * static_cast<int64_t>(sizeof(*w)) < kBytesOfLongRow) {
    for (; r + kWidth <= end; r += kWidth) {
      L sums[kWidth];
      for (int j = 0; j < kWidth; j += kRows) dot_lanes<From, kRows, 2>(w + (r + j) * ld, ld, K, x, sums + j);
      const L sum = sums_of(sums);
      (bias ? sum + L::load(bias + r) : sum).store(out + r);
    }
  }
  for (; r < end; ++r) dot_block<From, 1, 8>(w + r * ld, ld, K, x, bias ? bias + r : nullptr, out + r);
}

// kRows rows of w times kWidth / kRows rows of x: as many accumulators as a vector has lanes.
template <class From, int kRows, class T>
SEQ_INLINE void dot_tile(const typename From::W* w, int64_t ld, int64_t K, const typename From::X* x, const T* bias,
                         T* out, int64_t ldo) {
  using L = Lanes<T>;
  constexpr int kWidth = L::kWidth, kBatch = kWidth / kRows;
  L sum[kWidth];
#pragma GCC unroll 16
  for (int j = 0; j < kWidth; ++j) sum[j] = L(T(0));
  const auto add = [&](int64_t k, int64_t n) __attribute__((always_inline)) {
    L weight[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) weight[r] = From::load(w + r * ld + k, n);
#pragma GCC unroll 4
    for (int b = 0; b < kBatch; ++b) {
      const L value = From::load_x(x + b * K + k, n);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sum[b * kRows + r] = From::add_product(sum[b * kRows + r], value, weight[r]);
    }
  };
  int64_t k = 0;
  for (; k + From::kNumbers <= K; k += From::kNumbers) add(k, From::kNumbers);
  if (k < K) add(k, K - k);
  T sums[kWidth];
  sums_of(sum).store(sums);
#pragma GCC unroll 4
  for (int b = 0; b < kBatch; ++b)
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) out[b * ldo + r] = sums[b * kRows + r] + (bias ? bias[r] : T(0));
}

// kRows rows of w, for all of the `batch` rows of x.
template <class From, int kRows, class T>
SEQ_INLINE void dot_batch(const typename From::W* w, int64_t ld, int64_t K, const typename From::X* x, int64_t batch,
                          const T* bias, T* out, int64_t ldo) {
  constexpr int kBatch = Lanes<T>::kWidth / kRows;
  int64_t b = 0;
  if constexpr (kRows == 4 && kBatch > 1)
    for (; b + kBatch <= batch; b += kBatch) dot_tile<From, kRows>(w, ld, K, x + b * K, bias, out + b * ldo, ldo);
  for (; b < batch; ++b) dot_block<From, kRows>(w, ld, K, x + b * K, bias, out + b * ldo);
}

// Rows [begin, end) of w, for all of the `batch` rows of x.
template <class T>
void dot_rows(const T* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const T* x, int64_t batch, const T* bias,
              T* out, int64_t ldo) {
  using From = AsTheyAre<T>;
  if (batch == 1) return dot_one<From>(w, ld, begin, end, K, x, bias, out);
  int64_t r = begin;
  for (; r + 4 <= end; r += 4) dot_batch<From, 4>(w + r * ld, ld, K, x, batch, bias ? bias + r : nullptr, out + r, ldo);
  for (; r < end; ++r) dot_batch<From, 1>(w + r * ld, ld, K, x, batch, bias ? bias + r : nullptr, out + r, ldo);
}

#if defined(SEQ_ADD_PAIRS)
// The same of pairs. x: numbers that are bfloat16, copied to scratch as such.
inline void dot_pair_rows(const uint16_t* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const float* x,
                          int64_t batch, const float* bias, float* out, int64_t ldo, float* room) {
  auto* scratch = reinterpret_cast<uint16_t*>(room);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t k = 0; k < K; k += Lanes<float>::kWidth)
      AsHalf<Rounding::kBfloat16>::store(Lanes<float>::load(x + b * K + k, K - k), scratch + b * K + k, K - k);
  if (batch == 1) return dot_one<AsPairs>(w, ld, begin, end, K, scratch, bias, out);
  int64_t r = begin;
  for (; r + 4 <= end; r += 4)
    dot_batch<AsPairs, 4>(w + r * ld, ld, K, scratch, batch, bias ? bias + r : nullptr, out + r, ldo);
  for (; r < end; ++r)
    dot_batch<AsPairs, 1>(w + r * ld, ld, K, scratch, batch, bias ? bias + r : nullptr, out + r, ldo);
}
#endif

// The same with weights of float16.
inline void dot_float16_rows(const uint16_t* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const float* x,
                             int64_t batch, const float* bias, float* out, int64_t ldo, float* scratch) {
  using From = AsHalf<Rounding::kFloat16>;
  constexpr int64_t kBatchThatPaysForScratch = 3;
  if (batch == 1) return dot_one<From>(w, ld, begin, end, K, x, bias, out);
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

// Columns [begin, end) of kBatch rows of out, to which kRows rows of w are added.
template <class From, int kBatch, int kRows, class T>
SEQ_INLINE void add_block(const typename From::W* w, int64_t ld, int64_t rows, int64_t begin, int64_t end, const T* d,
                          T* out, int64_t ldo) {
  using L = Lanes<T>;
  L scale[kBatch][kRows];
#pragma GCC unroll 4
  for (int b = 0; b < kBatch; ++b)
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) scale[b][r] = L(d[b * rows + r]);
  for (int64_t k = begin; k < end; k += L::kWidth) {
    const int64_t n = end - k;
    L weight[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) weight[r] = From::load(w + r * ld + k, n);
#pragma GCC unroll 4
    for (int b = 0; b < kBatch; ++b) {
      L sum = L::load(out + b * ldo + k, n);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sum = sum + scale[b][r] * weight[r];
      sum.store(out + b * ldo + k, n);
    }
  }
}

template <class From, int kRows, class T>
SEQ_INLINE void add_batch(const typename From::W* w, int64_t ld, int64_t rows, int64_t begin, int64_t end, const T* d,
                          int64_t batch, T* out, int64_t ldo) {
  constexpr int kBatch = SEQ_LANE_BYTES == 64 ? 4 : 2;
  int64_t b = 0;
  for (; b + kBatch <= batch; b += kBatch)
    add_block<From, kBatch, kRows>(w, ld, rows, begin, end, d + b * rows, out + b * ldo, ldo);
  for (; b < batch; ++b) add_block<From, 1, kRows>(w, ld, rows, begin, end, d + b * rows, out + b * ldo, ldo);
}

// Columns [begin, end) of out, which starts from zero unless `add`.
template <class From, class T>
void add_rows(const typename From::W* w, int64_t ld, int64_t rows, int64_t begin, int64_t end, const T* d,
              int64_t batch, bool add, T* out, int64_t ldo) {
  for (int64_t b = 0; b < batch && !add; ++b) __builtin_memset(out + b * ldo + begin, 0, sizeof(T) * (end - begin));
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) add_batch<From, 4>(w + r * ld, ld, rows, begin, end, d + r, batch, out, ldo);
  for (; r < rows; ++r) add_batch<From, 1>(w + r * ld, ld, rows, begin, end, d + r, batch, out, ldo);
}

// kRows rows of out.
template <class To, int kRows, class T>
SEQ_INLINE void outer_block(const T* d, int64_t rows, const T* x, int64_t batch, int64_t K, typename To::W* out) {
  using L = Lanes<T>;
  constexpr int kVectors = SEQ_LANE_BYTES == 64 ? 4 : 2, kWidth = L::kWidth;
  for (int64_t k = 0; k < K; k += kVectors * kWidth) {
    L sum[kRows][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[r][j] = L(T(0));
    for (int64_t b = 0; b < batch; ++b) {
      L value[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) value[j] = L::load(x + b * K + k + j * kWidth, K - k - j * kWidth);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const L scale(d[b * rows + r]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sum[r][j] = sum[r][j] + scale * value[j];
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) To::store(sum[r][j], out + r * K + k + j * kWidth, K - k - j * kWidth);
  }
}

// Rows [begin, end) of out [.., K]; d [batch, rows].
template <class To, class T>
void outer_rows(const T* d, int64_t rows, int64_t begin, int64_t end, const T* x, int64_t batch, int64_t K,
                typename To::W* out) {
  int64_t r = begin;
  // What one row of the batch costs is the writing of out, which is fastest in order.
  for (; batch > 1 && r + 4 <= end; r += 4) outer_block<To, 4>(d + r, rows, x, batch, K, out + r * K);
  for (; r < end; ++r) outer_block<To, 1>(d + r, rows, x, batch, K, out + r * K);
}

}  // namespace seq::SEQ_ISA
