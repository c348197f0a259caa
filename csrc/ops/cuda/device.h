// What the torch side asks of the device itself.
#pragma once

#include <ATen/ATen.h>

#include "cuda/stepwise.h"

namespace seq::ops {

// The stream that torch's kernels are launched on now.
cuda::Stream current_stream(const at::Device& device);

// out = a b. Half types: summed and given in float32. float32: TF32 where torch.backends.cuda.matmul allows it.
void product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b);

}  // namespace seq::ops
