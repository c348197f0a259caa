#include "ops/quick_step.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "ops/step.h"

namespace py = pybind11;

namespace seq::ops {

namespace {

constexpr c10::DispatchKeySet plain_keys{c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                         c10::DispatchKey::AutocastCPU, c10::DispatchKey::ADInplaceOrView};

// A torch.Tensor or Parameter and nothing more: no subclass, no wrapper, no pending conjugation, no tangent.
bool as_plain(PyObject* object, at::Tensor& out) {
  if (!THPVariable_CheckExact(object)) return false;
  out = THPVariable_Unpack(object);
  return (out.key_set().raw_repr() & ~plain_keys.raw_repr()) == 0 && !out._fw_grad(0).defined();
}

bool as_plain_or_none(PyObject* object, at::Tensor& out) { return object == Py_None || as_plain(object, out); }

// No mode, transform, tracer or autocast would see the call if it went through the dispatcher.
bool nobody_looks() {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  const auto inference = c10::autograd_dispatch_keyset_with_ADInplaceOrView;
  return (keys.included_ - inference) == (c10::default_included_set - inference) &&
         (keys.excluded_ - inference) == (c10::default_excluded_set - inference) &&
         !at::autocast::is_autocast_enabled(at::kCPU) && !at::impl::torch_function_mode_enabled();
}

bool is_list(py::handle object) { return PyTuple_CheckExact(object.ptr()) || PyList_CheckExact(object.ptr()); }

PyObject* item(py::handle sequence, int64_t i) { return PySequence_Fast_GET_ITEM(sequence.ptr(), i); }

struct Stack {
  std::vector<StepTensors> layers;  // weights only
  at::Tensor x, h, c;
};

bool parse_states(const CellCounts& cell, py::handle hx, Stack& out) {
  if (cell.states == 1) return as_plain(hx.ptr(), out.h);
  return is_list(hx) && PySequence_Fast_GET_SIZE(hx.ptr()) == 2 && as_plain(item(hx, 0), out.h) &&
         as_plain(item(hx, 1), out.c);
}

bool parse(const CellCounts& cell, py::handle input, py::handle hx, py::handle weights, int64_t layers, Stack& out) {
  if (!as_plain(input.ptr(), out.x)) return false;
  if (!hx.is_none() && !parse_states(cell, hx, out)) return false;
  if (!is_list(weights)) return false;
  const int64_t count = PySequence_Fast_GET_SIZE(weights.ptr()), each = count / layers;
  if (each * layers != count || (each != 2 && each != 4)) return false;
  out.layers.resize(layers);
  for (int64_t l = 0; l < layers; ++l) {
    StepTensors& t = out.layers[l];
    const int64_t first = l * each;
    if (!as_plain(item(weights, first), t.w_ih) || !as_plain(item(weights, first + 1), t.w_hh)) return false;
    if (each == 4 &&
        !(as_plain_or_none(item(weights, first + 2), t.b_ih) && as_plain_or_none(item(weights, first + 3), t.b_hh)))
      return false;
  }
  return true;
}

}  // namespace

py::object quick_step(std::string_view name, py::handle input, py::handle hx, py::handle weights, int64_t layers,
                      bool batch_first) {
  const bool is_cell = layers == 0;
  const CellCounts& cell = cell_counts(name);
  Stack stack;
  if (!nobody_looks() || !parse(cell, input, hx, weights, is_cell ? 1 : layers, stack)) return py::none();

  // Sizes: what is left of the input's shape without I, and without T where there is one.
  const at::Tensor& x = stack.x;
  const int64_t dims = x.dim(), batched = is_cell ? 2 : 3;
  if (dims != batched && dims != batched - 1) return py::none();
  const bool has_batch = dims == batched;
  const int64_t time_at = has_batch && batch_first ? 1 : 0, batch_at = is_cell || time_at == 1 ? 0 : 1;
  if (!is_cell && x.size(time_at) != 1) return py::none();
  const int64_t B = has_batch ? x.size(batch_at) : 1;
  if (stack.layers[0].w_hh.dim() != 2) return py::none();
  const int64_t H = stack.layers[0].w_hh.size(1);

  c10::SmallVector<int64_t, 3> states, output(x.sizes());
  if (!is_cell) states.push_back(layers);
  if (has_batch) states.push_back(B);
  states.push_back(H);
  output.back() = H;
  for (const at::Tensor* s : {&stack.h, &stack.c})
    if (s->defined() && s->sizes() != at::IntArrayRef(states)) return py::none();
  for (int64_t l = 0; l < static_cast<int64_t>(stack.layers.size()); ++l) {
    StepTensors& t = stack.layers[l];
    if (l == 0) t.x = x;
    const auto of_layer = [&](const at::Tensor& s) { return layers > 1 && s.defined() ? s.select(0, l) : s; };
    t.h = of_layer(stack.h), t.c = of_layer(stack.c);
    if (!step_takes(cell, t, x.scalar_type(), B, H) || (l > 0 && t.w_ih.size(1) != H)) return py::none();
  }

  StepOutputs out;
  std::vector<at::Tensor> hs, cs;
  {
    const py::gil_scoped_release no_gil;
    RECORD_FUNCTION("seqcuda::step", std::vector<c10::IValue>{});
    const auto shape = is_cell ? std::optional<at::IntArrayRef>() : output;
    at::IntArrayRef of_one = states;
    if (layers > 1) of_one = of_one.slice(1);
    for (StepTensors& t : stack.layers) {
      if (!t.x.defined()) t.x = out.y;
      out = step(cell, t, B, of_one, shape);
      if (layers > 1) {
        hs.push_back(out.h);
        if (out.c.defined()) cs.push_back(out.c);
      }
    }
    if (layers > 1) {
      out.h = at::stack(hs);
      if (!cs.empty()) out.c = at::stack(cs);
    }
  }
  const auto pair = [](const at::Tensor& a, const at::Tensor& b) -> py::object { return py::make_tuple(a, b); };
  const py::object final = out.c.defined() ? pair(out.h, out.c) : is_cell ? py::make_tuple(out.h) : py::cast(out.h);
  return is_cell ? final : py::make_tuple(out.y, final);
}

}  // namespace seq::ops
