// The one place where kernels are launched.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>
#include <utility>

#include "cuda/stepwise.h"

namespace seq::cuda {

// Null, or what went wrong. An error of the launch itself is cleared, so that the next call finds none.
inline Error checked(cudaError_t status) {
  if (status == cudaSuccess) return nullptr;
  (void)cudaGetLastError();
  return cudaGetErrorString(status);
}

template <class... Parameters>
Error launch(dim3 grid, dim3 block, Stream stream, void (*kernel)(Parameters...),
             const std::type_identity_t<Parameters>&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = static_cast<cudaStream_t>(stream);
  return checked(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// In clusters of `cluster` blocks, neighbours in x, each with so many bytes of dynamic shared memory.
template <class... Parameters>
Error launch_cluster(dim3 grid, dim3 block, int cluster, int shared_bytes, Stream stream, void (*kernel)(Parameters...),
                     const std::type_identity_t<Parameters>&... arguments) {
  for (const auto& [attribute, value] : {std::pair(cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
                                         std::pair(cudaFuncAttributeNonPortableClusterSizeAllowed, 1)})
    if (const Error error = checked(cudaFuncSetAttribute(kernel, attribute, value))) return error;
  cudaLaunchAttribute size{};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim.x = cluster, size.val.clusterDim.y = size.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &size;
  config.numAttrs = 1;
  return checked(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// All blocks at the same time, or not at all.
template <class... Parameters>
Error launch_together(dim3 grid, dim3 block, int shared_bytes, Stream stream, void (*kernel)(Parameters...),
                      const std::type_identity_t<Parameters>&... arguments) {
  if (const Error error =
          checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes)))
    return error;
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &together;
  config.numAttrs = 1;
  return checked(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace seq::cuda
