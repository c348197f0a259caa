// What the forward and the backward of a layer on CUDA share. All tensors have the members of the call (ops/members.h)
// as their first dimension, M: a call of one layer is one of a single member.
#pragma once

#include <limits>

#include "cuda/stepwise.h"
#include "ops/chunks.h"
#include "ops/cuda/device.h"
#include "ops/members.h"
#include "ops/segments.h"

namespace seq::ops {

// Of the gates of a chunk: within the L2 of a large GPU. Tests make it smaller.
inline int64_t cuda_chunk_bytes = 32 << 20;

// As much as that, where an engine walks a chunk in one launch, which begins with loading the weights.
inline int64_t cuda_launch_bytes = 128 << 20;

constexpr int64_t kAnySteps = std::numeric_limits<int64_t>::max();

// How many steps of a chunk an engine asks for, at least where they take no more than cuda_launch_bytes.
struct ChunkSteps {
  int64_t least = 1, most = kAnySteps;
};
inline int64_t cuda_chunk_steps(const Layer& layer, int64_t members, const ChunkSteps& asked) {
  const auto steps = [&](int64_t bytes) { return steps_per_chunk(layer, bytes / members, 1); };
  return std::min(std::max(steps(cuda_chunk_bytes), std::min(asked.least, steps(cuda_launch_bytes))), asked.most);
}

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

  // What is computed for the caller, who knows of no members where the call is of one layer.
  template <class Result>
  Result for_caller(const Result& result) const {
    return alone ? of_one_member(result) : result;
  }

  // Where kernels go now.
  cuda::Stream stream() const { return launch_stream(layer.device); }
  Chunk chunk(int64_t k0, int64_t k1, int64_t d) const { return chunk_of(plan, k0, k1, reverse[d]); }
  // Walk step k of direction d; without rows where there is none.
  cuda::Step step(int64_t k, int64_t d) const;
  // What does not change over the walk of direction d. y [M, data rows, D*P], c_all [M, S-1, D, data rows, H] or empty.
  void set_walk(cuda::Walk& walk, int64_t d, const at::Tensor& y, const at::Tensor& c_all) const;
  // For the norm of a product [1, rows, G*H] of direction d, of x, or of h whose gains follow.
  cuda::NormRows norm_rows(int64_t d, const at::Tensor& product, bool of_h) const;

  // For products_into, a single member or head has no dimension of its own. [M, rows, n], of t [M, rows, n]:
  at::Tensor of_members(const at::Tensor& t) const { return members == 1 ? t.select(0, 0) : t; }
  // [M, heads, rows, n], of t [M, rows, heads * n]:
  at::Tensor of_heads(const at::Tensor& t) const {
    const at::Tensor own = of_members(t);
    return layer.heads == 1 ? own : own.unflatten(-1, {layer.heads, -1}).transpose(-3, -2);
  }
  // The same of the gates of phase p alone, of all, [M, rows, G*H]:
  at::Tensor of_phase(const at::Tensor& gates, int p) const {
    return of_heads(gates).narrow(-1, phase_at(p), phase_size(p));
  }
  // The rows of phase p, of w_hh or its gradient, [M, heads, G*H/heads, P/heads]:
  at::Tensor rows_of_phase(const at::Tensor& w_hh, int p) const {
    const at::Tensor own = of_members(layer.heads == 1 ? w_hh.select(1, 0) : w_hh);
    return own.narrow(-2, phase_at(p), phase_size(p));
  }
  // Where the gates of a phase begin among those of a head, and how many numbers they are.
  int64_t phase_at(int p) const { return layer.cell.phase_begin[p] * layer.head_hidden(); }
  int64_t phase_size(int p) const { return phase_at(p + 1) - phase_at(p); }

  const Layer& layer;
  const bool alone;  // the call is of one layer
  const int64_t members;
  const cuda::Kernels& kernels;
  const std::vector<bool> reverse;
  const std::vector<double> options;
  const PlanStorage plan;  // of padded or packed data; lengths are the kernels'
  const at::TensorOptions compute;
  at::Tensor x, h0, c0, reset_h, reset_c, resets, lengths;  // x [M, data rows, I]
  const Factors<at::Tensor> factors;
  const int64_t detach_every;
  // w_ih [M, G*H, I] and w_hh [M, heads, G*H/heads, P/heads] with their rows by head.
  std::vector<DirectionWeights> weights;

 private:
  CudaLayer(const Arguments& a, const Layer& layer, bool alone);
};

// Of t [M, ..], or of nothing: what the first member has, and how many bytes after that the next one's lies.
inline at::Tensor of_first(const at::Tensor& t) { return t.defined() ? t.select(0, 0) : t; }
inline int64_t bytes_apart(const at::Tensor& t) {
  return t.defined() ? t.stride(0) * static_cast<int64_t>(t.element_size()) : 0;
}
// For the kernels: what the members have of t [M, ..] from number `at` of each on. Where there is nothing, pointer and
// `apart` stay as they are.
template <class P>
void place(P*& pointer, int64_t& apart, const at::Tensor& t, int64_t at = 0) {
  if (!t.defined() || t.numel() == 0) return;
  pointer = reinterpret_cast<P*>(static_cast<char*>(t.data_ptr()) + at * static_cast<int64_t>(t.element_size()));
  apart = bytes_apart(t);
}
// The rows of t [M, rows, width] from row `row` on.
template <class P>
void place_rows(P*& pointer, int64_t& apart, const at::Tensor& t, int64_t row) {
  if (t.defined()) place(pointer, apart, t, row * t.stride(1));
}

// The states of a walk for the steps that a window holds now.
inline void set_states(cuda::Walk& walk, const StateWindow& window) {
  walk.c_all = window.origin();
  walk.c_all_plane = window.plane();
  walk.apart.c_all = bytes_apart(window.states());
}

// product_into, or add_product_into, for each matrix: of members, of heads, or of the heads of members.
void products_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b);
void add_products_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b);

}  // namespace seq::ops
