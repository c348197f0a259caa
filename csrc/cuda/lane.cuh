// The lane type that the cells are computed with on a GPU: one number, in the type of computation of the data's type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "cells/calculus.h"
#include "cuda/device.cuh"
#include "cuda/stepwise.h"

namespace seq::cuda {

// Right to 2^-20 or so, and without branches, so that several are computed side by side.
constexpr float kLog2OfE = 1.44269504f;
__device__ __forceinline__ float fast_sigmoid(float v) { return fast_inverse(1.f + fast_exp2(-kLog2OfE * v)); }
// A small number keeps its relative accuracy, by the series.
__device__ __forceinline__ float fast_tanh(float v) {
  const float square = v * v, series = -1.f / 3 + square * (2.f / 15 - square * (17.f / 315));
  return select(fabsf(v) < 0.25f, v + v * square * series,
                1.f - 2.f * fast_inverse(1.f + fast_exp2(2.f * kLog2OfE * v)));
}

// kFast: for data whose own rounding hides that of the fast functions.
template <class T, bool kFast = false>
struct Lane {
  T v;

  Lane() = default;
  SEQ_HD explicit Lane(T value) : v(value) {}

  friend SEQ_HD Lane operator+(Lane a, Lane b) { return Lane(a.v + b.v); }
  friend SEQ_HD Lane operator-(Lane a, Lane b) { return Lane(a.v - b.v); }
  friend SEQ_HD Lane operator*(Lane a, Lane b) { return Lane(a.v * b.v); }
  friend SEQ_HD Lane operator/(Lane a, Lane b) { return Lane(a.v / b.v); }
  friend SEQ_HD Lane sigmoid(Lane a) {
    if constexpr (kFast) return Lane(fast_sigmoid(a.v));
    return Lane(T(1) / (T(1) + std::exp(-a.v)));
  }
  friend SEQ_HD Lane tanh_(Lane a) {
    if constexpr (kFast) return Lane(fast_tanh(a.v));
    return Lane(std::tanh(a.v));
  }
  friend SEQ_HD Lane relu(Lane a) { return Lane(a.v < T(0) ? T(0) : a.v); }  // keeps NaN
  friend SEQ_HD Lane where_positive(Lane a, Lane b) { return Lane(a.v > T(0) ? b.v : T(0)); }
  friend SEQ_HD Lane where_positive(Lane a, Lane b, Lane c) { return a.v > T(0) ? b : c; }
  friend SEQ_HD Lane exp_(Lane a) { return Lane(std::exp(a.v)); }
  friend SEQ_HD Lane log_sigmoid(Lane a) {
    return Lane((a.v < T(0) ? a.v : T(0)) - std::log1p(std::exp(a.v < T(0) ? a.v : -a.v)));
  }
};

// S, and the type of computation for data of type S.
template <Type kType>
using Data = std::tuple_element_t<static_cast<int>(kType), std::tuple<float, double, __nv_bfloat16, __half>>;
template <class S>
using Compute = std::conditional_t<std::is_same_v<S, double>, double, float>;

__device__ inline float widen(float v) { return v; }
__device__ inline double widen(double v) { return v; }
__device__ inline float widen(__half v) { return __half2float(v); }
__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

// Rounds to nearest even.
template <class S>
__device__ inline S narrow(Compute<S> v) {
  return v;
}
template <>
__device__ inline __half narrow<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

template <class S>
__device__ inline Lane<Compute<S>> load(const void* from, int64_t i) {
  return Lane<Compute<S>>(widen(static_cast<const S*>(from)[i]));
}
// What a number is after it has been stored as S.
template <class S>
__device__ inline Lane<Compute<S>> stored(Lane<Compute<S>> lane) {
  return Lane<Compute<S>>(widen(narrow<S>(lane.v)));
}
template <class S>
__device__ inline Lane<Compute<S>> load_or_zero(const void* from, int64_t i) {
  return from ? load<S>(from, i) : Lane<Compute<S>>(0);
}
template <class S, bool kFast>
__device__ inline void store(void* to, int64_t i, Lane<Compute<S>, kFast> lane) {
  static_cast<S*>(to)[i] = narrow<S>(lane.v);
}

}  // namespace seq::cuda
