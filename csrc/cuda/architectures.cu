#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/architectures.h"

namespace seq::cuda {

int oldest_architecture() { return std::min({__CUDA_ARCH_LIST__}) / 10; }

}  // namespace seq::cuda
