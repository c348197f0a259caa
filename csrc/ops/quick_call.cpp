#include "ops/quick_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "ops/layer_function.h"
#include "ops/plain.h"
#include "ops/step_function.h"

namespace py = pybind11;

namespace seq::ops {

namespace {

// A torch.Tensor or Parameter and nothing more: no subclass, no wrapper, no tangent.
bool as_plain(PyObject* object, at::Tensor& out) {
  if (!THPVariable_CheckExact(object)) return false;
  out = THPVariable_Unpack(object);
  return is_plain(out) && !out._fw_grad(0).defined();
}

bool as_plain_or_none(PyObject* object, at::Tensor& out) { return object == Py_None || as_plain(object, out); }

// No mode, transform, tracer or autocast would see the call if it went through the dispatcher.
bool nobody_looks() {
  const auto ignored = c10::autograd_dispatch_keyset_with_ADInplaceOrView;  // of inference mode
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  // What else is excluded, as torch 2.11's backward does with names of dimensions, a plain tensor has not.
  constexpr c10::DispatchKeySet plain{c10::DispatchKey::CPU, c10::DispatchKey::AutocastCPU};
  const uint64_t excluded = keys.excluded_.raw_repr() ^ c10::default_excluded_set.raw_repr();
  return (keys.included_ - ignored) == (c10::default_included_set - ignored) &&
         (excluded & plain.raw_repr() & ~c10::full_backend_mask) == 0 && !at::autocast::is_autocast_enabled(at::kCPU) &&
         !at::impl::torch_function_mode_enabled();
}

bool is_list(py::handle object) { return PyTuple_CheckExact(object.ptr()) || PyList_CheckExact(object.ptr()); }

PyObject* item(py::handle sequence, int64_t i) { return PySequence_Fast_GET_ITEM(sequence.ptr(), i); }

// A call as it was given; `layers` is 1 for a cell.
struct Call {
  const CellCounts& cell;
  bool is_cell;
  int64_t layers, directions;
  std::vector<StepTensors> weights;  // of each layer and direction, weights only
  at::Tensor x, h, c;
  bool has_batch = true, batch_first = false;
  int64_t steps = 1, batch = 1, hidden = 0;
  bool panel = false;

  // What comes before H in a state argument.
  c10::SmallVector<int64_t, 3> state_shape() const {
    c10::SmallVector<int64_t, 3> shape;
    if (!is_cell) shape.push_back(layers * directions);
    if (has_batch) shape.push_back(batch);
    shape.push_back(hidden);
    return shape;
  }
};

bool parse_states(py::handle hx, Call& call) {
  if (hx.is_none()) return true;
  if (call.cell.states == 1) return as_plain(hx.ptr(), call.h);
  return is_list(hx) && PySequence_Fast_GET_SIZE(hx.ptr()) == 2 && as_plain(item(hx, 0), call.h) &&
         as_plain(item(hx, 1), call.c);
}

bool parse_weights(py::handle weights, Call& call) {
  if (!is_list(weights)) return false;
  const int64_t all = call.layers * call.directions;
  const int64_t count = PySequence_Fast_GET_SIZE(weights.ptr()), each = count / all;
  if (each * all != count || (each != 2 && each != 4)) return false;
  call.weights.resize(all);
  for (int64_t j = 0; j < all; ++j) {
    StepTensors& t = call.weights[j];
    const int64_t first = j * each;
    if (!as_plain(item(weights, first), t.w_ih) || !as_plain(item(weights, first + 1), t.w_hh)) return false;
    if (each == 4 &&
        !(as_plain_or_none(item(weights, first + 2), t.b_ih) && as_plain_or_none(item(weights, first + 3), t.b_hh)))
      return false;
  }
  return true;
}

// Whether everything is of one dtype and of shapes that fit together.
bool fits(Call& call) {
  const at::Tensor& x = call.x;
  const int64_t dims = x.dim(), batched = call.is_cell ? 2 : 3;
  if (call.cell.states > 2 || !call.cell.plain() || (dims != batched && dims != batched - 1)) return false;
  call.has_batch = dims == batched;
  const int64_t time_at = call.has_batch && call.batch_first ? 1 : 0, batch_at = call.is_cell || time_at == 1 ? 0 : 1;
  if (!call.is_cell) call.steps = x.size(time_at);
  if (call.has_batch) call.batch = x.size(batch_at);
  if (call.weights[0].w_hh.dim() != 2) return false;
  call.hidden = call.weights[0].w_hh.size(1);
  if (call.steps == 0 || call.batch == 0 || call.hidden == 0) return false;

  const at::ScalarType dtype = x.scalar_type();
  const auto is = [&](const at::Tensor& t, at::IntArrayRef shape) {
    return !t.defined() || (t.scalar_type() == dtype && t.sizes() == shape);
  };
  if (dtype != at::kFloat && dtype != at::kDouble && dtype != at::kBFloat16 && dtype != at::kHalf) return false;
  const auto states = call.state_shape();
  if (!is(call.h, states) || !is(call.c, states)) return false;
  const int64_t rows = call.cell.gates * call.hidden;
  for (size_t j = 0; j < call.weights.size(); ++j) {
    const StepTensors& t = call.weights[j];
    const bool first_layer = static_cast<int64_t>(j) < call.directions;
    const int64_t columns = first_layer ? x.size(-1) : call.hidden * call.directions;
    if (!is(t.w_ih, {rows, columns}) || !is(t.w_hh, {rows, call.hidden}) || !is(t.b_ih, {rows}) || !is(t.b_hh, {rows}))
      return false;
  }
  return true;
}

struct Outputs {
  at::Tensor y, h, c;  // y: of a stack; c: of a cell of two states
};

at::Tensor of_layer(const at::Tensor& state, int64_t layer, int64_t layers) {
  return layers > 1 && state.defined() ? state.select(0, layer) : state;
}

// One step of layers in one direction, or of a cell; false where `step` does not take it.
bool run_steps(const Call& call, Outputs& out) {
  if (call.steps != 1 || call.directions != 1) return false;
  if (call.panel && at::GradMode::is_enabled()) return false;
  std::vector<StepTensors> layers = call.weights;
  for (int64_t l = 0; l < call.layers; ++l) {
    StepTensors& t = layers[l];
    if (l == 0) t.x = call.x;
    t.h = of_layer(call.h, l, call.layers), t.c = of_layer(call.c, l, call.layers);
    if (!step_takes(call.cell, t, call.x.scalar_type(), call.batch, call.hidden)) return false;
    if (call.panel && !panel_step_takes(call.cell, call.x.scalar_type(), call.batch, t.w_ih.size(1))) return false;
  }
  c10::SmallVector<int64_t, 3> states = call.state_shape(), output(call.x.sizes());
  output.back() = call.hidden;
  const auto shape = call.is_cell ? std::optional<at::IntArrayRef>() : output;
  at::IntArrayRef of_one = states;
  if (call.layers > 1) of_one = of_one.slice(1);
  std::vector<at::Tensor> hs, cs;
  for (StepTensors& t : layers) {
    if (!t.x.defined()) t.x = out.y;
    const StepOutputs step_out =
        (call.panel ? panel_step : differentiable_step)(call.cell, t, call.batch, of_one, shape);
    out = {step_out.y, step_out.h, step_out.c};
    if (call.layers > 1) {
      hs.push_back(out.h);
      if (out.c.defined()) cs.push_back(out.c);
    }
  }
  if (call.layers > 1) {
    out.h = at::stack(hs);
    if (!cs.empty()) out.c = at::stack(cs);
  }
  return true;
}

// `t`, which nobody else holds, in another shape; not a view, so that `state.detach_()` works as in torch.nn.
at::Tensor unviewed(const at::Tensor& t, at::IntArrayRef shape) {
  return t.sizes() == shape ? t : at::_unsafe_view(t, shape);
}

Outputs run_layers(const Call& call, const std::string& save) {
  const int64_t D = call.directions, L = call.layers, B = call.batch, H = call.hidden;
  // x as (T, B, I), states as (L*D, B, H)
  at::Tensor x = call.x;
  if (call.is_cell) x = x.unsqueeze(0);
  if (!call.has_batch) x = x.unsqueeze(1);
  if (call.has_batch && call.batch_first) x = x.transpose(0, 1);
  const auto shaped = [&](at::Tensor s) {
    if (!s.defined()) return s;
    if (call.is_cell) s = s.unsqueeze(0);
    return call.has_batch ? s : s.unsqueeze(1);
  };
  const at::Tensor h = shaped(call.h), c = shaped(call.c);
  const auto of_this = [&](const at::Tensor& s, int64_t l) { return s.defined() && L > 1 ? s.narrow(0, l * D, D) : s; };

  std::vector<at::Tensor> hs, cs;
  for (int64_t l = 0; l < L; ++l) {
    Arguments a;
    a.cell = call.cell.name;
    a.x = x;
    for (int64_t d = 0; d < D; ++d) {
      const StepTensors& t = call.weights[l * D + d];
      for (const at::Tensor* w : {&t.w_ih, &t.w_hh, &t.b_ih, &t.b_hh}) a.weights.push_back(optional(*w));
      a.weights.resize(Layer::kWeights * (d + 1));
      a.reverse.push_back(d == 1);
    }
    a.h0 = optional(of_this(h, l));
    if (c.defined()) a.c0 = of_this(c, l).unsqueeze(0);
    const LayerOutputs layer = differentiable_layer(a, save);
    x = layer.y;
    hs.push_back(layer.h_n);
    if (layer.c_n.defined()) cs.push_back(unviewed(layer.c_n, {D, B, H}));
  }
  Outputs out{x, L > 1 ? at::cat(hs) : hs[0], {}};
  if (!cs.empty()) out.c = L > 1 ? at::cat(cs) : cs[0];
  const auto states = call.state_shape();
  out.h = unviewed(out.h, states);
  if (out.c.defined()) out.c = unviewed(out.c, states);
  if (call.has_batch && call.batch_first) out.y = out.y.transpose(0, 1);
  if (!call.has_batch) out.y = out.y.squeeze(1);
  return out;
}

}  // namespace

py::object quick_call(const std::string& name, py::handle input, py::handle hx, py::handle weights, int64_t layers,
                      int64_t directions, bool batch_first, const std::string& save, const std::string& engine) {
  Call call{cell_counts(name), layers == 0, std::max<int64_t>(layers, 1), directions, {}, {}, {}, {}};
  call.batch_first = batch_first, call.panel = engine == "panel";
  if (!nobody_looks() || !as_plain(input.ptr(), call.x) || !parse_states(hx, call) || !parse_weights(weights, call) ||
      !fits(call))
    return py::none();
  Outputs out;
  bool done = false;
  {
    const py::gil_scoped_release no_gil;
    RECORD_FUNCTION("seqcuda::call", std::vector<c10::IValue>{});
    done = run_steps(call, out);
    if (!done && !call.panel) out = run_layers(call, save), done = true;
  }
  if (!done) return py::none();
  const auto pair = [](const at::Tensor& a, const at::Tensor& b) -> py::object { return py::make_tuple(a, b); };
  const bool one = call.is_cell;
  const py::object final = out.c.defined() ? pair(out.h, out.c) : one ? py::make_tuple(out.h) : py::cast(out.h);
  return one ? final : py::make_tuple(out.y, final);
}

}  // namespace seq::ops
