// The gradients of a step (step.h) and their derivative in one direction, without a graph: a step without a plan of
// rows, products of few rows, nothing done for what is not there.
#pragma once

#include <array>

#include "ops/step.h"

namespace seq::ops {

// In the order of StepTensors.
enum StepInput { kX, kH, kC, kWeightIh, kWeightHh, kBiasIh, kBiasHh, kStepInputs };
template <class Value>
using OfStepInputs = std::array<Value, kStepInputs>;

inline OfStepInputs<const at::Tensor*> in_order(const StepTensors& t) {
  return {&t.x, &t.h, &t.c, &t.w_ih, &t.w_hh, &t.b_ih, &t.b_hh};
}

using StepGradients = OfStepInputs<at::Tensor>;

// kept: what step_forward keeps. dh, dc: undefined for zeros. Undefined where `needs` does not ask.
StepGradients step_gradients(const CellCounts& cell, const StepTensors& t, const at::Tensor& kept, const at::Tensor& dh,
                             const at::Tensor& dc, const OfStepInputs<bool>& needs);

// Tangents of h and c, the latter undefined where the cell has none, and of the gradients.
struct StepTangents {
  at::Tensor h, c;
  StepGradients gradients;
};

// v: the direction of t, undefined for zeros, shaped as t. dh, dc: as above; they do not move. For data of the type of
// computation.
StepTangents step_tangents(const CellCounts& cell, const StepTensors& t, const StepTensors& v, const at::Tensor& dh,
                           const at::Tensor& dc, const OfStepInputs<bool>& needs);

}  // namespace seq::ops
