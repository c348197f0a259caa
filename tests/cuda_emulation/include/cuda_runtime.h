// The CUDA names that csrc/cuda uses, over the emulator.
#pragma once

#include <tuple>
#include <utility>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __CUDA_ARCH_LIST__ 800

using dim3 = emulation::Dim3;
using cudaStream_t = void*;

enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration, cudaErrorLaunchFailure };

namespace emulation {
inline const char* last_error = nullptr;
}

inline const char* cudaGetErrorString(cudaError_t) { return emulation::last_error; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const size_t parameter_bytes = (sizeof(Parameters) + ... + 0);
  emulation::last_error =
      emulation::refusal(config->gridDim, config->blockDim, config->dynamicSmemBytes, parameter_bytes);
  if (emulation::last_error) return cudaErrorInvalidConfiguration;
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  const bool done = emulation::run(config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream,
                                   [&] { std::apply(kernel, values); });
  if (done) return cudaSuccess;
  emulation::last_error = "deadlock: every thread waits";
  return cudaErrorLaunchFailure;
}

inline void __syncthreads() { emulation::block_barrier(); }
