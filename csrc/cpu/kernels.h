// The table of one cell's kernels for one type of computation, and where it comes from: kernels_<isa>.cpp each build
// the same source (kernels.inl.h) for one instruction set.
#pragma once

#include <cstdint>

#include "cpu/barrier.h"
#include "engine/cell_table.h"
#include "engine/problem.h"

namespace seq::cpu {

// One thread's part of a walk: places [row_begin, row_end) and, of the blocks of units, the parts
// [part_begin, part_end) of `parts`. Threads that share rows meet at the barrier after each phase.
struct Share {
  int64_t row_begin = 0, row_end = 0;
  int64_t part_begin = 0, part_end = 1, parts = 1;
  Barrier* barrier = nullptr;

  __attribute__((always_inline)) int64_t first(int64_t blocks) const { return blocks * part_begin / parts; }
  __attribute__((always_inline)) int64_t last(int64_t blocks) const { return blocks * part_end / parts; }
  __attribute__((always_inline)) void meet() const {
    if (part_end - part_begin < parts) barrier->arrive_and_wait(part_end - part_begin);
  }
};

// At least what K numbers take in split order (split.h), in whole vectors of any build.
constexpr int64_t split_room(int64_t K) { return K + 31; }

// Weights in the layout of pack.h.
template <class T>
struct Panels {
  const T* phase[2] = {};
  const T* projection = nullptr;
};

// out [M, N] = a [M, K] b, + bias or + out. a is [M, lda], or [K, lda] where it is transposed; b in panels.
// Of pairs of bfloat16, in a and in the panels: K, and lda of an a that is not transposed, count pairs; `odd` says that
// a transposed a has one row less.
template <class T>
struct Gemm {
  const T* a = nullptr;
  int64_t lda = 0;
  bool transposed = false, pairs = false, odd = false;
  const T* panels = nullptr;
  int64_t K = 0, N = 0;
  const T* bias = nullptr;
  bool add = false;
  T* out = nullptr;
  int64_t ldo = 0;
};

// out [M, N] = a^T b over `count` rows of a [.., lda] and b [.., ldb]; N = 0: out [M], the sums of the rows of a.
// past_caches: out is of more than they hold; its rows begin at multiples of 64 bytes.
template <class T>
struct Outer {
  const T* a = nullptr;
  int64_t lda = 0;
  const T* b = nullptr;
  int64_t ldb = 0;
  const int64_t* rows = nullptr;
  int64_t count = 0, M = 0, N = 0;
  T* out = nullptr;
  bool past_caches = false;
};

// Rows of a product [G, H] of a cell that normalises (cell_traits.h), or of its gradient.
template <class T>
struct NormRows {
  int64_t hidden = 0;
  const T *gain = nullptr, *bias = nullptr;  // [G, H]; bias may be null
  const T* product = nullptr;
  T* out = nullptr;   // gain * norm(product) + bias, may be product; of the backward the gradient of product, may be d
  T* kept = nullptr;  // where product is copied to, rows kept_stride apart, or null
  int64_t kept_stride = 0;
  // Of the backward: the gradient of what the forward gives; what each row adds to that of the gain, or null.
  const T* d = nullptr;
  T* d_gain = nullptr;
  int64_t d_gain_stride = 0;
};

template <class T>
struct Kernels {
  int phases, phase_begin[kMaxPhases + 1];
  int64_t forward_block, projection_block, backward_block, gemm_block;  // units per panel

  // Panels [begin, end) of one weight matrix.
  void (*pack_gates)(const T* w, int64_t ld, int64_t hidden, int first, int last, int64_t K, int64_t block,
                     int64_t begin, int64_t end, T* out);
  void (*pack_columns)(const T* w, int64_t ld, int64_t columns, int64_t rows, int64_t block, int64_t begin, int64_t end,
                       T* out);

  // Of bfloat16; null where there are no products of pairs.
  void (*pack_pairs)(const uint16_t* w, int64_t ld, int64_t columns, int64_t rows, int64_t block, int64_t begin,
                     int64_t end, float* out);

  // Rows [begin, end) of out, from a multiple of gemm_rows on.
  int64_t gemm_rows;
  void (*gemm)(const Gemm<T>&, int64_t begin, int64_t end);

  // Rows [begin, end) of w times the `batch` rows of x, weights as they lie.
  void (*dot_rows)(const T* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const T* x, int64_t batch,
                   const T* bias, T* out, int64_t ldo);
  // The same, contiguous, with the bits of engine "panel", for up to ordered_most rows of x: blocks [begin, end) of
  // ordered_block rows of w [R, K]. parts: as gemm sums, else as the products of a walk.
  int64_t ordered_most, ordered_block;
  void (*ordered_rows)(const T* w, int64_t R, int64_t K, bool parts, int64_t begin, int64_t end, const T* x,
                       int64_t batch, const T* bias, T* out);
  // dot_rows with weights of a half type: float only. scratch: (batch + 4) * split_room(K) numbers.
  void (*dot_bfloat16_rows)(const uint16_t* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const T* x,
                            int64_t batch, const T* bias, T* out, int64_t ldo, T* scratch);
  void (*dot_float16_rows)(const uint16_t* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const T* x,
                           int64_t batch, const T* bias, T* out, int64_t ldo, T* scratch);
  // The same of bfloat16 by products of pairs; null where there are none, and only for a processor that has them.
  void (*dot_pair_rows)(const uint16_t* w, int64_t ld, int64_t begin, int64_t end, int64_t K, const T* x, int64_t batch,
                        const T* bias, T* out, int64_t ldo, T* scratch);
  // The two products of its backward: columns [begin, end) of out (+)= d w, rows [begin, end) of out = d^T x; weights
  // of a half type and their gradients as above. scratch: batch * split_room(K) numbers.
  void (*add_rows)(const T* w, int64_t ld, int64_t rows, int64_t begin, int64_t end, const T* d, int64_t batch,
                   bool add, T* out, int64_t ldo);
  void (*add_bfloat16_rows)(const uint16_t* w, int64_t ld, int64_t rows, int64_t begin, int64_t end, const T* d,
                            int64_t batch, bool add, T* out, int64_t ldo);
  void (*add_float16_rows)(const uint16_t* w, int64_t ld, int64_t rows, int64_t begin, int64_t end, const T* d,
                           int64_t batch, bool add, T* out, int64_t ldo);
  void (*outer_rows)(const T* d, int64_t rows, int64_t begin, int64_t end, const T* x, int64_t batch, int64_t K,
                     T* out);
  void (*outer_bfloat16_rows)(const T* d, int64_t rows, int64_t begin, int64_t end, const T* x, int64_t batch,
                              int64_t K, uint16_t* out, T* scratch);
  void (*outer_float16_rows)(const T* d, int64_t rows, int64_t begin, int64_t end, const T* x, int64_t batch, int64_t K,
                             uint16_t* out);

  // Engine "panel": walk steps [k0, k1), products included. The backward walks from k1 - 1 down to k0.
  void (*forward)(const Forward<T>&, const Panels<T>&, const Share&, int64_t k0, int64_t k1);
  void (*backward)(const Backward<T>&, const Panels<T>&, const Share&, int64_t k0, int64_t k1);

  // Engine "stepwise": one phase of walk step k, by phase; the caller does the products.
  // forward: gh [places, gates of the phase, H] without bias.
  void (*forward_phase[kMaxPhases])(const Forward<T>&, const Share&, int64_t k, const T* gh);
  // forward with projection: h [places, P] as the product gave it is rounded and stored.
  void (*forward_projected)(const Forward<T>&, const Share&, int64_t k, const T* h);
  // backward, last phase first. d_operand [places, H]: for the last phase the gradient of an h before its projection,
  // or null; for the others the gradient of the next phase's operand.
  void (*backward_phase[kMaxPhases])(const Backward<T>&, const Share&, int64_t k, const T* d_operand);
  // backward with projection, first: the whole gradient of h goes to dh_out.
  void (*backward_projected)(const Backward<T>&, const Share&, int64_t k);
  // backward, last: dh += product [places, P], then what a reset cuts off.
  void (*backward_carry)(const Backward<T>&, const Share&, int64_t k, const T* product);

  // What the backward needs of walk step k again, by dense row. recompute: the gates, from gx and gh.
  void (*recompute[kMaxPhases])(const Forward<T>&, const Share&, int64_t k, const T* gh, T* operand);
  // The h that entered the step, [.., P]; what the product of a later phase read, [.., H]; h before its projection.
  void (*gather_entering)(const Walk<T>&, const Share&, int64_t k, int64_t first, T* out);
  void (*gather_operand[kMaxPhases])(const Backward<T>&, const Share&, int64_t k, T* out);
  void (*gather_unprojected)(const Backward<T>&, const Share&, int64_t k, T* out);
  // What each row adds to the gradients of the unit weights, [.., U, H], from the gradients of the gates.
  void (*unit_gradient)(const Backward<T>&, const Share&, int64_t k, T* out);

  // For cells that normalise, else null: rows [begin, end).
  void (*normalize)(const NormRows<T>&, int64_t begin, int64_t end);
  void (*normalize_backward)(const NormRows<T>&, int64_t begin, int64_t end);

  // The gradient of a weight by a group of rows.
  void (*outer)(const Outer<T>&);

  // The same walks on dual numbers: cpu/tangent.h; for cells with a recurrent product and without parameters, else
  // null. tangents: of the weights, null where they have none.
  void (*tangent_forward)(const Forward<T>&, const Panels<T>& panels, const Panels<T>& tangents, const Share&,
                          int64_t k0, int64_t k1);
  void (*tangent_backward)(const Backward<T>&, const Panels<T>& panels, const Panels<T>& tangents, const Share&,
                           int64_t k0, int64_t k1);
  // Of engine "stepwise" what differs from the above; gh [places, 2, gates of the phase, H], d_operand [places, 2, H].
  void (*tangent_forward_phase[kMaxPhases])(const Forward<T>&, const Share&, int64_t k, const T* gh);
  void (*tangent_backward_phase[kMaxPhases])(const Backward<T>&, const Share&, int64_t k, const T* d_operand);
};

}  // namespace seq::cpu

// One per build: the kernels of every cell, in the order of cells/list.h; null past the end of the list.
namespace seq::baseline {
template <class T>
const cpu::Kernels<T>* kernels(int cell);
}
namespace seq::avx2 {
template <class T>
const cpu::Kernels<T>* kernels(int cell);
}
namespace seq::avx512 {
template <class T>
const cpu::Kernels<T>* kernels(int cell);
}
