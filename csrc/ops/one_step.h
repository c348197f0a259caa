// The forward of one step of one direction: no plan of rows, one buffer, the products by few_rows.h.
#pragma once

#include <algorithm>
#include <memory>

#include "ops/cpu_common.h"
#include "ops/step.h"

namespace seq::ops {

// One step as the walks see it: everything is alive, in order, and the only step.
struct OneStep {
  explicit OneStep(int64_t batch) : alive(batch), start{0, batch}, plan{1, batch, &alive, start, nullptr} {}
  OneStep(const OneStep&) = delete;

  template <class T>
  void set_walk(Walk<T>& walk, const CellCounts& cell, int64_t hidden) const {
    walk.plan = &plan;
    walk.hidden = walk.width = walk.y_stride = walk.c_all_stride = hidden;
    walk.gates_stride = cell.gates * hidden, walk.saved_width = cell.saved * hidden;
    walk.state_plane = walk.c_all_plane = alive * hidden;
  }

  int64_t alive, start[2];
  Plan plan;
};

// Where the results go, [B, H] each and saved [B, kSaved, H]. c: for cells that have one; null: c_all and saved are not
// kept. y may be h.
template <class T>
struct OneStepResults {
  T *h = nullptr, *c = nullptr, *y = nullptr, *c_all = nullptr, *saved = nullptr;
};

// Contiguous; null: zeros. The weights may be of a half type.
template <class T>
struct OneStepInputs {
  const T *x = nullptr, *h = nullptr, *c = nullptr, *b_ih = nullptr, *b_hh = nullptr;
  const at::Tensor &w_ih, &w_hh;
};

// Whether engine "panel" runs a single step so: with its own bits, but with the weights as they lie.
template <class T>
bool panel_takes_one_step(const cpu::Kernels<T>& kernels, at::ScalarType dtype, int64_t batch, int64_t input) {
  return dtype == c10::CppTypeToScalarType<T>::value && batch <= kernels.ordered_most && input > 0;
}

// w [R, K] of T, contiguous.
template <class T>
void multiply_in_order(const cpu::Kernels<T>& kernels, const at::Tensor& w, bool parts, const T* x, int64_t B,
                       const T* bias, T* out) {
  const int64_t R = w.size(0), K = w.size(1), block = kernels.ordered_block;
  const T* from = w.const_data_ptr<T>();
  at::parallel_for(
      0, (R + block - 1) / block, std::max<int64_t>(1, few_rows::grain(K) / block),
      [&](int64_t begin, int64_t end) { kernels.ordered_rows(from, R, K, parts, begin, end, x, B, bias, out); });
}

template <class T>
void one_step(const CellCounts& cell, const OneStepInputs<T>& in, int64_t B, Rounding rounding,
              const OneStepResults<T>& to, Engine engine = Engine::kStepwise) {
  const cpu::Kernels<T>& kernels = *cpu::kernels<T>(cell.index);
  const int64_t H = in.w_hh.size(1), GH = in.w_hh.size(0);
  const std::unique_ptr<T[]> gates(new T[(2 * GH + H) * B]);
  T *gx = gates.get(), *gh = gx + B * GH, *zeros = gh + B * GH;
  const OneStep one(B);
  Forward<T> f;
  one.set_walk(f, cell, H);
  f.rounding = rounding;
  f.y = to.y, f.c_all = to.c_all, f.saved = to.saved;
  if (engine == Engine::kPanel) {
    multiply_in_order(kernels, in.w_ih, /*parts=*/true, in.x, B, in.b_ih, gx);
    if (in.h) multiply_in_order<T>(kernels, in.w_hh, /*parts=*/false, in.h, B, nullptr, gh);
  } else {
    few_rows::multiply(kernels, in.w_ih, in.x, B, in.b_ih, gx);
    if (in.h) few_rows::multiply<T>(kernels, in.w_hh, in.h, B, nullptr, gh);
  }
  if (!in.h) {
    std::fill_n(gh, B * GH, T(0));
    std::fill_n(zeros, B * H, T(0));
  }
  f.gx = gx;
  f.b_hh = in.b_hh;
  f.h[0] = in.h ? const_cast<T*>(in.h) : zeros;
  f.h[1] = to.h;
  f.c = to.c;
  if (to.c && in.c)
    std::copy_n(in.c, B * H, to.c);
  else if (to.c)
    std::fill_n(to.c, B * H, T(0));
  for_places(B, GH, [&](const cpu::Share& share) { kernels.forward_phase[0](f, share, 0, gh); });
}

}  // namespace seq::ops
