// The one place where kernels are launched.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/stepwise.h"

namespace seq::cuda {

// Null, or what went wrong. An error of the launch itself is cleared, so that the next call finds none.
template <class... Parameters>
Error launch(dim3 grid, dim3 block, Stream stream, void (*kernel)(Parameters...),
             const std::type_identity_t<Parameters>&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (status == cudaSuccess) return nullptr;
  (void)cudaGetLastError();
  return cudaGetErrorString(status);
}

}  // namespace seq::cuda
