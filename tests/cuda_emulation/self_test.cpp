#include "self_test.h"

#include <cuda_runtime.h>

namespace {

__global__ void reverse(const float* from, float* to, int n, int beyond) {
  float* shared = reinterpret_cast<float*>(emulation::shared_memory());
  const int i = threadIdx.x;
  shared[i] = from[i];
  if (i == 0 && beyond >= 0) shared[beyond] = 0;
  __syncthreads();
  to[i] = shared[n - 1 - i];
}

__global__ void wait() {
  emulation::wait_until([] { return false; });
}

const char* run(unsigned threads, size_t shared_bytes, const auto& kernel, auto... arguments) {
  cudaLaunchConfig_t config{};
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, arguments...);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace

const char* reverse_through_shared_memory(const float* from, float* to, int n, int beyond) {
  return run(n, n * sizeof(float), &reverse, from, to, n, beyond);
}

const char* wait_for_ever() { return run(32, 0, &wait); }
