#include "ops/cuda/layer_backward.h"

#include <utility>

namespace seq::ops {

LayerBackward::LayerBackward(const Arguments& a, const Saved& given, const Layer& layer, const Needs& needs,
                             const ChunkSteps& asked)
    : c_(a, layer),
      layer_(layer),
      needs_(needs),
      data_(a.x.options()),
      adds_dx_(layer.directions > 1),
      chunk_steps_(cuda_chunk_steps(layer, c_.members, asked)) {
  const Saved s = c_.alone ? with_member(given) : given;
  y_ = s.y.contiguous();
  c_all_ = s.c_all.contiguous();
  saved_ = s.saved.contiguous();
  grad_y_ = contiguous(s.grad_y), grad_c_all_ = contiguous(s.grad_c_all);
  const Saved first = c_.alone ? given : Member(c_.members, 0).of(given);
  lean_ = first.lean(layer), marked_ = first.marked(layer);
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
  const int64_t M = c_.members;
  const auto start = [&](const OptionalTensor& t, at::IntArrayRef sizes) {
    at::Tensor out = at::empty(sizes, c_.compute);
    return t.has_value() ? out.copy_(*t) : out.zero_();
  };
  dh_ = start(s.grad_h_n, {M, D, B, P});
  dc_ = start(s.grad_c_n, {M, S - 1, D, B, H});
  if (needs.reset_h) dreset_h_ = at::zeros({M, D, B, P}, c_.compute);
  if (needs.reset_c) dreset_c_ = at::zeros({M, S - 1, D, B, H}, c_.compute);
  if (needs.decay_h) ddecay_h_ = at::zeros({M, layer.steps, B, D, P}, c_.compute);
  if (needs.decay_c) ddecay_c_ = at::zeros({M, S - 1, layer.steps, B, D, H}, c_.compute);
  if (needs.x) {
    const std::vector<int64_t> shape{M, layer.rows, layer.input};
    dx_ = adds_dx_ ? at::zeros(shape, c_.compute) : at::empty(shape, data_);  // of one direction it is one product
  }
  // A product with a gradient of 0 is not 0 where x, past the end of a row, is not finite.
  if (c_.lengths.defined()) {
    const at::Tensor t = at::arange(layer.steps, c_.lengths.options()).unsqueeze(1);
    c_.x = c_.x.masked_fill(t.ge(c_.lengths.unsqueeze(1)).view({M, layer.rows, 1}), 0);
  }
  directions_.resize(D);
}

SequenceGradients LayerBackward::run() {
  begin(chunk_steps_);
  for (int64_t k1 = layer_.batch > 0 ? layer_.steps : 0, k0; k1 > 0; k1 = k0) {
    k0 = chunk_begin(k1);
    run_chunk(k0, k1);
  }
  return results();
}

void LayerBackward::add_dx_to(const at::Tensor& grad_x) {
  dx_.copy_(grad_x.reshape(dx_.sizes()));
  adds_dx_ = true;
}

void LayerBackward::begin(int64_t chunk_steps) {
  steps_ = chunk_steps;
  segments_ = restored_steps(layer_, marked_ ? saved_.size(2) : 0, steps_);
  for (int64_t d = 0; d < layer_.directions; ++d) set_up(d, std::min(steps_ * layer_.batch, layer_.rows));
}

int64_t LayerBackward::chunk_begin(int64_t k1) const {
  const int64_t s0 = (k1 - 1) / segments_ * segments_;
  return s0 + (k1 - 1 - s0) / steps_ * steps_;
}

void LayerBackward::run_chunk(int64_t k0, int64_t k1) {
  if (marked_ && (k1 == layer_.steps || k1 % segments_ == 0)) restore((k1 - 1) / segments_ * segments_, k1);
  for (int64_t d = 0; d < layer_.directions; ++d) {
    auto& dir = directions_[d];
    const Chunk chunk = c_.chunk(k0, k1, d);
    if (lean_ || dir.grads.w_hh.defined()) dir.entering = gather(c_.kernels.entering, layer_.width, d, chunk);
    if (lean_ && dir.with_gates != chunk) recompute(d, chunk);
    if (!lean_ && layer_.cell.norms > 0) dir.input_product = multiply_input(d, chunk);
    if (c_.lengths.defined()) {  // nobody writes past the end of a row
      set_to_zero(dir.dgx);
      if (!layer_.cell.same_grads) set_to_zero(dir.dgh);
      if (dir.dh_out.defined()) set_to_zero(dir.dh_out);
    }
  }
  walk(k0, k1);
  for (int64_t d = 0; d < layer_.directions; ++d) multiply(d, c_.chunk(k0, k1, d), k1 == layer_.steps);
}

void LayerBackward::restore(int64_t s0, int64_t s1) {
  // The operand of a later phase depends on the states: with more than one, a chunk is a step.
  const int64_t steps = layer_.cell.phases > 1 ? 1 : steps_;
  for (int64_t d = 0; d < layer_.directions; ++d) {
    auto& dir = directions_[d];
    dir.window->move(std::max<int64_t>(s0 - 1, 0), s1);
    set_states(dir.b, *dir.window);
    if (s0 > 0) dir.window->take(saved_, s0, copy_into);
    for (int64_t k0 = s0; k0 < s1; k0 += steps) {
      const Chunk chunk = c_.chunk(k0, std::min(k0 + steps, s1), d);
      dir.entering = gather(c_.kernels.entering, layer_.width, d, chunk);
      recompute(d, chunk, true);
    }
  }
}

void LayerBackward::set_up(int64_t d, int64_t rows) {
  const int64_t M = c_.members, B = layer_.batch, H = layer_.hidden, P = layer_.width, G = layer_.cell.gates;
  auto& dir = directions_[d];
  auto& b = dir.b;
  auto& apart = b.grads_apart;
  dir.grads = empty_gradients(c_.weights[d], needs_, d, layer_);
  c_.set_walk(b, d, y_, c_all_);
  place(b.dy, apart.dy, grad_y_, d * P);
  b.dy_stride = b.y_stride;
  if (!marked_) place(b.dc_all, apart.dc_all, grad_c_all_, d * layer_.rows * H);
  place(b.dh, apart.dh, dh_, d * B * P), place(b.dc, apart.dc, dc_, d * B * H);
  place(b.dreset_h, apart.dreset_h, dreset_h_, d * B * P), place(b.dreset_c, apart.dreset_c, dreset_c_, d * B * H);
  b.ddecay_h = factor_of<void>(of_first(ddecay_h_), d), apart.ddecay_h = bytes_apart(ddecay_h_);
  b.ddecay_c = factor_of<void>(of_first(ddecay_c_), d), apart.ddecay_c = bytes_apart(ddecay_c_);
  dir.dgx = at::empty({M, rows, G * H}, data_);
  dir.dgh = layer_.cell.same_grads ? dir.dgx : at::empty({M, rows, G * H}, data_);
  if (layer_.projected()) dir.dh_out = at::empty({M, rows, P}, data_);
  dir.dph = layer_.cell.norms > 0 ? at::empty({M, rows, G * H}, data_) : dir.dgh;
  if (layer_.cell.norms > 0 && dir.grads.w_unit.defined())
    dir.d_unit = at::empty({M, rows, layer_.cell.unit * H}, c_.compute);
  if (marked_) dir.window.emplace(layer_, c_.plan, d, c_.reverse[d], segments_ + 1, std::vector<int64_t>{M});
  if (lean_)
    dir.saved = at::empty({M, rows, layer_.saved_width}, c_.compute);
  else if (layer_.saved_width > 0)
    dir.saved = saved_.select(1, d).view({M, layer_.rows, layer_.saved_width});
}

template <class Call>
void LayerBackward::for_tables(int64_t d, const Chunk& chunk, const Call& call, int64_t most) const {
  for (int64_t k = chunk.k0; k < chunk.k1; k += most) {
    const Chunk part = c_.chunk(k, std::min(k + most, chunk.k1), d);
    call(cuda::make_step_table(c_.plan.plan, part.t0, part.t1, c_.reverse[d]), part.r0 - chunk.r0);
  }
}

at::Tensor LayerBackward::gather(Gather kernel, int64_t width, int64_t d, const Chunk& chunk) const {
  const auto& dir = directions_[d];
  at::Tensor out = at::empty({c_.members, chunk.rows(), width}, data_);
  for_tables(d, chunk, [&](const cuda::StepTable& table, int64_t at) {
    cuda::Rows rows;
    place_rows(rows.saved, rows.apart.saved, dir.saved, chunk.r0 + at - saved_first(chunk));
    place_rows(rows.out, rows.apart.out, out, at);
    check_launch(kernel(dir.b, table, rows, c_.stream()));
  });
  return out;
}

at::Tensor LayerBackward::unit_gradient(int64_t d, const Chunk& chunk) const {
  const auto& dir = directions_[d];
  at::Tensor out = at::empty({c_.members, chunk.rows(), layer_.cell.unit * layer_.hidden}, c_.compute);
  for_tables(d, chunk, [&](const cuda::StepTable& table, int64_t at) {
    cuda::Rows rows;
    place_rows(rows.dgx, rows.apart.dgx, dir.dgx, at), place_rows(rows.out, rows.apart.out, out, at);
    place_rows(rows.saved, rows.apart.saved, dir.saved, chunk.r0 + at - saved_first(chunk));
    check_launch(c_.kernels.unit_gradient(dir.b, table, rows, c_.stream()));
  });
  return out;
}

at::Tensor LayerBackward::multiply_input(int64_t d, const Chunk& chunk) const {
  const int64_t R = chunk.rows();
  at::Tensor product = at::empty({c_.members, R, layer_.cell.gates * layer_.hidden}, c_.compute);
  products_into(c_.of_members(product), c_.of_members(c_.x.narrow(1, chunk.r0, R)),
                c_.of_members(c_.weights[d].w_ih).mT());
  return product;
}

at::Tensor LayerBackward::input_gradient(int64_t d, const at::Tensor& dgx) const {
  const auto& dir = directions_[d];
  at::Tensor out = at::empty_like(dgx);
  cuda::NormRows rows = c_.norm_rows(d, dir.input_product, false);
  rows.d = dgx.data_ptr(), rows.out = out.data_ptr();
  if (dir.d_unit.defined()) rows.d_gain = dir.d_unit.data_ptr(), rows.d_gain_stride = dir.d_unit.size(2);
  check_launch(c_.kernels.normalize_backward(rows, c_.stream()));
  return out;
}

void LayerBackward::recompute(int64_t d, const Chunk& chunk, bool restores) {
  auto& dir = directions_[d];
  dir.with_gates = chunk;
  const int64_t M = c_.members, R = chunk.rows();
  const auto& w = c_.weights[d];
  const bool norms = layer_.cell.norms > 0;
  at::Tensor gx = multiply_input(d, chunk), operand = dir.entering;
  if (norms) {
    dir.input_product = std::exchange(gx, at::empty_like(gx));
    cuda::NormRows rows = c_.norm_rows(d, dir.input_product, false);
    rows.out = gx.data_ptr();
    check_launch(c_.kernels.normalize(rows, c_.stream()));
  }
  for (int p = 0; p < layer_.cell.phases; ++p) {
    at::Tensor gh;
    if (layer_.cell.recurrent) {
      gh = at::empty({M, R, layer_.heads * c_.phase_size(p)}, c_.compute);
      products_into(c_.of_heads(gh), c_.of_heads(operand), c_.rows_of_phase(w.w_hh, p).mT());
    }
    if (norms) {
      cuda::NormRows rows = c_.norm_rows(d, gh, true);
      rows.out = gh.data_ptr(), rows.kept_stride = layer_.saved_width;
      rows.kept = dir.saved.narrow(2, layer_.saved_width - gh.size(2), gh.size(2)).data_ptr();
      check_launch(c_.kernels.normalize(rows, c_.stream()));
    }
    if (p + 1 < layer_.cell.phases) operand = at::empty({M, R, layer_.hidden}, data_);
    const auto call = [&](const cuda::StepTable& table, int64_t at) {
      cuda::Rows rows;
      rows.restores = restores;
      place_rows(rows.gx, rows.apart.gx, gx, at), place_rows(rows.gh, rows.apart.gh, gh, at);
      place_rows(rows.saved, rows.apart.saved, dir.saved, at), place_rows(rows.out, rows.apart.out, operand, at);
      check_launch(c_.kernels.recompute[p](dir.b, table, rows, c_.stream()));
    };
    for_tables(d, chunk, call, restores ? 1 : cuda::kStepsPerTable);
  }
}

void LayerBackward::multiply(int64_t d, const Chunk& chunk, bool first) {
  auto& dir = directions_[d];
  auto& g = dir.grads;
  const int64_t H = layer_.hidden, R = chunk.rows();
  const at::Tensor dgx = dir.dgx.narrow(1, 0, R), dgh = dir.dgh.narrow(1, 0, R), dph = dir.dph.narrow(1, 0, R);
  const bool norms = layer_.cell.norms > 0;
  const at::Tensor x = c_.x.narrow(1, chunk.r0, R), dpx = norms ? input_gradient(d, dgx) : dgx;
  if (dx_.defined())
    accumulate(!adds_dx_, c_.of_members(dx_.narrow(1, chunk.r0, R)), c_.of_members(dpx),
               c_.of_members(c_.weights[d].w_ih));
  std::vector<at::Tensor> operands{dir.entering};
  if (g.w_hh.defined())
    for (int p = 1; p < layer_.cell.phases; ++p) operands.push_back(gather(c_.kernels.operand[p], H, d, chunk));
  at::Tensor unprojected, dh_out;
  if (g.w_hr.defined()) {
    unprojected = gather(c_.kernels.unprojected, H, d, chunk);
    dh_out = dir.dh_out.narrow(1, 0, R);
  }
  at::Tensor d_unit;
  if (g.w_unit.defined()) d_unit = dir.d_unit.defined() ? dir.d_unit.narrow(1, 0, R) : unit_gradient(d, chunk);
  for (int64_t i = 0; i < std::max<int64_t>(needs_.groups, 1); ++i) {
    // The rows and gradients of a group, or all of them.
    const auto rows = [&](const at::Tensor& t) {
      if (needs_.groups == 0) return t;
      const int64_t M = c_.members, each = layer_.batch / needs_.groups, width = t.size(2);
      return t.view({M, -1, needs_.groups, each, width}).select(2, i).reshape({M, -1, width});
    };
    const auto of = [&](const at::Tensor& t) { return needs_.groups == 0 ? t : t[i]; };
    const auto outer = [&](const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
      accumulate(first, c_.of_members(out), c_.of_members(a).mT(), c_.of_members(b));
    };
    const at::Tensor dgx_i = rows(dgx), dgh_i = rows(dgh);
    const at::Tensor dpx_i = norms ? rows(dpx) : dgx_i, dph_i = norms ? rows(dph) : dgh_i;
    if (g.w_ih.defined()) outer(of(g.w_ih), dpx_i, rows(x));
    if (g.b_ih.defined()) accumulate_sum(first, of(g.b_ih), dgx_i);
    if (g.b_hh.defined() && !one_bias_gradient(g)) accumulate_sum(first, of(g.b_hh), dgh_i);
    if (g.w_hh.defined()) {
      for (int p = 0; p < layer_.cell.phases; ++p)
        accumulate(first, c_.rows_of_phase(of(g.w_hh), p), c_.of_phase(dph_i, p).mT(), c_.of_heads(rows(operands[p])));
    }
    if (g.w_hr.defined()) outer(of(g.w_hr), rows(dh_out), rows(unprojected));
    if (g.w_unit.defined()) accumulate_sum(first, of(g.w_unit), rows(d_unit));
  }
}

void LayerBackward::accumulate(bool first, const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) const {
  first ? products_into(out, a, b) : add_products_into(out, a, b);
}
void LayerBackward::accumulate_sum(bool first, const at::Tensor& out, const at::Tensor& rows) const {
  first ? sum_into(out, rows) : add_sum_into(out, rows);
}

SequenceGradients LayerBackward::results() {
  finish();
  for (const auto& dir : directions_) {
    if (layer_.batch == 0 || layer_.steps == 0)
      for (const auto& g : dir.grads.all())
        if (g.defined()) g.zero_();
    if (one_bias_gradient(dir.grads)) dir.grads.b_hh.copy_(dir.grads.b_ih);
  }
  const auto given = [&](bool wanted, const at::Tensor& t) {
    return wanted && t.defined() ? t.to(layer_.dtype) : at::empty({0}, data_);
  };
  // As the weights are: members before groups and, in the dimension `gates` from the last, if any, no longer by head.
  const auto of_weight = [&](const at::Tensor& g, int64_t gates) {
    if (!g.defined()) return given(false, g);
    const at::Tensor ordered = gates > 0 ? by_gate(g, layer_, g.dim() - gates) : g;
    return given(true, needs_.groups > 0 ? ordered.transpose(0, 1).contiguous() : ordered);
  };
  std::vector<at::Tensor> dw;
  for (const auto& dir : directions_) {
    const DirectionWeights& g = dir.grads;
    const at::Tensor w_hh = g.w_hh.defined() ? g.w_hh.flatten(-3, -2) : g.w_hh;
    for (const at::Tensor& t : {of_weight(g.w_ih, 2), of_weight(w_hh, 2), of_weight(g.b_ih, 1), of_weight(g.b_hh, 1),
                                of_weight(g.w_hr, 0), of_weight(g.w_unit, 0)})
      dw.push_back(t);
  }
  return c_.for_caller(SequenceGradients(given(needs_.x, dx_.defined() ? layer_.with_leading(dx_, 1) : dx_),
                                         given(needs_.h0, dh_), given(needs_.c0, dc_), given(needs_.reset_h, dreset_h_),
                                         given(needs_.reset_c, dreset_c_),
                                         ddecay_h_.defined() ? ddecay_h_ : at::empty({0}, c_.compute),
                                         ddecay_c_.defined() ? ddecay_c_ : at::empty({0}, c_.compute), dw));
}

}  // namespace seq::ops
