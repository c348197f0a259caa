// One layer on the CPU with a graph of its own, made in C++: what `seqcuda.autograd.sequence` does for every device and
// transform, without Python between the op and autograd.
#pragma once

#include "ops/layer.h"

namespace seq::ops {

struct LayerOutputs {
  at::Tensor y, h_n, c_n;  // c_n: undefined for a cell of one state
};

// Differentiable to any order. save: what training keeps, see Walk in seqcuda/walk.py.
LayerOutputs differentiable_layer(const Arguments& a, const std::string& save);

}  // namespace seq::ops
