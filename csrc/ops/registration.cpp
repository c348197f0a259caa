// The schemas of the op pair and what is registered for them. Argument by argument: seqcuda/walk.py.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "ops/sequence.h"

namespace seq::ops {

namespace {

Arguments arguments(std::string cell, at::Tensor x, const OptionalTensors& weights, OptionalTensor h0,
                    OptionalTensor c0, OptionalTensor lengths, OptionalTensor batch_sizes, OptionalTensor resets,
                    OptionalTensor reset_h, OptionalTensor reset_c, const c10::List<bool>& reverse) {
  Arguments a{std::move(cell),
              std::move(x),
              {},
              std::move(h0),
              std::move(c0),
              std::move(lengths),
              std::move(batch_sizes),
              std::move(resets),
              std::move(reset_h),
              std::move(reset_c),
              {}};
  for (size_t j = 0; j < weights.size(); ++j) a.weights.push_back(weights.get(j));
  for (size_t d = 0; d < reverse.size(); ++d) a.reverse.push_back(reverse.get(d));
  return a;
}

SequenceResult sequence(std::string cell, at::Tensor x, OptionalTensors weights, OptionalTensor h0, OptionalTensor c0,
                        OptionalTensor lengths, OptionalTensor batch_sizes, OptionalTensor resets,
                        OptionalTensor reset_h, OptionalTensor reset_c, c10::List<bool> reverse, std::string save,
                        std::string engine) {
  return sequence_cpu(
      arguments(std::move(cell), std::move(x), weights, std::move(h0), std::move(c0), std::move(lengths),
                std::move(batch_sizes), std::move(resets), std::move(reset_h), std::move(reset_c), reverse),
      save, engine);
}

SequenceGradients sequence_backward(std::string cell, OptionalTensor grad_y, OptionalTensor grad_h_n,
                                    OptionalTensor grad_c_n, OptionalTensor grad_c_all, at::Tensor x,
                                    OptionalTensors weights, OptionalTensor h0, OptionalTensor c0,
                                    OptionalTensor lengths, OptionalTensor batch_sizes, OptionalTensor resets,
                                    OptionalTensor reset_h, OptionalTensor reset_c, at::Tensor y, at::Tensor c_all,
                                    at::Tensor saved, c10::List<bool> reverse, std::string engine,
                                    c10::List<bool> needs) {
  std::vector<bool> wanted;
  for (size_t j = 0; j < needs.size(); ++j) wanted.push_back(needs.get(j));
  const Saved kept{std::move(grad_y), std::move(grad_h_n), std::move(grad_c_n), std::move(grad_c_all),
                   std::move(y),      std::move(c_all),    std::move(saved)};
  return sequence_backward_cpu(
      arguments(std::move(cell), std::move(x), weights, std::move(h0), std::move(c0), std::move(lengths),
                std::move(batch_sizes), std::move(resets), std::move(reset_h), std::move(reset_c), reverse),
      kept, engine, wanted);
}

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
  m.def(
      "sequence(str cell, Tensor x, Tensor?[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? batch_sizes, "
      "Tensor? resets, Tensor? reset_h, Tensor? reset_c, bool[] reverse, str save, str engine) "
      "-> (Tensor y, Tensor h_n, Tensor c_n, Tensor c_all, Tensor saved)");
  m.def(
      "sequence_backward(str cell, Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor? grad_c_all, Tensor x, "
      "Tensor?[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? batch_sizes, Tensor? resets, "
      "Tensor? reset_h, Tensor? reset_c, Tensor y, Tensor c_all, Tensor saved, bool[] reverse, str engine, "
      "bool[] needs) -> (Tensor x, Tensor h0, Tensor c0, Tensor reset_h, Tensor reset_c, Tensor[] weights)");
}

TORCH_LIBRARY_IMPL(seqcuda, CPU, m) {
  m.impl("sequence", &sequence);
  m.impl("sequence_backward", &sequence_backward);
}

TORCH_LIBRARY_IMPL(seqcuda, Autograd, m) {
  m.impl("sequence", &Undifferentiable<decltype(sequence)>::call<sequence_name>);
  m.impl("sequence_backward", &Undifferentiable<decltype(sequence_backward)>::call<sequence_backward_name>);
}

}  // namespace seq::ops
