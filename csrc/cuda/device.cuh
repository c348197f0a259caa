// What only the hardware has, one function each: clusters, barriers that count bytes, pushes into another block's
// shared memory, products of a warp. The emulation implements this file a second time,
// tests/cuda_emulation/include/cuda.
//
// Products follow the fragments of PTX's mma: lane = 4 g + q holds of A (16 rows) the rows g and g + 8 as words 0, 2
// and 1, 3; of B (8 columns) column g; of C (16 x 8) d[0], d[1] = row g, columns 2 q and 2 q + 1, d[2], d[3] = row g
// + 8. In the depth, words 0 and 1 of A and word 0 of B hold its first half, the others its second: elements 2 q and 2
// q + 1 of eight for 16-bit types, element q of four for TF32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace seq::cuda {

// Kernels over clusters are empty where the architecture has none, or blocks with less than half the shared memory;
// those with products of a warp likewise.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
constexpr bool kHasClusters = false;
#else
constexpr bool kHasClusters = true;
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kHasProducts = false;
#else
constexpr bool kHasProducts = true;
#endif

// The dynamic shared memory of the block.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char shared_memory_of_block[];
  return shared_memory_of_block;
}

__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// For all threads of the cluster; orders their reads and writes of shared memory.
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

// For `threads` threads of the block, whole warps of them; id from 1 to 15.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// In shared memory. Its phases complete, one after the other, when one thread has arrived and as many bytes have been
// pushed as it expects; the bytes may come before that.
struct ByteBarrier {
  uint64_t opaque;
};

// By one thread; visible to the cluster after the next cluster barrier.
__device__ __forceinline__ void init(ByteBarrier* barrier) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n\tfence.mbarrier_init.release.cluster;" ::"r"(shared_address(barrier))
      : "memory");
}

// The arrival of the one thread.
__device__ __forceinline__ void expect(ByteBarrier* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Until the phase of this parity has completed; the first phase has parity 0. What was pushed is then seen: it is in
// shared memory of the own block. An acquire of the whole cluster, of global memory as well, would empty the L1.
__device__ __forceinline__ void wait(ByteBarrier* barrier, unsigned parity) {
  unsigned done;
  do {
    asm volatile(
        "{\n\t.reg .pred complete;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 complete, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, complete;\n\t}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!done);
}

// Writes `value` where `to`, of this block's shared memory, is in that of block `rank`, and then counts its bytes at
// that block's `barrier`. Does not wait.
__device__ __forceinline__ void push(uint2* to, uint2 value, ByteBarrier* barrier, unsigned rank) {
  asm volatile(
      "{\n\t.reg .b32 there, counts;\n\t"
      "mapa.shared::cluster.u32 there, %0, %2;\n\t"
      "mapa.shared::cluster.u32 counts, %1, %2;\n\t"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [there], {%3, %4}, [counts];\n\t}" ::"r"(
          shared_address(to)),
      "r"(shared_address(barrier)), "r"(rank), "r"(value.x), "r"(value.y)
      : "memory");
}
__device__ __forceinline__ void push(float4* to, float4 value, ByteBarrier* barrier, unsigned rank) {
  asm volatile(
      "{\n\t.reg .b32 there, counts;\n\t"
      "mapa.shared::cluster.u32 there, %0, %2;\n\t"
      "mapa.shared::cluster.u32 counts, %1, %2;\n\t"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [there], {%3, %4, %5, %6}, [counts];\n\t}" ::"r"(
          shared_address(to)),
      "r"(shared_address(barrier)), "r"(rank), "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w)
      : "memory");
}

// Counts at `barrier`, of the own block, so many bytes that the lanes of this warp have stored there. In a cluster of
// one block this takes the place of a push, which PTX leaves undefined there.
__device__ __forceinline__ void count(ByteBarrier* barrier, unsigned bytes, int lane) {
  __syncwarp();
  if (lane == 0)
    asm volatile("fence.acq_rel.cta;\n\tmbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

// Copies a number from global to shared memory without waiting for it, or writes 0 there.
__device__ __forceinline__ void copy_ahead(float* to, const float* from, bool exists) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(exists ? 4 : 0)
               : "memory");
}
// Until this thread sees what it has copied.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Makes what this thread has written to global memory, and what others had before it met them at a barrier, known to
// whoever sees the count raised.
__device__ __forceinline__ void raise(unsigned long long* count) {
  asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(count) : "memory");
}

// Until the count is `least` or more; what was written before is then seen. A count that nobody raises any more, or a
// block that does not run, must not hang the GPU: after kPatience nanoseconds `gave_up`, 0 at first, is set, and nobody
// waits for long any more; who sets it sets `failed` as well, in memory of the host. False: in vain.
__device__ __forceinline__ bool wait_for(const unsigned long long* count, unsigned long long least,
                                         unsigned long long* gave_up, int* failed) {
  constexpr unsigned long long kPatience = 10'000'000'000;
  constexpr unsigned kPolls = 1024;  // between looks at the clock
  unsigned long long start = 0;
  for (unsigned polls = 1;; ++polls) {
    unsigned long long now;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(now) : "l"(count) : "memory");
    if (now >= least) return true;
    if (polls % kPolls != 0) continue;
    unsigned long long time;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
    if (start == 0) start = time;
    if (time - start > kPatience && atomicExch(gave_up, 1) == 0) *static_cast<volatile int*>(failed) = 1;
    if (*static_cast<volatile unsigned long long*>(gave_up)) return false;
  }
}

// What another block has written.
__device__ __forceinline__ uint2 load_fresh(const uint2* from) { return __ldcg(from); }
__device__ __forceinline__ float4 load_fresh(const float4* from) { return __ldcg(from); }

// For the 32 threads of a warp.
__device__ __forceinline__ void warp_barrier() { __syncwarp(); }
// The same, and whether all of them say so.
__device__ __forceinline__ bool warp_agrees(bool mine) {
  const bool all = __all_sync(0xffffffffu, mine);
  __syncwarp();  // a vote does not order memory
  return all;
}

// The value of the lane whose number differs in the bits of `mask`.
__device__ __forceinline__ uint32_t shuffle_xor(uint32_t value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// a b rounded, for what must be the same number wherever it is used: a compiler may fuse it with an addition.
__device__ __forceinline__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double rounded_product(double a, double b) { return __dmul_rn(a, b); }

// 2^v and 1 / v, right to about 2^-22; what would be denormal is 0.
__device__ __forceinline__ float fast_exp2(float v) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
  return result;
}
__device__ __forceinline__ float fast_inverse(float v) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
  return result;
}

// Of two numbers, both of which are computed: for ?: the compiler may branch.
__device__ __forceinline__ float select(bool first, float a, float b) {
  float result;
  asm("{\n\t.reg .pred first;\n\tsetp.ne.u32 first, %3, 0;\n\tselp.f32 %0, %1, %2, first;\n\t}"
      : "=f"(result)
      : "f"(a), "f"(b), "r"(static_cast<unsigned>(first)));
  return result;
}

// To nearest in TF32, ties away from zero, or towards zero; the bits of a float. Volatile, or the compiler would round
// what stays the same over many steps once, and keep both forms in registers.
__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t rounded;
  asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return rounded;
}

__device__ __forceinline__ uint32_t cut_to_tf32(uint32_t value) {
  uint32_t cut;
  asm volatile("and.b32 %0, %1, 0xffffe000;" : "=r"(cut) : "r"(value));
  return cut;
}

// d += A B, summed in float32: depth 16 for 16-bit types, depth 8 for TF32, whose low bits are cut off.
struct Tf32 {};

#define SEQ_MMA(type, instruction)                                                            \
  __device__ __forceinline__ void mma(type, float (&d)[4], const uint32_t (&a)[4], uint2 b) { \
    asm(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"        \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                      \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));                    \
  }
SEQ_MMA(__nv_bfloat16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
SEQ_MMA(__half, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
SEQ_MMA(Tf32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
#undef SEQ_MMA

}  // namespace seq::cuda
