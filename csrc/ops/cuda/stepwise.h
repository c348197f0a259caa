// Engine "stepwise": see kStepwise in engines.h.
#pragma once

#include <memory>

#include "ops/cuda/layer_backward.h"
#include "ops/cuda/layer_forward.h"

namespace seq::ops {

std::unique_ptr<LayerForward> stepwise_forward(const Arguments& a, const Layer& layer, const Kept& kept);
std::unique_ptr<LayerBackward> stepwise_backward(const Arguments& a, const Layer& layer, const Saved& s,
                                                 const Needs& needs);

}  // namespace seq::ops
