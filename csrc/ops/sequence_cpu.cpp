// The forward of a layer on the CPU: input products by ATen in chunks of time, the walk by the engine.
#include "ops/engines.h"
#include "ops/members.h"
#include "ops/norm_cpu.h"
#include "ops/one_step.h"
#include "ops/page_pool.h"

namespace seq::ops {

namespace {

template <class T>
struct DirectionForward {
  DirectionWeights weights;
  PackedMatrix<T> w_ih;
  at::Tensor gx, scratch;
  std::optional<StateWindow> window;  // where c_all is not kept, for the marks
};

// Of one walk, a head of a direction.
template <class T>
struct WalkForward {
  DirectionWeights weights;
  PackedWeights<T> packed;
  Forward<T> f;
  at::Tensor h, halves, dropped, c, operand, gh;
};

// The results in the type of computation.
struct Results {
  at::Tensor y, h_n, c_n, c_all, saved;

  Results of(int64_t m) const { return {y[m], h_n[m], c_n[m], c_all[m], saved[m]}; }
  SequenceResult as(at::ScalarType dtype) const {
    return {converted(y, dtype), converted(h_n, dtype), converted(c_n, dtype), c_all, saved};
  }
};

constexpr int64_t kWideRow = 8192;  // bytes; from here on a walk is slower through large pages

// Of so many members, or of one layer where there are none.
Results empty_results(const Layer& layer, const Kept& kept, int64_t members) {
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, extra = layer.extra();
  const auto empty = [&](std::initializer_list<int64_t> before, at::IntArrayRef rows, int64_t last) {
    std::vector<int64_t> shape;
    if (members > 0) shape.push_back(members);
    shape.insert(shape.end(), before);
    shape.insert(shape.end(), rows.begin(), rows.end());
    shape.push_back(last);
    const bool wide = last * static_cast<int64_t>(c10::elementSize(layer.compute)) >= kWideRow;
    return empty_in(wide ? Pages::kSmall : Pages::kLarge, shape, layer.compute);
  };
  return {empty({}, layer.leading, D * P), empty({D}, B, P), empty({extra, D}, B, H),
          empty({kept.states ? extra : 0, D}, layer.leading, H),
          kept.marks ? empty({D, *kept.marks}, B, extra * H).zero_()
                     : empty({kept.gates ? D : 0}, layer.leading, layer.saved_width)};
}

template <class T>
void stepwise(const cpu::Kernels<T>& kernels, const Layer& layer, const PlanStorage& plan, WalkForward<T>& w,
              int64_t k0, int64_t k1) {
  const int64_t H = w.f.hidden, P = w.f.width, work = layer.cell.gates * H;
  for (int64_t k = k0; k < k1; ++k) {
    const int64_t places = plan.alive[w.f.step(k)];
    if (places == 0) continue;
    for (int p = 0; p < kernels.phases; ++p) {
      const T* product = nullptr;
      if (layer.cell.recurrent) {
        const int64_t first = kernels.phase_begin[p] * H, last = kernels.phase_begin[p + 1] * H;
        const at::Tensor& read = p > 0 ? w.operand : w.dropped.defined() ? w.dropped[k % 2] : w.h[k % 2];
        at::Tensor gh = w.gh.narrow(0, 0, places * (last - first)).view({places, last - first});
        product_into(kernels, gh, read.narrow(0, 0, places), w.weights.w_hh.narrow(0, first, last - first), {});
        product = gh.template const_data_ptr<T>();
      }
      for_places(places, work, [&](const cpu::Share& share) { kernels.forward_phase[p](w.f, share, k, product); });
    }
    if (layer.projected()) {
      at::Tensor h = w.gh.narrow(0, 0, places * P).view({places, P});
      product_into(kernels, h, w.operand.narrow(0, 0, places), w.weights.w_hr, {});
      const T* product = h.template const_data_ptr<T>();
      for_places(places, work, [&](const cpu::Share& share) { kernels.forward_projected(w.f, share, k, product); });
    }
  }
}

template <class T>
void run(const Arguments& a, const Layer& layer, const Kept& kept, Engine engine, const Results& out) {
  const cpu::Kernels<T>& kernels = *cpu::kernels<T>(layer.cell.index);
  const PlanStorage plan = make_plan(a, layer);
  const int64_t D = layer.directions, B = layer.batch, S = layer.cell.states, G = layer.cell.gates;
  const int64_t H = layer.head_hidden(), P = layer.head_width();
  const auto options = a.x.options().dtype(layer.compute);

  const States states(a, layer);
  const bool pairs = of_pairs(layer, engine);
  const at::Tensor x = flat_rows(a.x, layer, pairs);
  const bool norms = layer.cell.norms > 0, scratch = (kernels.phases > 1 || layer.cell.norms_state) && !kept.gates;
  // No walk visits the rows past a length: there y is 0, and so is the rest, that two runs give the same.
  if (plan.plan.order) {
    for (const auto& t : {out.y, out.c_all}) zero_dead_rows<T>(t, plan);
    if (kept.gates) zero_dead_rows<T>(out.saved, plan);
  }

  const int64_t steps = even_chunk_steps(layer);
  const int64_t chunk_rows = std::min(steps * B, plan.dense());
  std::vector<DirectionForward<T>> directions(D);
  for (int64_t d = 0; d < D; ++d) {
    auto& dir = directions[d];
    dir.weights = direction_weights(a, layer, d, pairs);
    if (engine == Engine::kPanel) dir.w_ih = PackedMatrix<T>::transposed(kernels, dir.weights.w_ih);
    dir.gx = empty_in_small_pages({chunk_rows, G * layer.hidden}, layer.compute);
    if (scratch) dir.scratch = empty_in_small_pages({chunk_rows, layer.saved_width}, layer.compute);
    if (kept.marks.value_or(0) > 0) dir.window.emplace(layer, plan, d, a.reverse[d], steps);
  }
  std::vector<WalkForward<T>> walks(layer.walks());
  for (int64_t j = 0; j < layer.walks(); ++j) {
    auto& w = walks[j];
    const int64_t d = j / layer.heads, head = j % layer.heads;
    w.weights = head_of(directions[d].weights, layer, head);
    if (engine == Engine::kPanel) w.packed = pack_forward(kernels, layer, w.weights);
    if (engine != Engine::kPanel || norms) w.gh = empty_in_small_pages({B * std::max(G * H, P)}, layer.compute);
    if (norms) w.f.product = w.gh.template mutable_data_ptr<T>();
    set_walk(w.f, a, layer, plan, j, w.weights, states, out.y, out.c_all);
    w.h = empty_in_small_pages({2, B, P}, layer.compute);
    w.f.h[0] = w.h[0].template mutable_data_ptr<T>();
    w.f.h[1] = w.h[1].template mutable_data_ptr<T>();
    if (states.factors.drop.defined()) {
      w.dropped = at::empty_like(w.h);
      w.f.dropped[0] = w.dropped[0].template mutable_data_ptr<T>();
      w.f.dropped[1] = w.dropped[1].template mutable_data_ptr<T>();
    }
    if (S > 1) {
      w.c = states.c0.defined() ? states.c0.select(1, j).clone() : at::zeros({S - 1, B, H}, options);
      if (plan.plan.order) w.c = w.c.index_select(1, at::tensor(plan.order));
      w.f.c = w.c.template mutable_data_ptr<T>();
    }
    if (kernels.phases > 1 || layer.output_later()) {
      w.operand = empty_in_small_pages({B, H}, layer.compute);
      w.f.operand = w.operand.template mutable_data_ptr<T>();
    }
    const int64_t saved_at = head * (layer.saved_width / layer.heads);
    if (kept.gates) w.f.saved = out.saved[d].template mutable_data_ptr<T>() + saved_at;
    if (scratch) w.f.saved = directions[d].scratch.template mutable_data_ptr<T>() + saved_at;
    w.f.gx = directions[d].gx.template const_data_ptr<T>() + head * G * H;
    w.f.b_hh = data_or_null<T>(w.weights.b_hh);
    fill_entering(w.f, plan);
    if (pairs) {
      w.halves = at::zeros({2, B, (H + 31) / 32 * 32}, a.x.options());
      w.halves.narrow(2, 0, H).copy_(w.h);
      w.f.halves_stride = w.halves.stride(1);
      for (int half = 0; half < 2; ++half) w.f.halves[half] = static_cast<uint16_t*>(w.halves[half].mutable_data_ptr());
    }
  }

  const Team team = make_team(layer, plan.dense());
  for (int64_t k0 = 0; k0 < layer.steps; k0 += steps) {
    const int64_t k1 = std::min(k0 + steps, layer.steps);
    for (int64_t d = 0; d < D; ++d) {
      auto& dir = directions[d];
      const Chunk chunk = chunk_of(plan, k0, k1, a.reverse[d]);
      if (dir.window) dir.window->move(k0, k1);
      for (int64_t j = d * layer.heads; j < (d + 1) * layer.heads; ++j) {
        if (dir.window) set_states(walks[j].f, layer, j, *dir.window);
        walks[j].f.gx_first = chunk.r0;
        if (scratch) walks[j].f.saved_first = chunk.r0;
      }
      if (chunk.rows() == 0) continue;
      const at::Tensor gx = dir.gx.narrow(0, 0, chunk.rows()), rows = chunk_rows_of(x, plan, chunk);
      const at::Tensor bias = norms ? at::Tensor() : dir.weights.b_ih;
      if (dir.w_ih.defined())
        dir.w_ih.multiply(rows, gx, bias);
      else
        product_into(kernels, gx, rows, dir.weights.w_ih, bias);
      if (norms) normalize_input(kernels, layer, dir.weights, gx, gx);
    }
    if (engine == Engine::kPanel) {
      team.run(plan, [&](int64_t j, const cpu::Share& share) {
        kernels.forward(walks[j].f, walks[j].packed.panels, share, k0, k1);
      });
    } else {
      for (auto& w : walks) stepwise(kernels, layer, plan, w, k0, k1);
    }
    for (const auto& dir : directions)
      if (dir.window)
        dir.window->keep(out.saved, k0, k1, [](const at::Tensor& mark, const at::Tensor& left) { mark.copy_(left); });
  }

  at::Tensor h_n = layer.heads == 1 ? out.h_n : empty_in_small_pages({layer.walks(), B, P}, layer.compute);
  at::Tensor c_n = layer.heads == 1 ? out.c_n : empty_in_small_pages({S - 1, layer.walks(), B, H}, layer.compute);
  for (int64_t j = 0; j < layer.walks(); ++j) {
    final_h(walks[j].f, plan, h_n.template mutable_data_ptr<T>() + j * B * P);
    if (S == 1) continue;
    at::Tensor c = c_n.select(1, j);
    if (plan.plan.order)
      c.index_copy_(1, at::tensor(plan.order), walks[j].c);
    else
      c.copy_(walks[j].c);
  }
  if (layer.heads > 1) out.h_n.copy_(by_direction(h_n, layer)), out.c_n.copy_(by_direction(c_n, layer));
}

// One step of one direction, as the cells and the streams of a layer call it: no plan, no buffers but the results.
template <class T>
void single_step(const Arguments& a, const Layer& layer, const Kept& kept, Engine engine, const Results& out) {
  OneStepResults<T> to;
  to.h = out.h_n.template mutable_data_ptr<T>(), to.y = out.y.template mutable_data_ptr<T>();
  if (layer.extra() > 0) to.c = out.c_n.template mutable_data_ptr<T>();
  if (kept.states) to.c_all = out.c_all.template mutable_data_ptr<T>();
  if (kept.gates) to.saved = out.saved.template mutable_data_ptr<T>();
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
  one_step(layer.cell, in, layer.batch, layer.rounding(), to, engine);
}

bool is_single_step(const Arguments& a, const Layer& layer) {
  return layer.steps == 1 && layer.batch > 0 && layer.walks() == 1 && !layer.packed && !layer.projected() &&
         !a.lengths.has_value() && !a.resets.has_value() && !layer.has_factors && layer.cell.phases == 1 &&
         layer.extra() <= 1 && layer.cell.plain();
}

template <class T>
void forward(const Arguments& a, const Layer& layer, const Kept& kept, Engine engine, const Results& out) {
  const auto& kernels = *cpu::kernels<T>(layer.cell.index);
  if (is_single_step(a, layer) &&
      (engine == Engine::kStepwise || panel_takes_one_step(kernels, layer.dtype, layer.batch, layer.input)))
    single_step<T>(a, layer, kept, engine, out);
  else
    run<T>(a, layer, kept, engine, out);
}

void forward(const Arguments& a, const Layer& layer, const Kept& kept, Engine engine, const Results& out) {
  if (layer.compute == at::kDouble)
    forward<double>(a, layer, kept, engine, out);
  else
    forward<float>(a, layer, kept, engine, out);
}

SequenceResult forward_of_members(const Arguments& a, int64_t members, const std::string& save,
                                  const std::string& engine) {
  const Layer layer(Member(members, 0).of(a));
  const Kept kept(save, layer);
  const Engine chosen = choose_engine(layer, engine).engine;
  const Results out = empty_results(layer, kept, members);
  for_members(members, make_team(layer, layer.rows).threads(), [&](int64_t m) {
    const Arguments own = Member(members, m).of(a);
    forward(own, Layer(own), kept, chosen, out.of(m));
  });
  return out.as(layer.dtype);
}

}  // namespace

SequenceResult sequence_cpu(const Arguments& a, const std::string& save, const std::string& engine) {
  if (const int64_t members = members_of(a)) return forward_of_members(a, members, save, engine);
  const Layer layer(a);
  const Kept kept(save, layer);
  const Results out = empty_results(layer, kept, 0);
  forward(a, layer, kept, choose_engine(layer, engine).engine, out);
  return out.as(layer.dtype);
}

}  // namespace seq::ops
