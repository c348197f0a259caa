// The norm of the product x W_ih^T, and of that with W_hh where it is done for many rows at once, of a cell that
// normalises (engine/cell_traits.h).
#pragma once

#include "ops/cpu_common.h"

namespace seq::ops {

// Which of the two products, and so which gains of the layer.
enum class ProductOf { kX, kH };

template <class T>
cpu::NormRows<T> norm_rows(const Layer& layer, const DirectionWeights& w, ProductOf of) {
  cpu::NormRows<T> rows;
  rows.hidden = layer.hidden;
  rows.gain = w.w_unit.const_data_ptr<T>() + (of == ProductOf::kX ? 0 : layer.cell.gates * layer.hidden);
  return rows;
}

// `run`, one of the two functions of a cell's kernels, for `count` rows.
template <class T>
void for_norm_rows(void (*run)(const cpu::NormRows<T>&, int64_t, int64_t), const Layer& layer,
                   const cpu::NormRows<T>& rows, int64_t count) {
  const int64_t work = std::max<int64_t>(layer.cell.gates * layer.hidden, 1);
  at::parallel_for(0, count, std::max<int64_t>(1, 16384 / work),
                   [&](int64_t begin, int64_t end) { run(rows, begin, end); });
}

// What the gates get of x, from product [rows, G*H] = x W_ih^T: normalised, with the bias. out may be product.
template <class T>
void normalize_input(const cpu::Kernels<T>& kernels, const Layer& layer, const DirectionWeights& w,
                     const at::Tensor& product, at::Tensor out) {
  auto rows = norm_rows<T>(layer, w, ProductOf::kX);
  rows.bias = data_or_null<T>(w.b_ih);
  rows.product = product.const_data_ptr<T>(), rows.out = out.mutable_data_ptr<T>();
  for_norm_rows(kernels.normalize, layer, rows, product.size(0));
}

// The gradient of product [rows, G*H] = x W_ih^T from dgx; its part of d_unit [rows, U*H], which may be undefined.
template <class T>
at::Tensor normalize_input_backward(const cpu::Kernels<T>& kernels, const Layer& layer, const DirectionWeights& w,
                                    const at::Tensor& product, const at::Tensor& dgx, const at::Tensor& d_unit) {
  at::Tensor out = at::empty_like(product);
  auto rows = norm_rows<T>(layer, w, ProductOf::kX);
  rows.product = product.const_data_ptr<T>(), rows.out = out.mutable_data_ptr<T>();
  rows.d = dgx.const_data_ptr<T>();
  if (d_unit.defined()) rows.d_gain = d_unit.mutable_data_ptr<T>(), rows.d_gain_stride = d_unit.size(1);
  for_norm_rows(kernels.normalize_backward, layer, rows, product.size(0));
  return out;
}

// product [rows, G*H] = h W_hh^T, in place, with a copy to where `saved` [rows, saved_width] keeps it.
template <class T>
void normalize_hidden(const cpu::Kernels<T>& kernels, const Layer& layer, const DirectionWeights& w, at::Tensor product,
                      at::Tensor saved) {
  auto rows = norm_rows<T>(layer, w, ProductOf::kH);
  rows.product = rows.out = product.mutable_data_ptr<T>();
  rows.kept = saved.mutable_data_ptr<T>() + layer.saved_width - product.size(1), rows.kept_stride = layer.saved_width;
  for_norm_rows(kernels.normalize, layer, rows, product.size(0));
}

}  // namespace seq::ops
