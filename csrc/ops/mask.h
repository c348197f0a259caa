// The op that draws the masks of recurrent dropout, zoneout and weight dropout.
#pragma once

#include <ATen/ATen.h>

#include <cmath>

#include "engine/philox.h"

namespace seq::ops {

inline constexpr char kMaskSchema[] =
    "mask(Tensor seed, int stream, int steps, int rows, int units, float probability, float hit, float miss, "
    "ScalarType dtype) -> Tensor";

// fill(mask) for an empty tensor [steps, rows, units] of float32 or float64, which is given back.
template <class Fill>
at::Tensor drawn(const at::Tensor& seed, int64_t stream, int64_t steps, int64_t rows, int64_t units, double probability,
                 double hit, double miss, at::ScalarType dtype, const Fill& fill) {
  TORCH_CHECK(seed.numel() == 1 && seed.scalar_type() == at::kLong, "seqcuda: seed must be one int64, got ",
              seed.scalar_type(), " ", seed.sizes());
  TORCH_CHECK_VALUE(0 <= probability && probability <= 1, "seqcuda: probability must be from 0 to 1, got ",
                    probability);
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble, "seqcuda: masks are float32 or float64, got ", dtype);
  at::Tensor out = at::empty({steps, rows, units}, seed.options().dtype(dtype));
  const auto threshold = static_cast<uint64_t>(std::nearbyint(std::ldexp(probability, 32)));
  AT_DISPATCH_FLOATING_TYPES(dtype, "mask", [&] {
    fill(Mask<scalar_t>{stream, steps, rows, units, threshold, static_cast<scalar_t>(hit), static_cast<scalar_t>(miss),
                        out.mutable_data_ptr<scalar_t>()});
  });
  return out;
}

at::Tensor mask_cpu(const at::Tensor& seed, int64_t stream, int64_t steps, int64_t rows, int64_t units,
                    double probability, double hit, double miss, at::ScalarType dtype);
at::Tensor mask_cuda(const at::Tensor& seed, int64_t stream, int64_t steps, int64_t rows, int64_t units,
                     double probability, double hit, double miss, at::ScalarType dtype);

}  // namespace seq::ops
