// The CPU kernels for AVX512. The headers of the standard library come before the pragma, ours after it.
#include <atomic>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif

#define SEQ_ISA avx512
#define SEQ_LANE_BYTES 64
// maskz: what GCC's plain form leaves undefined it warns of.
#define SEQ_STORE_FLOAT16(p, v) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xFFFF, v, 0))
#define SEQ_LOAD_FLOAT16(p) _mm512_maskz_cvtph_ps(0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))
// Not every processor with AVX512 has these two; the compiler makes no use of them by itself.
#define SEQ_ADD_PAIRS(sum, a, b) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))
#define SEQ_STORE_BFLOAT16(p, v) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v))
#define SEQ_MIN(a, b) _mm512_maskz_min_ps(0xFFFF, a, b)
#define SEQ_MAX(a, b) _mm512_maskz_max_ps(0xFFFF, a, b)
#define SEQ_STREAM(p, v) _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)(v))
#include "cpu/kernels.inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
