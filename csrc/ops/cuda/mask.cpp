#include "ops/mask.h"

#include <ATen/Dispatch.h>

#include "cuda/mask.h"
#include "ops/cuda/common.h"

namespace seq::ops {

at::Tensor mask_cuda(const at::Tensor& seed, int64_t stream, int64_t steps, int64_t rows, int64_t units,
                     double probability, double hit, double miss, at::ScalarType dtype) {
  const c10::DeviceGuard guard(seed.device());
  return drawn(seed, stream, steps, rows, units, probability, hit, miss, dtype, [&](const auto& mask) {
    check_launch(cuda::fill_mask(mask, seed.const_data_ptr<int64_t>(), launch_stream(seed.device())));
  });
}

}  // namespace seq::ops
