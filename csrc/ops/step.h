// One step of one layer for tensors on the CPU: what a cell and a layer with T = 1 call. With a graph: step_function.h.
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

// Shapes of the results: `states` for h and c, `output` for y. kept: where to put what the backward needs, or null.
StepOutputs step_forward(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                         std::optional<at::IntArrayRef> output, at::Tensor* kept);

// The same by engine "panel".
bool panel_step_takes(const CellCounts& cell, at::ScalarType dtype, int64_t batch, int64_t input);
StepOutputs panel_step(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                       std::optional<at::IntArrayRef> output);

struct StepSizes {
  StepSizes(const CellCounts& cell, const StepTensors& t, int64_t batch)
      : B(batch), I(t.w_ih.size(1)), H(t.w_hh.size(1)), GH(t.w_hh.size(0)), extra(cell.states - 1), saved(cell.saved) {}
  // Of tensors that all have their shapes.
  StepSizes(const CellCounts& cell, const StepTensors& t) : StepSizes(cell, t, t.x.numel() / t.w_ih.size(1)) {}
  int64_t B, I, H, GH, extra, saved;
  // What the backward needs of the forward, in one buffer of the type of computation: the saved values, c and h of the
  // step, which the caller is free to change.
  int64_t c_at() const { return saved * B * H; }
  int64_t h_at() const { return c_at() + extra * B * H; }
  int64_t kept() const { return h_at() + B * H; }
};

}  // namespace seq::ops
