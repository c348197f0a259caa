#include "self_test.h"

#include <cuda_runtime.h>

#include "cuda/device.cuh"
#include "cuda/lane.cuh"

namespace {

using namespace seq::cuda;

__global__ void reverse(const float* from, float* to, int n, int beyond) {
  float* shared = reinterpret_cast<float*>(emulation::shared_memory());
  const int i = threadIdx.x;
  shared[i] = from[i];
  if (i == 0 && beyond >= 0) shared[beyond] = 0;
  __syncthreads();
  to[i] = shared[n - 1 - i];
}

__global__ void wait_for_nothing() {
  emulation::wait_until([] { return false; });
}

__global__ void exchange(int* sums, int blocks, int bytes, bool waits) {
  auto* slots = reinterpret_cast<uint2*>(shared_memory());
  auto* barrier = reinterpret_cast<ByteBarrier*>(slots + blocks);
  const int lane = threadIdx.x, rank = blockIdx.x;
  if (lane == 0) {
    init(barrier);
    expect(barrier, bytes);
  }
  cluster_barrier();
  if (lane < blocks) push(slots + rank, make_uint2(1u << rank, 0), barrier, lane);
  if (!waits) return;
  wait(barrier, 0);
  int sum = 0;
  for (int i = 0; i < blocks; ++i) sum += slots[i].x;
  if (lane == 0) sums[rank] = sum;
}

// A word of an operand: `a`, and for 16-bit types the next in the depth.
template <class S>
uint32_t word(const float* a, int next) {
  if constexpr (sizeof(S) == 2)
    return std::bit_cast<uint16_t>(narrow<S>(a[0])) | std::bit_cast<uint16_t>(narrow<S>(a[next])) << 16;
  else
    return to_tf32(a[0]);
}

// a [16, depth], b [depth, 8], to [16, 8]
template <class S, class Type>
__global__ void multiply(const float* a, const float* b, float* to) {
  constexpr int kEach = sizeof(S) == 2 ? 2 : 1, kHalf = 4 * kEach, kDepth = 2 * kHalf;
  const int g = threadIdx.x / 4, q = threadIdx.x % 4;
  uint32_t words[4];
  for (int i = 0; i < 4; ++i) words[i] = word<S>(a + (g + i % 2 * 8) * kDepth + i / 2 * kHalf + q * kEach, 1);
  const float* column = b + q * kEach * 8 + g;
  float d[4] = {};
  mma(Type(), d, words, make_uint2(word<S>(column, 8), word<S>(column + kHalf * 8, 8)));
  for (int i = 0; i < 4; ++i) to[(g + i / 2 * 8) * 8 + 2 * q + i % 2] = d[i];
}

const char* run(unsigned threads, size_t shared_bytes, unsigned cluster, const auto& kernel, auto... arguments) {
  cudaLaunchAttribute size{cudaLaunchAttributeClusterDimension, {{cluster, 1, 1}}};
  cudaLaunchConfig_t config{cluster, threads, shared_bytes, nullptr, &size, 1};
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, arguments...);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace

const char* reverse_through_shared_memory(const float* from, float* to, int n, int beyond) {
  return run(n, n * sizeof(float), 1, &reverse, from, to, n, beyond);
}

const char* wait_for_ever() { return run(32, 0, 1, &wait_for_nothing); }

const char* exchange_in_cluster(int* sums, int blocks, int bytes, bool waits) {
  return run(32, blocks * sizeof(uint2) + sizeof(ByteBarrier), blocks, &exchange, sums, blocks, bytes, waits);
}

const char* multiply_fragments(const char* type, const float* a, const float* b, float* to) {
  const auto kernel = type[0] == 'b'   ? &multiply<__nv_bfloat16, __nv_bfloat16>
                      : type[0] == 'f' ? &multiply<__half, __half>
                                       : &multiply<float, Tf32>;
  return run(32, 0, 1, kernel, a, b, to);
}
