// Masks on a GPU: engine/philox.h, a thread for every four units.
#pragma once

#include "cuda/stepwise.h"
#include "engine/philox.h"

namespace seq::cuda {

// seed: on the device.
Error fill_mask(const Mask<float>& mask, const int64_t* seed, Stream stream);
Error fill_mask(const Mask<double>& mask, const int64_t* seed, Stream stream);

}  // namespace seq::cuda
