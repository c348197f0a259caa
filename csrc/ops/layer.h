// One layer as the op pair sees it: sizes checked once, tensors in the type of computation, the plan of rows.
// Shapes: seqcuda/walk.py and csrc/engine/problem.h.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cell_table.h"
#include "engine/problem.h"

namespace seq::ops {

using OptionalTensor = std::optional<at::Tensor>;
using OptionalTensors = c10::List<std::optional<at::Tensor>>;

// Between the two ways to say that there is no tensor.
inline OptionalTensor optional(const at::Tensor& t) { return t.defined() ? OptionalTensor(t) : OptionalTensor(); }
inline at::Tensor or_undefined(const OptionalTensor& t) { return t.value_or(at::Tensor()); }

// The arguments that `sequence` and `sequence_backward` share.
struct Arguments {
  std::string cell;
  at::Tensor x;
  std::vector<OptionalTensor> weights;
  OptionalTensor h0, c0, lengths, batch_sizes, resets, reset_h, reset_c;
  std::vector<bool> reverse;
  Factors<OptionalTensor> factors{};
  int64_t detach_every = 0;
  std::vector<double> options = {};  // of the cell; empty: all are off
};

// By name, which throws for an unknown one, or by index.
const CellCounts& cell_counts(std::string_view name);
const CellCounts& cell_counts(int index);

// Which rows walk at which step, on the host.
struct PlanStorage {
  std::vector<int64_t> alive, start, order, length;  // length by place
  Plan plan;
  at::Tensor data_rows;  // dense row -> data row; undefined where they are the same
  int64_t dense() const { return start.back(); }
};

struct Layer {
  CellCounts cell;
  at::Device device;
  int64_t directions, steps, batch, rows, input, hidden, width;  // rows: data rows, T*B or N
  int64_t heads;                                                 // blocks of weight_hh
  int64_t saved_width;                                           // numbers in a row of saved
  bool packed, has_factors, detaches;
  at::ScalarType dtype, compute;
  std::vector<int64_t> leading;  // (T, B) or (N)

  explicit Layer(const Arguments& a);

  int64_t extra() const { return cell.states - 1; }
  // A head of a direction is a walk of its own; head k of direction d is walk d * heads + k.
  int64_t walks() const { return directions * heads; }
  int64_t head_hidden() const { return hidden / heads; }
  int64_t head_width() const { return width / heads; }
  bool projected() const { return width != hidden; }
  // h is made after the cell: projected, or with a norm of c'.
  bool output_later() const { return projected() || cell.norms_state; }
  Rounding rounding() const;
  // Dimension `dim` of t, data rows, as the caller gave them: (T, B) or (N).
  at::Tensor with_leading(const at::Tensor& t, int64_t dim) const;
  // Of a direction: weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, weight_unit.
  static constexpr int kWeights = 6;
};

// What the forward keeps for the backward; throws for an unknown `save`.
struct Kept {
  Kept(const std::string& save, const Layer& layer);
  bool states, gates;
  std::optional<int64_t> marks = {};  // the states between segments only, so many times: ops/segments.h
};

struct DirectionWeights {
  at::Tensor w_ih, w_hh, b_ih, b_hh, w_hr, w_unit;
  std::array<at::Tensor, Layer::kWeights> all() const { return {w_ih, w_hh, b_ih, b_hh, w_hr, w_unit}; }
};

PlanStorage make_plan(const Arguments& a, const Layer& layer);

// What is in dimension `dim` [n, heads, units of a head] of t as [heads, n, units of a head], and back.
at::Tensor by_head(const at::Tensor& t, const Layer& layer, int64_t dim = 0);
at::Tensor by_gate(const at::Tensor& t, const Layer& layer, int64_t dim = 0);

// Head k of weights whose rows are by head.
DirectionWeights head_of(const DirectionWeights& w, const Layer& layer, int64_t k);

// States [.., D, B, units] by walk, [.., D * heads, B, units of a head], and back.
at::Tensor by_walk(const at::Tensor& t, const Layer& layer);
at::Tensor by_direction(const at::Tensor& t, const Layer& layer);

// In the type of computation and contiguous; undefined stays undefined.
at::Tensor computed(const OptionalTensor& t, const Layer& layer);

// In the type of computation, the units side by side, what is the same along a dimension not repeated there.
Factors<at::Tensor> computed(const Factors<OptionalTensor>& factors, const Layer& layer);

// Direction d of a tensor ([S-1], T, B, D, units), from unit `first` on; undefined: null.
template <class T>
Factor<T> factor_of(const at::Tensor& t, int64_t d, int64_t first = 0) {
  if (!t.defined()) return {};
  const int64_t last = t.dim() - 1;
  const int64_t bytes = (d * t.stride(last - 1) + first) * static_cast<int64_t>(t.element_size());
  return {reinterpret_cast<T*>(static_cast<char*>(t.data_ptr()) + bytes), t.stride(last - 3), t.stride(last - 2),
          last == 4 ? t.stride(0) : 0};
}

template <class T>
const T* data_or_null(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

}  // namespace seq::ops
