#include "ops/cuda/device.h"

#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <cuda_runtime_api.h>

namespace seq::ops {

cuda::Stream current_stream(const at::Device& device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
}

int compute_capability(const at::Device& device) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    const cudaError_t status = cudaDeviceGetAttribute(&value, which, device.index());
    TORCH_CHECK(status == cudaSuccess, "seqcuda: cannot ask for the compute capability of ", device, ": ",
                cudaGetErrorString(status));
    return value;
  };
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
}

bool tf32_allowed() {
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
         at::Float32Precision::TF32;
}

void product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == out.scalar_type())
    at::mm_out(out, a, b);
  else
    at::mm_out(out, a, b, out.scalar_type());
}

}  // namespace seq::ops
