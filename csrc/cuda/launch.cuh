// The one place where kernels are launched.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/stepwise.h"

namespace seq::cuda {

// Null, or what went wrong. An error of the launch itself is cleared, so that the next call finds none.
inline Error checked(cudaError_t status) {
  if (status == cudaSuccess) return nullptr;
  (void)cudaGetLastError();
  return cudaGetErrorString(status);
}

// With so many bytes of dynamic shared memory for each block, 48 KiB at most.
template <class... Parameters>
Error launch_sharing(dim3 grid, dim3 block, int shared_bytes, Stream stream, void (*kernel)(Parameters...),
                     const std::type_identity_t<Parameters>&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  return checked(cudaLaunchKernelEx(&config, kernel, arguments...));
}

template <class... Parameters>
Error launch(dim3 grid, dim3 block, Stream stream, void (*kernel)(Parameters...),
             const std::type_identity_t<Parameters>&... arguments) {
  return launch_sharing(grid, block, 0, stream, kernel, arguments...);
}

// With one attribute, and so many bytes of dynamic shared memory for each block, of a kernel without static shared
// memory.
template <class... Parameters>
Error launch_with(cudaLaunchAttribute attribute, dim3 grid, dim3 block, int shared_bytes, Stream stream,
                  void (*kernel)(Parameters...), const std::type_identity_t<Parameters>&... arguments) {
  // The limit is the function's, not the launch's: were it not always the same, threads would lower it for each other.
  int device = 0, most = 0;
  if (const Error error = checked(cudaGetDevice(&device))) return error;
  if (const Error error = checked(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)))
    return error;
  if (const Error error = checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most)))
    return error;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return checked(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// In clusters of `cluster` blocks, neighbours in x.
template <class... Parameters>
Error launch_cluster(dim3 grid, dim3 block, int cluster, int shared_bytes, Stream stream, void (*kernel)(Parameters...),
                     const std::type_identity_t<Parameters>&... arguments) {
  if (const Error error = checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)))
    return error;
  cudaLaunchAttribute size{};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim.x = cluster, size.val.clusterDim.y = size.val.clusterDim.z = 1;
  return launch_with(size, grid, block, shared_bytes, stream, kernel, arguments...);
}

// All blocks at the same time, or not at all.
template <class... Parameters>
Error launch_together(dim3 grid, dim3 block, int shared_bytes, Stream stream, void (*kernel)(Parameters...),
                      const std::type_identity_t<Parameters>&... arguments) {
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  return launch_with(together, grid, block, shared_bytes, stream, kernel, arguments...);
}

}  // namespace seq::cuda
