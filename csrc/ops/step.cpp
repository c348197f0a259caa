#include "ops/step.h"

#include <ATen/EmptyTensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <memory>
#include <type_traits>
#include <utility>

#include "ops/gradient_function.h"
#include "ops/large_pages.h"
#include "ops/one_step.h"
#include "ops/plain.h"

namespace seq::ops {

namespace {

at::Tensor empty(at::IntArrayRef shape, const at::Tensor& like) {
  return in_large_pages(at::detail::empty_cpu(shape, like.scalar_type()));
}

struct Sizes {
  Sizes(const CellCounts& cell, const StepTensors& t, int64_t batch)
      : B(batch), I(t.w_ih.size(1)), H(t.w_hh.size(1)), GH(t.w_hh.size(0)), extra(cell.states - 1), saved(cell.saved) {}
  int64_t B, I, H, GH, extra, saved;
  // What the backward needs of the forward, in one buffer of the type of computation: the saved values, c and h of the
  // step, which the caller is free to change.
  int64_t c_at() const { return saved * B * H; }
  int64_t h_at() const { return c_at() + extra * B * H; }
  int64_t kept() const { return h_at() + B * H; }
};

template <class T>
void set_kept(OneStepResults<T>& to, const Sizes& n, const at::Tensor& kept) {
  if (!kept.defined()) return;
  to.saved = kept.mutable_data_ptr<T>();
  to.c_all = to.saved + n.c_at();
  to.y = to.saved + n.h_at();
}

// `kept` is undefined in inference.
template <class T>
void forward(const CellCounts& cell, const StepTensors& t, const Sizes& n, const StepOutputs& out,
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
void forward_half(const CellCounts& cell, const StepTensors& t, const Sizes& n, const StepOutputs& out,
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

// In the order of StepTensors.
enum Input { kX, kH, kC, kWeightIh, kWeightHh, kBiasIh, kBiasHh, kInputs };

std::array<const at::Tensor*, kInputs> in_order(const StepTensors& t) {
  return {&t.x, &t.h, &t.c, &t.w_ih, &t.w_hh, &t.b_ih, &t.b_hh};
}

bool wants_graph(const StepTensors& t) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor* given : in_order(t))
    if (given->defined() && given->requires_grad()) return true;
  return false;
}

using Gradients = std::array<at::Tensor, kInputs>;

// dh, dc: undefined for zeros. Weights may be of a half type, as their gradients then are; all else is of T.
template <class T>
Gradients backward(const CellCounts& cell, const StepTensors& t, const at::Tensor& kept, const at::Tensor& dh,
                   const at::Tensor& dc, const std::array<bool, kInputs>& needs) {
  const cpu::Kernels<T>& kernels = *cpu::kernels<T>(cell.index);
  const int64_t B = t.x.numel() / t.w_ih.size(1);
  const Sizes n(cell, t, B);
  const int64_t BH = B * n.H;
  const auto like = [&](Input which) { return empty(in_order(t)[which]->sizes(), t.x); };
  const auto start_with = [&](const at::Tensor& from, T* to) {
    if (from.defined())
      std::copy_n(data_or_null<T>(from.contiguous()), BH, to);
    else
      std::fill_n(to, BH, T(0));
  };
  const int64_t copies = cell.same_grads ? 1 : 2;
  const std::unique_ptr<T[]> scratch(new T[copies * B * n.GH + 2 * BH]);
  T *dgx = scratch.get(), *dgh = dgx + (copies - 1) * B * n.GH;
  Gradients g;
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
    g[kWeightIh] = empty(t.w_ih.sizes(), t.w_ih);
    few_rows::outer(kernels, dgx, data_or_null<T>(t.x), B, g[kWeightIh]);
  }
  if (needs[kWeightHh]) {
    g[kWeightHh] = empty(t.w_hh.sizes(), t.w_hh);
    if (t.h.defined())
      few_rows::outer(kernels, dgh, data_or_null<T>(t.h), B, g[kWeightHh]);
    else
      g[kWeightHh].zero_();
  }
  const auto sum = [&](Input which, const T* rows) {
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

Gradients gradients(const CellCounts& cell, const StepTensors& t, const at::Tensor& kept, const at::Tensor& dh,
                    const at::Tensor& dc, const std::array<bool, kInputs>& needs) {
  const at::ScalarType type = t.x.scalar_type();
  if (type == at::kDouble) return backward<double>(cell, t, kept, dh, dc, needs);
  if (type == at::kFloat) return backward<float>(cell, t, kept, dh, dc, needs);
  const auto widened = [](const at::Tensor& s) { return s.defined() ? s.to(at::kFloat) : s; };
  const StepTensors all{widened(t.x), widened(t.h), widened(t.c), t.w_ih, t.w_hh, t.b_ih, t.b_hh};
  Gradients g = backward<float>(cell, all, kept, widened(dh), widened(dc), needs);
  for (at::Tensor& each : g)
    if (each.defined()) each = each.to(type);
  return g;
}

StepOutputs compute(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                    std::optional<at::IntArrayRef> output, at::Tensor* kept, Engine engine = Engine::kStepwise) {
  const Sizes n(cell, t, batch);
  StepOutputs out{output ? empty(*output, t.x) : at::Tensor(), empty(states, t.x),
                  n.extra > 0 ? empty(states, t.x) : at::Tensor()};
  if (kept) {
    const at::ScalarType type = t.x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    *kept = in_large_pages(at::detail::empty_cpu(n.kept(), type));
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

using torch::autograd::AutogradContext;

// The same as the gradients of a layer of one step, which can be differentiated again, or be of a vmap.
Gradients backward_with_graph(const CellCounts& cell, const StepTensors& t, const at::Tensor& kept,
                              const at::Tensor& dh, const at::Tensor& dc, const std::array<bool, kInputs>& needs) {
  constexpr std::array<size_t, kInputs> at_layer{
      0, 1, 2, kBesideWeights, kBesideWeights + 1, kBesideWeights + 2, kBesideWeights + 3};
  const int64_t B = t.x.numel() / t.w_ih.size(1);
  const Sizes n(cell, t, B);
  const auto shaped = [](const at::Tensor& s, at::IntArrayRef shape) { return s.defined() ? s.reshape(shape) : s; };
  const std::array<int64_t, 3> of_h{1, B, n.H};
  const std::array<int64_t, 4> of_c{n.extra, 1, B, n.H};
  const StepTensors layer{
      t.x.reshape({1, B, n.I}), shaped(t.h, of_h), shaped(t.c, of_c), t.w_ih, t.w_hh, t.b_ih, t.b_hh};
  variable_list tensors(kBesideWeights + Layer::kWeights);
  std::vector<bool> wanted(tensors.size());
  for (int i = 0; i < kInputs; ++i) tensors[at_layer[i]] = *in_order(layer)[i], wanted[at_layer[i]] = needs[i];
  const Saved saved{{},
                    optional(shaped(dh, of_h)),
                    optional(shaped(dc, of_c)),
                    {},
                    kept.narrow(0, n.h_at(), B * n.H).view({1, B, n.H}).to(t.x.scalar_type()),
                    kept.narrow(0, n.c_at(), n.extra * B * n.H).view({n.extra, 1, 1, B, n.H}),
                    kept.narrow(0, 0, n.c_at()).view({n.saved > 0 ? 1 : 0, 1, B, n.saved * n.H})};
  const variable_list all = differentiable_gradients(arguments_of(cell.name, {false}, tensors), saved, wanted);
  Gradients g;
  for (int i = 0; i < kInputs; ++i)
    if (needs[i]) g[i] = all[at_layer[i]].reshape(in_order(t)[i]->sizes());
  return g;
}

class StepFunction : public torch::autograd::Function<StepFunction> {
 public:
  // h, then c and y where there are such.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const OptionalTensor& h,
                               const OptionalTensor& c, const at::Tensor& w_ih, const at::Tensor& w_hh,
                               const OptionalTensor& b_ih, const OptionalTensor& b_hh, const CellCounts& cell,
                               int64_t batch, at::IntArrayRef states, std::optional<at::IntArrayRef> output) {
    const StepTensors t{x, or_undefined(h), or_undefined(c), w_ih, w_hh, or_undefined(b_ih), or_undefined(b_hh)};
    at::Tensor kept;
    const StepOutputs out = compute(cell, t, batch, states, output, &kept);
    ctx->saved_data["cell"] = static_cast<int64_t>(cell.index);
    ctx->save_for_backward({kept, t.x, t.h, t.c, t.w_ih, t.w_hh, t.b_ih, t.b_hh});
    ctx->set_materialize_grads(false);
    variable_list results{out.h};
    if (out.c.defined()) results.push_back(out.c);
    if (out.y.defined()) results.push_back(out.y);
    return results;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    constexpr int kArguments = kInputs + 4;
    const variable_list kept = ctx->get_saved_variables();
    const StepTensors t{kept[1], kept[2], kept[3], kept[4], kept[5], kept[6], kept[7]};
    const CellCounts& cell = cell_counts(static_cast<int>(ctx->saved_data["cell"].toInt()));
    std::array<bool, kInputs> needs{};
    size_t edge = 0;
    for (int i = 0; i < kInputs; ++i) needs[i] = in_order(t)[i]->defined() && ctx->needs_input_grad(edge++);

    const size_t states = static_cast<size_t>(cell.states);
    at::Tensor dh = grads[0], dc = states > 1 ? grads[1] : at::Tensor();
    if (grads.size() > states && grads[states].defined()) {
      const at::Tensor& dy = grads[states];
      dh = dh.defined() ? dh + dy.reshape(dh.sizes()) : dy;
    }
    variable_list out(kArguments);
    if (!dh.defined() && !dc.defined()) return out;
    const bool graph = at::GradMode::is_enabled() || !is_plain(dh) || !is_plain(dc);
    Gradients g =
        graph ? backward_with_graph(cell, t, kept[0], dh, dc, needs) : gradients(cell, t, kept[0], dh, dc, needs);
    std::move(g.begin(), g.end(), out.begin());
    return out;
  }
};

}  // namespace

bool step_takes(const CellCounts& cell, const StepTensors& t, at::ScalarType dtype, int64_t B, int64_t H) {
  if (cell.phases > 1 || cell.states > 2 || !cell.plain()) return false;
  if (B == 0 || H == 0 || t.w_ih.dim() != 2 || t.w_hh.dim() != 2) return false;
  const int64_t rows = cell.gates * H, I = t.w_ih.size(1);
  if (t.w_ih.size(0) != rows || t.w_hh.size(0) != rows || t.w_hh.size(1) != H) return false;
  if (t.x.defined() && t.x.size(-1) != I) return false;
  const int64_t numbers[kInputs] = {B * I, B * H, B * H, rows * I, rows * H, rows, rows};
  for (int i = 0; i < kInputs; ++i) {
    const at::Tensor& given = *in_order(t)[i];
    if (given.defined() && (given.scalar_type() != dtype || given.numel() != numbers[i] || !given.is_contiguous()))
      return false;
  }
  return true;
}

bool panel_step_takes(const CellCounts& cell, at::ScalarType dtype, int64_t batch, int64_t input) {
  if (dtype == at::kDouble) return panel_takes_one_step(*cpu::kernels<double>(cell.index), dtype, batch, input);
  return panel_takes_one_step(*cpu::kernels<float>(cell.index), dtype, batch, input);
}

StepOutputs panel_step(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                       std::optional<at::IntArrayRef> output) {
  return compute(cell, t, batch, states, output, nullptr, Engine::kPanel);
}

StepOutputs step(const CellCounts& cell, const StepTensors& t, int64_t batch, at::IntArrayRef states,
                 std::optional<at::IntArrayRef> output) {
  if (!wants_graph(t)) return compute(cell, t, batch, states, output, nullptr);
  const variable_list results = StepFunction::apply(t.x, optional(t.h), optional(t.c), t.w_ih, t.w_hh, optional(t.b_ih),
                                                    optional(t.b_hh), cell, batch, states, output);
  const bool has_c = cell.states > 1;
  return {output ? results[has_c ? 2 : 1] : at::Tensor(), results[0], has_c ? results[1] : at::Tensor()};
}

}  // namespace seq::ops
