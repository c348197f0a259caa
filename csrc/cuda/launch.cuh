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

// Lets `kernel` have as much dynamic shared memory as a block can, `most` bytes; it must have no other. The limit is
// the function's, not a launch's: were it not always the same, threads would lower it for each other.
template <class... Parameters>
cudaError_t allow_shared_memory(void (*kernel)(Parameters...), int& most) {
  int device = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess) status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  return status;
}

// With one attribute, and so many bytes of dynamic shared memory for each block.
template <class... Parameters>
Error launch_with(cudaLaunchAttribute attribute, dim3 grid, dim3 block, int shared_bytes, Stream stream,
                  void (*kernel)(Parameters...), const std::type_identity_t<Parameters>&... arguments) {
  int most = 0;
  if (const Error error = checked(allow_shared_memory(kernel, most))) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return checked(cudaLaunchKernelEx(&config, kernel, arguments...));
}

inline cudaLaunchAttribute clusters_of(int blocks) {
  cudaLaunchAttribute size{};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim.x = blocks, size.val.clusterDim.y = size.val.clusterDim.z = 1;
  return size;
}

// In clusters of `cluster` blocks, neighbours in x.
template <class... Parameters>
Error launch_cluster(dim3 grid, dim3 block, int cluster, int shared_bytes, Stream stream, void (*kernel)(Parameters...),
                     const std::type_identity_t<Parameters>&... arguments) {
  if (const Error error = checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)))
    return error;
  return launch_with(clusters_of(cluster), grid, block, shared_bytes, stream, kernel, arguments...);
}

// How many clusters of so many blocks, each with all the shared memory of a multiprocessor, the current GPU runs at
// once; 0: it cannot run one.
template <class... Parameters>
int clusters_at_once(dim3 block, int cluster, void (*kernel)(Parameters...)) {
  cudaLaunchAttribute size = clusters_of(cluster);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(cluster);
  config.blockDim = block;
  config.attrs = &size;
  config.numAttrs = 1;
  int most = 0, clusters = 0;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (status == cudaSuccess) status = allow_shared_memory(kernel, most);
  config.dynamicSmemBytes = most;
  if (status == cudaSuccess) status = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  return checked(status) ? 0 : clusters;
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
