#include "ops/cuda/layer_backward.h"

namespace seq::ops {

LayerBackward::LayerBackward(const Arguments& a, const Saved& s, const Layer& layer, const Needs& needs,
                             int64_t most_steps)
    : c_(a, layer), layer_(layer), needs_(needs), data_(a.x.options()), shape_(a.x.sizes()) {
  y_ = s.y.contiguous();
  c_all_ = s.c_all.contiguous();
  saved_ = s.saved.contiguous();
  grad_y_ = contiguous(s.grad_y), grad_c_all_ = contiguous(s.grad_c_all);
  lean_ = layer.saved_width > 0 && s.saved.numel() == 0;
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
  const auto start = [&](const OptionalTensor& t, at::IntArrayRef sizes) {
    at::Tensor out = at::empty(sizes, c_.compute);
    return t.has_value() ? out.copy_(*t) : out.zero_();
  };
  dh_ = start(s.grad_h_n, {D, B, P});
  dc_ = start(s.grad_c_n, {S - 1, D, B, H});
  if (needs.reset_h) dreset_h_ = at::zeros({D, B, P}, c_.compute);
  if (needs.reset_c) dreset_c_ = at::zeros({S - 1, D, B, H}, c_.compute);
  if (needs.decay_h) ddecay_h_ = at::zeros({layer.steps, B, D, P}, c_.compute);
  if (needs.decay_c) ddecay_c_ = at::zeros({S - 1, layer.steps, B, D, H}, c_.compute);
  if (needs.x)
    dx_ = D == 1 ? at::empty({layer.rows, layer.input}, c_.compute) : at::zeros({layer.rows, layer.input}, c_.compute);
  // A product with a gradient of 0 is not 0 where x, past the end of a row, is not finite.
  if (c_.lengths.defined()) {
    const at::Tensor t = at::arange(layer.steps, c_.lengths.options()).unsqueeze(1);
    c_.x = c_.x.masked_fill(t.ge(c_.lengths).view({layer.rows, 1}), 0);
  }
  steps_ = std::min(steps_per_chunk(layer, cuda_chunk_bytes, 1), most_steps);
  directions_.resize(D);
  for (int64_t d = 0; d < D; ++d) set_up(d, std::min(steps_ * B, layer.rows));
}

SequenceGradients LayerBackward::run() {
  const int64_t chunks = layer_.batch > 0 ? (layer_.steps + steps_ - 1) / steps_ : 0;
  for (int64_t j = chunks - 1; j >= 0; --j) {
    const int64_t k0 = j * steps_, k1 = std::min(k0 + steps_, layer_.steps);
    for (int64_t d = 0; d < layer_.directions; ++d) {
      auto& dir = directions_[d];
      const Chunk chunk = c_.chunk(k0, k1, d);
      if (lean_ || dir.grads.w_hh.defined()) dir.entering = gather(c_.kernels.entering, layer_.width, d, chunk);
      if (lean_) recompute(d, chunk);
      if (c_.lengths.defined()) {  // nobody writes past the end of a row
        dir.dgx.zero_();
        if (!layer_.cell.same_grads) dir.dgh.zero_();
        if (dir.dh_out.defined()) dir.dh_out.zero_();
      }
    }
    walk(k0, k1);
    for (int64_t d = 0; d < layer_.directions; ++d) multiply(d, c_.chunk(k0, k1, d), j == chunks - 1);
  }
  finish();
  if (chunks == 0)
    for (const auto& dir : directions_)
      for (const auto& g : dir.grads.all())
        if (g.defined()) g.zero_();
  return results();
}

void LayerBackward::set_up(int64_t d, int64_t rows) {
  const int64_t H = layer_.hidden, P = layer_.width, G = layer_.cell.gates;
  auto& dir = directions_[d];
  auto& b = dir.b;
  dir.grads = empty_gradients(c_.weights[d], needs_, d, layer_);
  c_.set_walk(b, d, y_, c_all_);
  if (grad_y_.defined()) b.dy = row_pointer(grad_y_.view({layer_.rows, layer_.directions * P}).narrow(1, d * P, P), 0);
  b.dy_stride = b.y_stride;
  if (grad_c_all_.defined()) b.dc_all = grad_c_all_.select(1, d).data_ptr();
  b.dh = dh_[d].data_ptr();
  if (dc_.numel() > 0) b.dc = dc_.select(1, d).data_ptr();
  if (dreset_h_.defined()) b.dreset_h = dreset_h_[d].data_ptr();
  if (dreset_c_.defined() && dreset_c_.numel() > 0) b.dreset_c = dreset_c_.select(1, d).data_ptr();
  b.ddecay_h = factor_of<void>(ddecay_h_, d), b.ddecay_c = factor_of<void>(ddecay_c_, d);
  dir.dgx = at::empty({rows, G * H}, data_);
  dir.dgh = layer_.cell.same_grads ? dir.dgx : at::empty({rows, G * H}, data_);
  if (layer_.projected()) dir.dh_out = at::empty({rows, P}, data_);
  if (lean_)
    dir.saved = at::empty({rows, layer_.saved_width}, c_.compute);
  else if (layer_.saved_width > 0)
    dir.saved = saved_[d].view({layer_.rows, layer_.saved_width});
}

template <class Call>
void LayerBackward::for_tables(int64_t d, const Chunk& chunk, const Call& call) const {
  for (int64_t t0 = chunk.t0; t0 < chunk.t1; t0 += cuda::kStepsPerTable) {
    const int64_t t1 = std::min<int64_t>(t0 + cuda::kStepsPerTable, chunk.t1);
    const cuda::StepTable table = cuda::make_step_table(c_.plan.plan, t0, t1, c_.reverse[d]);
    call(table, c_.plan.start[t0] - chunk.r0);
  }
}

at::Tensor LayerBackward::gather(Gather kernel, int64_t width, int64_t d, const Chunk& chunk) const {
  const auto& dir = directions_[d];
  at::Tensor out = at::empty({chunk.rows(), width}, data_);
  for_tables(d, chunk, [&](const cuda::StepTable& table, int64_t at) {
    cuda::Rows rows;
    rows.saved = row_pointer(dir.saved, chunk.r0 + at - saved_first(chunk));
    rows.out = row_pointer(out, at);
    check_launch(kernel(dir.b, table, rows, c_.stream()));
  });
  return out;
}

at::Tensor LayerBackward::unit_gradient(int64_t d, const Chunk& chunk) const {
  const auto& dir = directions_[d];
  at::Tensor out = at::empty({chunk.rows(), layer_.cell.unit * layer_.hidden}, c_.compute);
  for_tables(d, chunk, [&](const cuda::StepTable& table, int64_t at) {
    cuda::Rows rows;
    rows.dgx = row_pointer(dir.dgx, at), rows.out = row_pointer(out, at);
    rows.saved = row_pointer(dir.saved, chunk.r0 + at - saved_first(chunk));
    check_launch(c_.kernels.unit_gradient(dir.b, table, rows, c_.stream()));
  });
  return out;
}

void LayerBackward::recompute(int64_t d, const Chunk& chunk) {
  auto& dir = directions_[d];
  const int64_t H = layer_.hidden;
  const auto& w = c_.weights[d];
  at::Tensor gx = at::empty({chunk.rows(), layer_.cell.gates * H}, c_.compute), operand = dir.entering;
  product_into(gx, c_.x.narrow(0, chunk.r0, chunk.rows()), w.w_ih.t());
  for (int p = 0; p < layer_.cell.phases; ++p) {
    const int64_t first = layer_.cell.phase_begin[p] * H, count = layer_.cell.phase_begin[p + 1] * H - first;
    at::Tensor gh;
    if (layer_.cell.recurrent) {
      gh = at::empty({chunk.rows(), count}, c_.compute);
      product_into(gh, operand, w.w_hh.narrow(0, first, count).t());
    }
    if (p + 1 < layer_.cell.phases) operand = at::empty({chunk.rows(), H}, data_);
    for_tables(d, chunk, [&](const cuda::StepTable& table, int64_t at) {
      cuda::Rows rows;
      rows.gx = row_pointer(gx, at), rows.gh = row_pointer(gh, at);
      rows.saved = row_pointer(dir.saved, at), rows.out = row_pointer(operand, at);
      check_launch(c_.kernels.recompute[p](dir.b, table, rows, c_.stream()));
    });
  }
}

void LayerBackward::multiply(int64_t d, const Chunk& chunk, bool first) {
  auto& dir = directions_[d];
  auto& g = dir.grads;
  const int64_t H = layer_.hidden;
  const at::Tensor dgx = dir.dgx.narrow(0, 0, chunk.rows()), dgh = dir.dgh.narrow(0, 0, chunk.rows());
  const at::Tensor x = c_.x.narrow(0, chunk.r0, chunk.rows());
  if (dx_.defined()) accumulate(layer_.directions == 1, dx_.narrow(0, chunk.r0, chunk.rows()), dgx, c_.weights[d].w_ih);
  std::vector<at::Tensor> operands{dir.entering};
  if (g.w_hh.defined())
    for (int p = 1; p < layer_.cell.phases; ++p) operands.push_back(gather(c_.kernels.operand[p], H, d, chunk));
  at::Tensor unprojected, dh_out;
  if (g.w_hr.defined()) {
    unprojected = gather(c_.kernels.unprojected, H, d, chunk);
    dh_out = dir.dh_out.narrow(0, 0, chunk.rows());
  }
  const at::Tensor d_unit = g.w_unit.defined() ? unit_gradient(d, chunk) : at::Tensor();
  for (int64_t i = 0; i < std::max<int64_t>(needs_.groups, 1); ++i) {
    // The rows and gradients of a group, or all of them.
    const auto rows = [&](const at::Tensor& t) {
      if (needs_.groups == 0) return t;
      const int64_t each = layer_.batch / needs_.groups;
      return t.view({-1, needs_.groups, each, t.size(1)}).select(1, i).reshape({-1, t.size(1)});
    };
    const auto of = [&](const at::Tensor& t) { return needs_.groups == 0 ? t : t[i]; };
    const at::Tensor dgx_i = rows(dgx), dgh_i = rows(dgh);
    if (g.w_ih.defined()) accumulate(first, of(g.w_ih), dgx_i.t(), rows(x));
    if (g.b_ih.defined()) accumulate_sum(first, of(g.b_ih), dgx_i);
    if (g.b_hh.defined()) accumulate_sum(first, of(g.b_hh), dgh_i);
    if (g.w_hh.defined()) {
      for (int p = 0; p < layer_.cell.phases; ++p) {
        const int64_t begin = layer_.cell.phase_begin[p] * H, count = layer_.cell.phase_begin[p + 1] * H - begin;
        accumulate(first, of(g.w_hh).narrow(0, begin, count), dgh_i.narrow(1, begin, count).t(), rows(operands[p]));
      }
    }
    if (g.w_hr.defined()) accumulate(first, of(g.w_hr), rows(dh_out).t(), rows(unprojected));
    if (g.w_unit.defined()) accumulate_sum(first, of(g.w_unit), rows(d_unit));
  }
}

void LayerBackward::accumulate(bool first, at::Tensor out, const at::Tensor& a, const at::Tensor& b) const {
  if (first) return product_into(out, a, b);
  const at::Tensor more = at::empty_like(out);
  product_into(more, a, b);
  out.add_(more);
}
void LayerBackward::accumulate_sum(bool first, at::Tensor out, const at::Tensor& rows) const {
  const at::Tensor sum = rows.sum(0, /*keepdim=*/false, layer_.compute);
  first ? out.copy_(sum) : out.add_(sum);
}

SequenceGradients LayerBackward::results() const {
  const auto given = [&](bool wanted, const at::Tensor& t) {
    return wanted && t.defined() ? t.to(layer_.dtype) : at::empty({0}, data_);
  };
  std::vector<at::Tensor> dw;
  for (const auto& dir : directions_)
    for (const auto& g : dir.grads.all()) dw.push_back(given(true, g));
  return {given(needs_.x, dx_.defined() ? dx_.view(shape_) : dx_),
          given(needs_.h0, dh_),
          given(needs_.c0, dc_),
          given(needs_.reset_h, dreset_h_),
          given(needs_.reset_c, dreset_c_),
          ddecay_h_.defined() ? ddecay_h_ : at::empty({0}, c_.compute),
          ddecay_c_.defined() ? ddecay_c_ : at::empty({0}, c_.compute),
          dw};
}

}  // namespace seq::ops
