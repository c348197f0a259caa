#include "ops/cuda/common.h"

#include <ATen/Context.h>

namespace seq::ops {

namespace {

// The plan of the rows that the host knows of: lengths on the device are none of it.
PlanStorage plan_without_lengths(const Arguments& a, const Layer& layer) {
  Arguments known;
  known.batch_sizes = a.batch_sizes;
  return make_plan(known, layer);
}

// x [M, T, B, I] or [M, N, I] as [M, data rows, I]; what the members share stays expanded.
at::Tensor rows_of(const at::Tensor& x, const Layer& layer) {
  const at::Tensor rows = x.reshape({x.size(0), layer.rows, layer.input});
  return rows.select(0, 0).is_contiguous() ? rows : rows.contiguous();
}

}  // namespace

bool tf32_allowed() {
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::RNN) ==
         at::Float32Precision::TF32;
}

CudaLayer::CudaLayer(const Arguments& a, const Layer& layer)
    : CudaLayer(members_of(a) > 0 ? a : with_member(a), layer, /*alone=*/members_of(a) == 0) {}

CudaLayer::CudaLayer(const Arguments& a, const Layer& layer, bool alone)
    : layer(layer),
      alone(alone),
      members(a.x.size(0)),
      kernels(cuda::stepwise_kernels(layer.cell.index, type_of(layer.dtype))),
      reverse(a.reverse),
      options(a.options),
      plan(plan_without_lengths(a, layer)),
      compute(a.x.options().dtype(layer.compute)),
      x(rows_of(a.x, layer)),
      h0(contiguous(a.h0)),
      c0(contiguous(a.c0)),
      reset_h(contiguous(a.reset_h)),
      reset_c(contiguous(a.reset_c)),
      resets(contiguous(a.resets)),
      factors(computed(a.factors, layer)),
      detach_every(a.detach_every) {
  if (a.lengths.has_value()) {
    TORCH_CHECK(a.lengths->device() == a.x.device(), "seqcuda: lengths is on ", a.lengths->device(), ", x on ",
                a.x.device());
    lengths = a.lengths->contiguous();
  }
  for (int64_t d = 0; d < layer.directions; ++d) {
    const auto* w = &a.weights[Layer::kWeights * d];
    at::Tensor w_hh = by_head(contiguous(w[1]), layer, 1);
    if (w_hh.defined()) w_hh = w_hh.unflatten(1, {layer.heads, -1});
    weights.push_back({by_head(contiguous(w[0]), layer, 1), w_hh, contiguous(w[2]), contiguous(w[3]), contiguous(w[4]),
                       contiguous(w[5])});
  }
}

cuda::Step CudaLayer::step(int64_t k, int64_t d) const {
  if (k < 0 || k >= layer.steps) return {};
  const int64_t t = reverse[d] ? layer.steps - 1 - k : k;
  return {t, plan.start[t], plan.alive[t]};
}

void CudaLayer::set_walk(cuda::Walk& walk, int64_t d, const at::Tensor& y, const at::Tensor& c_all) const {
  const int64_t h_at = d * layer.batch * layer.width, c_at = d * layer.batch * layer.hidden;
  auto& apart = walk.apart;
  walk.members = members;
  walk.hidden = layer.hidden, walk.width = layer.width, walk.head_hidden = layer.head_hidden();
  place(walk.lengths, apart.lengths, lengths), place(walk.resets, apart.resets, resets);
  place(walk.b_ih, apart.b_ih, weights[d].b_ih), place(walk.b_hh, apart.b_hh, weights[d].b_hh);
  place(walk.unit, apart.unit, weights[d].w_unit);
  std::copy(options.begin(), options.end(), walk.options);
  place(walk.h0, apart.h0, h0, h_at), place(walk.reset_h, apart.reset_h, reset_h, h_at);
  place(walk.c0, apart.c0, c0, c_at), place(walk.reset_c, apart.reset_c, reset_c, c_at);
  walk.state_plane = layer.directions * layer.batch * layer.hidden;
  place(walk.y, apart.y, y, d * layer.width);
  walk.y_stride = layer.directions * layer.width;
  place(walk.c_all, apart.c_all, c_all, d * layer.rows * layer.hidden);
  walk.factors = factors.each([&](const at::Tensor& t) { return factor_of<const void>(of_first(t), d); });
  apart.factors = factors.each(&bytes_apart);
  walk.has_factors = layer.has_factors, walk.reverse = reverse[d], walk.detach_every = detach_every;
  walk.saved_width = layer.saved_width;
  walk.c_all_plane = layer.directions * layer.rows * layer.hidden;
}

cuda::NormRows CudaLayer::norm_rows(int64_t d, const at::Tensor& product, bool of_h) const {
  cuda::NormRows rows;
  const int64_t numbers = product.size(2);
  rows.rows = product.size(1), rows.hidden = layer.hidden;
  rows.gain = weights[d].w_unit.narrow(1, of_h ? numbers : 0, numbers).data_ptr();
  rows.product = product.data_ptr(), rows.product_stride = numbers;
  return rows;
}

void products_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (out.dim() < 4) return product_into(out, a, b);
  for (int64_t m = 0; m < out.size(0); ++m) product_into(out[m], a[m], b[m]);
}
void add_products_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (out.dim() < 4) return add_product_into(out, a, b);
  for (int64_t m = 0; m < out.size(0); ++m) add_product_into(out[m], a[m], b[m]);
}

}  // namespace seq::ops
