// float16: stored in 16 bits, computed in float.
#pragma once

#include <bit>
#include <cstdint>

struct __half {
  _Float16 value;
};

inline float __half2float(__half h) { return static_cast<float>(h.value); }
inline __half __float2half_rn(float f) { return {static_cast<_Float16>(f)}; }
inline unsigned short __half_as_ushort(__half h) { return std::bit_cast<uint16_t>(h.value); }
