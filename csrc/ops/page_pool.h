// Memory of large results that comes again and again, as the gradients of samples do in every step: what is given back
// stays mapped, and the system may take its pages when it needs them (MADV_FREE). To map fresh pages it has to write
// zeros to all of them, which takes longer than to write the results.
#pragma once

#include <ATen/ATen.h>

namespace seq::ops {

// On the CPU. Small tensors come from where all tensors do.
at::Tensor empty_from_pool(at::IntArrayRef sizes, at::ScalarType type);

}  // namespace seq::ops
