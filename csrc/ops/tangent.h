// The derivative of a layer and of its gradients in one direction, of cells without parameters and
// without Factors. Shapes: seqcuda/walk.py.
#pragma once

#include "ops/gradients.h"
#include "ops/unboxed.h"

namespace seq::ops {

// Gradients of the results, or the tangents of such; for every one that is not there, zeros.
struct OutputGradients {
  OptionalTensor y, h_n, c_n, c_all;
};

struct TangentArguments {
  Arguments inputs;
  // Tangents of x, the weights, h0, c0, reset_h and reset_c; x may be undefined.
  Arguments directions;
  OutputGradients grads, grad_directions;
  OptionalTensor y;         // of the forward, where it is at hand
  std::vector<bool> needs;  // of whose gradients the tangents are wanted, in the order of Inputs.tensors()
  bool return_states = false;
};

// Tangents of y, h_n, c_n and c_all (of no states unless asked for), and of the gradients of x, h0, c0, reset_h,
// reset_c and the weights, empty where they are not wanted.
using TangentResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                 at::Tensor, at::Tensor, std::vector<at::Tensor>>;

TangentResult sequence_tangent_cpu(const TangentArguments& a);

// directions: in the order of Inputs.tensors(); grads and their directions: of y, h_n, c_n, c_all.
inline constexpr char kSequenceTangentSchema[] =
    "sequence_tangent(str cell, Tensor x, Tensor?[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, "
    "Tensor? batch_sizes, Tensor? resets, Tensor? reset_h, Tensor? reset_c, Tensor?[] directions, Tensor?[] grads, "
    "Tensor?[] grad_directions, bool[] reverse, bool[] needs, bool return_states) -> (Tensor y, Tensor h_n, "
    "Tensor c_n, Tensor c_all, Tensor x, Tensor h0, Tensor c0, Tensor reset_h, Tensor reset_c, Tensor[] weights)";

inline OutputGradients output_gradients(const OptionalTensors& list, const char* name) {
  TORCH_CHECK(list.size() == 4, "seqcuda: ", name, " must have 4 entries, got ", list.size());
  return {list.get(0), list.get(1), list.get(2), list.get(3)};
}

template <TangentResult (*kRun)(const TangentArguments&)>
TangentResult sequence_tangent(std::string cell, at::Tensor x, OptionalTensors weights, OptionalTensor h0,
                               OptionalTensor c0, OptionalTensor lengths, OptionalTensor batch_sizes,
                               OptionalTensor resets, OptionalTensor reset_h, OptionalTensor reset_c,
                               OptionalTensors directions, OptionalTensors grads, OptionalTensors grad_directions,
                               c10::List<bool> reverse, c10::List<bool> needs, bool return_states) {
  TORCH_CHECK(directions.size() == kBesideWeights + weights.size(), "seqcuda: directions must have ",
              kBesideWeights + weights.size(), " entries, got ", directions.size());
  TangentArguments a;
  a.inputs = arguments(std::move(cell), std::move(x), weights, std::move(h0), std::move(c0), std::move(lengths),
                       std::move(batch_sizes), std::move(resets), std::move(reset_h), std::move(reset_c), reverse, {},
                       0, c10::List<double>());
  auto& v = a.directions;
  v.x = directions.get(0).value_or(at::Tensor());
  v.h0 = directions.get(1), v.c0 = directions.get(2), v.reset_h = directions.get(6), v.reset_c = directions.get(7);
  for (size_t j = kBesideWeights; j < directions.size(); ++j) v.weights.push_back(directions.get(j));
  a.grads = output_gradients(grads, "grads"), a.grad_directions = output_gradients(grad_directions, "grad_directions");
  for (size_t j = 0; j < needs.size(); ++j) a.needs.push_back(needs.get(j));
  a.return_states = return_states;
  return kRun(a);
}

}  // namespace seq::ops
