// Products of many rows with a matrix that is packed first.
#pragma once

#include "ops/few_rows.h"

namespace seq::ops {

template <class T, class Pack>
at::Tensor packed(const at::Tensor& like, int64_t blocks, int64_t numel_per_block, const Pack& pack) {
  at::Tensor out = at::empty({blocks * numel_per_block}, like.options());
  T* to = out.template mutable_data_ptr<T>();
  at::parallel_for(0, blocks, std::max<int64_t>(1, 65536 / std::max<int64_t>(numel_per_block, 1)),
                   [&](int64_t begin, int64_t end) { pack(begin, end, to); });
  return out;
}

// A matrix [K, N] in panels.
template <class T>
class PackedMatrix {
 public:
  PackedMatrix() = default;

  // b [K, N], rows apart by its stride.
  static PackedMatrix of(const cpu::Kernels<T>& k, const at::Tensor& b) {
    const int64_t K = b.size(0), N = b.size(1), ld = b.stride(0), block = k.gemm_block;
    const T* from = b.template const_data_ptr<T>();
    return {k, K, N, packed<T>(b, (N + block - 1) / block, K * block, [&](int64_t begin, int64_t end, T* to) {
              k.pack_columns(from, ld, N, K, block, begin, end, to);
            })};
  }

  // The transpose of w [N, K], contiguous.
  static PackedMatrix transposed(const cpu::Kernels<T>& k, const at::Tensor& w) {
    const int64_t N = w.size(0), K = w.size(1), block = k.gemm_block;
    const T* from = w.template const_data_ptr<T>();
    return {k, K, N, packed<T>(w, (N + block - 1) / block, K * block, [&](int64_t begin, int64_t end, T* to) {
              k.pack_gates(from, K, N, 0, 1, K, block, begin, end, to);
            })};
  }

  bool defined() const { return panels_.defined(); }

  // out [M, N] = a [M, K] b (+ bias); with `add` out += a b. a contiguous in its rows, or the transpose of such a one.
  void multiply(const at::Tensor& a, at::Tensor out, const at::Tensor& bias = {}, bool add = false) const {
    const int64_t M = a.size(0), tile = kernels_->gemm_rows;
    cpu::Gemm<T> g;
    g.transposed = a.stride(1) != 1 && a.stride(0) == 1;
    g.a = a.template const_data_ptr<T>(), g.lda = a.stride(g.transposed ? 1 : 0);
    g.panels = panels_.template const_data_ptr<T>(), g.K = K_, g.N = N_;
    g.bias = bias.defined() ? bias.template const_data_ptr<T>() : nullptr, g.add = add;
    g.out = out.template mutable_data_ptr<T>(), g.ldo = out.stride(0);
    constexpr int64_t kMultiplyAddsPerTask = 1 << 20;
    const int64_t grain = std::max<int64_t>(1, kMultiplyAddsPerTask / std::max<int64_t>(1, tile * K_ * N_));
    at::parallel_for(0, (M + tile - 1) / tile, grain,
                     [&](int64_t begin, int64_t end) { kernels_->gemm(g, begin * tile, std::min(end * tile, M)); });
  }

 private:
  PackedMatrix(const cpu::Kernels<T>& kernels, int64_t K, int64_t N, at::Tensor panels)
      : kernels_(&kernels), K_(K), N_(N), panels_(std::move(panels)) {}

  const cpu::Kernels<T>* kernels_ = nullptr;
  int64_t K_ = 0, N_ = 0;
  at::Tensor panels_;
};

}  // namespace seq::ops
