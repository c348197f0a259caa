// The backward of engine stepwise: a kernel and a product for each phase of a step.
#include "ops/cuda/layer_backward.h"
#include "ops/cuda/stepwise.h"

namespace seq::ops {

namespace {

class StepwiseBackward : public LayerBackward {
 public:
  StepwiseBackward(const Arguments& a, const Saved& s, const Layer& layer, const Needs& needs)
      : LayerBackward(a, s, layer, needs, kAnySteps), steps_(layer.directions) {
    for (auto& own : steps_) {
      if (layer.cell.recurrent) own.product = at::empty({layer.batch, layer.width}, c_.compute);
      if (layer.cell.phases > 1 || layer.projected()) own.operand = at::empty({layer.batch, layer.hidden}, c_.compute);
    }
  }

 private:
  void walk(int64_t k0, int64_t k1) override {
    for (int64_t d = 0; d < layer_.directions; ++d)
      for (int64_t k = k1 - 1; k >= k0; --k) walk_step(d, k, c_.chunk(k0, k1, d));
  }

  void walk_step(int64_t d, int64_t k, const Chunk& chunk) {
    const auto& dir = directions_[d];
    OfStep& own = steps_[d];
    const auto& w = c_.weights[d];
    cuda::BackwardStep s;
    s.now = c_.step(k, d), s.before = c_.step(k - 1, d), s.after = c_.step(k + 1, d);
    const int64_t at = s.now.first - chunk.r0, alive = s.now.alive;
    s.saved = row_pointer(dir.saved, s.now.first - saved_first(chunk));
    s.dgx = row_pointer(dir.dgx, at), s.dgh = row_pointer(dir.dgh, at), s.dh_out = row_pointer(dir.dh_out, at);
    if (own.walked) s.product = row_pointer(own.product, 0);
    if (layer_.projected()) {
      check_launch(c_.kernels.backward_project(dir.b, s, c_.stream()));
      product_into(own.operand.narrow(0, 0, alive), dir.dh_out.narrow(0, at, alive), w.w_hr);
      s.d_operand = own.operand.data_ptr();
    }
    for (int p = layer_.cell.phases - 1; p >= 0; --p) {
      check_launch(c_.kernels.backward[p](dir.b, s, c_.stream()));
      if (!layer_.cell.recurrent) continue;
      const int64_t first = layer_.cell.phase_begin[p] * layer_.hidden;
      const int64_t count = layer_.cell.phase_begin[p + 1] * layer_.hidden - first;
      const at::Tensor& out = p > 0 ? own.operand : own.product;
      product_into(out.narrow(0, 0, alive), dir.dgh.narrow(0, at, alive).narrow(1, first, count),
                   w.w_hh.narrow(0, first, count));
      if (p > 0) s.d_operand = out.data_ptr();
    }
    own.walked = true;
  }

  void finish() override {
    for (int64_t d = 0; d < layer_.directions; ++d) {
      cuda::BackwardStep s;
      s.after = c_.step(0, d);
      if (steps_[d].walked) s.product = row_pointer(steps_[d].product, 0);
      check_launch(c_.kernels.finish(directions_[d].b, layer_.batch, s, c_.stream()));
    }
  }

  struct OfStep {
    at::Tensor product, operand;
    bool walked = false;  // `product` is that of the step after
  };
  std::vector<OfStep> steps_;
};

}  // namespace

SequenceGradients stepwise_backward(const Arguments& a, const Layer& layer, const Saved& s, const Needs& needs) {
  return StepwiseBackward(a, s, layer, needs).run();
}

}  // namespace seq::ops
