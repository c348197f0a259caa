#include "ops/cuda/layer_forward.h"

namespace seq::ops {

LayerForward::LayerForward(const Arguments& a, const Layer& layer, const Kept& kept, int64_t most_steps)
    : c_(a, layer),
      layer_(layer),
      kept_(kept),
      directions_(layer.directions),
      chunk_steps_(std::min(steps_per_chunk(layer, cuda_chunk_bytes, 1), most_steps)) {
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
  const auto data = a.x.options();
  y_ = at::empty({layer.rows, D * P}, data), h_n_ = at::empty({D, B, P}, data);
  c_n_ = at::empty({S - 1, D, B, H}, c_.compute);
  c_all_ = at::empty({kept.states ? S - 1 : 0, D, layer.rows, H}, c_.compute);
  saved_ = at::empty({kept.gates ? D : 0, layer.rows, layer.saved_width}, c_.compute);
  if (c_.lengths.defined()) y_.zero_(), c_all_.zero_();  // nobody writes past the end of a row
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
  begin(chunk_steps_);
  if (layer_.batch > 0)
    for (int64_t k0 = 0; k0 < layer_.steps; k0 += chunk_steps_)
      run_chunk(k0, std::min(k0 + chunk_steps_, layer_.steps));
  return results();
}

void LayerForward::begin(int64_t chunk_steps) {
  const int64_t rows = std::min(chunk_steps * layer_.batch, layer_.rows);
  for (int64_t d = 0; d < layer_.directions; ++d) {
    auto& dir = directions_[d];
    dir.gx = at::empty({rows, layer_.cell.gates * layer_.hidden}, c_.compute);
    check_launch(c_.kernels.begin(dir.f, layer_.batch, c_.step(0, d), c_.stream()));
  }
}

void LayerForward::run_chunk(int64_t k0, int64_t k1) {
  for (int64_t d = 0; d < layer_.directions; ++d) {
    const Chunk chunk = c_.chunk(k0, k1, d);
    product_into(directions_[d].gx.narrow(0, 0, chunk.rows()), c_.x.narrow(0, chunk.r0, chunk.rows()),
                 c_.weights[d].w_ih.t());
    walk_direction(d, chunk);
  }
  walk(k0, k1);
}

SequenceResult LayerForward::results() const {
  return {y(), h_n_, c_n_.to(layer_.dtype), layer_.with_leading(c_all_, 2), layer_.with_leading(saved_, 1)};
}

}  // namespace seq::ops
