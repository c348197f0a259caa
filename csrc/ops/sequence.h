// The op pair: one layer walked over time, and its gradients. Schemas: registration.cpp; shapes: seqcuda/walk.py.
#pragma once

#include <tuple>

#include "ops/layer.h"

namespace seq::ops {

using SequenceResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using SequenceGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                     std::vector<at::Tensor>>;

// y, h_n, c_n, c_all, saved; the last two empty where `save` does not ask for them.
SequenceResult sequence_cpu(const Arguments& a, const std::string& save, const std::string& engine);

// What came back and what the forward kept.
struct Saved {
  OptionalTensor grad_y, grad_h_n, grad_c_n, grad_c_all;
  at::Tensor y, c_all, saved;

  // The states beside h were kept between segments only: `saved` are the marks of ops/segments.h.
  bool marked(const Layer& layer) const { return layer.extra() > 0 && c_all.size(0) == 0; }
  // The gates are to be computed again.
  bool lean(const Layer& layer) const { return marked(layer) || (layer.saved_width > 0 && saved.numel() == 0); }
};

// Gradients of x, h0, c0, reset_h, reset_c, decay_h, decay_c and the weights; empty where `needs`, in the order of
// Inputs.tensors() of seqcuda/walk.py, does not ask for them. With weight_groups > 0 the rows of the batch are so many
// groups of neighbours, and the gradients of the weights have a first dimension: one for each group.
SequenceGradients sequence_backward_cpu(const Arguments& a, const Saved& s, const std::string& engine,
                                        const std::vector<bool>& needs, int64_t weight_groups);

}  // namespace seq::ops
