// The CPU kernels for AVX2. The headers of the standard library come before the pragma, ours after it.
#include <atomic>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define SEQ_ISA avx2
#define SEQ_LANE_BYTES 32
#define SEQ_STORE_FLOAT16(p, v) _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, 0))
#define SEQ_LOAD_FLOAT16(p) _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))
#define SEQ_MIN(a, b) _mm256_min_ps(a, b)
#define SEQ_MAX(a, b) _mm256_max_ps(a, b)
#define SEQ_STREAM(p, v) _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)(v))
#include "cpu/kernels.inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
