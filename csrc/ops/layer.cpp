#include "ops/layer.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "ops/page_pool.h"

namespace seq::ops {

namespace {

void check_shape(const OptionalTensor& t, const char* name, at::IntArrayRef expected, const Layer& layer,
                 const at::Tensor& x) {
  if (!t.has_value() || !t->defined()) return;
  TORCH_CHECK(t->sizes() == expected, "seqcuda: ", name, " must have shape ", expected, ", got ", t->sizes());
  TORCH_CHECK(t->device() == x.device(), "seqcuda: ", name, " is on ", t->device(), ", x on ", x.device());
  TORCH_CHECK(t->scalar_type() == layer.dtype, "seqcuda: ", name, " has dtype ", t->scalar_type(), ", x has ",
              layer.dtype);
}

}  // namespace

const CellCounts& cell_counts(int index) { return kCells[index]; }

const CellCounts& cell_counts(std::string_view name) {
  for (const CellCounts& cell : kCells)
    if (name == cell.name) return cell;
  TORCH_CHECK_VALUE(false, "seqcuda: no compiled cell is named '", name, "'");
}

Layer::Layer(const Arguments& a) : cell(cell_counts(a.cell)), device(a.x.device()) {
  directions = static_cast<int64_t>(a.reverse.size());
  TORCH_CHECK_VALUE(directions == 1 || directions == 2, "seqcuda: reverse must name 1 or 2 directions, got ",
                    directions);
  TORCH_CHECK_VALUE(static_cast<int64_t>(a.weights.size()) == kWeights * directions, "seqcuda: expected ",
                    kWeights * directions, " weights, got ", a.weights.size());
  packed = a.batch_sizes.has_value();
  dtype = a.x.scalar_type();
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf,
                   "seqcuda: x must be float32, float64, bfloat16 or float16, got ", dtype);
  compute = dtype == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(a.x.dim() == (packed ? 2 : 3), "seqcuda: x must be ", packed ? "(N, I)" : "(T, B, I)", ", got shape ",
              a.x.sizes());
  if (packed) {
    const auto& sizes = *a.batch_sizes;
    TORCH_CHECK(sizes.device().is_cpu() && sizes.dim() == 1 && sizes.scalar_type() == at::kLong && sizes.numel() > 0,
                "seqcuda: batch_sizes must be a non-empty 1-D int64 tensor on the CPU");
    steps = sizes.numel();
    batch = sizes[0].item<int64_t>();
    TORCH_CHECK(batch > 0 && batch <= a.x.size(0), "seqcuda: batch_sizes must start with a number from 1 to the ",
                a.x.size(0), " rows of x, got ", batch);
    rows = a.x.size(0);
    leading = {rows};
  } else {
    steps = a.x.size(0), batch = a.x.size(1), rows = steps * batch;
    leading = {steps, batch};
  }
  input = a.x.size(-1);
  const auto& sizing = a.weights[cell.recurrent ? 1 : 0];
  const char* name = cell.recurrent ? "weight_hh" : "weight_ih";
  TORCH_CHECK(sizing.has_value(), "seqcuda: ", name, " is missing");
  TORCH_CHECK(sizing->dim() == 2 && sizing->size(0) % cell.gates == 0, "seqcuda: ", name, " must be (", cell.gates,
              cell.recurrent ? "*H, P / heads), got " : "*H, I), got ", sizing->sizes());
  hidden = sizing->size(0) / cell.gates;
  const int64_t columns = cell.recurrent ? sizing->size(1) : hidden;
  TORCH_CHECK(hidden > 0 && columns > 0, "seqcuda: ", name, " must not be empty, got ", sizing->sizes());
  const bool blocks = !a.weights[4].has_value() && hidden % columns == 0;
  width = blocks ? hidden : columns, heads = blocks ? hidden / columns : 1;
  TORCH_CHECK(cell.norms == 0 || heads == 1, "seqcuda: weight_hh of cell '", a.cell, "' must be whole, got ", heads,
              " blocks of it");
  for (int64_t d = 0; d < directions; ++d) {
    const auto* w = &a.weights[kWeights * d];
    TORCH_CHECK(w[0].has_value(), "seqcuda: weight_ih must be given");
    TORCH_CHECK(w[1].has_value() == cell.recurrent && (cell.recurrent || !w[3].has_value()),
                "seqcuda: weight_hh must be given, or neither it nor bias_hh for a cell without a recurrent product");
    TORCH_CHECK(cell.unit > 0 || !w[5].has_value(), "seqcuda: cell '", a.cell, "' has no weight_unit");
    TORCH_CHECK(cell.norms == 0 || w[5].has_value(), "seqcuda: cell '", a.cell, "' needs weight_unit");
    TORCH_CHECK(w[4].has_value() == projected(),
                "seqcuda: weight_hr must be given where P != H, and only there; P = ", width, ", H = ", hidden);
    check_shape(w[0], "weight_ih", {cell.gates * hidden, input}, *this, a.x);
    check_shape(w[1], "weight_hh", {cell.gates * hidden, head_width()}, *this, a.x);
    check_shape(w[2], "bias_ih", {cell.gates * hidden}, *this, a.x);
    check_shape(w[3], "bias_hh", {cell.gates * hidden}, *this, a.x);
    check_shape(w[4], "weight_hr", {width, hidden}, *this, a.x);
    check_shape(w[5], "weight_unit", {cell.unit * hidden}, *this, a.x);
  }
  TORCH_CHECK(a.options.empty() || a.options.size() == static_cast<size_t>(cell.options), "seqcuda: options must be ",
              cell.options, " numbers, got ", a.options.size());
  TORCH_CHECK(!projected() || cell.projects, "seqcuda: cell '", a.cell, "' has no projection");
  check_shape(a.h0, "h0", {directions, batch, width}, *this, a.x);
  check_shape(a.reset_h, "reset_h", {directions, batch, width}, *this, a.x);
  check_shape(a.c0, "c0", {extra(), directions, batch, hidden}, *this, a.x);
  check_shape(a.reset_c, "reset_c", {extra(), directions, batch, hidden}, *this, a.x);
  saved_width = (cell.saved + (a.factors.keep_h || a.factors.keep_c ? cell.states : 0)) * hidden;
  detaches = a.detach_every > 0;
  has_factors = false;
  const auto check_factor = [&](const OptionalTensor& t, const char* name, at::IntArrayRef expected) {
    if (!t.has_value()) return;
    has_factors = true;
    TORCH_CHECK(t->sizes() == expected && t->scalar_type() == compute && t->device() == a.x.device(), "seqcuda: ", name,
                " must be ", compute, " of shape ", expected, " on ", a.x.device(), " beside x, got ", t->scalar_type(),
                " ", t->sizes(), " on ", t->device());
  };
  const std::vector<int64_t> of_h{steps, batch, directions, width}, of_c{extra(), steps, batch, directions, hidden};
  check_factor(a.factors.decay_h, "decay_h", of_h);
  check_factor(a.factors.decay_c, "decay_c", of_c);
  check_factor(a.factors.drop, "drop", of_h);
  check_factor(a.factors.keep_h, "keep_h", of_h);
  check_factor(a.factors.keep_c, "keep_c", of_c);
  TORCH_CHECK_VALUE(a.detach_every >= 0, "seqcuda: detach_every must not be negative, got ", a.detach_every);
  TORCH_CHECK(!(packed && a.lengths.has_value()), "seqcuda: lengths and batch_sizes exclude each other");
  if (a.lengths.has_value())
    TORCH_CHECK(a.lengths->dim() == 1 && a.lengths->size(0) == batch && a.lengths->scalar_type() == at::kLong,
                "seqcuda: lengths must be int64 of shape (", batch, "), got ", a.lengths->scalar_type(), " ",
                a.lengths->sizes());
  if (a.resets.has_value())
    TORCH_CHECK(a.resets->sizes() == at::IntArrayRef(leading) && a.resets->scalar_type() == at::kBool &&
                    a.resets->device() == a.x.device(),
                "seqcuda: resets must be bool of shape ", leading, " on ", a.x.device(), " beside x, got ",
                a.resets->scalar_type(), " ", a.resets->sizes(), " on ", a.resets->device());
}

Rounding Layer::rounding() const {
  if (dtype == at::kBFloat16) return Rounding::kBfloat16;
  return dtype == at::kHalf ? Rounding::kFloat16 : Rounding::kNone;
}

at::Tensor Layer::with_leading(const at::Tensor& t, int64_t dim) const {
  if (packed) return t;
  std::vector<int64_t> sizes = t.sizes().vec();
  sizes[dim] = steps;
  sizes.insert(sizes.begin() + dim + 1, batch);
  return t.view(sizes);
}

Kept::Kept(const std::string& save, const Layer& layer)
    : states(save != "nothing" && layer.extra() > 0), gates(save == "all" && layer.saved_width > 0) {
  if (save == "nothing" || save == "states" || save == "all") return;
  int64_t steps = 0;
  const auto [end, error] = std::from_chars(save.data(), save.data() + save.size(), steps);
  TORCH_CHECK_VALUE(error == std::errc() && end == save.data() + save.size() && steps > 0,
                    "seqcuda: save must be nothing, states, all or a positive number, got '", save, "'");
  if (layer.extra() == 0) return;  // h is in y
  states = false;
  marks = std::max<int64_t>(layer.steps - 1, 0) / steps;
}

at::Tensor computed(const OptionalTensor& t, const Layer& layer) {
  if (!t.has_value() || !t->defined()) return {};
  return t->scalar_type() == layer.compute && t->is_contiguous() ? *t : converted(*t, layer.compute).contiguous();
}

Factors<at::Tensor> computed(const Factors<OptionalTensor>& factors, const Layer& layer) {
  return factors.each([&](const OptionalTensor& given) -> at::Tensor {
    if (!given.has_value()) return {};
    at::Tensor once = *given;
    for (int64_t dim = 0; dim + 1 < once.dim(); ++dim)
      if (once.stride(dim) == 0 && once.size(dim) > 1) once = once.narrow(dim, 0, 1);
    return once.to(layer.compute).contiguous().expand(given->sizes());
  });
}

at::Tensor by_head(const at::Tensor& t, const Layer& layer, int64_t dim) {
  if (!t.defined() || layer.heads == 1) return t;
  const at::Tensor parts = t.unflatten(dim, {-1, layer.heads, layer.head_hidden()});
  return parts.transpose(dim, dim + 1).reshape(t.sizes());
}
at::Tensor by_gate(const at::Tensor& t, const Layer& layer, int64_t dim) {
  if (!t.defined() || layer.heads == 1) return t;
  const at::Tensor parts = t.unflatten(dim, {layer.heads, -1, layer.head_hidden()});
  return parts.transpose(dim, dim + 1).reshape(t.sizes());
}

DirectionWeights head_of(const DirectionWeights& w, const Layer& layer, int64_t k) {
  if (layer.heads == 1) return w;
  const auto part = [&](const at::Tensor& t) {
    const int64_t rows = t.defined() ? t.size(0) / layer.heads : 0;
    return t.defined() ? t.narrow(0, k * rows, rows) : t;
  };
  return {part(w.w_ih), part(w.w_hh), part(w.b_ih), part(w.b_hh), {}, part(w.w_unit)};
}

at::Tensor by_walk(const at::Tensor& t, const Layer& layer) {
  if (!t.defined() || layer.heads == 1) return t;
  return t.unflatten(-1, {layer.heads, -1}).transpose(-3, -2).flatten(-4, -3).contiguous();
}
at::Tensor by_direction(const at::Tensor& t, const Layer& layer) {
  if (!t.defined() || layer.heads == 1) return t;
  return t.unflatten(-3, {layer.directions, layer.heads}).transpose(-3, -2).flatten(-2);
}

PlanStorage make_plan(const Arguments& a, const Layer& layer) {
  PlanStorage s;
  const int64_t T = layer.steps, B = layer.batch;
  s.alive.assign(T, B);
  s.length.assign(B, T);
  if (layer.packed) {
    const at::Tensor sizes = a.batch_sizes->contiguous();
    const int64_t* n = sizes.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < T; ++t) {
      TORCH_CHECK(n[t] > 0 && (t == 0 || n[t] <= n[t - 1]), "seqcuda: batch_sizes must be positive and not increasing");
      s.alive[t] = n[t];
      if (t > 0) std::fill(s.length.begin() + n[t], s.length.begin() + n[t - 1], t);
    }
  } else if (a.lengths.has_value()) {
    const at::Tensor host = a.lengths->to(at::kCPU).contiguous();
    const int64_t* length = host.const_data_ptr<int64_t>();
    s.order.resize(B);
    std::iota(s.order.begin(), s.order.end(), 0);
    std::stable_sort(s.order.begin(), s.order.end(), [&](int64_t i, int64_t j) { return length[i] > length[j]; });
    std::fill(s.alive.begin(), s.alive.end(), 0);
    for (int64_t i = 0; i < B; ++i) {
      s.length[i] = length[s.order[i]];
      TORCH_CHECK(s.length[i] >= 0 && s.length[i] <= T, "seqcuda: lengths must be within 0 and ", T, ", got ",
                  s.length[i], " for row ", s.order[i]);
      if (s.length[i] > 0) ++s.alive[s.length[i] - 1];
    }
    for (int64_t t = T - 2; t >= 0; --t) s.alive[t] += s.alive[t + 1];
  }
  s.start.resize(T + 1);
  s.start[0] = 0;
  for (int64_t t = 0; t < T; ++t) s.start[t + 1] = s.start[t] + s.alive[t];
  TORCH_CHECK(!layer.packed || s.dense() == layer.rows, "seqcuda: batch_sizes add up to ", s.dense(), ", x has ",
              layer.rows, " rows");
  s.plan = {T, B, s.alive.data(), s.start.data(), s.order.empty() ? nullptr : s.order.data()};
  if (s.plan.order) {
    s.data_rows = at::empty({s.dense()}, at::kLong);
    int64_t* row = s.data_rows.mutable_data_ptr<int64_t>();
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0; i < s.alive[t]; ++i) *row++ = s.plan.row(t, i);
  }
  return s;
}

}  // namespace seq::ops
