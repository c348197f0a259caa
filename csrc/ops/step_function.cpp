#include "ops/step_function.h"

#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "ops/gradient_function.h"
#include "ops/plain.h"
#include "ops/step_gradients.h"

namespace seq::ops {

namespace {

using torch::autograd::AutogradContext;

StepTensors as_tensors(const at::Tensor* t) { return {t[0], t[1], t[2], t[3], t[4], t[5], t[6]}; }

// The step as a layer of one: for what Python's Functions do for every layer.
class AsLayer {
 public:
  AsLayer(const CellCounts& cell, const StepTensors& t) : cell_(cell), t_(t), n_(cell, t) {}

  // `of_step`, shaped as the inputs, in the order of Inputs.tensors() of seqcuda/walk.py.
  variable_list inputs(const StepTensors& of_step) const {
    variable_list tensors(kBesideWeights + Layer::kWeights);
    for (int i = 0; i < kStepInputs; ++i) tensors[kAt[i]] = *in_order(of_step)[i];
    tensors[kAt[kX]] = shaped(of_step.x, {1, n_.B, n_.I});
    tensors[kAt[kH]] = h(of_step.h), tensors[kAt[kC]] = c(of_step.c);
    return tensors;
  }
  std::vector<bool> needs(const OfStepInputs<bool>& of_step) const {
    std::vector<bool> needs(kBesideWeights + Layer::kWeights);
    for (int i = 0; i < kStepInputs; ++i) needs[kAt[i]] = of_step[i];
    return needs;
  }
  at::Tensor h(const at::Tensor& s) const { return shaped(s, {1, n_.B, n_.H}); }
  at::Tensor c(const at::Tensor& s) const { return shaped(s, {n_.extra, 1, n_.B, n_.H}); }

  // What the forward kept, for the backward of the layer.
  Saved saved(const at::Tensor& kept, const at::Tensor& dh, const at::Tensor& dc) const {
    return {{},
            optional(h(dh)),
            optional(c(dc)),
            {},
            h(kept.narrow(0, n_.h_at(), n_.B * n_.H)).to(t_.x.scalar_type()),
            kept.narrow(0, n_.c_at(), n_.extra * n_.B * n_.H).view({n_.extra, 1, 1, n_.B, n_.H}),
            kept.narrow(0, 0, n_.c_at()).view({n_.saved > 0 ? 1 : 0, 1, n_.B, n_.saved * n_.H})};
  }

  Arguments arguments() const { return arguments_of(cell_.name, {false}, inputs(t_)); }

  // What there is of a gradient for each input of the layer, shaped as those of the step.
  StepGradients gradients(const variable_list& all) const {
    StepGradients g;
    for (int i = 0; i < kStepInputs; ++i)
      if (all[kAt[i]].defined()) g[i] = all[kAt[i]].reshape(in_order(t_)[i]->sizes());
    return g;
  }

 private:
  static constexpr OfStepInputs<size_t> kAt{
      0, 1, 2, kBesideWeights, kBesideWeights + 1, kBesideWeights + 2, kBesideWeights + 3};
  static at::Tensor shaped(const at::Tensor& s, at::IntArrayRef shape) { return s.defined() ? s.reshape(shape) : s; }

  const CellCounts& cell_;
  const StepTensors& t_;
  const StepSizes n_;
};

StepTangents tangents_with_graph(const CellCounts& cell, const StepTensors& t, const StepTensors& v,
                                 const at::Tensor& dh, const at::Tensor& dc, const OfStepInputs<bool>& needs) {
  const AsLayer layer(cell, t);
  const variable_list all =
      plain_tangents(layer.arguments(), layer.needs(needs), {{}, layer.h(dh), layer.c(dc)}, layer.inputs(v));
  const auto like = [](const at::Tensor& s, const at::Tensor& of) { return of.defined() ? s.reshape(of.sizes()) : s; };
  return {like(all[1], dh), like(all[2], dc), layer.gradients({all.begin() + 3, all.end()})};
}

// What a backward of a step is of. Not tensors to autograd, which is given those that there are in a list.
struct OfStep {
  const CellCounts& cell;
  const StepTensors& t;
  const at::Tensor &kept, &dh, &dc;
};

class StepGradientFunction : public torch::autograd::Function<StepGradientFunction> {
 public:
  // `given`: of dh, dc and t those that there are, in order. Results: the gradients that `needs` asks for.
  static variable_list forward(AutogradContext* ctx, at::TensorList, const OfStep& of,
                               const OfStepInputs<bool>& needs) {
    const StepTensors& t = of.t;
    ctx->saved_data["cell"] = static_cast<int64_t>(of.cell.index);
    ctx->saved_data["needs"] = bits(needs);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({of.dh, of.dc, t.x, t.h, t.c, t.w_ih, t.w_hh, t.b_ih, t.b_hh});
    variable_list out;
    for (at::Tensor& g : step_gradients(of.cell, t, of.kept, of.dh, of.dc, needs))
      if (g.defined()) out.push_back(std::move(g));
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grad_grads) {
    const variable_list kept = ctx->get_saved_variables();
    const at::Tensor &dh = kept[0], &dc = kept[1];
    const StepTensors t = as_tensors(&kept[2]);
    const CellCounts& cell = cell_counts(static_cast<int>(ctx->saved_data["cell"].toInt()));
    const int64_t given = ctx->saved_data["needs"].toInt();
    OfStepInputs<at::Tensor> v;
    bool any = false;
    for (int i = 0, next = 0; i < kStepInputs; ++i)
      if (given >> i & 1) any = (v[i] = grad_grads[next++]).defined() || any;
    size_t edges = dh.defined() + dc.defined();
    OfStepInputs<bool> needs{};
    for (int i = 0; i < kStepInputs; ++i) needs[i] = in_order(t)[i]->defined() && ctx->needs_input_grad(edges++);
    variable_list out;
    if (any) {
      const bool graph = at::GradMode::is_enabled() || !all_plain(grad_grads);
      StepTangents all = (graph ? tangents_with_graph : step_tangents)(cell, t, as_tensors(v.data()), dh, dc, needs);
      if (dh.defined()) out.push_back(std::move(all.h));
      if (dc.defined()) out.push_back(std::move(all.c));
      for (int i = 0; i < kStepInputs; ++i)
        if (in_order(t)[i]->defined()) out.push_back(needs[i] ? std::move(all.gradients[i]) : at::Tensor());
    }
    out.resize(edges + kBesideTensors);
    return out;
  }

 private:
  static constexpr size_t kBesideTensors = 2;  // arguments of `forward`

  static int64_t bits(const OfStepInputs<bool>& bools) {
    int64_t bits = 0;
    for (int i = 0; i < kStepInputs; ++i) bits |= int64_t{bools[i]} << i;
    return bits;
  }
};

// step_gradients, which can be differentiated again, or be of a vmap.
StepGradients gradients_with_graph(const CellCounts& cell, const StepTensors& t, const at::Tensor& kept,
                                   const at::Tensor& dh, const at::Tensor& dc, const OfStepInputs<bool>& needs) {
  const bool half = t.x.scalar_type() != at::kFloat && t.x.scalar_type() != at::kDouble;
  if (half || !is_plain(dh) || !is_plain(dc)) {
    const AsLayer layer(cell, t);
    return layer.gradients(differentiable_gradients(layer.arguments(), layer.saved(kept, dh, dc), layer.needs(needs)));
  }
  variable_list given;
  for (const at::Tensor* each : {&dh, &dc})
    if (each->defined()) given.push_back(*each);
  for (const at::Tensor* each : in_order(t))
    if (each->defined()) given.push_back(*each);
  const variable_list found = StepGradientFunction::apply(at::TensorList(given), OfStep{cell, t, kept, dh, dc}, needs);
  StepGradients g;
  for (int i = 0, next = 0; i < kStepInputs; ++i)
    if (needs[i]) g[i] = found[next++];
  return g;
}

class StepFunction : public torch::autograd::Function<StepFunction> {
 public:
  // h, then c and y where there are such.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const OptionalTensor& h,
                               const OptionalTensor& c, const at::Tensor& w_ih, const at::Tensor& w_hh,
                               const OptionalTensor& b_ih, const OptionalTensor& b_hh, const CellCounts& cell,
                               int64_t batch, at::IntArrayRef states, std::optional<at::IntArrayRef> output) {
    const StepTensors t{x, or_undefined(h), or_undefined(c), w_ih, w_hh, or_undefined(b_ih), or_undefined(b_hh)};
    at::Tensor kept;
    const StepOutputs out = step_forward(cell, t, batch, states, output, &kept);
    ctx->saved_data["cell"] = static_cast<int64_t>(cell.index);
    ctx->save_for_backward({kept, t.x, t.h, t.c, t.w_ih, t.w_hh, t.b_ih, t.b_hh});
    ctx->set_materialize_grads(false);
    variable_list results{out.h};
    if (out.c.defined()) results.push_back(out.c);
    if (out.y.defined()) results.push_back(out.y);
    return results;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    constexpr int kArguments = kStepInputs + 4;
    const variable_list kept = ctx->get_saved_variables();
    const StepTensors t = as_tensors(&kept[1]);
    const CellCounts& cell = cell_counts(static_cast<int>(ctx->saved_data["cell"].toInt()));
    OfStepInputs<bool> needs{};
    size_t edge = 0;
    for (int i = 0; i < kStepInputs; ++i) needs[i] = in_order(t)[i]->defined() && ctx->needs_input_grad(edge++);

    const size_t states = static_cast<size_t>(cell.states);
    at::Tensor dh = grads[0], dc = states > 1 ? grads[1] : at::Tensor();
    if (grads.size() > states && grads[states].defined()) {
      const at::Tensor& dy = grads[states];
      dh = dh.defined() ? dh + dy.reshape(dh.sizes()) : dy;
    }
    variable_list out(kArguments);
    if (!dh.defined() && !dc.defined()) return out;
    const bool graph = at::GradMode::is_enabled() || !is_plain(dh) || !is_plain(dc);
    StepGradients g = (graph ? gradients_with_graph : step_gradients)(cell, t, kept[0], dh, dc, needs);
    std::move(g.begin(), g.end(), out.begin());
    return out;
  }
};

bool wants_graph(const StepTensors& t) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor* given : in_order(t))
    if (given->defined() && given->requires_grad()) return true;
  return false;
}

}  // namespace

StepOutputs differentiable_step(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                                std::optional<at::IntArrayRef> output) {
  if (!wants_graph(t)) return step_forward(cell, t, batch, states, output, nullptr);
  const variable_list results = StepFunction::apply(t.x, optional(t.h), optional(t.c), t.w_ih, t.w_hh, optional(t.b_ih),
                                                    optional(t.b_hh), cell, batch, states, output);
  const bool has_c = cell.states > 1;
  return {output ? results[has_c ? 2 : 1] : at::Tensor(), results[0], has_c ? results[1] : at::Tensor()};
}

}  // namespace seq::ops
