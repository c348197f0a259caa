// Engines "cluster" and "group": see csrc/cuda/cluster.h and group.h.
#pragma once

#include <memory>

#include "ops/cuda/layer_backward.h"
#include "ops/cuda/layer_forward.h"

namespace seq::ops {

std::string cluster_refusal(const Layer& layer, int capability);
std::unique_ptr<LayerForward> cluster_forward(const Arguments& a, const Layer& layer, const Kept& kept);
std::unique_ptr<LayerBackward> cluster_backward(const Arguments& a, const Layer& layer, const Saved& s,
                                                const Needs& needs);

std::string group_refusal(const Layer& layer, int capability);
std::unique_ptr<LayerForward> group_forward(const Arguments& a, const Layer& layer, const Kept& kept);
std::unique_ptr<LayerBackward> group_backward(const Arguments& a, const Layer& layer, const Saved& s,
                                              const Needs& needs);

}  // namespace seq::ops
