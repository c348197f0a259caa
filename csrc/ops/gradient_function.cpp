#include "ops/gradient_function.h"

#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/utils/pybind.h>

#include "ops/plain.h"
#include "ops/tangent.h"

namespace seq::ops {

namespace {

using torch::autograd::AutogradContext;

constexpr size_t kOutputs = 3;  // of a layer, those that are there: y, h_n, c_n

// `list` where `there` says so, in order; and the other way round.
variable_list gather(const std::vector<bool>& there, const variable_list& list) {
  variable_list out;
  for (size_t j = 0; j < list.size(); ++j)
    if (there[j]) out.push_back(list[j]);
  return out;
}
variable_list spread(const std::vector<bool>& there, const variable_list& list) {
  variable_list out(there.size());
  for (size_t j = 0, next = 0; j < there.size(); ++j)
    if (there[j]) out[j] = list[next++];
  return out;
}

// The gradients are those of one number, so that their derivatives are symmetric: what `directions` of them pull back
// is the tangent, in these directions of the inputs, of the outputs and of the gradients `wanted`.
variable_list tangents_of(const Arguments& a, const at::Tensor& known, const variable_list& grads,
                          const variable_list& directions, std::vector<bool> wanted) {
  RECORD_FUNCTION("seqcuda::sequence_tangent", std::vector<c10::IValue>{});
  const at::AutoDispatchBelowADInplaceOrView below;
  TangentArguments t{a, arguments_of(a.cell, a.reverse, directions), {}, {}, optional(known), std::move(wanted)};
  t.grads = {optional(grads[0]), optional(grads[1]), optional(grads[2]), {}};
  const auto [y, h_n, c_n, c_all, x, h0, c0, reset_h, reset_c, weights] = sequence_tangent_cpu(t);
  variable_list out{y, h_n, c_n, x, h0, c0, {}, {}, {}, reset_h, reset_c};
  out.resize(kOutputs + kBesideWeights);
  out.insert(out.end(), weights.begin(), weights.end());
  return out;
}

// What a function of seqcuda/autograd.py makes of these tensors, in order: `first`, those of `a`, `second`.
variable_list by_python(const char* function, const Arguments& a, const std::vector<bool>& wanted,
                        const variable_list& first, const variable_list& second) {
  namespace py = pybind11;
  const auto optionals = [](const variable_list& list) {
    std::vector<OptionalTensor> out;
    for (const at::Tensor& t : list) out.push_back(optional(t));
    return out;
  };
  const py::gil_scoped_acquire gil;
  const py::object result =
      py::module_::import("seqcuda.autograd")
          .attr(function)(a.cell, a.reverse, wanted, optionals(first), optionals(tensors_of(a)), optionals(second));
  variable_list out;
  for (const OptionalTensor& t : result.cast<std::vector<OptionalTensor>>()) out.push_back(or_undefined(t));
  return out;
}

class GradientFunction : public torch::autograd::Function<GradientFunction> {
 public:
  // `given`: of the gradients of the outputs and of the tensors of `a` those that there are, in order. Results: the
  // gradients that `needs` asks for.
  static variable_list forward(AutogradContext* ctx, at::TensorList, const Arguments& a, const Saved& s,
                               const std::vector<bool>& needs) {
    ctx->saved_data["cell"] = a.cell;
    ctx->saved_data["reverse"] = kept_bools(a.reverse);
    ctx->saved_data["needs"] = kept_bools(needs);
    ctx->set_materialize_grads(false);
    // y, where the tangents need it, without its graph, which is that of the inputs.
    variable_list kept{cell_counts(a.cell).from_output ? s.y.detach() : at::Tensor(), or_undefined(s.grad_y),
                       or_undefined(s.grad_h_n), or_undefined(s.grad_c_n)};
    const variable_list inputs = tensors_of(a);
    kept.insert(kept.end(), inputs.begin(), inputs.end());
    ctx->save_for_backward(std::move(kept));
    return gather(needs, gradients_of(a, s, needs));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grad_grads) {
    const variable_list kept = ctx->get_saved_variables();
    const auto first_grad = kept.begin() + 1, first_input = first_grad + kOutputs;
    const variable_list grads(first_grad, first_input), inputs(first_input, kept.end());
    std::vector<bool> there, wanted;
    size_t edges = 0;
    for (auto t = first_grad; t != kept.end(); ++t) {
      there.push_back(t->defined());
      wanted.push_back(t->defined() && ctx->needs_input_grad(edges++));
    }
    variable_list out;
    bool any = false;
    for (const at::Tensor& g : grad_grads) any = any || g.defined();
    if (any) {
      const Arguments a =
          arguments_of(ctx->saved_data["cell"].toStringRef(), bools_of(ctx->saved_data["reverse"]), inputs);
      const std::vector<bool> of_inputs(wanted.begin() + kOutputs, wanted.end());
      const variable_list directions = spread(bools_of(ctx->saved_data["needs"]), grad_grads);
      // Python's Functions can be differentiated once more, and know what a vmap is.
      variable_list all = at::GradMode::is_enabled() || !all_plain(grad_grads)
                              ? plain_tangents(a, of_inputs, grads, directions)
                              : tangents_of(a, kept[0], grads, directions, of_inputs);
      for (size_t j = 0; j < all.size(); ++j)
        if (!wanted[j]) all[j] = at::Tensor();
      out = gather(there, all);
    }
    out.resize(edges + 3);  // for `a`, `s` and `needs`
    return out;
  }
};

}  // namespace

variable_list tensors_of(const Arguments& a) {
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

Arguments arguments_of(std::string cell, std::vector<bool> reverse, const variable_list& t) {
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

variable_list gradients_of(const Arguments& a, const Saved& s, const std::vector<bool>& needs) {
  const at::AutoDispatchBelowADInplaceOrView below;
  const auto [x, h0, c0, reset_h, reset_c, decay_h, decay_c, weights] = sequence_backward_cpu(a, s, "auto", needs, 0);
  variable_list all{x, h0, c0, {}, {}, {}, reset_h, reset_c};
  all.resize(kBesideWeights);
  all.insert(all.end(), weights.begin(), weights.end());
  for (size_t j = 0; j < all.size(); ++j)
    if (!needs[j]) all[j] = at::Tensor();
  return all;
}

variable_list plain_tangents(const Arguments& a, const std::vector<bool>& wanted, const variable_list& grads,
                             const variable_list& directions) {
  return by_python("plain_tangents", a, wanted, grads, directions);
}

variable_list differentiable_gradients(const Arguments& a, const Saved& s, const std::vector<bool>& needs) {
  const variable_list grads{or_undefined(s.grad_y), or_undefined(s.grad_h_n), or_undefined(s.grad_c_n)};
  if (!all_plain(grads)) return by_python("plain_gradients", a, needs, grads, {s.y, s.c_all, s.saved});
  variable_list given;
  for (const at::Tensor& g : grads)
    if (g.defined()) given.push_back(g);
  for (at::Tensor& t : tensors_of(a))
    if (t.defined()) given.push_back(std::move(t));
  return spread(needs, GradientFunction::apply(at::TensorList(given), a, s, needs));
}

}  // namespace seq::ops
