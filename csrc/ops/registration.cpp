// What is registered for the op pair on the CPU and for autograd.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "ops/unboxed.h"

namespace seq::ops {

namespace {

bool requires_grad(const at::Tensor& t) { return t.defined() && t.requires_grad(); }
bool requires_grad(const OptionalTensor& t) { return t.has_value() && requires_grad(*t); }
bool requires_grad(const OptionalTensors& list) {
  for (size_t j = 0; j < list.size(); ++j)
    if (requires_grad(list.get(j))) return true;
  return false;
}
template <class T>
bool requires_grad(const T&) {
  return false;
}

constexpr char sequence_name[] = "seqcuda::sequence", sequence_backward_name[] = "seqcuda::sequence_backward";

// The bare ops have no formula of their own: whoever would differentiate through one is told, instead of getting
// zeros. seqcuda.autograd has the Functions that do, and calls the ops with gradients off.
template <class Signature>
struct Undifferentiable;
template <class Result, class... Args>
struct Undifferentiable<Result(Args...)> {
  template <const char* kName>
  static Result call(Args... args) {
    TORCH_CHECK_NOT_IMPLEMENTED(!(at::GradMode::is_enabled() && (requires_grad(args) || ...)), kName,
                                " is not differentiable; use seqcuda.functional or the modules, or torch.no_grad()");
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
}

TORCH_LIBRARY_IMPL(seqcuda, CPU, m) {
  m.impl("sequence", &sequence<sequence_cpu>);
  m.impl("sequence_backward", &sequence_backward<sequence_backward_cpu>);
}

TORCH_LIBRARY_IMPL(seqcuda, Autograd, m) {
  m.impl("sequence", &Undifferentiable<decltype(sequence<sequence_cpu>)>::call<sequence_name>);
  m.impl("sequence_backward",
         &Undifferentiable<decltype(sequence_backward<sequence_backward_cpu>)>::call<sequence_backward_name>);
}

}  // namespace seq::ops
