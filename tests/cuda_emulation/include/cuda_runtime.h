// The CUDA names that csrc/cuda uses, over the emulator.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <tuple>
#include <utility>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

using dim3 = emulation::Dim3;
using cudaStream_t = void*;

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidConfiguration,
  cudaErrorLaunchFailure,
  cudaErrorMemoryAllocation,
  cudaErrorNoKernelImageForDevice,
  cudaErrorInvalidDeviceFunction,
};

namespace emulation {
inline const char* last_error = nullptr;
}

inline const char* cudaGetErrorString(cudaError_t) { return emulation::last_error; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
inline cudaError_t cudaGetDevice(int* device) {
  *device = emulation::device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulation::multiprocessors()
                                                       : static_cast<int>(emulation::shared_bytes);
  return cudaSuccess;
}

enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeRelaxed };
namespace emulation {
inline thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
}
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, emulation::capture_mode);
  return cudaSuccess;
}

// As while some thread captures a graph.
constexpr unsigned cudaHostAllocPortable = 1, cudaHostAllocMapped = 2;
inline cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  if (emulation::capture_mode != cudaStreamCaptureModeRelaxed || emulation::no_host_memory())
    return cudaErrorMemoryAllocation;
  *memory = ::operator new(bytes);
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributeNonPortableClusterSizeAllowed };
// The limit is the kernel's, and another thread may be about to launch it with more: only the most is right.
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value == static_cast<int>(emulation::shared_bytes))
    return cudaSuccess;
  emulation::last_error = "a limit of shared memory that other launches of the kernel may exceed";
  return cudaErrorInvalidConfiguration;
}

struct cudaFuncAttributes {
  int ptxVersion;
};
// The newest image that the machine runs.
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  attributes->ptxVersion = 0;
  for (const int image : emulation::compiled_for)
    if (image <= emulation::capability) attributes->ptxVersion = std::max(attributes->ptxVersion, image);
  return attributes->ptxVersion > 0 ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension, cudaLaunchAttributeCooperative };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
    int cooperative = 0;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, Kernel*, const cudaLaunchConfig_t* config) {
  *clusters = emulation::clusters_at_once(static_cast<int>(config->attrs[0].val.clusterDim.x));
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  emulation::Launch launch{config->gridDim, config->blockDim, 1, false, config->dynamicSmemBytes, config->stream};
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeClusterDimension)
      launch.cluster = attribute.val.clusterDim.x;
    else
      launch.together = attribute.val.cooperative != 0;
  }
  emulation::last_error = emulation::refusal(launch, (sizeof(Parameters) + ... + 0));
  if (emulation::last_error) return cudaErrorInvalidConfiguration;
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  emulation::last_error = emulation::run(launch, [=] { std::apply(kernel, values); });
  return emulation::last_error ? cudaErrorLaunchFailure : cudaSuccess;
}

inline void __syncthreads() { emulation::block_barrier(); }
