// The three products of a step over B rows, with weights w [R, K] as they lie. Few rows: own kernels (cpu/dot.h), each
// of which reads or writes every weight once, in order; more: ATen.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <new>

#include "cpu/instruction_set.h"
#include "ops/page_pool.h"

namespace seq::ops::few_rows {

// Up to how many rows ours were the faster ones.
constexpr int64_t kFewToDot = 64, kFewToPair = 8, kFewToAdd = 16, kFewToOuter = 8;
constexpr int64_t kWeightsPerTask = 32768;

// Rows of `width` numbers per task.
inline int64_t grain(int64_t width) { return std::max<int64_t>(4, kWeightsPerTask / std::max<int64_t>(width, 1)); }

inline bool is_half(const at::Tensor& t) { return t.scalar_type() == at::kBFloat16 || t.scalar_type() == at::kHalf; }

// Aligned to a line of the cache, which loads of vectors would else cross.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : memory_(new (kLine) T[count]) {}
  Scratch(const Scratch&) = delete;
  ~Scratch() { ::operator delete[](memory_, kLine); }
  T* get() const { return memory_; }

 private:
  static constexpr std::align_val_t kLine{64};
  T* const memory_;
};

template <class T>
at::Tensor matrix(const T* at, int64_t rows, int64_t columns) {
  return at::from_blob(const_cast<T*>(at), {rows, columns}, at::CppTypeToScalarType<T>::value);
}

// out [B, ldo] = x [B, K] w^T (+ bias), the first R of each row; for B <= kFewToDot.
template <class T>
void dot(const cpu::Kernels<T>& kernels, const T* w, int64_t R, int64_t K, const T* x, int64_t B, const T* bias, T* out,
         int64_t ldo) {
  at::parallel_for(0, R, grain(K),
                   [&](int64_t begin, int64_t end) { kernels.dot_rows(w, K, begin, end, K, x, B, bias, out, ldo); });
}

// out [B, R] = x [B, K] w^T (+ bias); w of T or, for float, of a half type, of which the numbers x are as well: it is
// read as it lies for any B.
template <class T>
void multiply(const cpu::Kernels<T>& kernels, const at::Tensor& w, const T* x, int64_t B, const T* bias, T* out) {
  const int64_t R = w.size(0), K = w.size(1);
  if (is_half(w)) {
    const bool pairs = B <= kFewToPair && kernels.dot_pair_rows && cpu::has_pairs();
    const auto rows = w.scalar_type() == at::kHalf ? kernels.dot_float16_rows
                      : pairs                      ? kernels.dot_pair_rows
                                                   : kernels.dot_bfloat16_rows;
    const auto* at = static_cast<const uint16_t*>(w.const_data_ptr());
    at::parallel_for(0, R, grain(K * B), [&](int64_t begin, int64_t end) {
      const Scratch<T> scratch((B + 4) * cpu::split_room(K));
      rows(at, K, begin, end, K, x, B, bias, out, R, scratch.get());
    });
    return;
  }
  const T* at = w.const_data_ptr<T>();
  if (B <= kFewToDot) return dot(kernels, at, R, K, x, B, bias, out, R);
  at::Tensor to = matrix(out, B, R);
  if (bias)
    at::addmm_out(to, matrix(bias, 1, R), matrix(x, B, K), w.t());
  else
    at::mm_out(to, matrix(x, B, K), w.t());
}

// out [B, K] = d [B, R] w, or += it; w as above.
template <class T>
void add_transposed(const cpu::Kernels<T>& kernels, const at::Tensor& w, const T* d, int64_t B, bool add, T* out) {
  const int64_t R = w.size(0), K = w.size(1);
  if (B <= kFewToAdd) {
    const auto by = [&](const auto rows, const auto* at) {
      at::parallel_for(0, K, grain(R),
                       [&](int64_t begin, int64_t end) { rows(at, K, R, begin, end, d, B, add, out, K); });
    };
    if (is_half(w))
      by(w.scalar_type() == at::kHalf ? kernels.add_float16_rows : kernels.add_bfloat16_rows,
         static_cast<const uint16_t*>(w.const_data_ptr()));
    else
      by(kernels.add_rows, w.const_data_ptr<T>());
    return;
  }
  const at::Tensor weights = converted(w, at::CppTypeToScalarType<T>::value);
  at::Tensor to = matrix(out, B, K);
  if (add)
    to.addmm_(matrix(d, B, R), weights);
  else
    at::mm_out(to, matrix(d, B, R), weights);
}

// out [R, K] = d [B, R]^T x [B, K]; out of T or, for float, of a half type.
template <class T>
void outer(const cpu::Kernels<T>& kernels, const T* d, const T* x, int64_t B, at::Tensor& out) {
  const int64_t R = out.size(0), K = out.size(1);
  if (B <= kFewToOuter) {
    const auto share = [&](const auto rows) { at::parallel_for(0, R, grain(K), rows); };
    const auto by = [&](const auto rows, auto* at) {
      share([&](int64_t begin, int64_t end) { rows(d, R, begin, end, x, B, K, at); });
    };
    auto* halves = static_cast<uint16_t*>(out.mutable_data_ptr());
    if (out.scalar_type() == at::kBFloat16)
      share([&](int64_t begin, int64_t end) {
        const Scratch<T> scratch(B * cpu::split_room(K));
        kernels.outer_bfloat16_rows(d, R, begin, end, x, B, K, halves, scratch.get());
      });
    else if (out.scalar_type() == at::kHalf)
      by(kernels.outer_float16_rows, halves);
    else
      by(kernels.outer_rows, out.mutable_data_ptr<T>());
  } else if (is_half(out)) {
    at::Tensor product = empty_in_large_pages(out.sizes(), at::CppTypeToScalarType<T>::value);
    out.copy_(at::mm_out(product, matrix(d, B, R).t(), matrix(x, B, K)));
  } else {
    at::mm_out(out, matrix(d, B, R).t(), matrix(x, B, K));
  }
}

}  // namespace seq::ops::few_rows
