// The forward of engine stepwise: a product and a kernel for each phase of a step.
#include "ops/cuda/stepwise.h"

namespace seq::ops {

namespace {

class StepwiseForward : public LayerForward {
 public:
  StepwiseForward(const Arguments& a, const Layer& layer, const Kept& kept)
      : LayerForward(a, layer, kept, kAnySteps), steps_(layer.directions) {
    const int64_t B = layer.batch, H = layer.hidden;
    for (int64_t d = 0; d < layer.directions; ++d) {
      auto& dir = directions_[d];
      steps_[d].gh = at::empty({B * std::max(layer.cell.gates * H, layer.width)}, c_.compute);
      if (c_.factors.drop.defined()) {
        steps_[d].dropped = at::empty({B, layer.width}, a.x.options());
        dir.f.dropped = steps_[d].dropped.data_ptr();
      }
      if (layer.cell.phases > 1 || layer.projected()) {
        steps_[d].operand = at::empty({B, H}, a.x.options());
        dir.f.operand = steps_[d].operand.data_ptr();
      }
      if (!kept.gates && layer.cell.phases > 1) dir.saved = at::empty({B, layer.saved_width}, c_.compute);
    }
  }

 private:
  void walk_direction(int64_t d, const Chunk& chunk) override {
    for (int64_t k = chunk.k0; k < chunk.k1; ++k) walk_step(d, k, chunk.r0);
  }

  void walk_step(int64_t d, int64_t k, int64_t chunk_first) {
    const auto& dir = directions_[d];
    const OfStep& own = steps_[d];
    cuda::ForwardStep s;
    s.now = c_.step(k, d), s.next = c_.step(k + 1, d);
    s.gx = row_pointer(dir.gx, s.now.first - chunk_first);
    s.saved = row_pointer(dir.saved, kept_.gates ? s.now.first : 0);
    const auto multiply = [&](const at::Tensor& operand, const at::Tensor& weight) {
      at::Tensor out = own.gh.narrow(0, 0, s.now.alive * weight.size(0)).view({s.now.alive, weight.size(0)});
      product_into(out, operand.narrow(0, 0, s.now.alive), weight.t());
      s.gh = out.data_ptr();
    };
    for (int p = 0; p < layer_.cell.phases; ++p) {
      const int64_t first = layer_.cell.phase_begin[p] * layer_.hidden;
      const int64_t count = layer_.cell.phase_begin[p + 1] * layer_.hidden - first;
      const at::Tensor& read = p > 0 ? own.operand : own.dropped.defined() ? own.dropped : dir.h;
      if (layer_.cell.recurrent) multiply(read, c_.weights[d].w_hh.narrow(0, first, count));
      check_launch(c_.kernels.forward[p](dir.f, s, c_.stream()));
    }
    if (layer_.projected()) {
      multiply(own.operand, c_.weights[d].w_hr);
      check_launch(c_.kernels.project(dir.f, s, c_.stream()));
    }
  }

  struct OfStep {
    at::Tensor gh, operand, dropped;
  };
  std::vector<OfStep> steps_;
};

}  // namespace

std::unique_ptr<LayerForward> stepwise_forward(const Arguments& a, const Layer& layer, const Kept& kept) {
  return std::make_unique<StepwiseForward>(a, layer, kept);
}

}  // namespace seq::ops
