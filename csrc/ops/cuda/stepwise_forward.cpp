// The forward of engine stepwise: a product and a kernel for each phase of a step.
#include "ops/cuda/stepwise.h"

namespace seq::ops {

namespace {

class StepwiseForward : public LayerForward {
 public:
  StepwiseForward(const Arguments& a, const Layer& layer, const Kept& kept)
      : LayerForward(a, layer, kept, ChunkSteps()), steps_(layer.directions) {
    const int64_t M = c_.members, B = layer.batch, H = layer.hidden;
    for (int64_t d = 0; d < layer.directions; ++d) {
      auto& dir = directions_[d];
      auto& own = steps_[d];
      auto& apart = dir.f.states_apart;
      for (int p = 0; layer.cell.recurrent && p < layer.cell.phases; ++p)
        own.w_hh.push_back(c_.rows_of_phase(c_.weights[d].w_hh, p).mT());
      own.gh = at::empty({M * B * std::max(layer.cell.gates * H, layer.width)}, c_.compute);
      if (c_.factors.drop.defined()) {
        own.dropped = at::empty({M, B, layer.width}, a.x.options());
        place(dir.f.dropped, apart.dropped, own.dropped);
      }
      if (layer.cell.phases > 1 || layer.projected()) {
        own.operand = at::empty({M, B, H}, a.x.options());
        place(dir.f.operand, apart.operand, own.operand);
      }
      if (layer.cell.norms > 0) dir.f.product = own.gh.data_ptr();
      if (!kept.gates && (layer.cell.phases > 1 || layer.cell.norms_state))
        dir.saved = at::empty({M, B, layer.saved_width}, c_.compute);
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
    place_rows(s.gx, s.apart.gx, dir.gx, s.now.first - chunk_first);
    place_rows(s.saved, s.apart.saved, dir.saved, kept_.gates ? s.now.first : 0);
    const auto rows_now = [&](const at::Tensor& t) { return t.narrow(1, 0, s.now.alive); };
    const auto product = [&](int64_t columns) {
      const int64_t numbers = c_.members * s.now.alive * columns;
      const at::Tensor out = own.gh.narrow(0, 0, numbers).view({c_.members, s.now.alive, columns});
      place(s.gh, s.apart.gh, out);
      return out;
    };
    for (int p = 0; p < layer_.cell.phases; ++p) {
      const at::Tensor& read = p > 0 ? own.operand : own.dropped.defined() ? own.dropped : dir.h;
      if (layer_.cell.recurrent)
        products_into(c_.of_heads(product(layer_.heads * c_.phase_size(p))), c_.of_heads(rows_now(read)), own.w_hh[p]);
      check_launch(c_.kernels.forward[p](dir.f, s, c_.stream()));
    }
    if (layer_.projected()) {
      products_into(c_.of_members(product(layer_.width)), c_.of_members(rows_now(own.operand)),
                    c_.of_members(c_.weights[d].w_hr).mT());
      check_launch(c_.kernels.project(dir.f, s, c_.stream()));
    }
  }

  struct OfStep {
    at::Tensor gh, operand, dropped;
    std::vector<at::Tensor> w_hh;  // of each phase
  };
  std::vector<OfStep> steps_;
};

}  // namespace

std::unique_ptr<LayerForward> stepwise_forward(const Arguments& a, const Layer& layer, const Kept& kept) {
  return std::make_unique<StepwiseForward>(a, layer, kept);
}

}  // namespace seq::ops
