#include "ops/cuda/layer_forward.h"

namespace seq::ops {

LayerForward::LayerForward(const Arguments& a, const Layer& layer, const Kept& kept, const ChunkSteps& asked)
    : c_(a, layer),
      layer_(layer),
      kept_(kept),
      directions_(layer.directions),
      chunk_steps_(cuda_chunk_steps(layer, c_.members, asked)) {
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
  const int64_t M = c_.members;
  const auto data = a.x.options();
  y_ = at::empty({M, layer.rows, D * P}, data), h_n_ = at::empty({M, D, B, P}, data);
  c_n_ = at::empty({M, S - 1, D, B, H}, c_.compute);
  c_all_ = at::empty({M, kept.states ? S - 1 : 0, D, layer.rows, H}, c_.compute);
  saved_ = at::empty({M, kept.gates ? D : 0, layer.rows, layer.saved_width}, c_.compute);
  if (c_.lengths.defined()) y_.zero_(), c_all_.zero_();  // nobody writes past the end of a row
  if (kept.marks) marks_ = at::zeros({M, D, *kept.marks, B, (S - 1) * H}, c_.compute);
  for (int64_t d = 0; d < D; ++d) {
    auto& dir = directions_[d];
    auto& apart = dir.f.states_apart;
    c_.set_walk(dir.f, d, y_, c_all_);
    dir.h = h_n_.select(1, d);
    place(dir.f.h, apart.h, dir.h);
    place(dir.f.c, apart.c, c_n_.select(2, d));
    if (kept.gates) dir.saved = saved_.select(1, d);
    if (kept.marks.value_or(0) > 0)
      dir.window.emplace(layer, c_.plan, d, a.reverse[d], chunk_steps_, std::vector<int64_t>{M});
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
    dir.gx = at::empty({c_.members, rows, layer_.cell.gates * layer_.hidden}, c_.compute);
    check_launch(c_.kernels.begin(dir.f, layer_.batch, c_.step(0, d), c_.stream()));
  }
}

void LayerForward::run_chunk(int64_t k0, int64_t k1) {
  for (int64_t d = 0; d < layer_.directions; ++d) {
    auto& dir = directions_[d];
    const Chunk chunk = c_.chunk(k0, k1, d);
    if (dir.window) {
      dir.window->move(k0, k1);
      set_states(dir.f, *dir.window);
    }
    const at::Tensor gx = dir.gx.narrow(1, 0, chunk.rows());
    products_into(c_.of_members(gx), c_.of_members(c_.x.narrow(1, chunk.r0, chunk.rows())),
                  c_.of_members(c_.weights[d].w_ih).mT());
    if (layer_.cell.norms > 0) {
      cuda::NormRows rows = c_.norm_rows(d, gx, false);
      rows.out = gx.data_ptr();
      check_launch(c_.kernels.normalize(rows, c_.stream()));
    }
    walk_direction(d, chunk);
  }
  walk(k0, k1);
  for (const auto& dir : directions_)
    if (dir.window) dir.window->keep(marks_, k0, k1, copy_into);
}

SequenceResult LayerForward::results() const {
  return c_.for_caller(SequenceResult(layer_.with_leading(y_, 1), h_n_, c_n_.to(layer_.dtype),
                                      layer_.with_leading(c_all_, 3),
                                      kept_.marks ? marks_ : layer_.with_leading(saved_, 2)));
}

}  // namespace seq::ops
