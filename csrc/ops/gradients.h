// What the backward of a layer is given and asked for, on every device.
#pragma once

#include <vector>

#include "ops/sequence.h"

namespace seq::ops {

constexpr int64_t kBesideWeights = 13;  // of Inputs.tensors() of seqcuda/walk.py, those before the weights

// Which gradients are wanted, in the order of Inputs.tensors() of seqcuda/walk.py, and of how many groups of rows of
// the batch those of the weights are (0: one for all rows).
struct Needs {
  Needs(const std::vector<bool>& needs, int64_t weight_groups, const Layer& layer);
  bool weight(int64_t d, int j) const { return all[kBesideWeights + Layer::kWeights * d + j]; }
  bool x, h0, c0, reset_h, reset_c, decay_h, decay_c;
  std::vector<bool> all;
  int64_t groups;
};

// Room for the gradients of direction d's weights that are wanted, in the type of computation.
DirectionWeights empty_gradients(const DirectionWeights& w, const Needs& needs, int64_t d, const Layer& layer);

// Throws unless what came back and what was kept are of the shapes that the forward gives: the kernels trust them.
void check_saved(const Saved& s, const Layer& layer, const at::Tensor& x);

}  // namespace seq::ops
