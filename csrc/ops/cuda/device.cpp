#include "ops/cuda/device.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace seq::ops {

cuda::Stream current_stream(const at::Device& device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
}

void product_into(at::Tensor out, const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == out.scalar_type())
    at::mm_out(out, a, b);
  else
    at::mm_out(out, a, b, out.scalar_type());
}

}  // namespace seq::ops
