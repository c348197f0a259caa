// Products of many rows with a matrix that is packed first. Where T is float both may be of bfloat16: then the products
// are of pairs (cpu/product.h), and their sums float as well.
//
// Threads that part have to meet again, for which one of them may have to wait for its core where something else runs
// as well. So little work is not shared, and products that do not depend on each other are shared as one.
#pragma once

#include "ops/few_rows.h"
#include "ops/page_pool.h"

namespace seq::ops {

template <class T, class Pack>
at::Tensor packed(int64_t blocks, int64_t numel_per_block, const Pack& pack) {
  at::Tensor out = empty_in_large_pages({blocks * numel_per_block}, c10::CppTypeToScalarType<T>::value);
  T* to = out.template mutable_data_ptr<T>();
  constexpr int64_t kNumbersPerTask = 1 << 18;
  at::parallel_for(0, blocks, std::max<int64_t>(1, kNumbersPerTask / std::max<int64_t>(numel_per_block, 1)),
                   [&](int64_t begin, int64_t end) { pack(begin, end, to); });
  return out;
}

inline bool of_pairs(const at::Tensor& t) { return t.scalar_type() == at::kBFloat16; }

// m [R, K] as it is, or of bfloat16 as rows of pairs: the last filled up with 0, the stride even.
inline at::Tensor in_pairs(const at::Tensor& m) {
  if (!of_pairs(m)) return m;
  if (m.size(1) % 2 != 0) return at::constant_pad_nd(m, {0, 1});
  return m.stride(0) % 2 == 0 ? m : m.contiguous();
}

template <class T>
const T* numbers(const at::Tensor& t) {
  return of_pairs(t) ? static_cast<const T*>(t.const_data_ptr()) : t.template const_data_ptr<T>();
}

// The columns of m [rows, columns], rows apart by its stride, in panels of `block`.
template <class T>
at::Tensor pack_columns_of(const cpu::Kernels<T>& k, const at::Tensor& m, int64_t block) {
  const int64_t rows = m.size(0), columns = m.size(1), ld = m.stride(0), blocks = (columns + block - 1) / block;
  if constexpr (sizeof(T) == 4) {
    if (of_pairs(m))
      return packed<T>(blocks, (rows + 1) / 2 * block, [&](int64_t begin, int64_t end, T* to) {
        k.pack_pairs(static_cast<const uint16_t*>(m.const_data_ptr()), ld, columns, rows, block, begin, end, to);
      });
  }
  const T* from = m.template const_data_ptr<T>();
  return packed<T>(blocks, rows * block, [&](int64_t begin, int64_t end, T* to) {
    k.pack_columns(from, ld, columns, rows, block, begin, end, to);
  });
}

// The gates [first, last) of w [gates * units, K], contiguous, in panels of `block` units.
template <class T>
at::Tensor pack_gates_of(const cpu::Kernels<T>& k, const at::Tensor& w, int64_t units, int first, int last,
                         int64_t block) {
  const at::Tensor m = in_pairs(w);
  const int64_t K = of_pairs(m) ? m.size(1) / 2 : m.size(1);
  const T* from = numbers<T>(m);
  return packed<T>((units + block - 1) / block, K * (last - first) * block, [&](int64_t begin, int64_t end, T* to) {
    k.pack_gates(from, K, units, first, last, K, block, begin, end, to);
  });
}

// A product that is yet to be made, with what it reads.
template <class T>
struct PreparedProduct {
  cpu::Gemm<T> gemm;
  int64_t rows;  // of gemm.out
  at::Tensor a, panels, bias, out;
};

// All of them, shared by the threads as one piece of work.
template <class T>
void run_products(const cpu::Kernels<T>& kernels, const std::vector<PreparedProduct<T>>& all) {
  const int64_t tile = kernels.gemm_rows;
  const auto tiles = [&](const PreparedProduct<T>& p) { return (p.rows + tile - 1) / tile; };
  const auto cost = [&](const PreparedProduct<T>& p) { return std::max<int64_t>(1, tile * p.gemm.K * p.gemm.N); };
  int64_t total = 0;
  for (const auto& p : all) total += tiles(p) * cost(p);
  constexpr int64_t kMultiplyAddsPerTask = 1 << 20;
  at::parallel_for(0, total, kMultiplyAddsPerTask, [&](int64_t begin, int64_t end) {
    for (const auto& p : all) {
      const auto tile_at = [&](int64_t work) {
        return std::clamp<int64_t>((work + cost(p) - 1) / cost(p), 0, tiles(p));
      };
      const int64_t first = tile_at(begin), last = tile_at(end);
      if (first < last) kernels.gemm(p.gemm, first * tile, std::min(last * tile, p.rows));
      begin -= tiles(p) * cost(p), end -= tiles(p) * cost(p);
    }
  });
}

// A matrix [K, N] in panels.
template <class T>
class PackedMatrix {
 public:
  PackedMatrix() = default;

  // b [K, N], rows apart by its stride.
  static PackedMatrix of(const cpu::Kernels<T>& k, const at::Tensor& b) {
    return {k, b.size(0), b.size(1), of_pairs(b), pack_columns_of(k, b, k.gemm_block)};
  }

  // The transpose of w [N, K], contiguous.
  static PackedMatrix transposed(const cpu::Kernels<T>& k, const at::Tensor& w) {
    return {k, w.size(1), w.size(0), of_pairs(w), pack_gates_of(k, w, w.size(0), 0, 1, k.gemm_block)};
  }

  bool defined() const { return panels_.defined(); }

  // out [M, N] = a [M, K] b (+ bias); with `add` out += a b. a contiguous in its rows, or the transpose of such a one;
  // of bfloat16 if b is.
  void multiply(const at::Tensor& a, const at::Tensor& out, const at::Tensor& bias = {}, bool add = false) const {
    run_products(*kernels_, {prepared(a, out, bias, add)});
  }
  PreparedProduct<T> prepared(const at::Tensor& a, const at::Tensor& out, const at::Tensor& bias, bool add) const {
    cpu::Gemm<T> g;
    g.transposed = a.stride(1) != 1 && a.stride(0) == 1;
    g.pairs = pairs_, g.odd = K_ % 2 != 0;
    const at::Tensor rows = g.transposed ? a : in_pairs(a);
    g.a = numbers<T>(rows), g.lda = g.transposed ? a.stride(1) : rows.stride(0) / (pairs_ ? 2 : 1);
    g.panels = panels_.template const_data_ptr<T>(), g.K = pairs_ ? (K_ + 1) / 2 : K_, g.N = N_;
    g.bias = bias.defined() ? bias.template const_data_ptr<T>() : nullptr, g.add = add;
    g.out = out.template mutable_data_ptr<T>(), g.ldo = out.stride(0);
    return {g, a.size(0), rows, panels_, bias, out};
  }

 private:
  PackedMatrix(const cpu::Kernels<T>& kernels, int64_t K, int64_t N, bool pairs, at::Tensor panels)
      : kernels_(&kernels), K_(K), N_(N), pairs_(pairs), panels_(std::move(panels)) {}

  const cpu::Kernels<T>* kernels_ = nullptr;
  int64_t K_ = 0, N_ = 0;
  bool pairs_ = false;
  at::Tensor panels_;
};

}  // namespace seq::ops
