#include <cuda_runtime.h>

#include <climits>

#include "cuda/architectures.h"

namespace seq::cuda {

namespace {

// Compiled as all others are.
template <class T>
__global__ void nothing() {}

}  // namespace

int compiled_for() {
  cudaFuncAttributes found{};
  const cudaError_t status = cudaFuncGetAttributes(&found, &nothing<void>);
  if (status == cudaSuccess) return found.ptxVersion;
  (void)cudaGetLastError();
  const bool none = status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction;
  return none ? 0 : INT_MAX;
}

}  // namespace seq::cuda
