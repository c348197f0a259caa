// A step with a graph of its own, made in C++.
#pragma once

#include "ops/step.h"

namespace seq::ops {

// step_forward, differentiable to any order.
StepOutputs differentiable_step(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                                std::optional<at::IntArrayRef> output);

}  // namespace seq::ops
