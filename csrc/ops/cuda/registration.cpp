// What is registered for the ops on CUDA.
#include <torch/library.h>

#include "ops/cuda/sequence.h"
#include "ops/mask.h"
#include "ops/stack.h"

namespace seq::ops {

TORCH_LIBRARY_IMPL(seqcuda, CUDA, m) {
  m.impl("sequence", &sequence<sequence_cuda>);
  m.impl("sequence_backward", &sequence_backward<sequence_backward_cuda>);
  m.impl("stack", &stack<stack_cuda>);
  m.impl("stack_backward", &stack_backward<stack_backward_cuda>);
  m.impl("mask", &mask_cuda);
}

}  // namespace seq::ops
