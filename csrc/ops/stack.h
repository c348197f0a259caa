// The op pair of layers one on another in one direction, for devices that walk them at the same time: what `sequence`
// gives for each of them, its x being the y of the one before, and the gradients of all. Shapes: seqcuda/walk.py, with
// the layers in the place of the directions, and the weights of all layers one after another.
#pragma once

#include "ops/gradients.h"
#include "ops/unboxed.h"

namespace seq::ops {

inline constexpr char kStackSchema[] =
    "stack(str cell, Tensor x, Tensor?[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? batch_sizes, "
    "Tensor? resets, Tensor? reset_h, Tensor? reset_c, bool[] reverse, str[] saves, str engine, int detach_every=0, "
    "float[] options=[]) -> (Tensor[] y, Tensor[] h_n, Tensor[] c_n, Tensor[] c_all, Tensor[] saved)";
inline constexpr char kStackBackwardSchema[] =
    "stack_backward(str cell, Tensor?[] grad_y, Tensor?[] grad_h_n, Tensor?[] grad_c_n, Tensor?[] grad_c_all, "
    "Tensor x, Tensor?[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? batch_sizes, Tensor? resets, "
    "Tensor? reset_h, Tensor? reset_c, Tensor[] y, Tensor[] c_all, Tensor[] saved, bool[] reverse, str engine, "
    "bool[] needs, int detach_every=0, float[] options=[]) -> (Tensor x, Tensor h0, Tensor c0, Tensor reset_h, "
    "Tensor reset_c, Tensor[] weights)";

using Tensors = std::vector<at::Tensor>;
using StackResult = std::tuple<Tensors, Tensors, Tensors, Tensors, Tensors>;
using StackGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, Tensors>;

// saves: of each layer.
StackResult stack_cuda(const Arguments& a, const std::vector<std::string>& saves, const std::string& engine);

// of_layers: what came back to each and what it kept, the gradient of its y being that beside the layer above. needs:
// of which of Inputs.tensors() of seqcuda/walk.py gradients are wanted; the others are empty.
StackGradients stack_backward_cuda(const Arguments& a, const std::vector<Saved>& of_layers, const std::string& engine,
                                   const std::vector<bool>& needs);

template <StackResult (*kRun)(const Arguments&, const std::vector<std::string>& saves, const std::string& engine)>
StackResult stack(std::string cell, at::Tensor x, OptionalTensors weights, OptionalTensor h0, OptionalTensor c0,
                  OptionalTensor lengths, OptionalTensor batch_sizes, OptionalTensor resets, OptionalTensor reset_h,
                  OptionalTensor reset_c, c10::List<bool> reverse, c10::List<std::string> saves, std::string engine,
                  int64_t detach_every, c10::List<double> options) {
  return kRun(arguments(std::move(cell), std::move(x), weights, std::move(h0), std::move(c0), std::move(lengths),
                        std::move(batch_sizes), std::move(resets), std::move(reset_h), std::move(reset_c), reverse,
                        std::nullopt, detach_every, options),
              saves.vec(), engine);
}

template <StackGradients (*kRun)(const Arguments&, const std::vector<Saved>& of_layers, const std::string& engine,
                                 const std::vector<bool>& needs)>
StackGradients stack_backward(std::string cell, OptionalTensors grad_y, OptionalTensors grad_h_n,
                              OptionalTensors grad_c_n, OptionalTensors grad_c_all, at::Tensor x,
                              OptionalTensors weights, OptionalTensor h0, OptionalTensor c0, OptionalTensor lengths,
                              OptionalTensor batch_sizes, OptionalTensor resets, OptionalTensor reset_h,
                              OptionalTensor reset_c, Tensors y, Tensors c_all, Tensors saved, c10::List<bool> reverse,
                              std::string engine, c10::List<bool> needs, int64_t detach_every,
                              c10::List<double> options) {
  const size_t layers = y.size();
  for (size_t given : {grad_y.size(), grad_h_n.size(), grad_c_n.size(), grad_c_all.size(), c_all.size(), saved.size()})
    TORCH_CHECK_VALUE(given == layers, "seqcuda: what came back to a stack of ", layers,
                      " layers and what they kept must be as many, got ", given);
  std::vector<Saved> of_layers;
  for (size_t l = 0; l < layers; ++l)
    of_layers.push_back({grad_y.get(l), grad_h_n.get(l), grad_c_n.get(l), grad_c_all.get(l), y[l], c_all[l], saved[l]});
  return kRun(arguments(std::move(cell), std::move(x), weights, std::move(h0), std::move(c0), std::move(lengths),
                        std::move(batch_sizes), std::move(resets), std::move(reset_h), std::move(reset_c), reverse,
                        std::nullopt, detach_every, options),
              of_layers, engine, needs.vec());
}

}  // namespace seq::ops
