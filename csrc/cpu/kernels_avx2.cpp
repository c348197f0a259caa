// The CPU kernels for AVX2. The headers of the standard library come before the pragma, ours after it.
#include <atomic>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define SEQ_ISA avx2
#define SEQ_LANE_BYTES 32
#include "cpu/kernels.inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
