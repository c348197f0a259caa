// Kernels that test the emulation itself. They give null, or what went wrong.
#pragma once

// to[i] = from[n - 1 - i] through shared memory of n floats, of which number `beyond` is also written, unless negative.
const char* reverse_through_shared_memory(const float* from, float* to, int n, int beyond);

const char* wait_for_ever();

// Every block of a cluster pushes a bit of its own to all, and adds what it gets once so many bytes have come, 8 from
// each block; or ends without waiting. sums [blocks]
const char* exchange_in_cluster(int* sums, int blocks, int bytes, bool waits);

// to [16, 8] = a [16, depth] b [depth, 8] by one mma: "bfloat16" and "float16" of depth 16, "tf32" of depth 8.
const char* multiply_fragments(const char* type, const float* a, const float* b, float* to);
