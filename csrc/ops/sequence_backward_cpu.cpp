// The backward of a layer on the CPU: chunks of time from the last to the first. A chunk: what lean training did not
// keep is computed again by one product, the engine walks, and dW and dx follow by one ATen product each.
#include <numeric>

#include "ops/cpu_common.h"
#include "ops/engines.h"
#include "ops/gradients.h"
#include "ops/large_pages.h"
#include "ops/sequence.h"

namespace seq::ops {

namespace {

template <class T>
struct DirectionBackward {
  DirectionWeights weights, grads;
  PackedWeights<T> packed;
  PackedMatrix<T> w_ih;  // for dx
  Backward<T> b;
  Forward<T> again;  // for the gates that lean training did not keep
  at::Tensor dh, dc, dgx, dgh, dh_out, saved, product;
};

void accumulate_sum(bool first, at::Tensor out, const at::Tensor& rows) {
  if (first)
    at::sum_out(out, rows, 0);
  else
    out.add_(rows.sum(0));
}

// What the gradients of the weights are products of: dense rows of a chunk, or those of a group of rows of the batch.
struct Factors {
  at::Tensor x, dgx, dgh, unprojected, dh_out, d_unit;
  std::vector<at::Tensor> operands;  // of W_hh, by phase
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
        options_(a.x.options().dtype(layer.compute)),
        states_(a, layer) {
    x_ = flat_rows(a.x, layer);
    y_ = s.y.to(layer.compute).contiguous();
    c_all_ = s.c_all.contiguous();
    grad_y_ = computed(s.grad_y, layer), grad_c_all_ = computed(s.grad_c_all, layer);
    lean_ = layer.saved_width > 0 && s.saved.numel() == 0;
    saved_ = s.saved.contiguous();
    const at::Tensor grad_h_n = computed(s.grad_h_n, layer), grad_c_n = computed(s.grad_c_n, layer);
    const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
    // Where every row of x is written once, its gradient need not start from zero.
    dx_once_ = D == 1 && !plan_.data_rows.defined();
    if (needs.x) {
      dx_ = empty_in_large_pages({layer.rows, layer.input}, options_);
      if (!dx_once_) dx_.zero_();
    }
    if (needs.reset_h) dreset_h_ = at::zeros({D, B, P}, options_);
    if (needs.reset_c) dreset_c_ = at::zeros({S - 1, D, B, H}, options_);
    if (needs.decay_h) ddecay_h_ = at::zeros({layer.steps, B, D, P}, options_);
    if (needs.decay_c) ddecay_c_ = at::zeros({S - 1, layer.steps, B, D, H}, options_);
    // A group's products are over its own rows alone, so that they are few: all steps at once.
    steps_ =
        needs.groups > 0 ? std::max<int64_t>(layer.steps, 1) : steps_per_chunk(layer, kChunkBytes, kChunkLeastRows);
    const int64_t rows = std::min(steps_ * B, plan_.dense());
    if (plan_.plan.order) order_ = at::tensor(plan_.order);
    directions_.resize(D);
    for (int64_t d = 0; d < D; ++d) set_up(d, rows, grad_h_n, grad_c_n);
  }

  SequenceGradients run() {
    const int64_t chunks = (layer_.steps + steps_ - 1) / steps_;
    for (int64_t j = chunks - 1; j >= 0; --j) {
      const int64_t k0 = j * steps_, k1 = std::min(k0 + steps_, layer_.steps);
      std::vector<Chunk> chunks_of;
      std::vector<at::Tensor> xs, entering;
      for (int64_t d = 0; d < layer_.directions; ++d) {
        const Chunk c = chunk_of(plan_, k0, k1, a_.reverse[d]);
        chunks_of.push_back(c);
        directions_[d].b.first = c.r0;
        xs.push_back(chunk_rows_of(x_, plan_, c));
        entering.push_back(lean_ || needs_.weight(d, 1) ? gather_entering(d, c) : at::Tensor());
        if (lean_) recompute(d, c, xs[d], entering[d]);
      }
      if (engine_ == Engine::kPanel) {
        team_.run(plan_, [&](int64_t d, const cpu::Share& share) {
          kernels_.backward(directions_[d].b, directions_[d].packed.panels, share, k0, k1);
        });
      } else {
        for (auto& direction : directions_) stepwise(direction, k0, k1);
      }
      for (int64_t d = 0; d < layer_.directions; ++d) products(d, chunks_of[d], xs[d], entering[d], j == chunks - 1);
    }
    for (auto& dir : directions_) {
      if (chunks == 0) {
        for (const auto& g : dir.grads.all())
          if (g.defined()) g.zero_();
      } else if (needs_.groups == 0 && one_sum(dir.grads)) {
        dir.grads.b_hh.copy_(dir.grads.b_ih);
      }
    }
    return results();
  }

 private:
  void set_up(int64_t d, int64_t rows, const at::Tensor& grad_h_n, const at::Tensor& grad_c_n) {
    const int64_t B = layer_.batch, H = layer_.hidden, P = layer_.width, S = layer_.cell.states, G = layer_.cell.gates;
    auto& dir = directions_[d];
    auto& b = dir.b;
    dir.weights = direction_weights(a_, layer_, d);
    dir.grads = empty_gradients(dir.weights, needs_, d, layer_);
    if (engine_ == Engine::kPanel) {
      dir.packed = pack_backward(kernels_, layer_, dir.weights);
      if (needs_.x) dir.w_ih = PackedMatrix<T>::of(kernels_, dir.weights.w_ih);
    } else {
      dir.product = at::empty({B * std::max(H, P)}, options_);
    }
    set_walk(b, a_, layer_, plan_, d, dir.weights, states_, y_, c_all_);
    if (grad_y_.defined()) {
      b.dy = grad_y_.template const_data_ptr<T>() + d * P;
      b.dy_stride = layer_.directions * P;
    }
    if (grad_c_all_.defined()) b.dc_all = grad_c_all_.template const_data_ptr<T>() + d * layer_.rows * H;
    dir.dh = by_place(grad_h_n.defined() ? grad_h_n[d] : at::zeros({B, P}, options_), 0);
    b.dh = dir.dh.template mutable_data_ptr<T>();
    if (S > 1) {
      dir.dc = by_place(grad_c_n.defined() ? grad_c_n.select(1, d) : at::zeros({S - 1, B, H}, options_), 1);
      b.dc = dir.dc.template mutable_data_ptr<T>();
    }
    dir.dgx = at::empty({rows, G * H}, options_);
    dir.dgh = layer_.cell.same_grads ? dir.dgx : at::empty({rows, G * H}, options_);
    b.dgx = dir.dgx.template mutable_data_ptr<T>();
    b.dgh = dir.dgh.template mutable_data_ptr<T>();
    if (layer_.projected()) {
      dir.dh_out = at::empty({rows, P}, options_);
      b.dh_out = dir.dh_out.template mutable_data_ptr<T>();
    }
    if (dreset_h_.defined()) b.dreset_h = dreset_h_[d].template mutable_data_ptr<T>();
    if (dreset_c_.defined()) b.dreset_c = dreset_c_.template mutable_data_ptr<T>() + d * B * H;
    b.ddecay_h = factor_of<T>(ddecay_h_, d), b.ddecay_c = factor_of<T>(ddecay_c_, d);
    if (lean_) {
      dir.saved = at::empty({rows, layer_.saved_width}, options_);
      b.saved = dir.saved.template mutable_data_ptr<T>();
      static_cast<Walk<T>&>(dir.again) = b;
      dir.again.b_hh = data_or_null<T>(dir.weights.b_hh);
    } else if (layer_.saved_width > 0) {
      b.saved = const_cast<T*>(saved_[d].template const_data_ptr<T>());
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
    const int64_t work = std::max<int64_t>(1, 16384 / std::max<int64_t>(layer_.batch * layer_.hidden, 1));
    at::parallel_for(c.k0, c.k1, work, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) call(k, cpu::Share{0, layer_.batch, 0, 1, 1, nullptr});
    });
  }

  at::Tensor gather_entering(int64_t d, const Chunk& c) const {
    at::Tensor out = at::empty({c.rows(), layer_.width}, options_);
    T* to = out.template mutable_data_ptr<T>();
    for_steps(
        c, [&](int64_t k, const cpu::Share& share) { kernels_.gather_entering(directions_[d].b, share, k, c.r0, to); });
    return out;
  }

  void recompute(int64_t d, const Chunk& c, const at::Tensor& x, const at::Tensor& entering) {
    auto& dir = directions_[d];
    const int64_t H = layer_.hidden, G = layer_.cell.gates;
    dir.b.saved_first = dir.again.saved_first = dir.again.gx_first = c.r0;
    if (c.rows() == 0) return;
    at::Tensor gx = at::empty({c.rows(), G * H}, options_);
    multiply_transposed(gx, x, dir.weights.w_ih, dir.weights.b_ih);
    dir.again.gx = gx.template const_data_ptr<T>();
    at::Tensor operand = kernels_.phases > 1 ? at::empty({c.rows(), H}, options_) : at::Tensor();
    for (int p = 0; p < kernels_.phases; ++p) {
      const int64_t first = kernels_.phase_begin[p] * H, last = kernels_.phase_begin[p + 1] * H;
      at::Tensor gh;
      if (layer_.cell.recurrent) {
        gh = at::empty({c.rows(), last - first}, options_);
        multiply_transposed(gh, p == 0 ? entering : operand, dir.weights.w_hh.narrow(0, first, last - first), {});
      }
      const T* product = data_or_null<T>(gh);
      T* next = operand.defined() ? operand.template mutable_data_ptr<T>() : nullptr;
      for_steps(c,
                [&](int64_t k, const cpu::Share& share) { kernels_.recompute[p](dir.again, share, k, product, next); });
    }
  }

  void stepwise(DirectionBackward<T>& dir, int64_t k0, int64_t k1) {
    const int64_t H = layer_.hidden, work = layer_.cell.gates * H;
    const auto& b = dir.b;
    for (int64_t k = k1 - 1; k >= k0; --k) {
      const int64_t t = b.step(k), places = plan_.alive[t];
      if (places == 0) continue;
      const auto rows = [&](const at::Tensor& m) { return m.narrow(0, plan_.start[t] - b.first, places); };
      const auto multiply = [&](const at::Tensor& left, const at::Tensor& right) {
        at::Tensor out = dir.product.narrow(0, 0, places * right.size(1)).view({places, right.size(1)});
        at::mm_out(out, left, right);
        return out.template const_data_ptr<T>();
      };
      const T* d_operand = nullptr;
      if (layer_.projected()) {
        for_places(places, work, [&](const cpu::Share& s) { kernels_.backward_projected(b, s, k); });
        d_operand = multiply(rows(dir.dh_out), dir.weights.w_hr);
      }
      for (int p = kernels_.phases - 1; p >= 0; --p) {
        for_places(places, work, [&](const cpu::Share& s) { kernels_.backward_phase[p](b, s, k, d_operand); });
        if (!layer_.cell.recurrent) continue;
        const int64_t first = kernels_.phase_begin[p] * H, count = kernels_.phase_begin[p + 1] * H - first;
        d_operand = multiply(rows(dir.dgh).narrow(1, first, count), dir.weights.w_hh.narrow(0, first, count));
      }
      for_places(places, work, [&](const cpu::Share& s) { kernels_.backward_carry(b, s, k, d_operand); });
    }
  }

  // dW and dx of a chunk whose gradients of the gates are there.
  void products(int64_t d, const Chunk& c, const at::Tensor& x, const at::Tensor& entering, bool first) {
    auto& dir = directions_[d];
    const DirectionWeights& g = dir.grads;
    const at::Tensor dgx = dir.dgx.narrow(0, 0, c.rows());
    if (needs_.x) {
      if (plan_.data_rows.defined()) {
        const at::Tensor rows = plan_.data_rows.narrow(0, c.r0, c.rows());
        at::Tensor dense = at::empty({c.rows(), layer_.input}, options_);
        times_w_ih(dir, dgx, dense, false);
        dx_.index_add_(0, rows, dense);
      } else {
        times_w_ih(dir, dgx, dx_.narrow(0, c.r0, c.rows()), !dx_once_);
      }
    }
    Factors f{x, dgx, layer_.cell.same_grads ? dgx : dir.dgh.narrow(0, 0, c.rows()), {}, {}, {}, {}};
    if (g.w_hh.defined()) {
      f.operands.push_back(entering);
      for (int p = 1; p < kernels_.phases; ++p)
        f.operands.push_back(
            gather([&](int64_t k, const cpu::Share& s, T* to) { kernels_.gather_operand[p](dir.b, s, k, to); }, c,
                   layer_.hidden));
    }
    if (g.w_hr.defined()) {
      f.unprojected =
          gather([&](int64_t k, const cpu::Share& s, T* to) { kernels_.gather_unprojected(dir.b, s, k, to); }, c,
                 layer_.hidden);
      f.dh_out = dir.dh_out.narrow(0, 0, c.rows());
    }
    if (g.w_unit.defined())
      f.d_unit = gather([&](int64_t k, const cpu::Share& s, T* to) { kernels_.unit_gradient(dir.b, s, k, to); }, c,
                        layer_.cell.unit * layer_.hidden);
    if (needs_.groups == 0)
      weight_gradients(g, f, !first);
    else
      weight_gradients_of_groups(g, f);
  }

  // One group after the other by each thread, by the kernel for few rows that lie apart.
  void weight_gradients_of_groups(const DirectionWeights& g, const Factors& f) const {
    const auto [rows, begin] = rows_of_groups();
    struct Product {
      cpu::Outer<T> of_all;
      int64_t of_group;  // numbers of each group in out
    };
    std::vector<Product> products;
    const auto add = [&](const at::Tensor& out, int64_t offset, const at::Tensor& a, const at::Tensor& b) {
      if (!out.defined() || out.numel() == 0) return;
      cpu::Outer<T> o;
      o.a = a.template const_data_ptr<T>(), o.lda = a.stride(0), o.M = a.size(1);
      if (b.defined()) o.b = b.template const_data_ptr<T>(), o.ldb = b.stride(0), o.N = b.size(1);
      o.rows = rows.template const_data_ptr<int64_t>();
      o.out = out.template mutable_data_ptr<T>() + offset;
      products.push_back({o, out.numel() / needs_.groups});
    };
    const int64_t H = layer_.hidden;
    add(g.w_ih, 0, f.dgx, f.x);
    add(g.b_ih, 0, f.dgx, {});
    add(g.b_hh, 0, f.dgh, {});
    for (size_t p = 0; p < f.operands.size(); ++p) {
      const int64_t first = kernels_.phase_begin[p] * H, count = kernels_.phase_begin[p + 1] * H - first;
      add(g.w_hh, first * layer_.width, f.dgh.narrow(1, first, count), f.operands[p]);
    }
    add(g.w_hr, 0, f.dh_out, f.unprojected);
    add(g.w_unit, 0, f.d_unit, {});
    at::parallel_for(0, needs_.groups, 1, [&, &begin = begin](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        for (const Product& product : products) {
          cpu::Outer<T> o = product.of_all;
          o.rows += begin[i], o.count = begin[i + 1] - begin[i];
          o.out += i * product.of_group;
          kernels_.outer(o);
        }
    });
  }

  // Both biases have the same gradient: summed once.
  bool one_sum(const DirectionWeights& g) const {
    return layer_.cell.same_grads && g.b_ih.defined() && g.b_hh.defined();
  }

  void weight_gradients(const DirectionWeights& g, const Factors& f, bool add) const {
    const int64_t H = layer_.hidden;
    if (g.w_ih.defined()) multiply(g.w_ih, f.dgx.t(), f.x, add);
    if (g.b_ih.defined()) accumulate_sum(!add, g.b_ih, f.dgx);
    if (g.b_hh.defined() && !one_sum(g)) accumulate_sum(!add, g.b_hh, f.dgh);
    if (g.w_hh.defined()) {
      for (int p = 0; p < kernels_.phases; ++p) {
        const int64_t begin = kernels_.phase_begin[p] * H, count = kernels_.phase_begin[p + 1] * H - begin;
        multiply(g.w_hh.narrow(0, begin, count), f.dgh.narrow(1, begin, count).t(), f.operands[p], add);
      }
    }
    if (g.w_hr.defined()) multiply(g.w_hr, f.dh_out.t(), f.unprojected, add);
    if (g.w_unit.defined()) accumulate_sum(!add, g.w_unit, f.d_unit);
  }

  // The dense rows of all steps, one group's after the other's, and where each group begins.
  std::pair<at::Tensor, std::vector<int64_t>> rows_of_groups() const {
    const int64_t each = std::max<int64_t>(layer_.batch / needs_.groups, 1);
    const auto for_rows = [&](const auto& call) {
      for (int64_t t = 0; t < layer_.steps; ++t)
        for (int64_t i = 0; i < plan_.alive[t]; ++i) call(plan_.plan.batch_row(i) / each, plan_.start[t] + i);
    };
    std::vector<int64_t> begin(needs_.groups + 1, 0);
    for_rows([&](int64_t group, int64_t) { ++begin[group + 1]; });
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    at::Tensor order = at::empty({plan_.dense()}, at::kLong);
    std::vector<int64_t> next = begin;
    for_rows([&, to = order.mutable_data_ptr<int64_t>()](int64_t group, int64_t row) { to[next[group]++] = row; });
    return {order, begin};
  }

  // out = a b, or out += a b.
  void multiply(at::Tensor out, const at::Tensor& a, const at::Tensor& b, bool add) const {
    if (engine_ == Engine::kPanel)
      PackedMatrix<T>::of(kernels_, b).multiply(a, out, {}, add);
    else if (add)
      out.addmm_(a, b);
    else
      at::mm_out(out, a, b);
  }

  void times_w_ih(const DirectionBackward<T>& dir, const at::Tensor& dgx, at::Tensor out, bool add) const {
    if (dir.w_ih.defined())
      dir.w_ih.multiply(dgx, out, {}, add);
    else
      multiply(out, dgx, dir.weights.w_ih, add);
  }

  // out = a w^T (+ bias), for what lean training computes again.
  void multiply_transposed(at::Tensor out, const at::Tensor& a, const at::Tensor& w, const at::Tensor& bias) const {
    if (engine_ == Engine::kPanel)
      PackedMatrix<T>::transposed(kernels_, w).multiply(a, out, bias);
    else
      product_into(kernels_, out, a, w, bias);
  }

  template <class Call>
  at::Tensor gather(const Call& call, const Chunk& c, int64_t width) const {
    at::Tensor out = at::empty({c.rows(), width}, options_);
    T* to = out.template mutable_data_ptr<T>();
    for_steps(c, [&](int64_t k, const cpu::Share& share) { call(k, share, to); });
    return out;
  }

  SequenceGradients results() const {
    const auto given = [&](const at::Tensor& t) {
      return t.defined() ? t.to(layer_.dtype) : at::empty({0}, a_.x.options());
    };
    std::vector<at::Tensor> dh, dc, dw;
    for (int64_t d = 0; d < layer_.directions; ++d) {
      const auto& dir = directions_[d];
      if (needs_.h0) dh.push_back(by_row(dir.dh, 0));
      if (needs_.c0) dc.push_back(by_row(dir.dc, 1));
      for (const auto& g : dir.grads.all()) dw.push_back(given(g));
    }
    return {given(dx_.defined() ? dx_.view(a_.x.sizes()) : dx_),
            given(needs_.h0 ? at::stack(dh) : at::Tensor()),
            given(needs_.c0 ? at::stack(dc, 1) : at::Tensor()),
            given(dreset_h_),
            given(dreset_c_),
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
  const at::TensorOptions options_;
  const States states_;
  at::Tensor x_, y_, c_all_, saved_, grad_y_, grad_c_all_;
  at::Tensor dx_, dreset_h_, dreset_c_, ddecay_h_, ddecay_c_, order_;
  bool lean_ = false, dx_once_ = false;
  int64_t steps_ = 1;
  std::vector<DirectionBackward<T>> directions_;
};

}  // namespace

SequenceGradients sequence_backward_cpu(const Arguments& a, const Saved& s, const std::string& engine,
                                        const std::vector<bool>& needs, int64_t weight_groups) {
  const Layer layer(a);
  const Engine chosen = choose_engine(layer, engine).engine;
  const Needs wanted(needs, weight_groups, layer);
  check_saved(s, layer, a.x);
  if (layer.compute == at::kDouble) return LayerBackward<double>(a, s, layer, chosen, wanted).run();
  return LayerBackward<float>(a, s, layer, chosen, wanted).run();
}

}  // namespace seq::ops
