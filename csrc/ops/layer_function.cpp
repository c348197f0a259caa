#include "ops/layer_function.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/utils/pybind.h>

#include "ops/gradients.h"

namespace seq::ops {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// In the order of Inputs.tensors(); undefined where there is none.
variable_list in_order(const Arguments& a) {
  variable_list all{a.x,
                    or_undefined(a.h0),
                    or_undefined(a.c0),
                    or_undefined(a.lengths),
                    or_undefined(a.batch_sizes),
                    or_undefined(a.resets),
                    or_undefined(a.reset_h),
                    or_undefined(a.reset_c)};
  all.resize(kBesideWeights);  // nothing happens between the steps
  for (const OptionalTensor& w : a.weights) all.push_back(or_undefined(w));
  return all;
}

Arguments from_order(std::string cell, std::vector<bool> reverse, const variable_list& t) {
  Arguments a{std::move(cell),
              t[0],
              {},
              optional(t[1]),
              optional(t[2]),
              optional(t[3]),
              optional(t[4]),
              optional(t[5]),
              optional(t[6]),
              optional(t[7]),
              std::move(reverse)};
  for (size_t j = kBesideWeights; j < t.size(); ++j) a.weights.push_back(optional(t[j]));
  return a;
}

// The gradients in the same order, undefined where `needs` does not ask for them.
variable_list gradients(const Arguments& a, const Saved& saved, const std::vector<bool>& needs) {
  const auto [x, h0, c0, reset_h, reset_c, decay_h, decay_c, weights] =
      sequence_backward_cpu(a, saved, "auto", needs, 0);
  variable_list all{x, h0, c0, {}, {}, {}, reset_h, reset_c};
  all.resize(kBesideWeights);
  all.insert(all.end(), weights.begin(), weights.end());
  for (size_t j = 0; j < all.size(); ++j)
    if (!needs[j]) all[j] = at::Tensor();
  return all;
}

// The same through Python's Function, whose backward can be differentiated again.
variable_list gradients_with_graph(const Arguments& a, const Saved& s, const variable_list& inputs,
                                   const std::vector<bool>& needs) {
  namespace py = pybind11;
  std::vector<OptionalTensor> tensors{s.grad_y, s.grad_h_n, s.grad_c_n, s.grad_c_all, s.y, s.c_all, s.saved};
  for (const at::Tensor& t : inputs) tensors.push_back(optional(t));
  const py::gil_scoped_acquire gil;
  const py::object result =
      py::module_::import("seqcuda.autograd").attr("layer_backward")(a.cell, a.reverse, needs, tensors);
  variable_list out;
  for (const OptionalTensor& g : result.cast<std::vector<OptionalTensor>>()) out.push_back(or_undefined(g));
  return out;
}

class LayerFunction : public torch::autograd::Function<LayerFunction> {
 public:
  // `given`: the tensors of `a` that there are, in order.
  static variable_list forward(AutogradContext* ctx, at::TensorList, const Arguments& a, const std::string& save) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [y, h_n, c_n, c_all, saved] = sequence_cpu(a, save, "auto");
    ctx->saved_data["cell"] = a.cell;
    c10::List<bool> reverse;
    for (const bool r : a.reverse) reverse.push_back(r);
    ctx->saved_data["reverse"] = std::move(reverse);
    ctx->set_materialize_grads(false);
    variable_list kept{y, c_all, saved}, inputs = in_order(a);
    kept.insert(kept.end(), inputs.begin(), inputs.end());
    ctx->save_for_backward(std::move(kept));
    return c_n.size(0) == 0 ? variable_list{y, h_n} : variable_list{y, h_n, c_n};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list kept = ctx->get_saved_variables(), inputs(kept.begin() + 3, kept.end());
    const c10::List<bool> reverse = ctx->saved_data["reverse"].toBoolList();
    const Arguments a = from_order(ctx->saved_data["cell"].toStringRef(), {reverse.begin(), reverse.end()}, inputs);
    std::vector<bool> needs;
    size_t edges = 0;
    for (const at::Tensor& t : inputs) needs.push_back(t.defined() && ctx->needs_input_grad(edges++));

    variable_list out;
    bool any = false;
    for (const at::Tensor& g : grads) any = any || g.defined();
    if (any) {
      const Saved saved{optional(grads[0]),
                        optional(grads[1]),
                        grads.size() > 2 ? optional(grads[2]) : OptionalTensor(),
                        {},
                        kept[0],
                        kept[1],
                        kept[2]};
      variable_list all;
      if (at::GradMode::is_enabled()) {
        all = gradients_with_graph(a, saved, inputs, needs);
      } else {
        const at::AutoDispatchBelowADInplaceOrView below;
        all = gradients(a, saved, needs);
      }
      for (size_t j = 0; j < inputs.size(); ++j)
        if (inputs[j].defined()) out.push_back(all[j]);
    }
    out.resize(edges + 2);  // for `a` and `save`
    return out;
  }
};

}  // namespace

LayerOutputs differentiable_layer(const Arguments& a, const std::string& save) {
  variable_list given;
  bool graph = false;
  for (at::Tensor& t : in_order(a)) {
    if (!t.defined()) continue;
    graph = graph || t.requires_grad();
    given.push_back(std::move(t));
  }
  if (graph && at::GradMode::is_enabled()) {
    variable_list out = LayerFunction::apply(at::TensorList(given), a, save);
    out.resize(3);
    return {out[0], out[1], out[2]};
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  const auto [y, h_n, c_n, c_all, saved] = sequence_cpu(a, "nothing", "auto");
  return {y, h_n, c_n.size(0) == 0 ? at::Tensor() : c_n};
}

}  // namespace seq::ops
