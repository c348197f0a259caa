// One layer as the op pair sees it: sizes checked once, tensors in the type of computation, the plan of rows.
// Shapes: seqcuda/walk.py and csrc/engine/problem.h.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/problem.h"

namespace seq::ops {

using OptionalTensor = std::optional<at::Tensor>;
using OptionalTensors = c10::List<std::optional<at::Tensor>>;

// The arguments that `sequence` and `sequence_backward` share.
struct Arguments {
  std::string cell;
  at::Tensor x;
  std::vector<OptionalTensor> weights;
  OptionalTensor h0, c0, lengths, batch_sizes, resets, reset_h, reset_c;
  std::vector<bool> reverse;
};

struct CellCounts {
  int index, gates, states, saved, phases;
  bool same_grads, projects;
};

// By name, which throws for an unknown one, or by index.
CellCounts cell_counts(std::string_view name);
CellCounts cell_counts(int index);
std::vector<std::string> cell_names();

// Which rows walk at which step, on the host.
struct PlanStorage {
  std::vector<int64_t> alive, start, order, length;  // length by place
  Plan plan;
  at::Tensor data_rows;  // dense row -> data row; undefined where they are the same
  int64_t dense() const { return start.back(); }
};

struct Layer {
  CellCounts cell;
  int64_t directions, steps, batch, rows, input, hidden, width;  // rows: data rows, T*B or N
  bool packed;
  at::ScalarType dtype, compute;
  std::vector<int64_t> leading;  // (T, B) or (N)

  explicit Layer(const Arguments& a);

  int64_t extra() const { return cell.states - 1; }
  bool projected() const { return width != hidden; }
  Rounding rounding() const;
  // Rows of the weights: weight_ih, weight_hh, bias_ih, bias_hh, weight_hr of direction d.
  static constexpr int kWeights = 5;
};

PlanStorage make_plan(const Arguments& a, const Layer& layer);

// In the type of computation and contiguous; undefined stays undefined.
at::Tensor computed(const OptionalTensor& t, const Layer& layer);

template <class T>
const T* data_or_null(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

}  // namespace seq::ops
