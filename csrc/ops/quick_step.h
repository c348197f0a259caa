// The way of a cell, and of a stack of layers with T = 1, from Python to `step`.
#pragma once

#include <pybind11/pybind11.h>

#include <string_view>

namespace seq::ops {

// The result of the module: for a cell (`layers` 0) a tuple of its states, for a stack (y, h) or (y, (h, c)).
// None where only the general way will do: anything but plain float32 or float64 tensors on the CPU that fit together;
// vmap, modes, tracing, autocast. Nothing is raised here: the general way knows what to say.
//
// input: (B, I) or (I); for a stack (1, B, I), (B, 1, I) with batch_first, or (1, I).
// hx: None, a tensor, or for a cell with two states a pair. weights: as in torch.nn, with None for a missing bias.
pybind11::object quick_step(std::string_view cell, pybind11::handle input, pybind11::handle hx,
                            pybind11::handle weights, int64_t layers, bool batch_first);

}  // namespace seq::ops
