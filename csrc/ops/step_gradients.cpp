#include "ops/step_gradients.h"

#include <ATen/EmptyTensor.h>

#include <algorithm>

#include "ops/one_step.h"
#include "ops/page_pool.h"

namespace seq::ops {

namespace {

// dh, dc: undefined for zeros. Weights may be of a half type, as their gradients then are; all else is of T.
template <class T>
StepGradients backward(const CellCounts& cell, const StepTensors& t, const at::Tensor& kept, const at::Tensor& dh,
                       const at::Tensor& dc, const OfStepInputs<bool>& needs) {
  const cpu::Kernels<T>& kernels = *cpu::kernels<T>(cell.index);
  const StepSizes n(cell, t);
  const int64_t B = n.B;
  const int64_t BH = B * n.H;
  const auto like = [&](StepInput which) {
    return empty_in_large_pages(in_order(t)[which]->sizes(), t.x.scalar_type());
  };
  const auto start_with = [&](const at::Tensor& from, T* to) {
    if (from.defined())
      std::copy_n(data_or_null<T>(from.contiguous()), BH, to);
    else
      std::fill_n(to, BH, T(0));
  };
  const int64_t copies = cell.same_grads ? 1 : 2;
  const at::Tensor scratch = empty_in_small_pages({copies * B * n.GH + 2 * BH}, c10::CppTypeToScalarType<T>::value);
  T *dgx = scratch.mutable_data_ptr<T>(), *dgh = dgx + (copies - 1) * B * n.GH;
  StepGradients g;
  if (needs[kH]) g[kH] = like(kH);
  if (needs[kC]) g[kC] = like(kC);

  const OneStep one(B);
  Backward<T> b;
  one.set_walk(b, cell, n.H);
  b.saved = const_cast<T*>(kept.const_data_ptr<T>());
  b.c_all = b.saved + n.c_at(), b.y = b.saved + n.h_at();
  b.h0 = data_or_null<T>(t.h), b.c0 = data_or_null<T>(t.c);
  b.dgx = dgx, b.dgh = dgh;
  b.dh = needs[kH] ? g[kH].mutable_data_ptr<T>() : dgh + B * n.GH;
  start_with(dh, b.dh);
  if (n.extra > 0) {
    b.dc = needs[kC] ? g[kC].mutable_data_ptr<T>() : dgh + B * n.GH + BH;
    start_with(dc, b.dc);
  }
  for_places(B, n.GH, [&](const cpu::Share& share) { kernels.backward_phase[0](b, share, 0, nullptr); });

  if (needs[kH]) few_rows::add_transposed(kernels, t.w_hh, dgh, B, true, b.dh);
  if (needs[kX]) {
    g[kX] = like(kX);
    few_rows::add_transposed(kernels, t.w_ih, dgx, B, false, g[kX].mutable_data_ptr<T>());
  }
  if (needs[kWeightIh]) {
    g[kWeightIh] = empty_in_large_pages(t.w_ih.sizes(), t.w_ih.scalar_type());
    few_rows::outer(kernels, dgx, data_or_null<T>(t.x), B, g[kWeightIh]);
  }
  if (needs[kWeightHh]) {
    g[kWeightHh] = empty_in_large_pages(t.w_hh.sizes(), t.w_hh.scalar_type());
    if (t.h.defined())
      few_rows::outer(kernels, dgh, data_or_null<T>(t.h), B, g[kWeightHh]);
    else
      g[kWeightHh].zero_();
  }
  const auto sum = [&](StepInput which, const T* rows) {
    if (!needs[which]) return;
    g[which] = like(which);
    T* to = g[which].template mutable_data_ptr<T>();
    std::copy_n(rows, n.GH, to);
    for (int64_t i = 1; i < B; ++i)
      for (int64_t j = 0; j < n.GH; ++j) to[j] += rows[i * n.GH + j];
  };
  sum(kBiasIh, dgx);
  sum(kBiasHh, dgh);
  return g;
}

// s in another type, or undefined as s is. Where there are few numbers ATen's way there takes longer than they do.
template <class From, class To>
at::Tensor converted(const at::Tensor& s) {
  constexpr at::ScalarType type = c10::CppTypeToScalarType<To>::value;
  constexpr int64_t kFew = 8192;
  if (!s.defined() || s.numel() > kFew || !s.is_contiguous()) return s.defined() ? ops::converted(s, type) : s;
  const at::Tensor out = at::detail::empty_cpu(s.sizes(), type);
  const From* from = s.const_data_ptr<From>();
  std::transform(from, from + s.numel(), out.mutable_data_ptr<To>(), [](From v) { return static_cast<To>(v); });
  return out;
}

// For data of a half type: all but the weights become float on the way.
template <class S>
StepGradients backward_half(const CellCounts& cell, const StepTensors& t, const at::Tensor& kept, const at::Tensor& dh,
                            const at::Tensor& dc, const OfStepInputs<bool>& needs) {
  const auto widened = &converted<S, float>;
  const StepTensors all{widened(t.x), widened(t.h), widened(t.c), t.w_ih, t.w_hh, t.b_ih, t.b_hh};
  StepGradients g = backward<float>(cell, all, kept, widened(dh), widened(dc), needs);
  for (StepInput which : {kX, kH, kC, kBiasIh, kBiasHh}) g[which] = converted<float, S>(g[which]);
  return g;
}

}  // namespace

StepGradients step_gradients(const CellCounts& cell, const StepTensors& t, const at::Tensor& kept, const at::Tensor& dh,
                             const at::Tensor& dc, const OfStepInputs<bool>& needs) {
  switch (t.x.scalar_type()) {
    case at::kDouble:
      return backward<double>(cell, t, kept, dh, dc, needs);
    case at::kFloat:
      return backward<float>(cell, t, kept, dh, dc, needs);
    case at::kHalf:
      return backward_half<at::Half>(cell, t, kept, dh, dc, needs);
    default:
      return backward_half<at::BFloat16>(cell, t, kept, dh, dc, needs);
  }
}

}  // namespace seq::ops
