// One build of the CPU kernels. Included once by each kernels_<isa>.cpp, after
//   SEQ_ISA          the namespace of the build
//   SEQ_LANE_BYTES   the width of a vector register
//   SEQ_LOAD_FLOAT16(p), SEQ_STORE_FLOAT16(p, v)   that many float16 as float, where there is an instruction for it
//   SEQ_ADD_PAIRS(sum, a, b), SEQ_STORE_BFLOAT16(p, v)   products of pairs of bfloat16, rounding to it, where some
//                    processors of the set have instructions for them: to be used on those alone
//   SEQ_STREAM(p, v)   a store past the caches, where there is an instruction for it
//   SEQ_MIN(a, b), SEQ_MAX(a, b)   of floats, b where one is NaN: GCC makes a comparison and a choice of their like
// and after the pragma that lets the compiler use the instruction set. Everything below is in the build's namespace, or
// is a template over its lane type: nothing of it can be linked into another build.
#include "cells/list.h"
#include "cpu/kernels.h"
#include "cpu/lanes.h"
#include "cpu/pack.h"
#include "cpu/product.h"
#include "engine/cell_traits.h"

namespace seq::SEQ_ISA {
using cpu::Gemm;
using cpu::NormRows;
using cpu::Outer;
using cpu::Panels;
using cpu::Share;
}  // namespace seq::SEQ_ISA

#include "cpu/backward.h"
#include "cpu/dot.h"
#include "cpu/dual.h"
#include "cpu/forward.h"
#include "cpu/gemm.h"
#include "cpu/norm.h"
#include "cpu/ordered.h"
#include "cpu/outer.h"
#include "cpu/split.h"
#include "cpu/tangent.h"

namespace seq::SEQ_ISA {

template <class Cell, class T>
constexpr cpu::Kernels<T> table_of() {
  using Traits = CellTraits<Cell>;
  using F = ForwardWalk<Cell, T>;
  using B = BackwardWalk<Cell, T>;
  cpu::Kernels<T> k{};
  k.phases = Traits::phases();
  for (int p = 0; p <= Traits::phases(); ++p) k.phase_begin[p] = Traits::phase_begin(p);
  k.forward_block = F::kBlock, k.projection_block = F::kProjectionBlock, k.backward_block = B::kBlock;
  k.gemm_block = GemmWalk<T>::kBlock, k.gemm_rows = GemmWalk<T>::kCopied, k.gemm = &GemmWalk<T>::run;
  k.outer = &OuterWalk<T>::run;
  k.pack_gates = &pack_gates<T>, k.pack_columns = &pack_columns<T>;
  k.dot_rows = &dot_rows<T>;
  using O = OrderedRows<T>;
  k.ordered_most = O::kMost, k.ordered_block = O::kBlock, k.ordered_rows = &O::run;
  k.add_rows = &add_rows<AsTheyAre<T>, T>, k.outer_rows = &outer_rows<AsTheyAre<T>, T>;
  if constexpr (sizeof(T) == 4) {
    k.dot_bfloat16_rows = &dot_bfloat16_rows;
    k.dot_float16_rows = &dot_float16_rows;
    k.add_bfloat16_rows = &add_bfloat16_rows;
    k.add_float16_rows = &add_rows<AsHalf<Rounding::kFloat16>, T>;
    k.outer_bfloat16_rows = &outer_bfloat16_rows;
    k.outer_float16_rows = &outer_rows<AsHalf<Rounding::kFloat16>, T>;
#if defined(SEQ_ADD_PAIRS)
    k.pack_pairs = &pack_pairs, k.dot_pair_rows = &dot_pair_rows;
#endif
  }
  if constexpr (Traits::norms() > 0) {
    using N = NormWalk<Cell, T>;
    k.forward = &N::forward, k.backward = &N::backward;
    k.forward_phase[0] = &N::forward_phase, k.backward_phase[0] = &N::backward_phase;
    k.normalize = &N::normalize, k.normalize_backward = &N::normalize_backward;
  } else {
    k.forward = &F::run, k.backward = &B::run;
    k.forward_phase[0] = &F::template stepwise<0>, k.backward_phase[0] = &B::template stepwise<0>;
  }
  k.forward_projected = &F::stepwise_projected;
  k.backward_projected = &B::stepwise_projected;
  k.backward_carry = &B::stepwise_carry;
  k.recompute[0] = &B::template recompute<0>;
  k.gather_entering = &B::gather_entering;
  if constexpr (Traits::phases() > 1) {
    k.forward_phase[1] = &F::template stepwise<1>;
    k.backward_phase[1] = &B::template stepwise<1>;
    k.recompute[1] = &B::template recompute<1>;
    k.gather_operand[1] = &B::template gather_operand<1>;
  }
  if constexpr (Traits::projects()) k.gather_unprojected = &B::gather_unprojected;
  if constexpr (Traits::unit() > 0) k.unit_gradient = &B::unit_gradient;
  if constexpr (Traits::plain()) {
    using D = TangentWalk<Cell, T>;
    k.tangent_forward = &D::forward, k.tangent_backward = &D::backward;
    k.tangent_forward_phase[0] = &D::template forward_stepwise<0>;
    k.tangent_backward_phase[0] = &D::template backward_stepwise<0>;
    if constexpr (Traits::phases() > 1) {
      k.tangent_forward_phase[1] = &D::template forward_stepwise<1>;
      k.tangent_backward_phase[1] = &D::template backward_stepwise<1>;
    }
  }
  return k;
}

template <class T>
const cpu::Kernels<T>* kernels(int cell) {
#define SEQ_TABLE(Cell) table_of<Cell, T>(),
  static constexpr cpu::Kernels<T> tables[] = {SEQ_FOR_EACH_CELL(SEQ_TABLE)};
#undef SEQ_TABLE
  return cell >= 0 && cell < static_cast<int>(sizeof(tables) / sizeof(tables[0])) ? &tables[cell] : nullptr;
}

template const cpu::Kernels<float>* kernels<float>(int);
template const cpu::Kernels<double>* kernels<double>(int);

}  // namespace seq::SEQ_ISA
