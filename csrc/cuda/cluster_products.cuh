// What the products of engine "cluster" are made of: fragments of weights, which stay, times operands of 8 columns.
//
// The depth of a product is unit groups of 16 units, in an order of its own, the same for both sides, that lets a lane
// that holds four values of C (units g and g + 8, columns 2 q and 2 q + 1; device.cuh) write them as operands of the
// next product with at most one shuffle. An operand of a group is kDepths times 32 slots of 8 bytes, one for each lane.
#pragma once

#include "cuda/cluster.h"
#include "cuda/device.cuh"
#include "cuda/lane.cuh"

namespace seq::cuda {

namespace {

__device__ __forceinline__ uint32_t bits_of(__nv_bfloat16 v) { return __bfloat16_as_ushort(v); }
__device__ __forceinline__ uint32_t bits_of(__half v) { return __half_as_ushort(v); }

// 16-bit types: word w of lane 4 g + q holds the units q + 4 w and q + 4 w + 8.
template <class S>
struct HalfProducts {
  using Data = S;
  using Lane = cuda::Lane<float, true>;
  static constexpr int kDepths = 1;

  static __device__ __forceinline__ uint32_t pair(S low, S high) { return bits_of(low) | bits_of(high) << 16; }

  // at(row, unit): an element of the weights.
  template <class At>
  static __device__ __forceinline__ void load(uint32_t (&a)[4], int /*depth*/, int lane, const At& at) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i & 1), unit = lane % 4 + 4 * (i >> 1);
      a[i] = pair(at(row, unit), at(row, unit + 8));
    }
  }

  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint2 b) { mma(S(), d, a, b); }

  // put(slot, value) for the operand of a group; v as mma leaves C.
  template <class Put>
  static __device__ __forceinline__ void spread(const float (&v)[4], int lane, const Put& put) {
    const int g = lane / 4, q = lane % 4, column = g / 4;  // of the two, the one that this lane writes
    const uint32_t first = pair(narrow<S>(v[0]), narrow<S>(v[2])), second = pair(narrow<S>(v[1]), narrow<S>(v[3]));
    const uint32_t other = shuffle_xor(column == 0 ? second : first, 16);
    put((2 * q + column) * 4 + g % 4, column == 0 ? make_uint2(first, other) : make_uint2(other, second));
  }
};

// float32: word w of lane 4 g + q in depth j holds the unit 4 j + q + 8 w. Exact: numbers are split into two of TF32,
// and the product of the two small parts is left out.
template <bool kExact>
struct FloatProducts {
  using Data = float;
  using Lane = cuda::Lane<float, !kExact>;
  static constexpr int kDepths = 2;

  static __device__ __forceinline__ uint32_t word(float v) { return kExact ? __float_as_uint(v) : to_tf32(v); }

  template <class At>
  static __device__ __forceinline__ void load(uint32_t (&a)[4], int depth, int lane, const At& at) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = word(at(lane / 4 + 8 * (i & 1), 4 * depth + lane % 4 + 8 * (i >> 1)));
  }

  static __device__ __forceinline__ void split(uint32_t v, uint32_t& high, uint32_t& low) {
    high = cut_to_tf32(v);  // what is cut off is in `low`, exactly; to round would take longer
    low = to_tf32(__uint_as_float(v) - __uint_as_float(high));
  }

  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint2 b) {
    if constexpr (kExact) {
      uint32_t a_high[4], a_low[4];
      uint2 b_high, b_low;
#pragma unroll
      for (int i = 0; i < 4; ++i) split(a[i], a_high[i], a_low[i]);
      split(b.x, b_high.x, b_low.x);
      split(b.y, b_high.y, b_low.y);
      // Tensor cores cut off what they sum: what a fragment gives is added to the others' sum outside, to nearest.
      float part[4] = {};
      mma(Tf32(), part, a_low, b_high);
      mma(Tf32(), part, a_high, b_low);
      mma(Tf32(), part, a_high, b_high);
#pragma unroll
      for (int i = 0; i < 4; ++i) d[i] += part[i];
    } else {
      mma(Tf32(), d, a, b);
    }
  }

  template <class Put>
  static __device__ __forceinline__ void spread(const float (&v)[4], int lane, const Put& put) {
    const int g = lane / 4, q = lane % 4;
#pragma unroll
    for (int column = 0; column < 2; ++column)
      put(g / 4 * 32 + (2 * q + column) * 4 + g % 4, make_uint2(word(v[column]), word(v[2 + column])));
  }
};

template <Math kMath>
using Products =
    std::tuple_element_t<static_cast<int>(kMath), std::tuple<FloatProducts<false>, FloatProducts<true>,
                                                             HalfProducts<__nv_bfloat16>, HalfProducts<__half>>>;

}  // namespace

}  // namespace seq::cuda
