#include "ops/cuda/common.h"

#include <ATen/Context.h>

namespace seq::ops {

namespace {

// The plan of the rows that the host knows of: lengths on the device are none of it.
PlanStorage plan_without_lengths(Arguments a, const Layer& layer) {
  a.lengths.reset();
  return make_plan(a, layer);
}

void* pointer(const at::Tensor& t, int64_t element = 0) {
  return t.defined() ? static_cast<char*>(t.data_ptr()) + element * static_cast<int64_t>(t.element_size()) : nullptr;
}

}  // namespace

bool tf32_allowed() {
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::RNN) ==
         at::Float32Precision::TF32;
}

CudaLayer::CudaLayer(const Arguments& a, const Layer& layer)
    : layer(layer),
      kernels(cuda::stepwise_kernels(layer.cell.index, type_of(layer.dtype))),
      reverse(a.reverse),
      options(a.options),
      plan(plan_without_lengths(a, layer)),
      compute(a.x.options().dtype(layer.compute)),
      x(a.x.reshape({layer.rows, layer.input}).contiguous()),
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
    weights.push_back(
        {contiguous(w[0]), contiguous(w[1]), contiguous(w[2]), contiguous(w[3]), contiguous(w[4]), contiguous(w[5])});
  }
}

cuda::Step CudaLayer::step(int64_t k, int64_t d) const {
  if (k < 0 || k >= layer.steps) return {};
  const int64_t t = reverse[d] ? layer.steps - 1 - k : k;
  return {t, plan.start[t], plan.alive[t]};
}

void CudaLayer::set_walk(cuda::Walk& walk, int64_t d, const at::Tensor& y, const at::Tensor& c_all) const {
  const int64_t h_at = d * layer.batch * layer.width, c_at = d * layer.batch * layer.hidden;
  walk.hidden = layer.hidden, walk.width = layer.width;
  walk.lengths = data_or_null<int64_t>(lengths), walk.resets = data_or_null<bool>(resets);
  walk.b_ih = pointer(weights[d].b_ih), walk.b_hh = pointer(weights[d].b_hh);
  walk.unit = pointer(weights[d].w_unit);
  std::copy(options.begin(), options.end(), walk.options);
  walk.h0 = pointer(h0, h_at), walk.reset_h = pointer(reset_h, h_at);
  walk.c0 = pointer(c0, c_at), walk.reset_c = pointer(reset_c, c_at);
  walk.state_plane = layer.directions * layer.batch * layer.hidden;
  walk.y = pointer(y, d * layer.width);
  walk.y_stride = layer.directions * layer.width;
  if (c_all.numel() > 0) walk.c_all = pointer(c_all, d * layer.rows * layer.hidden);
  walk.factors = factors.each([&](const at::Tensor& t) { return factor_of<const void>(t, d); });
  walk.has_factors = layer.has_factors, walk.reverse = reverse[d], walk.detach_every = detach_every;
  walk.saved_width = layer.saved_width;
  walk.c_all_plane = layer.directions * layer.rows * layer.hidden;
}

}  // namespace seq::ops
