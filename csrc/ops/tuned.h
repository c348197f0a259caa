// What `seqcuda.tune` found to be the fastest engine in this process: engine "auto" asks here before its own rule.
#pragma once

#include <optional>
#include <string>

#include "ops/layer.h"

namespace seq::ops {

inline constexpr char kTuned[] = "the fastest that seqcuda.tune measured";

// For layers of this device, cell, dtype, H, heads, directions and rows of the batch, with one step or with more.
// Empty: none. Gives back what was remembered before.
std::string remember(const Layer& layer, const std::string& engine);

// The engine that was remembered for a layer like this one.
std::optional<std::string> tuned(const Layer& layer);

}  // namespace seq::ops
