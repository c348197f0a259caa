// What the torch side asks of the device itself.
#pragma once

#include <ATen/ATen.h>

#include "cuda/stepwise.h"

namespace seq::ops {

// The stream that torch's kernels are launched on now.
cuda::Stream current_stream(const at::Device& device);

// Of a GPU: 90 for 9.0.
int compute_capability(const at::Device& device);

// Whether torch lets products of float32 be TF32.
bool tf32_allowed();

// out = a b. Half types: summed and given in float32. float32: TF32 where torch.backends.cuda.matmul allows it.
void product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b);

}  // namespace seq::ops
