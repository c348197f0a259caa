// Engine "stepwise": see kStepwise in engines.h.
#pragma once

#include <memory>

#include "ops/cuda/layer_forward.h"
#include "ops/gradients.h"

namespace seq::ops {

std::unique_ptr<LayerForward> stepwise_forward(const Arguments& a, const Layer& layer, const Kept& kept);
SequenceGradients stepwise_backward(const Arguments& a, const Layer& layer, const Saved& s, const Needs& needs);

}  // namespace seq::ops
