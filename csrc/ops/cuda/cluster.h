// Engine "cluster": see csrc/cuda/cluster.h.
#pragma once

#include "ops/gradients.h"

namespace seq::ops {

std::string cluster_refusal(const Layer& layer, int capability);
SequenceResult cluster_forward(const Arguments& a, const Layer& layer, const Kept& kept);
SequenceGradients cluster_backward(const Arguments& a, const Layer& layer, const Saved& s, const Needs& needs);

}  // namespace seq::ops
