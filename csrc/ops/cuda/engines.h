// The CUDA engines by name.
#pragma once

#include "ops/devices.h"

namespace seq::ops {

// Throws unless `asked` is "auto" or the name of an engine that can run this layer.
Explanation choose_cuda_engine(const Layer& layer, const std::string& asked);

}  // namespace seq::ops
