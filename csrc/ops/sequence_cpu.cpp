// The forward of a layer on the CPU: input products by ATen in chunks of time, the walk by the engine.
#include "ops/engines.h"
#include "ops/large_pages.h"
#include "ops/one_step.h"
#include "ops/sequence.h"

namespace seq::ops {

namespace {

template <class T>
struct DirectionForward {
  DirectionWeights weights;
  PackedWeights<T> packed;
  PackedMatrix<T> w_ih;
  Forward<T> f;
  at::Tensor h, dropped, c, operand, gx, scratch, gh;
};

// t [any, data rows, width]: 0 where a row has ended.
template <class T>
void zero_dead_rows(const at::Tensor& t, const PlanStorage& plan) {
  const int64_t width = t.size(2);
  for (int64_t j = 0; j < t.size(0); ++j) {
    T* rows = t.template mutable_data_ptr<T>() + j * t.size(1) * width;
    at::parallel_for(0, plan.plan.steps, 64, [&](int64_t begin, int64_t end) {
      for (int64_t step = begin; step < end; ++step)
        for (int64_t i = plan.alive[step]; i < plan.plan.batch; ++i)
          std::fill_n(rows + plan.plan.row(step, i) * width, width, T(0));
    });
  }
}

template <class T>
void stepwise(const cpu::Kernels<T>& kernels, const Layer& layer, const PlanStorage& plan, DirectionForward<T>& d,
              int64_t k0, int64_t k1) {
  const int64_t work = layer.cell.gates * layer.hidden;
  for (int64_t k = k0; k < k1; ++k) {
    const int64_t places = plan.alive[d.f.step(k)];
    if (places == 0) continue;
    for (int p = 0; p < kernels.phases; ++p) {
      const T* product = nullptr;
      if (layer.cell.recurrent) {
        const int64_t first = kernels.phase_begin[p] * layer.hidden, last = kernels.phase_begin[p + 1] * layer.hidden;
        const at::Tensor& read = p > 0 ? d.operand : d.dropped.defined() ? d.dropped[k % 2] : d.h[k % 2];
        at::Tensor gh = d.gh.narrow(0, 0, places * (last - first)).view({places, last - first});
        product_into(kernels, gh, read.narrow(0, 0, places), d.weights.w_hh.narrow(0, first, last - first), {});
        product = gh.template const_data_ptr<T>();
      }
      for_places(places, work, [&](const cpu::Share& share) { kernels.forward_phase[p](d.f, share, k, product); });
    }
    if (layer.projected()) {
      at::Tensor h = d.gh.narrow(0, 0, places * layer.width).view({places, layer.width});
      product_into(kernels, h, d.operand.narrow(0, 0, places), d.weights.w_hr, {});
      const T* product = h.template const_data_ptr<T>();
      for_places(places, work, [&](const cpu::Share& share) { kernels.forward_projected(d.f, share, k, product); });
    }
  }
}

template <class T>
SequenceResult run(const Arguments& a, const Layer& layer, const Kept& kept, Engine engine) {
  const cpu::Kernels<T>& kernels = *cpu::kernels<T>(layer.cell.index);
  const PlanStorage plan = make_plan(a, layer);
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
  const int64_t rows = layer.rows, G = layer.cell.gates;
  const auto options = a.x.options().dtype(layer.compute);

  const States states(a, layer);
  const at::Tensor x = flat_rows(a.x, layer);
  at::Tensor y = empty_in_large_pages({rows, D * P}, options);
  at::Tensor h_n = at::empty({D, B, P}, options), c_n = at::empty({S - 1, D, B, H}, options);
  at::Tensor c_all = empty_in_large_pages({kept.states ? S - 1 : 0, D, rows, H}, options);
  at::Tensor saved = empty_in_large_pages({kept.gates ? D : 0, rows, layer.saved_width}, options);
  const bool scratch = kernels.phases > 1 && !kept.gates;
  // No walk visits the rows past a length: there y is 0, and so is the rest, that two runs give the same.
  if (plan.plan.order)
    for (const auto& t : {y.unsqueeze(0), c_all.flatten(0, 1), saved}) zero_dead_rows<T>(t, plan);

  const int64_t steps = steps_per_chunk(layer, kChunkBytes, kChunkLeastRows);
  const int64_t chunk_rows = std::min(steps * B, plan.dense());
  std::vector<DirectionForward<T>> directions(D);
  for (int64_t d = 0; d < D; ++d) {
    auto& dir = directions[d];
    dir.weights = direction_weights(a, layer, d);
    if (engine == Engine::kPanel) {
      dir.packed = pack_forward(kernels, layer, dir.weights);
      dir.w_ih = PackedMatrix<T>::transposed(kernels, dir.weights.w_ih);
    } else {
      dir.gh = at::empty({B * std::max(G * H, P)}, options);
    }
    set_walk(dir.f, a, layer, plan, d, dir.weights, states, y, c_all);
    dir.h = at::empty({2, B, P}, options);
    dir.gx = at::empty({chunk_rows, G * H}, options);
    dir.f.h[0] = dir.h[0].template mutable_data_ptr<T>();
    dir.f.h[1] = dir.h[1].template mutable_data_ptr<T>();
    if (states.factors.drop.defined()) {
      dir.dropped = at::empty_like(dir.h);
      dir.f.dropped[0] = dir.dropped[0].template mutable_data_ptr<T>();
      dir.f.dropped[1] = dir.dropped[1].template mutable_data_ptr<T>();
    }
    if (S > 1) {
      dir.c = states.c0.defined() ? states.c0.select(1, d).clone() : at::zeros({S - 1, B, H}, options);
      if (plan.plan.order) dir.c = dir.c.index_select(1, at::tensor(plan.order));
      dir.f.c = dir.c.template mutable_data_ptr<T>();
    }
    if (kernels.phases > 1 || layer.projected()) {
      dir.operand = at::empty({B, H}, options);
      dir.f.operand = dir.operand.template mutable_data_ptr<T>();
    }
    if (kept.gates) dir.f.saved = saved[d].template mutable_data_ptr<T>();
    if (scratch) {
      dir.scratch = at::empty({chunk_rows, layer.saved_width}, options);
      dir.f.saved = dir.scratch.template mutable_data_ptr<T>();
    }
    dir.f.gx = dir.gx.template const_data_ptr<T>();
    dir.f.b_hh = data_or_null<T>(dir.weights.b_hh);
    fill_entering(dir.f, plan);
  }

  const Team team = make_team(layer, plan.dense());
  for (int64_t k0 = 0; k0 < layer.steps; k0 += steps) {
    const int64_t k1 = std::min(k0 + steps, layer.steps);
    for (int64_t d = 0; d < D; ++d) {
      auto& dir = directions[d];
      const Chunk chunk = chunk_of(plan, k0, k1, a.reverse[d]);
      dir.f.gx_first = chunk.r0;
      if (scratch) dir.f.saved_first = chunk.r0;
      if (chunk.rows() == 0) continue;
      const at::Tensor gx = dir.gx.narrow(0, 0, chunk.rows()), rows = chunk_rows_of(x, plan, chunk);
      if (dir.w_ih.defined())
        dir.w_ih.multiply(rows, gx, dir.weights.b_ih);
      else
        product_into(kernels, gx, rows, dir.weights.w_ih, dir.weights.b_ih);
    }
    if (engine == Engine::kPanel) {
      team.run(plan, [&](int64_t d, const cpu::Share& share) {
        kernels.forward(directions[d].f, directions[d].packed.panels, share, k0, k1);
      });
    } else {
      for (auto& dir : directions) stepwise(kernels, layer, plan, dir, k0, k1);
    }
  }

  for (int64_t d = 0; d < D; ++d) {
    final_h(directions[d].f, plan, h_n.template mutable_data_ptr<T>() + d * B * P);
    if (S == 1) continue;
    at::Tensor c = c_n.select(1, d);
    if (plan.plan.order)
      c.index_copy_(1, at::tensor(plan.order), directions[d].c);
    else
      c.copy_(directions[d].c);
  }
  return {layer.with_leading(y, 0).to(layer.dtype), h_n.to(layer.dtype), c_n.to(layer.dtype),
          layer.with_leading(c_all, 2), layer.with_leading(saved, 1)};
}

// One step of one direction, as the cells and the streams of a layer call it: no plan, no buffers but the results.
template <class T>
SequenceResult single_step(const Arguments& a, const Layer& layer, const Kept& kept) {
  const int64_t B = layer.batch, H = layer.hidden, extra = layer.extra();
  const auto options = a.x.options().dtype(layer.compute);
  at::Tensor y = at::empty({1, B, H}, options), h_n = at::empty({1, B, H}, options);
  at::Tensor c_n = at::empty({extra, 1, B, H}, options);
  at::Tensor c_all = at::empty({kept.states ? extra : 0, 1, 1, B, H}, options);
  at::Tensor saved = at::empty({kept.gates ? 1 : 0, 1, B, layer.cell.saved * H}, options);
  OneStepResults<T> to;
  to.h = h_n.template mutable_data_ptr<T>(), to.y = y.template mutable_data_ptr<T>();
  if (extra > 0) to.c = c_n.template mutable_data_ptr<T>();
  if (kept.states) to.c_all = c_all.template mutable_data_ptr<T>();
  if (kept.gates) to.saved = saved.template mutable_data_ptr<T>();
  const at::Tensor x = flat_rows(a.x, layer).contiguous(), h0 = computed(a.h0, layer), c0 = computed(a.c0, layer);
  const at::Tensor w_ih = a.weights[0]->contiguous(), w_hh = a.weights[1]->contiguous();
  const at::Tensor b_ih = computed(a.weights[2], layer), b_hh = computed(a.weights[3], layer);
  const OneStepInputs<T> in{data_or_null<T>(x),
                            data_or_null<T>(h0),
                            data_or_null<T>(c0),
                            data_or_null<T>(b_ih),
                            data_or_null<T>(b_hh),
                            w_ih,
                            w_hh};
  one_step(layer.cell, in, B, layer.rounding(), to);
  return {y.to(layer.dtype), h_n.to(layer.dtype), c_n.to(layer.dtype), c_all, saved};
}

bool is_single_step(const Arguments& a, const Layer& layer) {
  return layer.steps == 1 && layer.batch > 0 && layer.directions == 1 && !layer.packed && !layer.projected() &&
         !a.lengths.has_value() && !a.resets.has_value() && !layer.has_factors && layer.cell.phases == 1 &&
         layer.extra() <= 1 && layer.cell.plain();
}

}  // namespace

SequenceResult sequence_cpu(const Arguments& a, const std::string& save, const std::string& engine) {
  const Layer layer(a);
  const Kept kept(save, layer);
  const Engine chosen = choose_engine(layer, engine).engine;
  if (chosen == Engine::kStepwise && is_single_step(a, layer))
    return layer.compute == at::kDouble ? single_step<double>(a, layer, kept) : single_step<float>(a, layer, kept);
  return layer.compute == at::kDouble ? run<double>(a, layer, kept, chosen) : run<float>(a, layer, kept, chosen);
}

}  // namespace seq::ops
