// For which GPUs the kernels are compiled.
#pragma once

namespace seq::cuda {

// The oldest compute capability that can run them, 80 for 8.0.
int oldest_architecture();

}  // namespace seq::cuda
