#include "cuda/launch.cuh"
#include "cuda/mask.h"

namespace seq::cuda {

namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) fill(Mask<T> mask, const int64_t* seed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < mask.steps * mask.rows * mask.groups()) mask.fill(static_cast<uint64_t>(*seed), i);
}

template <class T>
Error launch_fill(const Mask<T>& mask, const int64_t* seed, Stream stream) {
  const int64_t blocks = (mask.steps * mask.rows * mask.groups() + kThreads - 1) / kThreads;
  if (blocks == 0) return nullptr;
  return launch(dim3(static_cast<unsigned>(blocks)), dim3(kThreads), stream, &fill<T>, mask, seed);
}

}  // namespace

Error fill_mask(const Mask<float>& mask, const int64_t* seed, Stream stream) { return launch_fill(mask, seed, stream); }
Error fill_mask(const Mask<double>& mask, const int64_t* seed, Stream stream) {
  return launch_fill(mask, seed, stream);
}

}  // namespace seq::cuda
