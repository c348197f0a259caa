// Training that keeps the states beside h only between segments of the walk (`save` = the most steps of a segment): the
// marks, [D, segments - 1, B, (S-1)*H]. The backward restores those of some segments at a time.
#pragma once

#include "ops/chunks.h"

namespace seq::ops {

// The steps of a segment, of which the last may have fewer.
inline int64_t segment_steps(const Layer& layer, int64_t marks) {
  return std::max<int64_t>((layer.steps + marks) / (marks + 1), 1);
}

// Of as many whole segments as a chunk of so many steps holds, or of one that is longer.
inline int64_t restored_steps(const Layer& layer, int64_t marks, int64_t chunk) {
  const int64_t segment = segment_steps(layer, marks);
  return segment * std::max<int64_t>(chunk / segment, 1);
}

// c_all of one direction for some walk steps only.
class StateWindow {
 public:
  // most: steps at once; members: those of the call, or {}.
  StateWindow(const Layer& layer, const PlanStorage& plan, int64_t d, bool reverse, int64_t most,
              std::vector<int64_t> members = {})
      : layer_(&layer),
        plan_(&plan),
        d_(d),
        reverse_(reverse),
        states_(zeros(layer, std::min(most, layer.steps), std::move(members))) {}

  // To the walk steps [k0, k1). What it held is lost.
  void move(int64_t k0, int64_t k1) { first_ = data_row(chunk_of(*plan_, k0, k1, reverse_).t0); }

  // Where data row 0 would lie, from which the kernels count.
  void* origin() const {
    return static_cast<char*>(states_.data_ptr()) -
           first_ * layer_->hidden * static_cast<int64_t>(states_.element_size());
  }
  // Numbers between one state and the next.
  int64_t plane() const { return states_.stride(-3); }
  const at::Tensor& states() const { return states_; }

  // What left the steps [k0, k1), where a segment begins after them, to the marks: copy(mark, states).
  template <class Copy>
  void keep(const at::Tensor& marks, int64_t k0, int64_t k1, const Copy& copy) const {
    const int64_t segment = segment_steps(*layer_, marks.size(-3));
    for (int64_t j = k0 / segment + 1; j * segment <= k1 && j <= marks.size(-3); ++j) {
      const at::Tensor left = left_before(j * segment);
      copy(mark(marks, j, left.size(-2)), left);
    }
  }
  // What left the step before walk step k, where a segment begins, from the marks: copy(states, mark).
  template <class Copy>
  void take(const at::Tensor& marks, int64_t k, const Copy& copy) const {
    const at::Tensor left = left_before(k);
    copy(left, mark(marks, k / segment_steps(*layer_, marks.size(-3)), left.size(-2)));
  }

 private:
  // Nobody writes the rows past a length, which are marked with the others.
  static at::Tensor zeros(const Layer& layer, int64_t steps, std::vector<int64_t> shape) {
    shape.insert(shape.end(), {layer.extra(), steps * layer.batch, layer.hidden});
    return at::zeros(shape, at::TensorOptions(layer.compute).device(layer.device));
  }

  int64_t data_row(int64_t t) const { return plan_->plan.order ? t * layer_->batch : plan_->start[t]; }

  // [.., S-1, rows, H], the rows of the batch that take part, in their order.
  at::Tensor left_before(int64_t k) const {
    const int64_t t = reverse_ ? layer_->steps - k : k - 1;
    return states_.narrow(-2, data_row(t) - first_, data_row(t + 1) - data_row(t));
  }
  // The same of the mark before segment j.
  at::Tensor mark(const at::Tensor& marks, int64_t j, int64_t rows) const {
    const at::Tensor by_row = marks.select(-4, d_).select(-3, j - 1).unflatten(-1, {layer_->extra(), layer_->hidden});
    return by_row.transpose(-3, -2).narrow(-2, 0, rows);
  }

  const Layer* layer_;
  const PlanStorage* plan_;
  int64_t d_;
  bool reverse_;
  at::Tensor states_;
  int64_t first_ = 0;
};

}  // namespace seq::ops
