// The forward of engine stepwise: the input product of a chunk of steps, then a product and a kernel per phase of a
// step.
#include "ops/cuda/common.h"
#include "ops/cuda/stepwise.h"

namespace seq::ops {

namespace {

struct DirectionForward {
  cuda::Forward f;
  at::Tensor h, dropped, operand, gx, gh,
      saved;  // saved: kept for the backward, or one step's where the phases need it
};

void walk_step(const CudaLayer& c, DirectionForward& dir, int64_t d, int64_t k, int64_t chunk_first, bool keeps_gates) {
  const Layer& layer = c.layer;
  cuda::ForwardStep s;
  s.now = c.step(k, d), s.next = c.step(k + 1, d);
  s.gx = row_pointer(dir.gx, s.now.first - chunk_first);
  s.saved = row_pointer(dir.saved, keeps_gates ? s.now.first : 0);
  const auto multiply = [&](const at::Tensor& operand, const at::Tensor& weight) {
    at::Tensor out = dir.gh.narrow(0, 0, s.now.alive * weight.size(0)).view({s.now.alive, weight.size(0)});
    product_into(out, operand.narrow(0, 0, s.now.alive), weight.t());
    s.gh = out.data_ptr();
  };
  for (int p = 0; p < layer.cell.phases; ++p) {
    const int64_t first = layer.cell.phase_begin[p] * layer.hidden, last = layer.cell.phase_begin[p + 1] * layer.hidden;
    const at::Tensor& read = p > 0 ? dir.operand : dir.dropped.defined() ? dir.dropped : dir.h;
    if (layer.cell.recurrent) multiply(read, c.weights[d].w_hh.narrow(0, first, last - first));
    check_launch(c.kernels.forward[p](dir.f, s, c.stream));
  }
  if (layer.projected()) {
    multiply(dir.operand, c.weights[d].w_hr);
    check_launch(c.kernels.project(dir.f, s, c.stream));
  }
}

}  // namespace

SequenceResult stepwise_forward(const Arguments& a, const Layer& layer, const Kept& kept) {
  const CudaLayer c(a, layer);
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
  const int64_t rows = layer.rows, G = layer.cell.gates, width_saved = layer.saved_width;
  const auto data = a.x.options();

  const at::Tensor y = at::empty({rows, D * P}, data), h_n = at::empty({D, B, P}, data);
  const at::Tensor c_n = at::empty({S - 1, D, B, H}, c.compute);
  const at::Tensor c_all = at::empty({kept.states ? S - 1 : 0, D, rows, H}, c.compute);
  const at::Tensor saved = at::empty({kept.gates ? D : 0, rows, width_saved}, c.compute);

  const int64_t steps = steps_per_chunk(layer, kCudaChunkBytes, 1), chunk_rows = std::min(steps * B, rows);
  std::vector<DirectionForward> directions(D);
  for (int64_t d = 0; d < D; ++d) {
    auto& dir = directions[d];
    c.set_walk(dir.f, d, y, c_all);
    dir.h = h_n[d];
    dir.gx = at::empty({chunk_rows, G * H}, c.compute);
    dir.gh = at::empty({B * std::max(G * H, P)}, c.compute);
    dir.f.h = dir.h.data_ptr();
    if (c.factors.drop.defined()) {
      dir.dropped = at::empty({B, P}, data);
      dir.f.dropped = dir.dropped.data_ptr();
    }
    if (S > 1) dir.f.c = c_n.select(1, d).data_ptr();
    if (layer.cell.phases > 1 || layer.projected()) {
      dir.operand = at::empty({B, H}, data);
      dir.f.operand = dir.operand.data_ptr();
    }
    if (kept.gates)
      dir.saved = saved[d];
    else if (layer.cell.phases > 1)
      dir.saved = at::empty({B, width_saved}, c.compute);
    check_launch(c.kernels.begin(dir.f, B, c.step(0, d), c.stream));
  }
  for (int64_t k0 = 0; k0 < layer.steps && B > 0; k0 += steps) {
    const int64_t k1 = std::min(k0 + steps, layer.steps);
    for (int64_t d = 0; d < D; ++d) {
      const Chunk chunk = c.chunk(k0, k1, d);
      product_into(directions[d].gx.narrow(0, 0, chunk.rows()), c.x.narrow(0, chunk.r0, chunk.rows()),
                   c.weights[d].w_ih.t());
      for (int64_t k = k0; k < k1; ++k) walk_step(c, directions[d], d, k, chunk.r0, kept.gates);
    }
  }
  return {layer.with_leading(y, 0), h_n, c_n.to(layer.dtype), layer.with_leading(c_all, 2),
          layer.with_leading(saved, 1)};
}

}  // namespace seq::ops
