// The CPU kernels for AVX512. The headers of the standard library come before the pragma, ours after it.
#include <atomic>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif

#define SEQ_ISA avx512
#define SEQ_LANE_BYTES 64
#include "cpu/kernels.inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
