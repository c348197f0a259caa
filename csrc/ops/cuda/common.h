// What the forward and the backward of a layer on CUDA share.
#pragma once

#include <limits>

#include "cuda/stepwise.h"
#include "ops/chunks.h"
#include "ops/cuda/device.h"

namespace seq::ops {

// Of the gates of a chunk: within the L2 of a large GPU. Tests make it smaller.
inline int64_t cuda_chunk_bytes = 32 << 20;

constexpr int64_t kAnySteps = std::numeric_limits<int64_t>::max();

inline void check_launch(cuda::Error error) {
  TORCH_CHECK(error == nullptr, "seqcuda: a kernel could not be launched: ", error);
}

// Whether float32 may be multiplied as TF32: torch's switch for recurrent layers, torch.backends.cudnn.rnn, asked by
// cuDNN as well.
bool tf32_allowed();

inline cuda::Type type_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return cuda::Type::kDouble;
    case at::kBFloat16:
      return cuda::Type::kBfloat16;
    case at::kHalf:
      return cuda::Type::kFloat16;
    default:
      return cuda::Type::kFloat;
  }
}

inline at::Tensor contiguous(const OptionalTensor& t) {
  return t.has_value() && t->defined() ? t->contiguous() : at::Tensor();
}

// The tensors of a layer as the kernels read them, and who computes it.
struct CudaLayer {
  CudaLayer(const Arguments& a, const Layer& layer);

  // Where kernels go now.
  cuda::Stream stream() const { return launch_stream(layer.device); }
  Chunk chunk(int64_t k0, int64_t k1, int64_t d) const { return chunk_of(plan, k0, k1, reverse[d]); }
  // Walk step k of direction d; without rows where there is none.
  cuda::Step step(int64_t k, int64_t d) const;
  // What does not change over the walk of direction d. y [data rows, D*P], c_all [S-1, D, data rows, H] or empty.
  void set_walk(cuda::Walk& walk, int64_t d, const at::Tensor& y, const at::Tensor& c_all) const;

  const Layer& layer;
  const cuda::Kernels& kernels;
  const std::vector<bool> reverse;
  const std::vector<double> options;
  const PlanStorage plan;  // of padded or packed data; lengths are the kernels'
  const at::TensorOptions compute;
  at::Tensor x, h0, c0, reset_h, reset_c, resets, lengths;  // x [data rows, I]
  const Factors<at::Tensor> factors;
  const int64_t detach_every;
  std::vector<DirectionWeights> weights;
};

// The rows of `t` from data row `row` on: a pointer for the kernels. t [rows, width]; undefined: null.
inline void* row_pointer(const at::Tensor& t, int64_t row) {
  if (!t.defined()) return nullptr;
  return static_cast<char*>(t.data_ptr()) + row * t.stride(0) * static_cast<int64_t>(t.element_size());
}

}  // namespace seq::ops
