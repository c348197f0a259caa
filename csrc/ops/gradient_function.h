// The gradients of a plain layer on the CPU with a graph of their own, made in C++: what `SequenceBackward` of
// seqcuda/autograd.py does for every device and transform, without Python between the ops and autograd.
#pragma once

#include <torch/csrc/autograd/variable.h>

#include "ops/gradients.h"

namespace seq::ops {

using torch::autograd::variable_list;

// What a graph keeps of a list of bools.
inline c10::List<bool> kept_bools(const std::vector<bool>& bools) {
  c10::List<bool> list;
  for (const bool b : bools) list.push_back(b);
  return list;
}
inline std::vector<bool> bools_of(const c10::IValue& kept) {
  const c10::List<bool> list = kept.toBoolList();
  return {list.begin(), list.end()};
}

// The tensors of a plain layer in the order of Inputs.tensors() of seqcuda/walk.py, undefined where there is none, and
// back.
variable_list tensors_of(const Arguments& a);
Arguments arguments_of(std::string cell, std::vector<bool> reverse, const variable_list& tensors);

// The gradients in the same order, undefined where `needs` does not ask for them; without and with a graph, which is
// also the way where the gradients of the outputs are those of a vmap.
variable_list gradients_of(const Arguments& a, const Saved& s, const std::vector<bool>& needs);
variable_list differentiable_gradients(const Arguments& a, const Saved& s, const std::vector<bool>& needs);

// By Python: the tangents of y, h_n and c_n, whose gradients are `grads`, and of the gradients `wanted`, with a graph.
variable_list plain_tangents(const Arguments& a, const std::vector<bool>& wanted, const variable_list& grads,
                             const variable_list& directions);

}  // namespace seq::ops
