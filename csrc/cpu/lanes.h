// A SIMD lane type over the compiler's vector extension, and the activations on it.
// Included by each kernels_<isa>.cpp after its target pragma, so everything here lives in that build's namespace:
// no function of one instruction set can be linked into another.
//
// exp:  x = n ln2 + r, |r| <= ln2/2; e^r - 1 by a polynomial, of least relative error 3e-9 (float) or Taylor's, cut
// where the rest is below a quarter ulp (double); 2^n by adding n to the exponent. sigmoid and tanh from it, tanh near
// 0 by a polynomial (float) or from e^x - 1 (double).
#pragma once

namespace seq::SEQ_ISA {

#define SEQ_INLINE inline __attribute__((always_inline))

template <class T>
struct LaneTypes;
template <>
struct LaneTypes<float> {
  typedef float Value __attribute__((vector_size(SEQ_LANE_BYTES)));
  typedef int32_t Bits __attribute__((vector_size(SEQ_LANE_BYTES)));
};
template <>
struct LaneTypes<double> {
  typedef double Value __attribute__((vector_size(SEQ_LANE_BYTES)));
  typedef int64_t Bits __attribute__((vector_size(SEQ_LANE_BYTES)));
};

// What `load` makes of the kCount numbers from p on, of which the first n are there; zeros stand for the rest.
template <int kCount, class S, class Load>
SEQ_INLINE auto load_first(const S* p, int64_t n, const Load& load) {
  if (n >= kCount) return load(p);
  S part[kCount] = {};
  for (int64_t j = 0; j < n; ++j) part[j] = p[j];
  return load(part);
}
// The first n of the kCount numbers that `store` writes.
template <int kCount, class S, class Store>
SEQ_INLINE void store_first(S* p, int64_t n, const Store& store) {
  if (n >= kCount) return store(p);
  S part[kCount];
  store(part);
  for (int64_t j = 0; j < n; ++j) p[j] = part[j];
}

template <class T>
struct Lanes {
  using Scalar = T;
  using Value = typename LaneTypes<T>::Value;
  using Bits = typename LaneTypes<T>::Bits;
  static constexpr int kWidth = SEQ_LANE_BYTES / sizeof(T);

  Value v;

  Lanes() = default;
  SEQ_INLINE Lanes(Value value) : v(value) {}
  // x - 0 is x, -0 included; compilers make one broadcast of it, and element inserts of a loop.
  SEQ_INLINE explicit Lanes(T x) : v(x - Value{}) {}

  SEQ_INLINE static Lanes load(const T* p) {
    Lanes out;
    __builtin_memcpy(&out.v, p, sizeof(Value));
    return out;
  }
  SEQ_INLINE void store(T* p) const { __builtin_memcpy(p, &v, sizeof(Value)); }
  // Past the caches, where the instruction set can; p is a multiple of a vector's bytes. end_of_streams() follows.
  SEQ_INLINE void stream(T* p) const {
#if defined(SEQ_STREAM)
    SEQ_STREAM(p, v);
#else
    store(p);
#endif
  }
  // What is at p in each lane, whatever its bits stand for.
  SEQ_INLINE static Lanes bits(const T* p) {
    decltype(Bits{}[0] + 0) once;
    __builtin_memcpy(&once, p, sizeof(once));
    const Bits all = once - Bits{};
    Lanes out;
    __builtin_memcpy(&out.v, &all, sizeof(Value));
    return out;
  }

  // The first n lanes; the rest are 0.
  SEQ_INLINE static Lanes load(const T* p, int64_t n) {
    return load_first<kWidth>(p, n, [](const T* from) __attribute__((always_inline)) { return load(from); });
  }
  SEQ_INLINE void store(T* p, int64_t n) const {
    store_first<kWidth>(p, n, [value = *this](T* to) __attribute__((always_inline)) { value.store(to); });
  }

  friend SEQ_INLINE Lanes operator+(Lanes a, Lanes b) { return a.v + b.v; }
  friend SEQ_INLINE Lanes operator-(Lanes a, Lanes b) { return a.v - b.v; }
  friend SEQ_INLINE Lanes operator*(Lanes a, Lanes b) { return a.v * b.v; }
  friend SEQ_INLINE Lanes operator/(Lanes a, Lanes b) { return a.v / b.v; }
};

// Other threads see what was streamed before what is stored after this.
SEQ_INLINE void end_of_streams() {
#if defined(SEQ_STREAM)
  _mm_sfence();
#endif
}

// The smaller and the larger of x and a bound; NaN stays NaN.
template <class T>
SEQ_INLINE Lanes<T> at_most(Lanes<T> x, T bound) {
  const Lanes<T> b(bound);
#if defined(SEQ_MIN)
  if constexpr (sizeof(T) == 4) return typename Lanes<T>::Value(SEQ_MIN(b.v, x.v));
#endif
  return b.v < x.v ? b.v : x.v;
}
template <class T>
SEQ_INLINE Lanes<T> at_least(Lanes<T> x, T bound) {
  const Lanes<T> b(bound);
#if defined(SEQ_MAX)
  if constexpr (sizeof(T) == 4) return typename Lanes<T>::Value(SEQ_MAX(b.v, x.v));
#endif
  return b.v > x.v ? b.v : x.v;
}

// x limited to [-bound, bound].
template <class T>
SEQ_INLINE Lanes<T> clamp(Lanes<T> x, T bound) {
  return at_least(at_most(x, bound), -bound);
}

// e^x = scale * (1 + rest), for |x| up to 87 (float) or 700 (double).
template <class T>
struct Exp {
  Lanes<T> scale, rest;
};

SEQ_INLINE Lanes<float> expm1_series(Lanes<float> r) {
  using L = Lanes<float>;
  L p = L(0.001381455804f) * r + L(0.008368708193f);
  p = p * r + L(0.04166838899f);
  p = p * r + L(0.1666652113f);
  p = p * r + L(0.4999999404f);
  return p * (r * r) + r;
}

SEQ_INLINE Lanes<double> expm1_series(Lanes<double> r) {
  using L = Lanes<double>;
  L p = L(1. / 6227020800) * r + L(1. / 479001600);
  p = p * r + L(1. / 39916800);
  p = p * r + L(1. / 3628800);
  p = p * r + L(1. / 362880);
  p = p * r + L(1. / 40320);
  p = p * r + L(1. / 5040);
  p = p * r + L(1. / 720);
  p = p * r + L(1. / 120);
  p = p * r + L(1. / 24);
  p = p * r + L(1. / 6);
  p = p * r + L(0.5);
  return p * (r * r) + r;
}

template <class T>
SEQ_INLINE Exp<T> exp_parts(Lanes<T> x) {
  using L = Lanes<T>;
  using Bits = typename L::Bits;
  constexpr bool kFloat = sizeof(T) == 4;
  // Adding 1.5 * 2^(mantissa bits) leaves the rounded integer in the low bits of the mantissa.
  const L magic(kFloat ? T(12582912.0) : T(6755399441055744.0));
  const L ln2_high(kFloat ? T(0.693359375) : T(6.93145751953125e-1));
  const L ln2_low(kFloat ? T(-2.12194440054690583e-4) : T(1.42860682030941723212e-6));
  const L z = x * L(T(1.44269504088896340736)) + magic;
  const L n = z - magic;
  const L r = (x - n * ln2_high) - n * ln2_low;
  Bits bits, one;
  const L unit(T(1));
  __builtin_memcpy(&bits, &z.v, sizeof(bits));
  __builtin_memcpy(&one, &unit.v, sizeof(one));
  bits = (bits << (kFloat ? 23 : 52)) + one;
  L scale;
  __builtin_memcpy(&scale.v, &bits, sizeof(bits));
  return {scale, expm1_series(r)};
}

template <class T>
SEQ_INLINE Lanes<T> sigmoid(Lanes<T> x) {
  const Lanes<T> one(T(1));
  const Exp<T> e = exp_parts(clamp(Lanes<T>(T(0)) - x, sizeof(T) == 4 ? T(87) : T(700)));
  return one / (e.scale * e.rest + e.scale + one);
}

// tanh of 0 <= a < 0.6, to a relative error of 3e-9 before rounding.
SEQ_INLINE Lanes<float> tanh_near_zero(Lanes<float> a) {
  using L = Lanes<float>;
  const L z = a * a;
  L p = L(-0.005905957f) * z + L(0.020805452f);
  p = p * z + L(-0.053786702f);
  p = p * z + L(0.13331959f);
  p = p * z + L(-0.333333f);
  return p * z * a + a;
}

// Far from 0 as 1 - 2 / (e^(2|x|) + 1), whose rounding stays small beside 1 - tanh^2. NaN stays NaN.
template <class T>
SEQ_INLINE Lanes<T> tanh_(Lanes<T> x) {
  using L = Lanes<T>;
  using Bits = typename L::Bits;
  const L one(T(1)), two(T(2)), minus_zero(T(-0.0));
  Bits bits, sign;
  __builtin_memcpy(&bits, &x.v, sizeof(bits));
  __builtin_memcpy(&sign, &minus_zero.v, sizeof(sign));
  const Bits magnitude = bits & ~sign;
  L a;
  __builtin_memcpy(&a.v, &magnitude, sizeof(bits));
  a = at_most(a, sizeof(T) == 4 ? T(10) : T(20));
  const Exp<T> e = exp_parts(a + a);
  const auto near = a.v < L(T(0.55)).v;
  L size;
  if constexpr (sizeof(T) == 4) {
    const L far = one - two / (e.scale * e.rest + (e.scale + one));
    size = near ? tanh_near_zero(a).v : far.v;
  } else {
    const L expm1 = e.scale * e.rest + (e.scale - one);
    const L quotient = L(near ? expm1.v : two.v) / (expm1 + two);
    size = near ? quotient.v : (one - quotient).v;
  }
  Bits out;
  __builtin_memcpy(&out, &size.v, sizeof(out));
  out |= bits & sign;
  L result;
  __builtin_memcpy(&result.v, &out, sizeof(out));
  return result;
}

// max(x, 0); NaN stays NaN, as torch.relu has it.
template <class T>
SEQ_INLINE Lanes<T> relu(Lanes<T> x) {
  const typename Lanes<T>::Value zero = Lanes<T>(T(0)).v;
  return x.v <= zero ? zero : x.v;
}

// x where `by` > 0, else 0.
template <class T>
SEQ_INLINE Lanes<T> where_positive(Lanes<T> by, Lanes<T> x) {
  const typename Lanes<T>::Value zero = Lanes<T>(T(0)).v;
  return by.v > zero ? x.v : zero;
}

// x where `by` > 0, else y.
template <class T>
SEQ_INLINE Lanes<T> where_positive(Lanes<T> by, Lanes<T> x, Lanes<T> y) {
  return by.v > Lanes<T>(T(0)).v ? x.v : y.v;
}

template <class T>
SEQ_INLINE Lanes<T> exp_(Lanes<T> x) {
  const Exp<T> e = exp_parts(clamp(x, sizeof(T) == 4 ? T(87) : T(700)));
  return e.scale * e.rest + e.scale;
}

// log(sigmoid(x)) = min(x, 0) - log(1 + e^-|x|), the logarithm as 2 atanh(y / (2 + y)), whose series has 1 / 9 and less
// for the ratio of its terms.
template <class T>
SEQ_INLINE Lanes<T> log_sigmoid(Lanes<T> x) {
  using L = Lanes<T>;
  constexpr int kTerms = sizeof(T) == 4 ? 8 : 17;
  const L low = where_positive(x, L(T(0)), x), y = exp_(low - relu(x)), s = y / (y + L(T(2))), square = s * s;
  L series(T(1) / (2 * kTerms - 1));
#pragma GCC unroll 17
  for (int j = kTerms - 1; j > 0; --j) series = series * square + L(T(1) / (2 * j - 1));
  return low - (s + s) * series;
}

// Bits whose upper half is the nearest bfloat16, ties to even; infinities and NaN stay such.
SEQ_INLINE Lanes<float>::Bits bfloat16_above(Lanes<float> x) {
  Lanes<float>::Bits bits;
  __builtin_memcpy(&bits, &x.v, sizeof(bits));
  const Lanes<float>::Bits near = bits + 0x7FFF + ((bits >> 16) & 1);
  return x.v != x.v ? bits | 0x400000 : near;
}

// x rounded to it.
SEQ_INLINE Lanes<float> to_bfloat16(Lanes<float> x) {
  const Lanes<float>::Bits bits = bfloat16_above(x) & static_cast<int32_t>(0xFFFF0000u);
  Lanes<float> out;
  __builtin_memcpy(&out.v, &bits, sizeof(bits));
  return out;
}

// x rounded to the nearest float16. Normal numbers: round away 13 bits of the mantissa. Below 2^-14 the spacing is
// 2^-24: adding and taking away 0.5 * 2^0 (whose ulp is 2^-24) rounds there.
SEQ_INLINE Lanes<float> to_float16(Lanes<float> x) {
  using Bits = Lanes<float>::Bits;
  Bits bits;
  __builtin_memcpy(&bits, &x.v, sizeof(bits));
  const Bits sign = bits & static_cast<int32_t>(0x80000000u), magnitude = bits & 0x7FFFFFFF;
  Bits normal = (magnitude + 0xFFF + ((magnitude >> 13) & 1)) & ~0x1FFF;
  const Bits infinity = (magnitude & 0) + 0x7F800000;
  normal = normal > 0x477FE000 ? infinity : normal;  // above 65504
  Lanes<float> size;
  __builtin_memcpy(&size.v, &magnitude, sizeof(bits));
  const Lanes<float> half(0.5f);
  const Lanes<float> small = (size + half) - half;
  Bits small_bits;
  __builtin_memcpy(&small_bits, &small.v, sizeof(bits));
  Bits out = magnitude < 0x38800000 ? small_bits : normal;
  out = magnitude > 0x7F800000 ? magnitude : out;  // NaN
  out |= sign;
  Lanes<float> result;
  __builtin_memcpy(&result.v, &out, sizeof(out));
  return result;
}

// kWidth numbers of a half type, exactly.
template <Rounding kType>
SEQ_INLINE Lanes<float> from_half(const uint16_t* p) {
#if defined(SEQ_LOAD_FLOAT16)
  if constexpr (kType == Rounding::kFloat16) return typename Lanes<float>::Value(SEQ_LOAD_FLOAT16(p));
#endif
  using Bits = Lanes<float>::Bits;
  typedef uint16_t Halves __attribute__((vector_size(SEQ_LANE_BYTES / 2)));
  Halves halves;
  __builtin_memcpy(&halves, p, sizeof(halves));
  Bits bits = __builtin_convertvector(halves, Bits);
  if constexpr (kType == Rounding::kBfloat16) {
    bits <<= 16;
  } else {
    // The exponent's bias is 112 less: a product, which is exact for the numbers below 2^-14 too.
    const Bits magnitude = (bits & 0x7FFF) << 13, sign = (bits & 0x8000) << 16;
    Lanes<float> scaled, scale;
    __builtin_memcpy(&scaled.v, &magnitude, sizeof(bits));
    scale = Lanes<float>(0x1p112f);
    scaled = scaled * scale;
    Bits number;
    __builtin_memcpy(&number, &scaled.v, sizeof(bits));
    const Bits special = magnitude | 0x7F800000;  // infinities and NaN
    bits = ((magnitude >= 0x0F800000) ? special : number) | sign;
  }
  Lanes<float> out;
  __builtin_memcpy(&out.v, &bits, sizeof(bits));
  return out;
}

// kWidth numbers, rounded to the nearest of a half type.
template <Rounding kType>
SEQ_INLINE void to_half(Lanes<float> x, uint16_t* p) {
#if defined(SEQ_STORE_FLOAT16)
  if constexpr (kType == Rounding::kFloat16) {
    SEQ_STORE_FLOAT16(p, x.v);
    return;
  }
#endif
  using Bits = Lanes<float>::Bits;
  typedef uint16_t Halves __attribute__((vector_size(SEQ_LANE_BYTES / 2)));
  Bits bits;
  if constexpr (kType == Rounding::kBfloat16) {
    bits = bfloat16_above(x) >> 16;
  } else {
    const Lanes<float> near = to_float16(x);
    __builtin_memcpy(&bits, &near.v, sizeof(bits));
    const Bits magnitude = bits & 0x7FFFFFFF, is_nan = magnitude > 0x7F800000;
    Lanes<float> size;
    __builtin_memcpy(&size.v, &magnitude, sizeof(bits));
    const Lanes<float> steps = size * Lanes<float>(0x1p24f);  // of the numbers below 2^-14
    const Bits number =
        magnitude < 0x38800000 ? __builtin_convertvector(steps.v, Bits) : (magnitude >> 13) - (112 << 10);
    bits = ((bits >> 16) & 0x8000) | (magnitude < 0x7F800000 ? number : 0x7C00 | (is_nan & 0x200));
  }
  const Halves halves = __builtin_convertvector(bits, Halves);
  __builtin_memcpy(p, &halves, sizeof(halves));
}

// Whether there are products of pairs of bfloat16 (product.h).
template <class T>
constexpr bool kHasPairs = false;
#if defined(SEQ_ADD_PAIRS)
template <>
constexpr bool kHasPairs<float> = true;
SEQ_INLINE void store_bfloat16(Lanes<float> x, uint16_t* p) { SEQ_STORE_BFLOAT16(p, x.v); }
#endif

// kWidth pairs of the numbers at a and at b, of the first n; b null: and zeros.
SEQ_INLINE Lanes<float> interleaved(const uint16_t* a, const uint16_t* b, int64_t n) {
  using Bits = Lanes<float>::Bits;
  typedef uint16_t Halves __attribute__((vector_size(SEQ_LANE_BYTES / 2)));
  Halves low = {}, high = {};
  const int64_t bytes = (n < Lanes<float>::kWidth ? n : Lanes<float>::kWidth) * 2;
  if (bytes == sizeof(Halves)) {
    __builtin_memcpy(&low, a, sizeof(Halves));
    if (b) __builtin_memcpy(&high, b, sizeof(Halves));
  } else {
    __builtin_memcpy(&low, a, bytes);
    if (b) __builtin_memcpy(&high, b, bytes);
  }
  const Bits pairs = __builtin_convertvector(low, Bits) | (__builtin_convertvector(high, Bits) << 16);
  Lanes<float> out;
  __builtin_memcpy(&out.v, &pairs, sizeof(pairs));
  return out;
}

SEQ_INLINE Lanes<float> rounded(Lanes<float> x, Rounding to) {
  if (to == Rounding::kNone) return x;
  return to == Rounding::kBfloat16 ? to_bfloat16(x) : to_float16(x);
}
SEQ_INLINE Lanes<double> rounded(Lanes<double> x, Rounding) { return x; }

}  // namespace seq::SEQ_ISA
