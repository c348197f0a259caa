// Kernels that test the emulation itself. They give null, or what went wrong.
#pragma once

// to[i] = from[n - 1 - i] through shared memory of n floats, of which number `beyond` is also written, unless negative.
const char* reverse_through_shared_memory(const float* from, float* to, int n, int beyond);

const char* wait_for_ever();
