// The backward of a layer on the CPU: chunks of time from the last to the first. A chunk: what lean training did not
// keep is computed again by one product, the engine walks, and dW and dx follow by one ATen product each. Where the
// states beside h were kept between segments only, those of some segments are restored before their chunks.
#include "ops/members.h"
#include "ops/norm_cpu.h"
#include "ops/page_pool.h"
#include "ops/weight_gradients_cpu.h"

namespace seq::ops {

namespace {

template <class T>
struct DirectionBackward {
  DirectionWeights weights, grads;
  PackedMatrix<T> w_ih;  // for dx
  at::Tensor dgx, dgh, dh_out, saved;
  Chunk with_gates{};  // the chunk whose gates were computed again last
  std::optional<StateWindow> window;
  at::Tensor dph, d_unit, dc_normed;  // of cells that normalise; dph: of h W_hh^T, for others dgh
  at::Tensor input_product;           // of a chunk, where the cell normalises it
};

// Of one walk, a head of a direction.
template <class T>
struct WalkBackward {
  DirectionWeights weights;
  PackedWeights<T> packed;
  Backward<T> b;
  Forward<T> again;  // for the gates that lean training did not keep
  at::Tensor dh, dc, product;
};

template <class T>
class LayerBackward {
 public:
  LayerBackward(const Arguments& a, const Saved& s, const Layer& layer, Engine engine, const Needs& needs)
      : a_(a),
        layer_(layer),
        engine_(engine),
        needs_(needs),
        kernels_(*cpu::kernels<T>(layer.cell.index)),
        plan_(make_plan(a, layer)),
        team_(make_team(layer, plan_.dense())),
        products_{kernels_, layer, engine},
        weight_gradients_(products_, plan_, needs),
        options_(a.x.options().dtype(layer.compute)),
        states_(a, layer),
        pairs_(of_pairs(layer, engine) && needs.groups == 0) {
    x_ = flat_rows(a.x, layer, pairs_);
    y_ = converted(s.y, layer.compute).contiguous();
    c_all_ = s.c_all.contiguous();
    grad_y_ = computed(s.grad_y, layer), grad_c_all_ = computed(s.grad_c_all, layer);
    lean_ = s.lean(layer), marked_ = s.marked(layer);
    saved_ = s.saved.contiguous();
    const at::Tensor grad_h_n = by_walk(computed(s.grad_h_n, layer), layer);
    const at::Tensor grad_c_n = by_walk(computed(s.grad_c_n, layer), layer);
    const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
    const int64_t W = layer.walks();
    if (needs.x) dx_ = starting_dx<T>(layer, plan_);
    if (needs.reset_h) dreset_h_ = at::zeros({W, B, layer.head_width()}, options_);
    if (needs.reset_c) dreset_c_ = at::zeros({S - 1, W, B, layer.head_hidden()}, options_);
    if (needs.decay_h) ddecay_h_ = at::zeros({layer.steps, B, D, P}, options_);
    if (needs.decay_c) ddecay_c_ = at::zeros({S - 1, layer.steps, B, D, H}, options_);
    // A group's products are over its own rows alone, so that they are few: all steps at once.
    steps_ = needs.groups > 0 ? std::max<int64_t>(layer.steps, 1) : even_chunk_steps(layer);
    segments_ = restored_steps(layer, marked_ && needs.groups == 0 ? saved_.size(1) : 0, steps_);
    const int64_t rows = std::min(steps_ * B, plan_.dense());
    if (plan_.plan.order) order_ = at::tensor(plan_.order);
    directions_.resize(D), walks_.resize(W);
    for (int64_t d = 0; d < D; ++d) set_up_direction(d, rows);
    for (int64_t w = 0; w < W; ++w) set_up_walk(w, grad_h_n, grad_c_n);
  }

  SequenceGradients run() {
    for (int64_t s1 = layer_.steps, s0; s1 > 0; s1 = s0) {
      s0 = (s1 - 1) / segments_ * segments_;
      if (marked_) restore(s0, s1);
      for (int64_t k1 = s1, k0; k1 > s0; k1 = k0) {
        k0 = s0 + (k1 - 1 - s0) / steps_ * steps_;
        walk_chunk(k0, k1);
      }
    }
    for (const auto& dir : directions_) weight_gradients_.finish(dir.grads, layer_.steps > 0);
    return results();
  }

 private:
  void set_up_direction(int64_t d, int64_t rows) {
    const int64_t gates = layer_.cell.gates * layer_.hidden;
    auto& dir = directions_[d];
    dir.weights = direction_weights(a_, layer_, d, pairs_);
    dir.grads = empty_gradients(dir.weights, needs_, d, layer_);
    if (engine_ == Engine::kPanel && needs_.x) dir.w_ih = PackedMatrix<T>::of(kernels_, dir.weights.w_ih);
    const at::ScalarType of_gates = pairs_ ? layer_.dtype : layer_.compute;
    dir.dgx = empty_in_small_pages({rows, gates}, of_gates);
    dir.dgh = layer_.cell.same_grads ? dir.dgx : empty_in_small_pages({rows, gates}, of_gates);
    if (layer_.output_later()) dir.dh_out = empty_in_small_pages({rows, layer_.width}, layer_.compute);
    if (layer_.cell.norms_state) dir.dc_normed = empty_in_small_pages({layer_.batch, layer_.hidden}, layer_.compute);
    dir.dph = layer_.cell.norms > 0 ? empty_in_small_pages({rows, gates}, layer_.compute) : dir.dgh;
    if (layer_.cell.norms > 0 && dir.grads.w_unit.defined())
      dir.d_unit = empty_in_small_pages({rows, layer_.cell.unit * layer_.hidden}, layer_.compute);
    if (marked_) dir.window.emplace(layer_, plan_, d, a_.reverse[d], segments_ + 1);
    if (lean_)
      dir.saved = empty_in_small_pages({rows, layer_.saved_width}, layer_.compute);
    else if (layer_.saved_width > 0)
      dir.saved = saved_[d];
  }

  void set_up_walk(int64_t number, const at::Tensor& grad_h_n, const at::Tensor& grad_c_n) {
    const int64_t B = layer_.batch, H = layer_.head_hidden(), P = layer_.head_width(), S = layer_.cell.states;
    const int64_t d = number / layer_.heads, head = number % layer_.heads;
    const auto& dir = directions_[d];
    auto& w = walks_[number];
    auto& b = w.b;
    w.weights = head_of(dir.weights, layer_, head);
    if (engine_ == Engine::kPanel)
      w.packed = pack_backward(kernels_, layer_, w.weights);
    else
      w.product = empty_in_small_pages({B * std::max(H, P)}, layer_.compute);
    set_walk(b, a_, layer_, plan_, number, w.weights, states_, y_, c_all_);
    if (grad_y_.defined()) {
      b.dy = grad_y_.template const_data_ptr<T>() + number * P;
      b.dy_stride = b.y_stride;
    }
    if (grad_c_all_.defined() && !marked_)
      b.dc_all = grad_c_all_.template const_data_ptr<T>() + d * layer_.rows * layer_.hidden + head * H;
    w.dh = by_place(grad_h_n.defined() ? grad_h_n[number] : at::zeros({B, P}, options_), 0);
    b.dh = w.dh.template mutable_data_ptr<T>();
    if (S > 1) {
      w.dc = by_place(grad_c_n.defined() ? grad_c_n.select(1, number) : at::zeros({S - 1, B, H}, options_), 1);
      b.dc = w.dc.template mutable_data_ptr<T>();
    }
    b.dgx = static_cast<T*>(dir.dgx.mutable_data_ptr()) + products_.gates_at(head);
    b.dgh = static_cast<T*>(dir.dgh.mutable_data_ptr()) + products_.gates_at(head);
    b.halves = pairs_;
    const auto written = [](const at::Tensor& t) { return t.defined() ? t.template mutable_data_ptr<T>() : nullptr; };
    b.dh_out = written(dir.dh_out), b.dc_normed = written(dir.dc_normed);
    if (layer_.cell.norms > 0) b.d_product = written(dir.dph), b.d_unit = written(dir.d_unit);
    if (dreset_h_.defined()) b.dreset_h = dreset_h_[number].template mutable_data_ptr<T>();
    if (dreset_c_.defined()) b.dreset_c = dreset_c_.template mutable_data_ptr<T>() + number * B * H;
    b.ddecay_h = factor_of<T>(ddecay_h_, d, head * H), b.ddecay_c = factor_of<T>(ddecay_c_, d, head * H);
    if (dir.saved.defined())
      b.saved = const_cast<T*>(dir.saved.template const_data_ptr<T>()) + head * (layer_.saved_width / layer_.heads);
    if (lean_) {
      static_cast<Walk<T>&>(w.again) = b;
      w.again.b_hh = data_or_null<T>(w.weights.b_hh);
    }
  }

  void walk_chunk(int64_t k0, int64_t k1) {
    std::vector<Chunk> chunks;
    std::vector<at::Tensor> xs, entering(layer_.walks());
    for (int64_t d = 0; d < layer_.directions; ++d) {
      const Chunk c = chunk_of(plan_, k0, k1, a_.reverse[d]);
      chunks.push_back(c);
      xs.push_back(chunk_rows_of(x_, plan_, c));
      for (int64_t w = d * layer_.heads; w < (d + 1) * layer_.heads; ++w) {
        walks_[w].b.first = c.r0;
        if (lean_ || needs_.weight(d, 1)) entering[w] = gather_entering(w, c);
      }
      if (lean_ && directions_[d].with_gates != c) recompute(d, c, xs[d], entering);
      if (!lean_ && layer_.cell.norms > 0) multiply_input(d, c, xs[d]);
    }
    if (engine_ == Engine::kPanel) {
      team_.run(plan_, [&](int64_t w, const cpu::Share& share) {
        kernels_.backward(walks_[w].b, walks_[w].packed.panels, share, k0, k1);
      });
    } else {
      for (int64_t w = 0; w < layer_.walks(); ++w) stepwise(w, k0, k1);
    }
    const bool first = k1 == layer_.steps;
    for (int64_t d = 0; d < layer_.directions; ++d) sum_chunk(d, chunks[d], xs[d], entering, first);
  }

  // The states beside h of the walk steps [s0, s1), from those that were kept before s0.
  void restore(int64_t s0, int64_t s1) {
    // The operand of a later phase depends on the states: with more than one, a chunk is a step.
    const int64_t steps = kernels_.phases > 1 ? 1 : steps_;
    for (int64_t d = 0; d < layer_.directions; ++d) {
      StateWindow& window = *directions_[d].window;
      window.move(std::max<int64_t>(s0 - 1, 0), s1);
      if (s0 > 0) window.take(saved_, s0, [](const at::Tensor& left, const at::Tensor& mark) { left.copy_(mark); });
      for (int64_t w = d * layer_.heads; w < (d + 1) * layer_.heads; ++w) {
        set_states(walks_[w].b, layer_, w, window);
        set_states(walks_[w].again, layer_, w, window);
      }
      std::vector<at::Tensor> entering(layer_.walks());
      for (int64_t k0 = s0; k0 < s1; k0 += steps) {
        const Chunk c = chunk_of(plan_, k0, std::min(k0 + steps, s1), a_.reverse[d]);
        for (int64_t w = d * layer_.heads; w < (d + 1) * layer_.heads; ++w) entering[w] = gather_entering(w, c);
        recompute(d, c, chunk_rows_of(x_, plan_, c), entering, true);
      }
    }
  }

  // A copy of [.., B, ..] by place.
  at::Tensor by_place(const at::Tensor& t, int64_t dim) const {
    return order_.defined() ? t.index_select(dim, order_) : t.clone(at::MemoryFormat::Contiguous);
  }
  at::Tensor by_row(const at::Tensor& t, int64_t dim) const {
    return order_.defined() ? at::empty_like(t).index_copy_(dim, order_, t) : t;
  }

  // call(k, share) for the walk steps of a chunk, in parallel over the steps.
  template <class Call>
  void for_steps(const Chunk& c, const Call& call) const {
    constexpr int64_t kNumbersPerTask = 1 << 17;
    const int64_t work = std::max<int64_t>(1, kNumbersPerTask / std::max<int64_t>(layer_.batch * layer_.hidden, 1));
    at::parallel_for(c.k0, c.k1, work, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) call(k, cpu::Share{0, layer_.batch, 0, 1, 1, nullptr});
    });
  }

  at::Tensor gather_entering(int64_t w, const Chunk& c) const {
    const at::Tensor h =
        gather([&](int64_t k, const cpu::Share& s, T* to) { kernels_.gather_entering(walks_[w].b, s, k, c.r0, to); }, c,
               layer_.head_width());
    return pairs_ ? converted(h, layer_.dtype, Pages::kSmall) : h;
  }

  void multiply_input(int64_t d, const Chunk& c, const at::Tensor& x) {
    auto& dir = directions_[d];
    dir.input_product = empty_in_small_pages({c.rows(), layer_.cell.gates * layer_.hidden}, layer_.compute);
    if (c.rows() > 0) products_.multiply_transposed(dir.input_product, x, dir.weights.w_ih, {});
  }

  // The gates that lean training did not keep; restores: the states beside h as well.
  void recompute(int64_t d, const Chunk& c, const at::Tensor& x, const std::vector<at::Tensor>& entering,
                 bool restores = false) {
    auto& dir = directions_[d];
    dir.with_gates = c;
    const int64_t H = layer_.head_hidden();
    const bool norms = layer_.cell.norms > 0;
    at::Tensor gx = empty_in_small_pages({c.rows(), layer_.cell.gates * layer_.hidden}, layer_.compute);
    if (norms) {
      multiply_input(d, c, x);
      normalize_input(kernels_, layer_, dir.weights, dir.input_product, gx);
    } else if (c.rows() > 0) {
      products_.multiply_transposed(gx, x, dir.weights.w_ih, dir.weights.b_ih);
    }
    for (int64_t head = 0; head < layer_.heads; ++head) {
      const int64_t number = d * layer_.heads + head;
      auto& w = walks_[number];
      w.b.saved_first = w.again.saved_first = w.again.gx_first = c.r0;
      w.again.restores = restores;
      if (c.rows() == 0) continue;
      w.again.gx = gx.template const_data_ptr<T>() + products_.gates_at(head);
      at::Tensor operand = kernels_.phases > 1 ? empty_in_small_pages({c.rows(), H}, layer_.compute) : at::Tensor();
      for (int p = 0; p < kernels_.phases; ++p) {
        at::Tensor gh;
        if (layer_.cell.recurrent) {
          gh = empty_in_small_pages({c.rows(), products_.gates_of(p)}, layer_.compute);
          products_.multiply_transposed(gh, p == 0 ? entering[number] : operand,
                                        w.weights.w_hh.narrow(0, products_.gates_at(0, p), products_.gates_of(p)), {});
          if (norms) normalize_hidden(kernels_, layer_, dir.weights, gh, dir.saved);
        }
        const T* product = data_or_null<T>(gh);
        T* next = operand.defined() ? operand.template mutable_data_ptr<T>() : nullptr;
        const auto call = [&](int64_t k, const cpu::Share& s) { kernels_.recompute[p](w.again, s, k, product, next); };
        if (!restores)
          for_steps(c, call);
        else
          for (int64_t k = c.k0; k < c.k1; ++k)
            for_places(layer_.batch, products_.gates_of(p), [&](const auto& s) { call(k, s); });
      }
    }
  }

  void stepwise(int64_t number, int64_t k0, int64_t k1) {
    const int64_t d = number / layer_.heads, head = number % layer_.heads;
    const auto& dir = directions_[d];
    const auto& w = walks_[number];
    const auto& b = w.b;
    const int64_t work = layer_.cell.gates * b.hidden;
    for (int64_t k = k1 - 1; k >= k0; --k) {
      const int64_t t = b.step(k), places = plan_.alive[t];
      if (places == 0) continue;
      const auto rows = [&](const at::Tensor& m) { return m.narrow(0, plan_.start[t] - b.first, places); };
      const auto multiply = [&](const at::Tensor& left, const at::Tensor& right) {
        at::Tensor out = w.product.narrow(0, 0, places * right.size(1)).view({places, right.size(1)});
        at::mm_out(out, left, right);
        return out.template const_data_ptr<T>();
      };
      const T* d_operand = nullptr;
      if (layer_.projected()) {
        for_places(places, work, [&](const cpu::Share& s) { kernels_.backward_projected(b, s, k); });
        d_operand = multiply(rows(dir.dh_out), w.weights.w_hr);
      }
      for (int p = kernels_.phases - 1; p >= 0; --p) {
        for_places(places, work, [&](const cpu::Share& s) { kernels_.backward_phase[p](b, s, k, d_operand); });
        if (!layer_.cell.recurrent) continue;
        d_operand = multiply(rows(dir.dph).narrow(1, products_.gates_at(head, p), products_.gates_of(p)),
                             w.weights.w_hh.narrow(0, products_.gates_at(0, p), products_.gates_of(p)));
      }
      for_places(places, work, [&](const cpu::Share& s) { kernels_.backward_carry(b, s, k, d_operand); });
    }
  }

  // dW and dx of a chunk whose gradients of the gates are there.
  void sum_chunk(int64_t d, const Chunk& c, const at::Tensor& x, const std::vector<at::Tensor>& entering, bool first) {
    const auto& dir = directions_[d];
    const DirectionWeights& g = dir.grads;
    const auto of_chunk = [&](const at::Tensor& t) { return t.narrow(0, 0, c.rows()); };
    const at::Tensor dgx = of_chunk(dir.dgx), d_unit = dir.d_unit.defined() ? of_chunk(dir.d_unit) : at::Tensor();
    const at::Tensor dpx = layer_.cell.norms == 0 ? dgx
                                                  : normalize_input_backward(kernels_, layer_, dir.weights,
                                                                             dir.input_product, dgx, d_unit);
    typename Products<T>::Later later;
    if (needs_.x) {
      if (plan_.data_rows.defined()) {
        at::Tensor dense = empty_in_small_pages({c.rows(), layer_.input}, layer_.compute);
        times_w_ih(dir, dpx, dense, false, later);
        products_.run(later);
        put_chunk_rows<T>(dense, plan_, c, !writes_dx_once(layer_), dx_);
      } else {
        times_w_ih(dir, dpx, dx_.narrow(0, c.r0, c.rows()), !writes_dx_once(layer_), later);
      }
    }
    GateGradients f{x, dgx, of_chunk(dir.dgh), dpx, of_chunk(dir.dph), {}, {}, {}, {}};
    const int64_t H = layer_.head_hidden();
    for (int64_t w = d * layer_.heads; w < (d + 1) * layer_.heads; ++w) {
      const Backward<T>& b = walks_[w].b;
      if (g.w_hh.defined()) {
        f.operands.push_back({entering[w]});
        for (int p = 1; p < kernels_.phases; ++p)
          f.operands.back().push_back(
              gather([&](int64_t k, const cpu::Share& s, T* to) { kernels_.gather_operand[p](b, s, k, to); }, c, H));
      }
      if (g.w_hr.defined()) {
        f.unprojected =
            gather([&](int64_t k, const cpu::Share& s, T* to) { kernels_.gather_unprojected(b, s, k, to); }, c, H);
        f.dh_out = dir.dh_out.narrow(0, 0, c.rows());
      }
      if (d_unit.defined())
        f.d_unit.push_back(d_unit);
      else if (g.w_unit.defined())
        f.d_unit.push_back(gather([&](int64_t k, const cpu::Share& s, T* to) { kernels_.unit_gradient(b, s, k, to); },
                                  c, layer_.cell.unit * H));
    }
    weight_gradients_.take(g, f, !first, later);
    products_.run(later);
  }

  void times_w_ih(const DirectionBackward<T>& dir, const at::Tensor& dpx, at::Tensor out, bool add,
                  typename Products<T>::Later& later) const {
    if (dir.w_ih.defined())
      products_.put(dir.w_ih.prepared(dpx, out, {}, add), later);
    else
      products_.multiply(out, dpx, dir.weights.w_ih, add, later);
  }

  template <class Call>
  at::Tensor gather(const Call& call, const Chunk& c, int64_t width) const {
    at::Tensor out = empty_in_small_pages({c.rows(), width}, layer_.compute);
    T* to = out.template mutable_data_ptr<T>();
    for_steps(c, [&](int64_t k, const cpu::Share& share) { call(k, share, to); });
    return out;
  }

  SequenceGradients results() const {
    const auto given = [&](const at::Tensor& t) {
      return t.defined() ? converted(t, layer_.dtype) : at::empty({0}, a_.x.options());
    };
    std::vector<at::Tensor> dh, dc, dw;
    for (const auto& w : walks_) {
      if (needs_.h0) dh.push_back(by_row(w.dh, 0));
      if (needs_.c0) dc.push_back(by_row(w.dc, 1));
    }
    const auto states = [&](const at::Tensor& t) { return given(by_direction(t, layer_)); };
    for (const auto& dir : directions_) {
      const int64_t rows = needs_.groups > 0 ? 1 : 0;
      const auto of_gates = [&](const at::Tensor& g) { return given(by_gate(g, layer_, rows)); };
      const DirectionWeights& g = dir.grads;
      for (const at::Tensor& t :
           {of_gates(g.w_ih), of_gates(g.w_hh), of_gates(g.b_ih), of_gates(g.b_hh), given(g.w_hr), of_gates(g.w_unit)})
        dw.push_back(t);
    }
    return {given(dx_.defined() ? dx_.view(a_.x.sizes()) : dx_),
            states(needs_.h0 ? at::stack(dh) : at::Tensor()),
            states(needs_.c0 ? at::stack(dc, 1) : at::Tensor()),
            states(dreset_h_),
            states(dreset_c_),
            ddecay_h_.defined() ? ddecay_h_ : at::empty({0}, options_),
            ddecay_c_.defined() ? ddecay_c_ : at::empty({0}, options_),
            dw};
  }

  const Arguments& a_;
  const Layer& layer_;
  const Engine engine_;
  const Needs& needs_;
  const cpu::Kernels<T>& kernels_;
  const PlanStorage plan_;
  const Team team_;
  const Products<T> products_;
  const WeightGradients<T> weight_gradients_;
  const at::TensorOptions options_;
  const States states_;
  const bool pairs_;  // the products are of pairs of bfloat16
  at::Tensor x_, y_, c_all_, saved_, grad_y_, grad_c_all_;
  at::Tensor dx_, dreset_h_, dreset_c_, ddecay_h_, ddecay_c_, order_;
  bool lean_ = false, marked_ = false;
  int64_t steps_ = 1, segments_ = 1;  // of a chunk; of the segments that are restored at once
  std::vector<DirectionBackward<T>> directions_;
  std::vector<WalkBackward<T>> walks_;
};

SequenceGradients backward(const Arguments& a, const Saved& s, const std::string& engine,
                           const std::vector<bool>& needs, int64_t weight_groups) {
  const Layer layer(a);
  const Engine chosen = choose_engine(layer, engine).engine;
  const Needs wanted(needs, weight_groups, layer);
  check_saved(s, layer, a.x);
  if (layer.compute == at::kDouble) return LayerBackward<double>(a, s, layer, chosen, wanted).run();
  return LayerBackward<float>(a, s, layer, chosen, wanted).run();
}

}  // namespace

SequenceGradients sequence_backward_cpu(const Arguments& a, const Saved& s, const std::string& engine,
                                        const std::vector<bool>& needs, int64_t weight_groups) {
  const int64_t members = members_of(a);
  if (members == 0) return backward(a, s, engine, needs, weight_groups);
  std::vector<SequenceGradients> each(members);
  const Layer layer(Member(members, 0).of(a));
  for_members(members, make_team(layer, layer.rows).threads(), [&](int64_t m) {
    const Member member(members, m);
    each[m] = backward(member.of(a), member.of(s), engine, needs, weight_groups);
  });
  return stacked(each);
}

}  // namespace seq::ops
