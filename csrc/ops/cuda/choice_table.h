// Written by `python -m benchmarks.cuda.choices` from benchmarks/results/cuda-*.json.
// clang-format off
#pragma once

#include "ops/cuda/choices.h"

namespace seq::ops {

// The engines that a GPU has run, all results right.
constexpr std::array<std::string_view, 0> kSeenOnGpu{};

constexpr std::array<CudaChoice, 0> kCudaChoices{};

}  // namespace seq::ops
