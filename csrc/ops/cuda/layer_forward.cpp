#include "ops/cuda/layer_forward.h"

namespace seq::ops {

LayerForward::LayerForward(const Arguments& a, const Layer& layer, const Kept& kept, int64_t most_steps)
    : c_(a, layer),
      layer_(layer),
      kept_(kept),
      directions_(layer.directions),
      steps_(std::min(steps_per_chunk(layer, cuda_chunk_bytes, 1), most_steps)) {
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
  const auto data = a.x.options();
  y_ = at::empty({layer.rows, D * P}, data), h_n_ = at::empty({D, B, P}, data);
  c_n_ = at::empty({S - 1, D, B, H}, c_.compute);
  c_all_ = at::empty({kept.states ? S - 1 : 0, D, layer.rows, H}, c_.compute);
  saved_ = at::empty({kept.gates ? D : 0, layer.rows, layer.saved_width}, c_.compute);
  for (int64_t d = 0; d < D; ++d) {
    auto& dir = directions_[d];
    c_.set_walk(dir.f, d, y_, c_all_);
    dir.h = h_n_[d];
    dir.f.h = dir.h.data_ptr();
    if (S > 1) dir.f.c = c_n_.select(1, d).data_ptr();
    if (kept.gates) dir.saved = saved_[d];
  }
}

SequenceResult LayerForward::run() {
  const int64_t B = layer_.batch;
  for (int64_t d = 0; d < layer_.directions; ++d) {
    auto& dir = directions_[d];
    dir.gx = at::empty({std::min(steps_ * B, layer_.rows), layer_.cell.gates * layer_.hidden}, c_.compute);
    check_launch(c_.kernels.begin(dir.f, B, c_.step(0, d), c_.stream));
  }
  for (int64_t k0 = 0; k0 < layer_.steps && B > 0; k0 += steps_) {
    const int64_t k1 = std::min(k0 + steps_, layer_.steps);
    for (int64_t d = 0; d < layer_.directions; ++d) {
      const Chunk chunk = c_.chunk(k0, k1, d);
      product_into(directions_[d].gx.narrow(0, 0, chunk.rows()), c_.x.narrow(0, chunk.r0, chunk.rows()),
                   c_.weights[d].w_ih.t());
      walk_direction(d, chunk);
    }
    walk(k0, k1);
  }
  return {layer_.with_leading(y_, 0), h_n_, c_n_.to(layer_.dtype), layer_.with_leading(c_all_, 2),
          layer_.with_leading(saved_, 1)};
}

}  // namespace seq::ops
