// seqcuda._C: what was compiled, and who would compute a layer of given sizes.
#include <torch/csrc/utils/pybind.h>

#include "cpu/instruction_set.h"
#include "ops/engines.h"
#include "ops/quick_step.h"
#include "ops/team.h"

namespace py = pybind11;

namespace seq::ops {

namespace {

py::dict cells() {
  py::dict all;
  for (int i = 0; const auto* k = cpu::kernels<float>(i); ++i) {
    py::dict counts;
    counts["gates"] = k->gates;
    counts["states"] = k->states;
    counts["saved"] = k->saved;
    counts["phases"] = k->phases;
    all[k->name] = counts;
  }
  return all;
}

// What `engine` ("auto" or a name) becomes for this layer.
py::dict explain(const std::string& cell, const at::Tensor& x, const std::vector<OptionalTensor>& weights,
                 const OptionalTensor& batch_sizes, const std::vector<bool>& reverse, const std::string& engine) {
  Arguments a{cell, x, weights, {}, {}, {}, batch_sizes, {}, {}, {}, reverse};
  const Layer layer(a);
  const Choice choice = choose_engine(layer, engine);
  py::dict out;
  out["engine"] = engine_name(choice.engine);
  out["why"] = choice.why;
  out["instruction_set"] = cpu::instruction_set();
  out["threads"] = choice.engine == Engine::kPanel ? make_team(layer).describe() : "as ATen's products choose";
  return out;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "What seqcuda's compiled extension holds.";
  m.def("cells", &cells, "The compiled cells: name -> gates, states, saved, phases.");
  m.def("engines", &engine_names, "The engines, by name.");
  m.def("devices", [] { return std::vector<std::string>{"cpu"}; }, "The devices with compiled engines.");
  m.def("instruction_sets", &cpu::instruction_sets, "The CPU builds that this machine can run, best last.");
  m.def("instruction_set", &cpu::instruction_set, "The CPU build in use.");
  m.def(
      "set_instruction_set",
      [](const std::string& name) {
        TORCH_CHECK_VALUE(cpu::set_instruction_set(name), "this machine cannot run instruction set '", name, "'");
      },
      py::arg("name"), "Use another CPU build, in the whole process.");
  m.def("explain", &explain, py::arg("cell"), py::arg("x"), py::arg("weights"), py::arg("batch_sizes"),
        py::arg("reverse"), py::arg("engine"), "Which engine runs a layer, and why.");
  m.def("quick_step", &quick_step, "One step of a cell, or of a stack with T = 1, of plain tensors; else None.");
}

}  // namespace seq::ops
