// The product of a few rows with weights as they lie: out[b][r] = x[b] . w[r] + bias[r].
//
// For one step there is no time to pack: every weight is read once, in order, four rows of W at a time, each with two
// accumulators along K. What it costs is reading W.
#pragma once

namespace seq::SEQ_ISA {

template <class T>
SEQ_INLINE T sum_of(Lanes<T> v) {
  T parts[Lanes<T>::kWidth];
  v.store(parts);
  T sum = T(0);
  for (T part : parts) sum += part;
  return sum;
}

template <class T, int kRows>
SEQ_INLINE void dot_block(const T* w, int64_t ld, int64_t K, const T* x, const T* bias, T* out) {
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
      even[r] = even[r] + x0 * L::load(w + r * ld + k);
      odd[r] = odd[r] + x1 * L::load(w + r * ld + k + kWidth);
    }
  }
  for (; k < K; k += kWidth) {
    const L x0 = L::load(x + k, K - k);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) even[r] = even[r] + x0 * L::load(w + r * ld + k, K - k);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) out[r] = sum_of(even[r] + odd[r]) + (bias ? bias[r] : T(0));
}

// Rows [begin, end) of w, for all of the `batch` rows of x.
template <class T>
void dot_rows(const T* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const T* x, int64_t batch, const T* bias,
              T* out, int64_t ldo) {
  for (int64_t b = 0; b < batch; ++b) {
    int64_t r = begin;
    for (; r + 4 <= end; r += 4)
      dot_block<T, 4>(w + r * ld, ld, K, x + b * K, bias ? bias + r : nullptr, out + b * ldo + r);
    for (; r < end; ++r) dot_block<T, 1>(w + r * ld, ld, K, x + b * K, bias ? bias + r : nullptr, out + b * ldo + r);
  }
}

}  // namespace seq::SEQ_ISA
