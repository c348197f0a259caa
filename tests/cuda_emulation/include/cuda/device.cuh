// csrc/cuda/device.cuh a second time, over the emulator: the same functions, from the fragment layouts of PTX's manual.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

namespace seq::cuda {

constexpr bool kHasClusters = true, kHasProducts = true;

inline unsigned char* shared_memory() { return emulation::shared_memory(); }
inline void cluster_barrier() { emulation::cluster_barrier(); }
inline void named_barrier(int id, int threads) { emulation::named_barrier(id, threads); }

using ByteBarrier = emulation::CountingBarrier;
inline void init(ByteBarrier* barrier) { barrier->init(1); }
inline void expect(ByteBarrier* barrier, unsigned bytes) { barrier->arrive_expecting(static_cast<int32_t>(bytes)); }
inline void wait(ByteBarrier* barrier, unsigned parity) { barrier->wait(parity); }
template <class Value>
void push(Value* to, Value value, ByteBarrier* barrier, unsigned rank) {
  emulation::push(to, &value, sizeof value, barrier, rank);
}

inline void copy_ahead(float* to, const float* from, bool exists) {
  emulation::copy_later(to, exists ? from : nullptr);
}
inline void wait_for_copies() { emulation::wait_for_copies(); }

inline void warp_barrier() {
  uint32_t none = 0;
  emulation::with_warp(&none, 1, [](uint32_t*) {});
}

inline bool warp_agrees(bool mine) {
  uint32_t all = mine;
  emulation::with_warp(&all, 1, [](uint32_t* of_all) {
    uint32_t agreed = 1;
    for (int lane = 0; lane < 32; ++lane) agreed &= of_all[lane];
    std::fill_n(of_all, 32, agreed);
  });
  return all != 0;
}

inline void count(ByteBarrier* barrier, unsigned bytes, int lane) {
  warp_barrier();
  if (lane == 0) barrier->complete(static_cast<int32_t>(bytes));
}

inline void raise(unsigned long long* count) { emulation::raise(count); }
inline bool wait_for(const unsigned long long* count, unsigned long long least, unsigned long long* gave_up,
                     int* failed) {
  if (emulation::wait_until_or_give_up([&] { return *count >= least; })) return true;
  if (std::exchange(*gave_up, 1) == 0) *failed = 1;
  return false;
}
template <class Value>
Value load_fresh(const Value* from) {
  return *from;
}

inline uint32_t shuffle_xor(uint32_t value, int mask) {
  uint32_t words[2] = {value, static_cast<uint32_t>(mask)};
  emulation::with_warp(words, 2, [](uint32_t* of_all) {
    uint32_t before[32];
    for (int lane = 0; lane < 32; ++lane) before[lane] = of_all[2 * lane];
    for (int lane = 0; lane < 32; ++lane) of_all[2 * lane] = before[lane ^ of_all[2 * lane + 1]];
  });
  return words[0];
}

template <class T>
T rounded_product(T a, T b) {
  return a * b;
}

// As far from the right number as the hardware may be.
inline float fast_exp2(float v) { return std::exp2(v) * (1 + 0x1p-22f); }
inline float fast_inverse(float v) { return std::abs(v) > 0x1p126f ? 0 : 1 / v * (1 + 0x1p-22f); }
inline float select(bool first, float a, float b) { return first ? a : b; }

inline uint32_t to_tf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  return (std::isfinite(value) ? bits + 0x1000 : bits) & 0xffffe000;
}
inline uint32_t cut_to_tf32(uint32_t value) { return value & 0xffffe000; }

struct Tf32 {};

namespace emulated {

// How a word of a fragment is read: element e of a word, as a float.
inline float element(__nv_bfloat16, uint32_t word, int e) { return __uint_as_float((word >> 16 * e) << 16); }
inline float element(__half, uint32_t word, int e) {
  return __half2float({std::bit_cast<_Float16>(static_cast<uint16_t>(word >> 16 * e))});
}
inline float element(Tf32, uint32_t word, int) { return __uint_as_float(word & 0xffffe000); }

// Towards zero: tensor cores do not round what they sum.
inline float cut_off(double value) {
  const float nearest = static_cast<float>(value);
  return std::isfinite(nearest) && std::abs(nearest) > std::abs(value) ? std::nextafter(nearest, 0.f) : nearest;
}

constexpr int kWords = 4 + 4 + 2;  // d, a, b of a lane

// Type: how the elements are read; kEach: how many a word holds.
template <class Type, int kEach>
void mma_of_warp(uint32_t* of_all) {
  constexpr int kDepth = 8 * kEach;
  static float a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < 32; ++lane) {
    const uint32_t* words = of_all + lane * kWords;
    const int g = lane / 4, q = lane % 4;
    for (int e = 0; e < kEach; ++e) {
      const int k = q * kEach + e, half = kDepth / 2;
      for (int i = 0; i < 4; ++i) a[g + 8 * (i & 1)][k + half * (i >> 1)] = element(Type{}, words[4 + i], e);
      for (int i = 0; i < 2; ++i) b[k + half * i][g] = element(Type{}, words[8 + i], e);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      uint32_t& word = of_all[lane * kWords + i];
      const int row = lane / 4 + 8 * (i >> 1), column = lane % 4 * 2 + (i & 1);
      double sum = __uint_as_float(word);
      for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      word = __float_as_uint(cut_off(sum));
    }
  }
}

template <class Type, int kEach>
void mma(float (&d)[4], const uint32_t (&a)[4], uint2 b) {
  uint32_t words[kWords];
  for (int i = 0; i < 4; ++i) words[i] = __float_as_uint(d[i]), words[4 + i] = a[i];
  words[8] = b.x, words[9] = b.y;
  emulation::with_warp(words, kWords, &mma_of_warp<Type, kEach>);
  for (int i = 0; i < 4; ++i) d[i] = __uint_as_float(words[i]);
}

}  // namespace emulated

inline void mma(__nv_bfloat16, float (&d)[4], const uint32_t (&a)[4], uint2 b) {
  emulated::mma<__nv_bfloat16, 2>(d, a, b);
}
inline void mma(__half, float (&d)[4], const uint32_t (&a)[4], uint2 b) { emulated::mma<__half, 2>(d, a, b); }
inline void mma(Tf32, float (&d)[4], const uint32_t (&a)[4], uint2 b) { emulated::mma<Tf32, 1>(d, a, b); }

}  // namespace seq::cuda
