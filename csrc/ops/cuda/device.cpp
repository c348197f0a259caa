#include "ops/cuda/device.h"

#include <ATen/Context.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <cuda_runtime_api.h>

#include <map>
#include <optional>
#include <vector>

#include "ops/cuda/common.h"

namespace seq::ops {

c10::Stream current_stream(const at::Device& device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

cuda::Stream launch_stream(const at::Device& device) { return current_stream(device).native_handle(); }

c10::Stream exchange_stream(const c10::Stream& stream) {
  return c10::impl::VirtualGuardImpl(stream.device_type()).exchangeStream(stream);
}

c10::Stream side_stream(const at::Device& device, int64_t i) {
  thread_local std::map<c10::DeviceIndex, std::vector<c10::Stream>> of_thread;
  auto& streams = of_thread[device.index()];
  while (static_cast<int64_t>(streams.size()) < i)
    streams.push_back(c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device));
  return streams[i - 1];
}

void wait_for(const c10::Stream& waiting, const c10::Stream& awaited) {
  c10::Event reached(awaited.device_type());
  reached.record(awaited);
  reached.block(waiting);
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

namespace {

// While it lives, torch multiplies float32 as tf32_allowed() says.
struct ProductGuard {
  ProductGuard() {
    if (!tf32_allowed()) exact.emplace();
  }
  std::optional<at::NoTF32Guard> exact;
};

}  // namespace

void product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  const ProductGuard guard;
  const bool same = a.scalar_type() == out.scalar_type();
  if (out.dim() == 3)
    same ? at::bmm_out(out, a, b) : at::bmm_out(out, a, b, out.scalar_type());
  else
    same ? at::mm_out(out, a, b) : at::mm_out(out, a, b, out.scalar_type());
}

void add_product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  const ProductGuard guard;
  const bool same = a.scalar_type() == out.scalar_type();
  if (out.dim() == 3)
    same ? at::baddbmm_out(out, out, a, b) : at::baddbmm_out(out, out, a, b, out.scalar_type());
  else
    same ? at::addmm_out(out, out, a, b) : at::addmm_out(out, out, a, b, out.scalar_type());
}

void copy_into(const at::Tensor& to, const at::Tensor& from) { to.copy_(from); }
void set_to_zero(const at::Tensor& t) { t.zero_(); }
void sum_into(const at::Tensor& out, const at::Tensor& t) { out.copy_(t.sum(1, /*keepdim=*/false, out.scalar_type())); }
void add_sum_into(const at::Tensor& out, const at::Tensor& t) {
  out.add_(t.sum(1, /*keepdim=*/false, out.scalar_type()));
}

}  // namespace seq::ops
