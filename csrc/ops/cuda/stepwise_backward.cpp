// The backward of engine stepwise: a kernel and a product for each phase of a step.
#include "ops/cuda/stepwise.h"

namespace seq::ops {

namespace {

class StepwiseBackward : public LayerBackward {
 public:
  StepwiseBackward(const Arguments& a, const Saved& s, const Layer& layer, const Needs& needs)
      : LayerBackward(a, s, layer, needs, ChunkSteps()), steps_(layer.directions) {
    const int64_t M = c_.members, B = layer.batch;
    for (int64_t d = 0; d < layer.directions; ++d) {
      auto& own = steps_[d];
      for (int p = 0; layer.cell.recurrent && p < layer.cell.phases; ++p)
        own.w_hh.push_back(c_.rows_of_phase(c_.weights[d].w_hh, p));
      if (layer.cell.norms_state) {
        own.output = at::empty({2, B, layer.hidden}, c_.compute);
        directions_[d].b.d_output = own.output[0].data_ptr(), directions_[d].b.dc_normed = own.output[1].data_ptr();
      }
      if (layer.cell.recurrent) own.product = at::empty({M, B, layer.width}, c_.compute);
      if (layer.cell.phases > 1 || layer.projected()) own.operand = at::empty({M, B, layer.hidden}, c_.compute);
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
    cuda::BackwardStep s;
    s.now = c_.step(k, d), s.before = c_.step(k - 1, d), s.after = c_.step(k + 1, d);
    const int64_t at = s.now.first - chunk.r0, alive = s.now.alive;
    auto& apart = s.apart;
    place_rows(s.saved, apart.saved, dir.saved, s.now.first - saved_first(chunk));
    place_rows(s.dgx, apart.dgx, dir.dgx, at), place_rows(s.dgh, apart.dgh, dir.dgh, at);
    place_rows(s.dh_out, apart.dh_out, dir.dh_out, at);
    if (layer_.cell.norms > 0) s.d_product = dir.dph.narrow(1, at, alive).data_ptr();
    if (dir.d_unit.defined()) s.d_unit = dir.d_unit.narrow(1, at, alive).data_ptr();
    if (own.walked) place(s.product, apart.product, own.product);
    if (layer_.projected()) {
      check_launch(c_.kernels.backward_project(dir.b, s, c_.stream()));
      products_into(c_.of_members(own.operand.narrow(1, 0, alive)), c_.of_members(dir.dh_out.narrow(1, at, alive)),
                    c_.of_members(c_.weights[d].w_hr));
      place(s.d_operand, apart.d_operand, own.operand);
    }
    for (int p = layer_.cell.phases - 1; p >= 0; --p) {
      check_launch(c_.kernels.backward[p](dir.b, s, c_.stream()));
      if (!layer_.cell.recurrent) continue;
      const at::Tensor& out = p > 0 ? own.operand : own.product;
      products_into(c_.of_heads(out.narrow(1, 0, alive)), c_.of_phase(dir.dph.narrow(1, at, alive), p), own.w_hh[p]);
      if (p > 0) place(s.d_operand, apart.d_operand, out);
    }
    own.walked = true;
  }

  void finish() override {
    for (int64_t d = 0; d < layer_.directions; ++d) {
      cuda::BackwardStep s;
      s.after = c_.step(0, d);
      if (steps_[d].walked) place(s.product, s.apart.product, steps_[d].product);
      check_launch(c_.kernels.finish(directions_[d].b, layer_.batch, s, c_.stream()));
    }
  }

  struct OfStep {
    at::Tensor product, operand, output;
    std::vector<at::Tensor> w_hh;  // of each phase
    bool walked = false;           // `product` is that of the step after
  };
  std::vector<OfStep> steps_;
};

}  // namespace

std::unique_ptr<LayerBackward> stepwise_backward(const Arguments& a, const Layer& layer, const Saved& s,
                                                 const Needs& needs) {
  return std::make_unique<StepwiseBackward>(a, s, layer, needs);
}

}  // namespace seq::ops
