// The way of a module's call from Python to C++: a cell, or a stack of layers, of plain tensors on the CPU.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace seq::ops {

// The result of the module: for a cell (`layers` 0) a tuple of its states, for a stack (output, h) or (output, (h, c)).
// None where only the general way will do: anything but plain tensors on the CPU that fit together; vmap, modes,
// tracing, autocast. Nothing is raised here: the general way knows what to say.
//
// input: (B, I) or (I); for a stack (T, B, I), (B, T, I) with batch_first, or (T, I).
// hx: None, a tensor, or for a cell with two states a pair. weights: as in torch.nn, with None for a missing bias.
// save: what training keeps, "all" or "states". engine: "auto", or "panel", which this way has for single steps without
// gradients.
pybind11::object quick_call(const std::string& cell, pybind11::handle input, pybind11::handle hx,
                            pybind11::handle weights, int64_t layers, int64_t directions, bool batch_first,
                            const std::string& save, const std::string& engine);

}  // namespace seq::ops
