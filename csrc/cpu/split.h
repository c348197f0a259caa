// The products of dot.h with weights of bfloat16 as they lie, two to a lane. The even one is the lower half of the
// lane, the odd one the upper half, and each is a float where the other half is zeros: a shift and a mask make floats
// of a vector of weights. They come in split order, of every 2 kWidth numbers first the even and then the odd ones, in
// which their partners and the sums are kept meanwhile. Gradients are stored the other way round.
#pragma once

namespace seq::SEQ_ISA {

struct Split {
  using L = Lanes<float>;
  static constexpr int kNumbers = 2 * L::kWidth;
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

  L even, odd;

  static SEQ_INLINE Split load(const float* in_order) { return {L::load(in_order), L::load(in_order + L::kWidth)}; }
  SEQ_INLINE void store(float* in_order) const { even.store(in_order), odd.store(in_order + L::kWidth); }

  static SEQ_INLINE Split load(const uint16_t* p) {
    L::Bits pairs;
    __builtin_memcpy(&pairs, p, sizeof(pairs));
    const L::Bits low = pairs << 16, high = pairs & static_cast<int32_t>(0xFFFF0000u);
    Split out;
    __builtin_memcpy(&out.even.v, &low, sizeof(low));
    __builtin_memcpy(&out.odd.v, &high, sizeof(high));
    return out;
  }
  // The first n numbers; the rest are 0.
  static SEQ_INLINE Split load(const uint16_t* p, int64_t n) {
    return load_first<kNumbers>(p, n, [](const uint16_t* from) __attribute__((always_inline)) { return load(from); });
  }

  // Rounded as to_half does.
  SEQ_INLINE void store(uint16_t* p, int64_t n) const {
    typedef uint32_t Unsigned __attribute__((vector_size(SEQ_LANE_BYTES)));
    const Unsigned low = (Unsigned)bfloat16_above(even) >> 16, high = (Unsigned)bfloat16_above(odd) & 0xFFFF0000u;
    const Unsigned pairs = low | high;
    store_first<kNumbers>(
        p, n, [&](uint16_t* to) __attribute__((always_inline)) { __builtin_memcpy(to, &pairs, sizeof(pairs)); });
  }

  SEQ_INLINE Split plus(L scale, Split w) const { return {even + scale * w.even, odd + scale * w.odd}; }
};

constexpr int64_t whole_vectors(int64_t n) { return (n + Split::kNumbers - 1) / Split::kNumbers * Split::kNumbers; }

// n numbers into split order, with zeros up to whole vectors, and whole vectors of them back.
inline void to_split_order(const float* x, int64_t n, float* out) {
  for (int64_t k = 0; k < n; k += Split::kNumbers) {
    float part[Split::kNumbers] = {};
    const int64_t count = n - k < Split::kNumbers ? n - k : Split::kNumbers;
    __builtin_memcpy(part, x + k, count * sizeof(float));
    for (int j = 0; j < Split::L::kWidth; ++j)
      out[k + j] = part[2 * j], out[k + Split::L::kWidth + j] = part[2 * j + 1];
  }
}
inline void from_split_order(float* x, int64_t n) {
  for (int64_t k = 0; k < n; k += Split::kNumbers) {
    float part[Split::kNumbers];
    __builtin_memcpy(part, x + k, sizeof(part));
    for (int j = 0; j < Split::L::kWidth; ++j) x[k + 2 * j] = part[j], x[k + 2 * j + 1] = part[Split::L::kWidth + j];
  }
}

struct AsSplit {
  using W = uint16_t;
  using X = float;
  static constexpr int kNumbers = Split::kNumbers;
  static SEQ_INLINE Split load(const uint16_t* p) { return Split::load(p); }
  static SEQ_INLINE Split load(const uint16_t* p, int64_t n) { return Split::load(p, n); }
  static SEQ_INLINE Split load_x(const float* p, int64_t) { return Split::load(p); }
  static SEQ_INLINE Lanes<float> add_product(Lanes<float> sum, Split x, Split w) {
    return sum + x.even * w.even + x.odd * w.odd;
  }
};

// As dot_rows. Where there are several rows of x, four rows of w become floats in L1, once for all of them.
inline void dot_bfloat16_rows(const uint16_t* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const float* x,
                              int64_t batch, const float* bias, float* out, int64_t ldo, float* scratch) {
  const int64_t stride = whole_vectors(K);
  for (int64_t b = 0; b < batch; ++b) to_split_order(x + b * K, K, scratch + b * stride);
  if (batch == 1) return dot_one<AsSplit>(w, ld, begin, end, K, scratch, bias, out);
  float* rows = scratch + batch * stride;
  const auto widen = [&](int64_t r, int64_t count) {
    for (int64_t j = 0; j < count; ++j)
      for (int64_t k = 0; k < stride; k += Split::kNumbers)
        Split::load(w + (r + j) * ld + k, K - k).store(rows + j * stride + k);
  };
  int64_t r = begin;
  for (; r + 4 <= end; r += 4) {
    widen(r, 4);
    dot_batch<AsTheyAre<float>, 4>(rows, stride, stride, scratch, batch, bias ? bias + r : nullptr, out + r, ldo);
  }
  for (; r < end; ++r) {
    widen(r, 1);
    dot_batch<AsTheyAre<float>, 1>(rows, stride, stride, scratch, batch, bias ? bias + r : nullptr, out + r, ldo);
  }
}

// The first `columns`, whole vectors, of kBatch rows of out, in split order, to which kRows rows of w are added.
template <int kBatch, int kRows>
SEQ_INLINE void add_split_block(const uint16_t* w, int64_t ld, int64_t rows, int64_t columns, const float* d,
                                float* out, int64_t ldo) {
  Lanes<float> scale[kBatch][kRows];
#pragma GCC unroll 4
  for (int b = 0; b < kBatch; ++b)
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) scale[b][r] = Lanes<float>(d[b * rows + r]);
  for (int64_t k = 0; k < columns; k += Split::kNumbers) {
    Split sum[kBatch];
#pragma GCC unroll 4
    for (int b = 0; b < kBatch; ++b) sum[b] = Split::load(out + b * ldo + k);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Split weight = Split::load(w + r * ld + k);
#pragma GCC unroll 4
      for (int b = 0; b < kBatch; ++b) sum[b] = sum[b].plus(scale[b][r], weight);
    }
#pragma GCC unroll 4
    for (int b = 0; b < kBatch; ++b) sum[b].store(out + b * ldo + k);
  }
}

template <int kRows>
SEQ_INLINE void add_split_batch(const uint16_t* w, int64_t ld, int64_t rows, int64_t columns, const float* d,
                                int64_t batch, float* out, int64_t ldo) {
  constexpr int kBatch = SEQ_LANE_BYTES == 64 ? 4 : 2;
  int64_t b = 0;
  for (; b + kBatch <= batch; b += kBatch)
    add_split_block<kBatch, kRows>(w, ld, rows, columns, d + b * rows, out + b * ldo, ldo);
  for (; b < batch; ++b) add_split_block<1, kRows>(w, ld, rows, columns, d + b * rows, out + b * ldo, ldo);
}

// As add_rows.
inline void add_bfloat16_rows(const uint16_t* w, int64_t ld, int64_t rows, int64_t begin, int64_t end, const float* d,
                              int64_t batch, bool add, float* out, int64_t ldo) {
  const int64_t columns = (end - begin) / Split::kNumbers * Split::kNumbers, rest = begin + columns;
  for (int64_t b = 0; b < batch; ++b) {
    float* own = out + b * ldo + begin;
    if (!add)
      __builtin_memset(own, 0, sizeof(float) * columns);
    else
      to_split_order(own, columns, own);
  }
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4)
    add_split_batch<4>(w + r * ld + begin, ld, rows, columns, d + r, batch, out + begin, ldo);
  for (; r < rows; ++r) add_split_batch<1>(w + r * ld + begin, ld, rows, columns, d + r, batch, out + begin, ldo);
  for (int64_t b = 0; b < batch; ++b) from_split_order(out + b * ldo + begin, columns);
  if (rest < end) add_rows<AsHalf<Rounding::kBfloat16>>(w, ld, rows, rest, end, d, batch, add, out, ldo);
}

// As outer_rows; x in split order.
template <int kRows>
SEQ_INLINE void outer_split_block(const float* d, int64_t rows, const float* x, int64_t stride, int64_t batch,
                                  int64_t K, uint16_t* out) {
  for (int64_t k = 0; k < K; k += Split::kNumbers) {
    Split sum[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) sum[r] = {Lanes<float>(0.0f), Lanes<float>(0.0f)};
    for (int64_t b = 0; b < batch; ++b) {
      const Split value = Split::load(x + b * stride + k);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sum[r] = sum[r].plus(Lanes<float>(d[b * rows + r]), value);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) sum[r].store(out + r * K + k, K - k);
  }
}

inline void outer_bfloat16_rows(const float* d, int64_t rows, int64_t begin, int64_t end, const float* x, int64_t batch,
                                int64_t K, uint16_t* out, float* scratch) {
  const int64_t stride = whole_vectors(K);
  for (int64_t b = 0; b < batch; ++b) to_split_order(x + b * K, K, scratch + b * stride);
  int64_t r = begin;
  for (; batch > 1 && r + 4 <= end; r += 4) outer_split_block<4>(d + r, rows, scratch, stride, batch, K, out + r * K);
  for (; r < end; ++r) outer_split_block<1>(d + r, rows, scratch, stride, batch, K, out + r * K);
}

}  // namespace seq::SEQ_ISA
