#include "ops/layer_function.h"

#include <torch/csrc/autograd/custom_function.h>

#include "ops/gradient_function.h"
#include "ops/plain.h"

namespace seq::ops {

namespace {

using torch::autograd::AutogradContext;

class LayerFunction : public torch::autograd::Function<LayerFunction> {
 public:
  // `given`: the tensors of `a` that there are, in order.
  static variable_list forward(AutogradContext* ctx, at::TensorList, const Arguments& a, const std::string& save) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [y, h_n, c_n, c_all, saved] = sequence_cpu(a, save, "auto");
    ctx->saved_data["cell"] = a.cell;
    ctx->saved_data["reverse"] = kept_bools(a.reverse);
    ctx->set_materialize_grads(false);
    variable_list kept{y, c_all, saved}, inputs = tensors_of(a);
    kept.insert(kept.end(), inputs.begin(), inputs.end());
    ctx->save_for_backward(std::move(kept));
    return c_n.size(0) == 0 ? variable_list{y, h_n} : variable_list{y, h_n, c_n};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list kept = ctx->get_saved_variables(), inputs(kept.begin() + 3, kept.end());
    const Arguments a =
        arguments_of(ctx->saved_data["cell"].toStringRef(), bools_of(ctx->saved_data["reverse"]), inputs);
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
      const variable_list all = at::GradMode::is_enabled() || !all_plain(grads)
                                    ? differentiable_gradients(a, saved, needs)
                                    : gradients_of(a, saved, needs);
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
  for (at::Tensor& t : tensors_of(a)) {
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
