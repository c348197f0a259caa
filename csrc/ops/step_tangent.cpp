// A step and its gradients on dual numbers (cpu/tangent.h), in one direction. To the cell a row is a value and, behind
// it, its tangent; to the products all values come first and then all tangents, so that one pass over the weights
// serves both.
#include <ATen/record_function.h>

#include <algorithm>

#include "ops/one_step.h"
#include "ops/page_pool.h"
#include "ops/step_gradients.h"

namespace seq::ops {

namespace {

// A value and its tangent; null: zeros.
template <class T>
struct Moving {
  const T *value = nullptr, *tangent = nullptr;
  explicit operator bool() const { return value || tangent; }
};

template <class T>
class StepTangent {
 public:
  StepTangent(const CellCounts& cell, const StepTensors& t, const StepTensors& v)
      : cell_(cell),
        t_(t),
        v_(v),
        n_(cell, t),
        kernels_(*cpu::kernels<T>(cell.index)),
        scratch_(empty_in_large_pages(numbers(), c10::CppTypeToScalarType<T>::value)),
        next_(scratch_.mutable_data_ptr<T>()) {}

  StepTangents run(const at::Tensor& dh, const at::Tensor& dc, const OfStepInputs<bool>& needs) {
    const int64_t B = n_.B, H = n_.H, GH = n_.GH;
    products_ = take(2 * B * GH);
    const T *x = planes(moving(kX), B * n_.I), *h = planes(moving(kH), B * H);
    T *gx = take(2 * B * GH), *gh = take(2 * B * GH);
    multiply(t_.w_ih, v_.w_ih, x, v_.x.defined(), gx);
    add_bias(gx);
    multiply(t_.w_hh, v_.w_hh, h, v_.h.defined(), gh);

    const OneStep one(B);
    Forward<T> f;
    one.set_walk(f, cell_, 2 * H);
    const T *h0 = pairs(moving(kH), B, H), *c0 = pairs(moving(kC), B, H);
    f.b_hh = pairs(moving(kBiasHh), 1, GH), f.gx = gx;
    f.h[0] = const_cast<T*>(h0 ? h0 : zeros(2 * B * H));
    f.h[1] = f.y = take(2 * B * H);
    f.saved = take(2 * B * n_.saved * H);
    if (n_.extra > 0) {
      f.c = take(2 * B * H);
      if (c0)
        std::copy_n(c0, 2 * B * H, f.c);
      else
        std::fill_n(f.c, 2 * B * H, T(0));
    }
    for_places(B, 2 * GH, [&](const cpu::Share& share) { kernels_.tangent_forward_phase[0](f, share, 0, gh); });

    StepTangents out;
    if (dh.defined()) out.h = tangents(f.y, dh.sizes());
    if (dc.defined()) out.c = tangents(f.c, dc.sizes());
    if (std::find(needs.begin(), needs.end(), true) == needs.end()) return out;

    Backward<T> b;
    static_cast<Walk<T>&>(b) = f;
    b.h0 = h0, b.c0 = c0, b.c_all = f.c;
    b.dgx = gx, b.dgh = cell_.same_grads ? gx : gh;  // which the cell has read
    const auto start_with = [&](const at::Tensor& d) {
      const T* from = pairs({data_or_null<T>(d), nullptr}, B, H);
      return const_cast<T*>(from ? from : zeros(2 * B * H));
    };
    const at::Tensor dh_rows = dh.defined() ? dh.contiguous() : dh, dc_rows = dc.defined() ? dc.contiguous() : dc;
    b.dh = start_with(dh_rows);
    if (n_.extra > 0) b.dc = start_with(dc_rows);
    for_places(B, 2 * GH, [&](const cpu::Share& share) { kernels_.tangent_backward_phase[0](b, share, 0, nullptr); });

    StepGradients& g = out.gradients;
    if (needs[kC]) g[kC] = tangents(b.dc, t_.c.sizes());
    split(b.dgx);
    if (needs[kX]) {
      g[kX] = like(kX);
      multiply_back(t_.w_ih, v_.w_ih, /*add=*/false, g[kX]);
    }
    if (needs[kWeightIh]) g[kWeightIh] = of_weights(kWeightIh, x, v_.x.defined());
    if (needs[kBiasIh]) g[kBiasIh] = of_bias(kBiasIh);
    if (b.dgh != b.dgx) split(b.dgh);
    if (needs[kH]) {
      g[kH] = tangents(b.dh, t_.h.sizes());
      multiply_back(t_.w_hh, v_.w_hh, /*add=*/true, g[kH]);
    }
    if (needs[kWeightHh]) g[kWeightHh] = of_weights(kWeightHh, h, v_.h.defined());
    if (needs[kBiasHh]) g[kBiasHh] = of_bias(kBiasHh);
    return out;
  }

 private:
  // What `run` takes at most.
  int64_t numbers() const { return 2 * n_.B * (n_.I + (7 + n_.saved) * n_.H + 3 * n_.GH) + 2 * n_.GH; }
  T* take(int64_t count) {
    T* at = next_;
    next_ += count;
    return at;
  }
  const T* zeros(int64_t count) {
    T* at = take(count);
    std::fill_n(at, count, T(0));
    return at;
  }

  Moving<T> moving(StepInput which) const {
    return {data_or_null<T>(*in_order(t_)[which]), data_or_null<T>(*in_order(v_)[which])};
  }
  at::Tensor like(StepInput which) const {
    const at::Tensor& of = *in_order(t_)[which];
    return empty_in_large_pages(of.sizes(), of.scalar_type());
  }

  // The values, then, where there are any, the tangents; null where there is neither.
  const T* planes(const Moving<T>& m, int64_t count) {
    if (!m) return nullptr;
    if (!m.tangent) return m.value;
    T* to = take(2 * count);
    std::copy_n(m.value, count, to);
    std::copy_n(m.tangent, count, to + count);
    return to;
  }

  // [rows, 2, width]; null where there is neither.
  const T* pairs(const Moving<T>& m, int64_t rows, int64_t width) {
    if (!m) return nullptr;
    T* to = take(2 * rows * width);
    for (int64_t i = 0; i < 2 * rows; ++i) {
      const T* from = i % 2 == 0 ? m.value : m.tangent;
      if (from)
        std::copy_n(from + i / 2 * width, width, to + i * width);
      else
        std::fill_n(to + i * width, width, T(0));
    }
    return to;
  }
  at::Tensor tangents(const T* pairs, at::IntArrayRef sizes) const {
    at::Tensor out = empty_in_large_pages(sizes, t_.x.scalar_type());
    T* to = out.mutable_data_ptr<T>();
    for (int64_t i = 0; i < n_.B; ++i) std::copy_n(pairs + (2 * i + 1) * n_.H, n_.H, to + i * n_.H);
    return out;
  }

  // out, rows of pairs, = the tangents' rule for rows w^T. rows: planes, of which the second is there where `moves`.
  void multiply(const at::Tensor& w, const at::Tensor& w_tangent, const T* rows, bool moves, T* out) const {
    const int64_t B = n_.B, GH = n_.GH;
    if (!rows) return std::fill_n(out, 2 * B * GH, T(0)), void();
    T* values = products_;
    T* tangents = values + B * GH;
    few_rows::multiply<T>(kernels_, w, rows, moves ? 2 * B : B, nullptr, values);
    if (!moves) std::fill_n(tangents, B * GH, T(0));
    if (w_tangent.defined()) {
      few_rows::multiply<T>(kernels_, w_tangent, rows, B, nullptr, out);
      for (int64_t j = 0; j < B * GH; ++j) tangents[j] += out[j];
    }
    for (int64_t i = 0; i < B; ++i) {
      std::copy_n(values + i * GH, GH, out + 2 * i * GH);
      std::copy_n(tangents + i * GH, GH, out + (2 * i + 1) * GH);
    }
  }
  void add_bias(T* gx) const {
    for (int part = 0; part < 2; ++part) {
      const Moving<T> bias = moving(kBiasIh);
      const T* from = part == 0 ? bias.value : bias.tangent;
      for (int64_t i = 0; i < n_.B && from; ++i)
        for (int64_t j = 0; j < n_.GH; ++j) gx[(2 * i + part) * n_.GH + j] += from[j];
    }
  }

  // The gates' gradients for the products that follow: the tangents first, then the values.
  void split(const T* pairs) {
    const int64_t B = n_.B, GH = n_.GH;
    for (int64_t i = 0; i < B; ++i) {
      std::copy_n(pairs + (2 * i + 1) * GH, GH, products_ + i * GH);
      std::copy_n(pairs + 2 * i * GH, GH, products_ + (B + i) * GH);
    }
  }
  void multiply_back(const at::Tensor& w, const at::Tensor& w_tangent, bool add, at::Tensor& out) const {
    T* to = out.mutable_data_ptr<T>();
    few_rows::add_transposed<T>(kernels_, w, products_, n_.B, add, to);
    if (w_tangent.defined()) few_rows::add_transposed<T>(kernels_, w_tangent, products_ + n_.B * n_.GH, n_.B, true, to);
  }
  at::Tensor of_weights(StepInput which, const T* rows, bool moves) const {
    at::Tensor out = like(which);
    if (rows)
      few_rows::outer<T>(kernels_, products_, rows, moves ? 2 * n_.B : n_.B, out);
    else
      std::fill_n(out.mutable_data_ptr<T>(), out.numel(), T(0));
    return out;
  }
  at::Tensor of_bias(StepInput which) const {
    at::Tensor out = like(which);
    T* to = out.mutable_data_ptr<T>();
    std::copy_n(products_, n_.GH, to);
    for (int64_t i = 1; i < n_.B; ++i)
      for (int64_t j = 0; j < n_.GH; ++j) to[j] += products_[i * n_.GH + j];
    return out;
  }

  const CellCounts& cell_;
  const StepTensors &t_, &v_;
  const StepSizes n_;
  const cpu::Kernels<T>& kernels_;
  const at::Tensor scratch_;
  T *next_, *products_ = nullptr;
};

}  // namespace

StepTangents step_tangents(const CellCounts& cell, const StepTensors& t, const StepTensors& v, const at::Tensor& dh,
                           const at::Tensor& dc, const OfStepInputs<bool>& needs) {
  RECORD_FUNCTION("seqcuda::sequence_tangent", std::vector<c10::IValue>{});
  const at::AutoDispatchBelowADInplaceOrView below;
  const auto dense = [](const at::Tensor& s) { return s.defined() ? s.contiguous() : s; };
  const StepTensors rows{dense(v.x),    dense(v.h),    dense(v.c),   dense(v.w_ih),
                         dense(v.w_hh), dense(v.b_ih), dense(v.b_hh)};
  if (t.x.scalar_type() == at::kDouble) return StepTangent<double>(cell, t, rows).run(dh, dc, needs);
  return StepTangent<float>(cell, t, rows).run(dh, dc, needs);
}

}  // namespace seq::ops
