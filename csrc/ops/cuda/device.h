// What the torch side asks of the device itself.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Stream.h>

#include "cuda/stepwise.h"

namespace seq::ops {

// The stream that torch's kernels are launched on now, and what the kernels of csrc/cuda are given for it.
c10::Stream current_stream(const at::Device& device);
cuda::Stream launch_stream(const at::Device& device);

// Makes a stream the current one of its device; gives back the one that was.
c10::Stream exchange_stream(const c10::Stream& stream);

// Stream i, from 1 on, of those that this thread has beside the ones of the caller: always the same, since cuBLAS keeps
// memory for each that it has seen.
c10::Stream side_stream(const at::Device& device, int64_t i);

// What is given to stream `waiting` from now on comes after what `awaited` has been given so far.
void wait_for(const c10::Stream& waiting, const c10::Stream& awaited);

// Of a GPU: 90 for 9.0.
int compute_capability(const at::Device& device);

// out = a b, of matrices or of a batch of them. Half types: summed in float32 and given in float32 or, where that is
// the type of `out`, in their own; parts of such sums are then rounded where torch.backends.cuda.matmul allows
// reductions of less precision. float32: TF32 where torch.backends.cuda.matmul, which is what cuBLAS asks, and
// tf32_allowed() both allow it.
void product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b);
// out += a b, likewise.
void add_product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b);

// What torch does between kernels, on the current stream.
void copy_into(const at::Tensor& to, const at::Tensor& from);
void set_to_zero(const at::Tensor& t);
// out = the sum over the rows of t [M, rows, n], or out += that, summed in the type of `out`.
void sum_into(const at::Tensor& out, const at::Tensor& t);
void add_sum_into(const at::Tensor& out, const at::Tensor& t);

}  // namespace seq::ops
