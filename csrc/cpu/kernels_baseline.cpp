// The CPU kernels for the compiler's default instruction set: SSE2 on x86-64, NEON on Arm.
#include <cstdint>
#include <utility>

#define SEQ_ISA baseline
#define SEQ_LANE_BYTES 16
#include "cpu/kernels.inl.h"
