// The op of layers one on another in one direction, for devices that walk them at the same time: what `sequence` gives
// for each of them, its x being the y of the one before. Shapes: seqcuda/walk.py, with the layers in the place of the
// directions, and the weights of all layers one after another.
#pragma once

#include "ops/unboxed.h"

namespace seq::ops {

inline constexpr char kStackSchema[] =
    "stack(str cell, Tensor x, Tensor?[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? batch_sizes, "
    "Tensor? resets, Tensor? reset_h, Tensor? reset_c, bool[] reverse, str[] saves, str engine, int detach_every=0, "
    "float[] options=[]) -> (Tensor[] y, Tensor[] h_n, Tensor[] c_n, Tensor[] c_all, Tensor[] saved)";

using Tensors = std::vector<at::Tensor>;
using StackResult = std::tuple<Tensors, Tensors, Tensors, Tensors, Tensors>;

// saves: of each layer.
StackResult stack_cuda(const Arguments& a, const std::vector<std::string>& saves, const std::string& engine);

template <StackResult (*kRun)(const Arguments&, const std::vector<std::string>& saves, const std::string& engine)>
StackResult stack(std::string cell, at::Tensor x, OptionalTensors weights, OptionalTensor h0, OptionalTensor c0,
                  OptionalTensor lengths, OptionalTensor batch_sizes, OptionalTensor resets, OptionalTensor reset_h,
                  OptionalTensor reset_c, c10::List<bool> reverse, c10::List<std::string> saves, std::string engine,
                  int64_t detach_every, c10::List<double> options) {
  return kRun(arguments(std::move(cell), std::move(x), weights, std::move(h0), std::move(c0), std::move(lengths),
                        std::move(batch_sizes), std::move(resets), std::move(reset_h), std::move(reset_c), reverse,
                        std::nullopt, detach_every, options),
              saves.vec(), engine);
}

}  // namespace seq::ops
