// What is registered for the op pair on the CPU and for autograd.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include "ops/mask.h"
#include "ops/stack.h"
#include "ops/tangent.h"

namespace seq::ops {

namespace {

bool requires_grad(const at::Tensor& t) { return t.defined() && t.requires_grad(); }
bool requires_grad(const OptionalTensor& t) { return t.has_value() && requires_grad(*t); }
bool requires_grad(const OptionalTensors& list) {
  for (size_t j = 0; j < list.size(); ++j)
    if (requires_grad(list.get(j))) return true;
  return false;
}
bool requires_grad(const std::optional<OptionalTensors>& list) { return list.has_value() && requires_grad(*list); }
template <class T>
bool requires_grad(const T&) {
  return false;
}

// seqcuda.autograd calls the ops with gradients off. A compiler, or a program that it wrote, calls the op as it is: the
// graph is made by the same Function.
SequenceResult sequence_with_graph(std::string cell, at::Tensor x, OptionalTensors weights, OptionalTensor h0,
                                   OptionalTensor c0, OptionalTensor lengths, OptionalTensor batch_sizes,
                                   OptionalTensor resets, OptionalTensor reset_h, OptionalTensor reset_c,
                                   c10::List<bool> reverse, std::string save, std::string engine,
                                   std::optional<OptionalTensors> factors, int64_t detach_every,
                                   c10::List<double> options) {
  const Arguments a = arguments(std::move(cell), std::move(x), weights, std::move(h0), std::move(c0),
                                std::move(lengths), std::move(batch_sizes), std::move(resets), std::move(reset_h),
                                std::move(reset_c), reverse, factors, detach_every, options);
  const pybind11::gil_scoped_acquire gil;
  return pybind11::module_::import("seqcuda.autograd")
      .attr("sequence_with_graph")(a.cell, a.reverse, save, engine, a.detach_every, a.options, a.weights, a.x, a.h0,
                                   a.c0, a.lengths, a.batch_sizes, a.resets, a.reset_h, a.reset_c, a.factors.decay_h,
                                   a.factors.decay_c, a.factors.drop, a.factors.keep_h, a.factors.keep_c)
      .cast<SequenceResult>();
}

constexpr char sequence_name[] = "seqcuda::sequence", sequence_backward_name[] = "seqcuda::sequence_backward";
constexpr char sequence_tangent_name[] = "seqcuda::sequence_tangent";

// The gradients have no formula of their own: whoever would differentiate through the bare op is told, instead of
// getting zeros.
template <const char* kName, class Result, class... Args>
Result not_differentiable(Args...) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, kName,
                              " is not differentiable; use seqcuda.functional or the modules, or torch.no_grad()");
}

template <class Signature>
struct Autograd;
template <class Result, class... Args>
struct Autograd<Result(Args...)> {
  template <const char* kName, Result (*kWithGraph)(Args...)>
  static Result call(Args... args) {
    if (at::GradMode::is_enabled() && (requires_grad(args) || ...)) return kWithGraph(std::move(args)...);
    static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(kName, "").typed<Result(Args...)>();
    // Below the views' key too: what a kernel makes by viewing its own memory is nobody's view.
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(std::move(args)...);
  }
};

}  // namespace

TORCH_LIBRARY(seqcuda, m) {
  m.def(kSequenceSchema);
  m.def(kSequenceBackwardSchema);
  m.def(kStackSchema);
  m.def(kStackBackwardSchema);
  m.def(kMaskSchema);
  m.def(kSequenceTangentSchema);
}

TORCH_LIBRARY_IMPL(seqcuda, CPU, m) {
  m.impl("sequence", &sequence<sequence_cpu>);
  m.impl("sequence_backward", &sequence_backward<sequence_backward_cpu>);
  m.impl("mask", &mask_cpu);
  m.impl("sequence_tangent", &sequence_tangent<sequence_tangent_cpu>);
}

// Under torch.func in a compiler, which sees the op: the transforms know the Function's rules, not the op's.
TORCH_LIBRARY_IMPL(seqcuda, FuncTorchDynamicLayerFrontMode, m) { m.impl("sequence", &sequence_with_graph); }

TORCH_LIBRARY_IMPL(seqcuda, Autograd, m) {
  m.impl("sequence", &Autograd<decltype(sequence<sequence_cpu>)>::call<sequence_name, sequence_with_graph>);
  m.impl("sequence_backward", &Autograd<decltype(sequence_backward<sequence_backward_cpu>)>::call<
                                  sequence_backward_name, not_differentiable<sequence_backward_name>>);
  m.impl("sequence_tangent",
         &Autograd<decltype(sequence_tangent<sequence_tangent_cpu>)>::call<sequence_tangent_name,
                                                                           not_differentiable<sequence_tangent_name>>);
}

}  // namespace seq::ops
