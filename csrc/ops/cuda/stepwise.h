// Engine "stepwise": see kStepwise in engines.h.
#pragma once

#include "ops/gradients.h"

namespace seq::ops {

SequenceResult stepwise_forward(const Arguments& a, const Layer& layer, const Kept& kept);
SequenceGradients stepwise_backward(const Arguments& a, const Layer& layer, const Saved& s, const Needs& needs);

}  // namespace seq::ops
