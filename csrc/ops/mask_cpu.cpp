#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "ops/mask.h"

namespace seq::ops {

at::Tensor mask_cpu(const at::Tensor& seed, int64_t stream, int64_t steps, int64_t rows, int64_t units,
                    double probability, double hit, double miss, at::ScalarType dtype) {
  return drawn(seed, stream, steps, rows, units, probability, hit, miss, dtype, [&](const auto& mask) {
    const auto key = static_cast<uint64_t>(seed.item<int64_t>());
    at::parallel_for(0, steps * rows * mask.groups(), 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) mask.fill(key, i);
    });
  });
}

}  // namespace seq::ops
