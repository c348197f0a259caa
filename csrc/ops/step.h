// One step of one layer for tensors on the CPU, and its gradients: what a cell and a layer with T = 1 call.
//
// A step at B = 1, H = 64 computes for two microseconds, so its way there must be short: no plan of rows, no schema,
// one buffer for all that is kept, products of few rows by kernels that read the weights as they lie.
#pragma once

#include "ops/layer.h"

namespace seq::ops {

// x of B*I numbers, h and c of B*H, all of one floating dtype. May be undefined: h, c (zeros), the biases.
struct StepTensors {
  at::Tensor x, h, c, w_ih, w_hh, b_ih, b_hh;
};

struct StepOutputs {
  at::Tensor y, h, c;  // y, a copy of h, where its shape is asked for; c where the cell has one
};

// Whether `step` can take them, which are on the CPU: dtypes (half types in inference alone), shapes, layouts, and a
// plain cell of one phase and at most two states. x may be undefined yet.
bool step_takes(const CellCounts& cell, const StepTensors& t, at::ScalarType dtype, int64_t batch, int64_t hidden);

// Differentiable to any order. Shapes of the results: `states` for h and c, `output` for y.
StepOutputs step(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                 std::optional<at::IntArrayRef> output);

// The same by engine "panel", without gradients.
bool panel_step_takes(const CellCounts& cell, at::ScalarType dtype, int64_t batch, int64_t input);
StepOutputs panel_step(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                       std::optional<at::IntArrayRef> output);

}  // namespace seq::ops
