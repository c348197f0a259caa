#include "ops/step.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>

#include "ops/one_step.h"
#include "ops/page_pool.h"

namespace seq::ops {

namespace {

template <class T>
void set_kept(OneStepResults<T>& to, const StepSizes& n, const at::Tensor& kept) {
  if (!kept.defined()) return;
  to.saved = kept.mutable_data_ptr<T>();
  to.c_all = to.saved + n.c_at();
  to.y = to.saved + n.h_at();
}

// `kept` is undefined in inference.
template <class T>
void forward(const CellCounts& cell, const StepTensors& t, const StepSizes& n, const StepOutputs& out,
             const at::Tensor& kept, Engine engine) {
  OneStepResults<T> to;
  to.h = to.y = out.h.mutable_data_ptr<T>();
  if (n.extra > 0) to.c = out.c.mutable_data_ptr<T>();
  set_kept(to, n, kept);
  const OneStepInputs<T> in{data_or_null<T>(t.x),
                            data_or_null<T>(t.h),
                            data_or_null<T>(t.c),
                            data_or_null<T>(t.b_ih),
                            data_or_null<T>(t.b_hh),
                            t.w_ih,
                            t.w_hh};
  one_step(cell, in, n.B, Rounding::kNone, to, engine);
  if (out.y.defined()) std::copy_n(to.h, n.B * n.H, out.y.mutable_data_ptr<T>());
}

// The same for data of a half type: all but the weights become float on the way.
template <class S>
void forward_half(const CellCounts& cell, const StepTensors& t, const StepSizes& n, const StepOutputs& out,
                  const at::Tensor& kept) {
  const std::unique_ptr<float[]> buffer(new float[n.B * n.I + 2 * (1 + n.extra) * n.B * n.H + 2 * n.GH]);
  float* next = buffer.get();
  const auto take = [&](int64_t count) { return std::exchange(next, next + count); };
  const auto widened = [&](const at::Tensor& from) -> const float* {
    if (!from.defined()) return nullptr;
    return std::transform(from.const_data_ptr<S>(), from.const_data_ptr<S>() + from.numel(), take(from.numel()),
                          [](S v) { return static_cast<float>(v); }) -
           from.numel();
  };
  const auto narrow = [&](const float* from, const at::Tensor& to) {
    if (to.defined()) std::copy_n(from, to.numel(), to.mutable_data_ptr<S>());
  };
  const OneStepInputs<float> in{widened(t.x),    widened(t.h), widened(t.c), widened(t.b_ih),
                                widened(t.b_hh), t.w_ih,       t.w_hh};
  OneStepResults<float> to;
  to.h = to.y = take(n.B * n.H);
  if (n.extra > 0) to.c = take(n.B * n.H);
  set_kept(to, n, kept);
  const auto rounding = std::is_same_v<S, at::Half> ? Rounding::kFloat16 : Rounding::kBfloat16;
  one_step(cell, in, n.B, rounding, to);
  narrow(to.h, out.h);
  narrow(to.h, out.y);
  narrow(to.c, out.c);
}

StepOutputs forward(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                    std::optional<at::IntArrayRef> output, at::Tensor* kept, Engine engine) {
  const StepSizes n(cell, t, batch);
  StepOutputs out{output ? empty_in_large_pages(*output, t.x.scalar_type()) : at::Tensor(),
                  empty_in_large_pages(states, t.x.scalar_type()),
                  n.extra > 0 ? empty_in_large_pages(states, t.x.scalar_type()) : at::Tensor()};
  if (kept) {
    const at::ScalarType type = t.x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    *kept = empty_in_large_pages(n.kept(), type);
  }
  const at::Tensor keep = kept ? *kept : at::Tensor();
  switch (t.x.scalar_type()) {
    case at::kDouble:
      forward<double>(cell, t, n, out, keep, engine);
      break;
    case at::kFloat:
      forward<float>(cell, t, n, out, keep, engine);
      break;
    case at::kHalf:
      forward_half<at::Half>(cell, t, n, out, keep);
      break;
    default:
      forward_half<at::BFloat16>(cell, t, n, out, keep);
  }
  return out;
}

}  // namespace

bool step_takes(const CellCounts& cell, const StepTensors& t, at::ScalarType dtype, int64_t B, int64_t H) {
  if (cell.phases > 1 || cell.states > 2 || !cell.plain()) return false;
  if (B == 0 || H == 0 || t.w_ih.dim() != 2 || t.w_hh.dim() != 2) return false;
  const int64_t rows = cell.gates * H, I = t.w_ih.size(1);
  if (t.w_ih.size(0) != rows || t.w_hh.size(0) != rows || t.w_hh.size(1) != H) return false;
  if (t.x.defined() && t.x.size(-1) != I) return false;
  const auto fits = [&](const at::Tensor& given, int64_t numbers) {
    return !given.defined() || (given.scalar_type() == dtype && given.numel() == numbers && given.is_contiguous());
  };
  return fits(t.x, B * I) && fits(t.h, B * H) && fits(t.c, B * H) && fits(t.w_ih, rows * I) && fits(t.w_hh, rows * H) &&
         fits(t.b_ih, rows) && fits(t.b_hh, rows);
}

bool panel_step_takes(const CellCounts& cell, at::ScalarType dtype, int64_t batch, int64_t input) {
  if (dtype == at::kDouble) return panel_takes_one_step(*cpu::kernels<double>(cell.index), dtype, batch, input);
  return panel_takes_one_step(*cpu::kernels<float>(cell.index), dtype, batch, input);
}

StepOutputs panel_step(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                       std::optional<at::IntArrayRef> output) {
  return forward(cell, t, batch, states, output, nullptr, Engine::kPanel);
}

StepOutputs step_forward(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                         std::optional<at::IntArrayRef> output, at::Tensor* kept) {
  return forward(cell, t, batch, states, output, kept, Engine::kStepwise);
}

}  // namespace seq::ops
