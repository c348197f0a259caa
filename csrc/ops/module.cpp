// seqcuda._C: what was compiled, and who would compute a layer of given sizes.
#include <ATen/LegacyBatchedTensorImpl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>

#include "cpu/instruction_set.h"
#include "ops/devices.h"
#include "ops/quick_call.h"
#include "ops/team.h"
#include "ops/tuned.h"

namespace py = pybind11;

namespace seq::ops {

namespace {

int64_t older_vmap_level(const std::vector<OptionalTensor>& tensors) {
  int64_t level = -1;
  for (const OptionalTensor& t : tensors)
    if (const auto* batched = t.has_value() ? at::maybeGetBatchedImpl(*t) : nullptr)
      level = std::max(level, batched->bdims().back().level());  // they are in order
  return level;
}

py::dict cells() {
  py::dict all;
  for (const CellCounts& cell : kCells) {
    py::dict counts;
    counts["gates"] = cell.gates;
    counts["states"] = cell.states;
    counts["saved"] = cell.saved;
    counts["phases"] = cell.phases;
    counts["unit"] = cell.unit;
    counts["options"] = cell.options;
    counts["recurrent"] = cell.recurrent;
    counts["norms"] = cell.norms;
    all[cell.name] = counts;
  }
  return all;
}

std::vector<std::string> device_names() {
  std::vector<std::string> names;
  for (const auto& [name, device] : devices()) names.push_back(name);
  return names;
}

const Device& device_named(const std::string& name) {
  const auto found = devices().find(name);
  TORCH_CHECK_VALUE(found != devices().end(), "seqcuda: no engines were compiled for device '", name, "'");
  return found->second;
}

py::dict as_dict(const NamedTexts& texts) {
  py::dict out;
  for (const auto& [name, text] : texts) out[name.c_str()] = text;
  return out;
}

// From now on "auto" is `engine` for layers like this one, or, empty, what the rule says. What it was before.
std::string remember_engine(const std::string& cell, const at::Tensor& x, const std::vector<OptionalTensor>& weights,
                            const OptionalTensor& batch_sizes, const std::vector<bool>& reverse,
                            const std::string& engine) {
  return remember(Layer({cell, x, weights, {}, {}, {}, batch_sizes, {}, {}, {}, reverse}), engine);
}

// What `engine` ("auto" or a name) becomes for this layer.
py::dict explain(const std::string& cell, const at::Tensor& x, const std::vector<OptionalTensor>& weights,
                 const OptionalTensor& batch_sizes, const std::vector<bool>& reverse, const std::string& engine) {
  Arguments a{cell, x, weights, {}, {}, {}, batch_sizes, {}, {}, {}, reverse};
  const Device& device = device_named(c10::DeviceTypeName(x.device().type(), /*lower_case=*/true));
  const Explanation found = device.explain(Layer(a), engine);
  py::dict out;
  out["engine"] = found.engine;
  out["why"] = found.why;
  out["details"] = as_dict(found.details);
  out["refusals"] = as_dict(found.refusals);
  return out;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "What seqcuda's compiled extension holds.";
  m.def("cells", &cells, "The compiled cells: name -> gates, states, saved, phases, unit, options, recurrent, norms.");
  m.def("devices", &device_names, "The types of device with compiled engines.");
  m.def(
      "engines", [](const std::string& device) { return device_named(device).engines; }, py::arg("device"),
      "The engines of a device, by name.");
  m.def("instruction_sets", &cpu::instruction_sets, "The CPU builds that this machine can run, best last.");
  m.def("instruction_set", &cpu::instruction_set, "The CPU build in use.");
  m.def(
      "set_instruction_set",
      [](const std::string& name) {
        TORCH_CHECK_VALUE(cpu::set_instruction_set(name), "this machine cannot run instruction set '", name, "'");
      },
      py::arg("name"), "Use another CPU build, in the whole process.");
  m.def("after_fork_in_child", &after_fork_in_child,
        "Keeps the child of a fork from waiting for threads it does not have.");
  m.def("explain", &explain, py::arg("cell"), py::arg("x"), py::arg("weights"), py::arg("batch_sizes"),
        py::arg("reverse"), py::arg("engine"), "Which engine runs a layer, and why.");
  m.def("remember_engine", &remember_engine, py::arg("cell"), py::arg("x"), py::arg("weights"), py::arg("batch_sizes"),
        py::arg("reverse"), py::arg("engine"),
        "Let \"auto\" be this engine for layers like this one; what it was before, empty: the rule.");
  m.def("older_vmap_level", &older_vmap_level, py::arg("tensors"),
        "The innermost level of those of torch's older vmap that the tensors are members of; -1: none.");
  m.def("quick_call", &quick_call, "The call of a cell, or of a stack of layers, of plain tensors; else None.");
}

}  // namespace seq::ops
