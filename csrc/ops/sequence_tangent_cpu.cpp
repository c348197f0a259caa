// A layer and its gradients on dual numbers (cpu/tangent.h): one walk forward over all steps, whose values and
// tangents are kept, and, where gradients are asked for, one backward. The products over many steps are as in
// sequence_cpu.cpp and sequence_backward_cpu.cpp: of a product a b the tangent is a' b + a b'.
#include <algorithm>

#include "ops/cpu_common.h"
#include "ops/engines.h"
#include "ops/gradients.h"
#include "ops/page_pool.h"
#include "ops/tangent.h"

namespace seq::ops {

namespace {

// [.., 2, width]: a value and its tangent, zeros for one that is not there; undefined where there is neither.
at::Tensor pairs(const at::Tensor& value, const at::Tensor& tangent) {
  if (!value.defined() && !tangent.defined()) return {};
  const at::Tensor& one = value.defined() ? value : tangent;
  std::vector<int64_t> shape = one.sizes().vec();
  shape.insert(shape.end() - 1, 2);
  const at::Tensor out = empty_in_small_pages(shape, one.scalar_type());
  for (int i = 0; i < 2; ++i) {
    const at::Tensor& from = i == 0 ? value : tangent;
    at::Tensor to = out.select(-2, i);
    from.defined() ? to.copy_(from) : to.zero_();
  }
  return out;
}

// Of rows that are pairs.
at::Tensor values(const at::Tensor& t) { return t.select(-2, 0); }
at::Tensor tangents(const at::Tensor& t) { return t.select(-2, 1); }

void check_directions(const TangentArguments& a, const Layer& layer) {
  const auto check = [](const OptionalTensor& t, const OptionalTensor& of, const char* name, at::ScalarType dtype) {
    if (!t.has_value() || !t->defined()) return;
    TORCH_CHECK(of.has_value() && of->defined(), "seqcuda: the direction of ", name, " is given, ", name, " is not");
    TORCH_CHECK(t->sizes() == of->sizes() && t->scalar_type() == dtype && t->device() == of->device(),
                "seqcuda: the direction of ", name, " must be ", dtype, " of shape ", of->sizes(), " on ", of->device(),
                ", got ", t->scalar_type(), " of shape ", t->sizes(), " on ", t->device());
  };
  const auto &v = a.directions, &of = a.inputs;
  check(v.x, of.x, "x", layer.dtype);
  check(v.h0, of.h0, "h0", layer.dtype);
  check(v.c0, of.c0, "c0", layer.dtype);
  check(v.reset_h, of.reset_h, "reset_h", layer.dtype);
  check(v.reset_c, of.reset_c, "reset_c", layer.dtype);
  TORCH_CHECK(v.weights.size() == of.weights.size(), "seqcuda: expected directions of ", of.weights.size(),
              " weights, got ", v.weights.size());
  for (size_t j = 0; j < of.weights.size(); ++j) check(v.weights[j], of.weights[j], "a weight", layer.dtype);
}

void check_grads(const OutputGradients& g, const Layer& layer, const at::Tensor& x) {
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width;
  std::vector<int64_t> of_y = layer.leading, of_c_all{layer.extra(), D};
  of_y.push_back(D * P);
  of_c_all.insert(of_c_all.end(), layer.leading.begin(), layer.leading.end());
  of_c_all.push_back(H);
  const auto check = [&](const OptionalTensor& t, const char* name, at::ScalarType dtype,
                         const std::vector<int64_t>& shape) {
    if (!t.has_value()) return;
    TORCH_CHECK(t->sizes() == at::IntArrayRef(shape) && t->scalar_type() == dtype && t->device() == x.device(),
                "seqcuda: the gradient of ", name, " must be ", dtype, " of shape ", at::IntArrayRef(shape), " on ",
                x.device(), ", got ", t->scalar_type(), " of shape ", t->sizes(), " on ", t->device());
  };
  check(g.y, "y", layer.dtype, of_y);
  check(g.h_n, "h_n", layer.dtype, {D, B, P});
  check(g.c_n, "c_n", layer.dtype, {layer.extra(), D, B, H});
  check(g.c_all, "c_all", layer.compute, of_c_all);
}

// The right side of products, packed where the engine packs.
template <class T>
struct Matrix {
  at::Tensor plain;
  PackedMatrix<T> packed;
};

template <class T>
struct DirectionTangent {
  DirectionWeights weights, directions, grads;
  PackedWeights<T> packed, packed_tangents;  // of the walk under way, as the next two
  Matrix<T> w_ih, w_ih_tangent;
  Forward<T> f;
  Backward<T> b;
  at::Tensor b_hh, h, c, operand, saved, gx, dh, dc, dgx, dgh, dh_out, product;
};

template <class T>
class LayerTangent {
 public:
  LayerTangent(const TangentArguments& a, const Layer& layer, const Needs& needs)
      : a_(a),
        layer_(layer),
        needs_(needs),
        engine_(choose_engine(layer, "auto").engine),
        backward_(std::find(needs.all.begin(), needs.all.end(), true) != needs.all.end()),
        kernels_(*cpu::kernels<T>(layer.cell.index)),
        plan_(make_plan(a.inputs, layer)),
        team_(make_team(layer, plan_.dense())),
        known_(a.y.has_value() && layer.cell.from_output && engine_ == Engine::kPanel && layer.dtype == layer.compute),
        options_(a.inputs.x.options().dtype(layer.compute)),
        states_(a.inputs, layer) {
    const auto &in = a.inputs, &v = a.directions;
    const auto pair_with = [&](at::Tensor& t, const OptionalTensor& tangent) {
      t = pairs(t, computed(tangent, layer));
    };
    pair_with(states_.h0, v.h0), pair_with(states_.c0, v.c0);
    pair_with(states_.reset_h, v.reset_h), pair_with(states_.reset_c, v.reset_c);
    x_ = flat_rows(in.x, layer);
    if (v.x.defined()) x_tangent_ = flat_rows(v.x, layer);
    const int64_t D = layer.directions, B = layer.batch, H = layer.hidden, P = layer.width, S = layer.cell.states;
    // No walk visits the rows past a length.
    const auto rows_of = [&](at::IntArrayRef sizes) {
      return plan_.plan.order ? at::zeros(sizes, options_) : empty_in_large_pages(sizes, layer.compute);
    };
    if (known_) known_y_ = a.y->contiguous();
    y_ = rows_of({layer.rows, D, 2, P});
    c_all_ = rows_of({a.return_states || backward_ ? S - 1 : 0, D, layer.rows, 2, H});
    steps_ = even_chunk_steps(layer);
    if (plan_.plan.order) order_ = at::tensor(plan_.order);
    directions_.resize(D);
    Layer of_pairs = layer;
    of_pairs.hidden *= 2, of_pairs.width *= 2;
    for (int64_t d = 0; d < D; ++d) {
      auto& dir = directions_[d];
      dir.weights = direction_weights(in, layer, d);
      dir.directions = direction_weights(v, layer, d);
      if (engine_ == Engine::kStepwise)
        dir.product = empty_in_small_pages({2 * B * std::max(layer.cell.gates * H, P)}, layer_.compute);
      set_walk(dir.f, in, of_pairs, plan_, d, dir.weights, states_, y_, c_all_);
      dir.f.rounding = Rounding::kNone;
      if (known_) dir.f.known = known_y_.template const_data_ptr<T>() + d * P, dir.f.known_stride = D * P;
    }
  }

  TangentResult run() {
    for (int64_t d = 0; d < layer_.directions; ++d) set_up_forward(d);
    for (int64_t k0 = 0; k0 < layer_.steps; k0 += steps_) forward(k0, std::min(k0 + steps_, layer_.steps));
    if (backward_) {
      const auto &g = a_.grads, &v = a_.grad_directions;
      const int64_t D = layer_.directions, B = layer_.batch, H = layer_.hidden, P = layer_.width;
      const at::Tensor dh = both(g.h_n, v.h_n), dc = both(g.c_n, v.c_n);
      const auto by_direction = [&](const OptionalTensor& dy) {
        const at::Tensor own = computed(dy, layer_);
        return own.defined() ? own.view({layer_.rows, D, P}) : own;
      };
      grad_y_ = pairs(by_direction(g.y), by_direction(v.y)), grad_c_all_ = both(g.c_all, v.c_all);
      if (needs_.x) dx_ = starting_dx<T>(layer_, plan_);
      if (needs_.reset_h) dreset_h_ = at::zeros({D, B, 2, P}, options_);
      if (needs_.reset_c) dreset_c_ = at::zeros({layer_.extra(), D, B, 2, H}, options_);
      for (int64_t d = 0; d < D; ++d) set_up_backward(d, dh, dc);
      for (int64_t k1 = layer_.steps; k1 > 0;) {
        const int64_t k0 = (k1 - 1) / steps_ * steps_;
        backward(k0, k1);
        k1 = k0;
      }
    }
    return results();
  }

 private:
  at::Tensor both(const OptionalTensor& value, const OptionalTensor& tangent) const {
    return pairs(computed(value, layer_), computed(tangent, layer_));
  }

  // Panels of the weights' tangents; null where there are none.
  template <class Pack>
  PackedWeights<T> pack_tangents(const DirectionTangent<T>& dir, const Pack& pack) const {
    DirectionWeights v = dir.directions;
    if (!v.w_hh.defined() && !v.w_hr.defined()) return {};
    if (!v.w_hh.defined()) v.w_hh = at::zeros_like(dir.weights.w_hh);
    if (!v.w_hr.defined() && layer_.projected()) v.w_hr = at::zeros_like(dir.weights.w_hr);
    return pack(kernels_, layer_, v);
  }

  // m or its transpose; undefined stays undefined.
  Matrix<T> matrix(const at::Tensor& m) const {
    return {m, m.defined() && engine_ == Engine::kPanel ? PackedMatrix<T>::of(kernels_, m) : PackedMatrix<T>()};
  }
  Matrix<T> transposed_matrix(const at::Tensor& m) const {
    if (!m.defined()) return {};
    return {m.t(), engine_ == Engine::kPanel ? PackedMatrix<T>::transposed(kernels_, m) : PackedMatrix<T>()};
  }

  // out = a b (+ bias), or out += a b.
  static void multiply(at::Tensor out, const at::Tensor& a, const Matrix<T>& b, const at::Tensor& bias, bool add) {
    if (b.packed.defined())
      b.packed.multiply(a, out, bias, add);
    else if (add)
      out.addmm_(a, b.plain);
    else if (bias.defined())
      at::addmm_out(out, bias, a, b.plain);
    else
      at::mm_out(out, a, b.plain);
  }

  // out (+)= the tangent of a b, where dimension 1 of a [M, 2, K] is value and tangent; b may have no tangent.
  static void multiply_tangents(const at::Tensor& out, const at::Tensor& a, const Matrix<T>& b,
                                const Matrix<T>& b_tangent, bool add) {
    multiply(out, a.select(1, 1), b, {}, add);
    if (b_tangent.plain.defined()) multiply(out, a.select(1, 0), b_tangent, {}, /*add=*/true);
  }

  // Engine "stepwise": the pairs of rows a [places, 2, K] times w, by whose tangent, if any, the values go to the
  // tangents.
  const T* multiply_pairs(const DirectionTangent<T>& dir, const at::Tensor& a, const at::Tensor& w,
                          const at::Tensor& w_tangent) const {
    const int64_t places = a.size(0), columns = w.size(1);
    at::Tensor out = dir.product.narrow(0, 0, 2 * places * columns).view({places, 2, columns});
    at::Tensor rows = out.view({2 * places, columns});
    at::mm_out(rows, a.reshape({2 * places, a.size(2)}), w);
    if (w_tangent.defined()) tangents(out).addmm_(values(a), w_tangent);
    return out.template const_data_ptr<T>();
  }

  void set_up_forward(int64_t d) {
    const int64_t B = layer_.batch, H = layer_.hidden, P = layer_.width, S = layer_.cell.states;
    auto& dir = directions_[d];
    auto& f = dir.f;
    if (engine_ == Engine::kPanel) {
      dir.packed = pack_forward(kernels_, layer_, dir.weights);
      dir.packed_tangents = pack_tangents(dir, pack_forward<T>);
    }
    dir.w_ih = transposed_matrix(dir.weights.w_ih), dir.w_ih_tangent = transposed_matrix(dir.directions.w_ih);
    dir.b_hh = pairs(dir.weights.b_hh, dir.directions.b_hh);
    f.b_hh = data_or_null<T>(dir.b_hh);
    dir.gx = empty_in_small_pages({std::min(steps_ * B, plan_.dense()), 2, layer_.cell.gates * H}, layer_.compute);
    f.gx = dir.gx.template const_data_ptr<T>();
    dir.h = empty_in_small_pages({2, B, 2, P}, layer_.compute);
    for (int64_t j = 0; j < 2; ++j) f.h[j] = dir.h[j].template mutable_data_ptr<T>();
    if (S > 1) {
      dir.c = by_place(states_.c0.defined() ? states_.c0.select(1, d) : at::zeros({S - 1, B, 2, H}, options_), 1);
      f.c = dir.c.template mutable_data_ptr<T>();
    }
    if (kernels_.phases > 1 || layer_.projected()) {
      dir.operand = empty_in_large_pages({plan_.dense(), 2, H}, layer_.compute);
      f.operand = dir.operand.template mutable_data_ptr<T>();
    }
    if (layer_.cell.saved > 0 && (backward_ || kernels_.phases > 1)) {
      dir.saved = empty_in_large_pages({plan_.dense(), 2, layer_.cell.saved * H}, layer_.compute);
      f.saved = dir.saved.template mutable_data_ptr<T>();
    }
    fill_entering(f, plan_);
  }

  void forward(int64_t k0, int64_t k1) {
    for (int64_t d = 0; d < layer_.directions; ++d) {
      auto& dir = directions_[d];
      const Chunk c = chunk_of(plan_, k0, k1, a_.inputs.reverse[d]);
      dir.f.gx_first = c.r0;
      if (c.rows() == 0) continue;
      const at::Tensor gx = dir.gx.narrow(0, 0, c.rows()), x = chunk_rows_of(x_, plan_, c);
      const at::Tensor& bias = dir.directions.b_ih;
      if (!known_) multiply(values(gx), x, dir.w_ih, dir.weights.b_ih, false);
      if (x_tangent_.defined())
        multiply(tangents(gx), chunk_rows_of(x_tangent_, plan_, c), dir.w_ih, bias, false);
      else if (bias.defined())
        tangents(gx).copy_(bias);
      else
        tangents(gx).zero_();
      if (dir.w_ih_tangent.plain.defined()) multiply(tangents(gx), x, dir.w_ih_tangent, {}, /*add=*/true);
    }
    if (engine_ == Engine::kPanel) {
      team_.run(plan_, [&](int64_t d, const cpu::Share& share) {
        const auto& dir = directions_[d];
        kernels_.tangent_forward(dir.f, dir.packed.panels, dir.packed_tangents.panels, share, k0, k1);
      });
    } else {
      for (auto& dir : directions_) forward_stepwise(dir, k0, k1);
    }
  }

  void forward_stepwise(const DirectionTangent<T>& dir, int64_t k0, int64_t k1) const {
    const int64_t H = layer_.hidden, work = 2 * layer_.cell.gates * H;
    for (int64_t k = k0; k < k1; ++k) {
      const int64_t t = dir.f.step(k), places = plan_.alive[t];
      if (places == 0) continue;
      const auto operand = [&] { return dir.operand.narrow(0, plan_.start[t], places); };
      for (int p = 0; p < kernels_.phases; ++p) {
        const auto part = [&](const at::Tensor& w) { return w.defined() ? rows_of_phase(w, p).t() : w; };
        const T* gh = multiply_pairs(dir, p == 0 ? dir.h[k % 2].narrow(0, 0, places) : operand(),
                                     part(dir.weights.w_hh), part(dir.directions.w_hh));
        for_places(places, work, [&](const cpu::Share& s) { kernels_.tangent_forward_phase[p](dir.f, s, k, gh); });
      }
      if (layer_.projected()) {
        const at::Tensor& w_hr = dir.directions.w_hr;
        const T* h = multiply_pairs(dir, operand(), dir.weights.w_hr.t(), w_hr.defined() ? w_hr.t() : w_hr);
        for_places(places, work, [&](const cpu::Share& s) { kernels_.forward_projected(dir.f, s, k, h); });
      }
    }
  }

  // Of w_hh or of its gradient; undefined stays undefined.
  at::Tensor rows_of_phase(const at::Tensor& w, int p) const {
    const int64_t H = layer_.hidden, first = kernels_.phase_begin[p] * H;
    return w.defined() ? w.narrow(0, first, kernels_.phase_begin[p + 1] * H - first) : w;
  }

  void set_up_backward(int64_t d, const at::Tensor& grad_h_n, const at::Tensor& grad_c_n) {
    const int64_t D = layer_.directions, B = layer_.batch, H = layer_.hidden, P = layer_.width;
    const int64_t S = layer_.cell.states, G = layer_.cell.gates, rows = std::min(steps_ * B, plan_.dense());
    auto& dir = directions_[d];
    auto& b = dir.b;
    static_cast<Walk<T>&>(b) = dir.f;
    if (engine_ == Engine::kPanel) {
      dir.packed = pack_backward(kernels_, layer_, dir.weights);
      dir.packed_tangents = pack_tangents(dir, pack_backward<T>);
    }
    if (needs_.x) dir.w_ih = matrix(dir.weights.w_ih), dir.w_ih_tangent = matrix(dir.directions.w_ih);
    dir.grads = empty_gradients(dir.weights, needs_, d, layer_);
    if (layer_.steps == 0)
      for (const auto& g : dir.grads.all())
        if (g.defined()) g.zero_();
    if (grad_y_.defined()) b.dy = grad_y_.template const_data_ptr<T>() + d * 2 * P;
    b.dy_stride = D * 2 * P;
    if (grad_c_all_.defined()) b.dc_all = grad_c_all_.template const_data_ptr<T>() + d * layer_.rows * 2 * H;
    dir.dh = by_place(grad_h_n.defined() ? grad_h_n[d] : at::zeros({B, 2, P}, options_), 0);
    b.dh = dir.dh.template mutable_data_ptr<T>();
    if (S > 1) {
      dir.dc = by_place(grad_c_n.defined() ? grad_c_n.select(1, d) : at::zeros({S - 1, B, 2, H}, options_), 1);
      b.dc = dir.dc.template mutable_data_ptr<T>();
    }
    dir.dgx = empty_in_small_pages({rows, 2, G * H}, layer_.compute);
    dir.dgh = layer_.cell.same_grads ? dir.dgx : empty_in_small_pages({rows, 2, G * H}, layer_.compute);
    b.dgx = dir.dgx.template mutable_data_ptr<T>();
    b.dgh = dir.dgh.template mutable_data_ptr<T>();
    if (layer_.projected()) {
      dir.dh_out = empty_in_small_pages({rows, 2, P}, layer_.compute);
      b.dh_out = dir.dh_out.template mutable_data_ptr<T>();
    }
    if (dreset_h_.defined()) b.dreset_h = dreset_h_[d].template mutable_data_ptr<T>();
    if (dreset_c_.defined()) b.dreset_c = dreset_c_.template mutable_data_ptr<T>() + d * B * 2 * H;
  }

  void backward(int64_t k0, int64_t k1) {
    std::vector<Chunk> chunks;
    for (int64_t d = 0; d < layer_.directions; ++d) {
      chunks.push_back(chunk_of(plan_, k0, k1, a_.inputs.reverse[d]));
      directions_[d].b.first = chunks[d].r0;
    }
    if (engine_ == Engine::kPanel) {
      team_.run(plan_, [&](int64_t d, const cpu::Share& share) {
        const auto& dir = directions_[d];
        kernels_.tangent_backward(dir.b, dir.packed.panels, dir.packed_tangents.panels, share, k0, k1);
      });
    } else {
      for (auto& dir : directions_) backward_stepwise(dir, k0, k1);
    }
    for (int64_t d = 0; d < layer_.directions; ++d) products(d, chunks[d], k1 < layer_.steps);
  }

  void backward_stepwise(const DirectionTangent<T>& dir, int64_t k0, int64_t k1) const {
    const int64_t H = layer_.hidden, work = 2 * layer_.cell.gates * H;
    const auto& b = dir.b;
    for (int64_t k = k1 - 1; k >= k0; --k) {
      const int64_t t = b.step(k), places = plan_.alive[t];
      if (places == 0) continue;
      const auto rows = [&](const at::Tensor& m) { return m.narrow(0, plan_.start[t] - b.first, places); };
      const T* product = nullptr;
      if (layer_.projected()) {
        for_places(places, work, [&](const cpu::Share& s) { kernels_.backward_projected(b, s, k); });
        product = multiply_pairs(dir, rows(dir.dh_out), dir.weights.w_hr, dir.directions.w_hr);
      }
      for (int p = kernels_.phases - 1; p >= 0; --p) {
        for_places(places, work, [&](const cpu::Share& s) { kernels_.tangent_backward_phase[p](b, s, k, product); });
        const int64_t first = kernels_.phase_begin[p] * H, count = kernels_.phase_begin[p + 1] * H - first;
        product = multiply_pairs(dir, rows(dir.dgh).narrow(2, first, count), rows_of_phase(dir.weights.w_hh, p),
                                 rows_of_phase(dir.directions.w_hh, p));
      }
      for_places(places, work, [&](const cpu::Share& s) { kernels_.backward_carry(b, s, k, product); });
    }
  }

  // dW and dx of a chunk whose gradients of the gates are there.
  void products(int64_t d, const Chunk& c, bool add) {
    auto& dir = directions_[d];
    const DirectionWeights& g = dir.grads;
    const auto rows = [&](const at::Tensor& t, int64_t first) { return t.narrow(0, first, c.rows()); };
    const at::Tensor dgx = rows(dir.dgx, 0), dgh = rows(dir.dgh, 0);
    if (needs_.x) {
      if (plan_.data_rows.defined()) {
        at::Tensor dense = empty_in_small_pages({c.rows(), layer_.input}, layer_.compute);
        multiply_tangents(dense, dgx, dir.w_ih, dir.w_ih_tangent, false);
        put_chunk_rows<T>(dense, plan_, c, !writes_dx_once(layer_), dx_);
      } else {
        multiply_tangents(rows(dx_, c.r0), dgx, dir.w_ih, dir.w_ih_tangent, !writes_dx_once(layer_));
      }
    }
    if (g.w_ih.defined()) {
      const auto chunk_of_x = [&](const at::Tensor& x) { return x.defined() ? chunk_rows_of(x, plan_, c) : x; };
      multiply_tangents(g.w_ih, dgx.transpose(0, 2), matrix(chunk_of_x(x_)), matrix(chunk_of_x(x_tangent_)), add);
    }
    sum_tangents(dgx, {g.b_ih, layer_.cell.same_grads ? g.b_hh : at::Tensor()}, add);
    if (!layer_.cell.same_grads) sum_tangents(dgh, {g.b_hh}, add);
    if (g.w_hh.defined()) {
      for (int p = 0; p < kernels_.phases; ++p) {
        const at::Tensor operand = p == 0 ? gather_entering(dir, c) : rows(dir.operand, c.r0);
        const at::Tensor of_gates = rows_of_phase(dgh.transpose(0, 2), p);
        multiply_tangents(rows_of_phase(g.w_hh, p), of_gates, matrix(values(operand)), matrix(tangents(operand)), add);
      }
    }
    if (g.w_hr.defined()) {
      const at::Tensor unprojected = rows(dir.operand, c.r0);
      multiply_tangents(g.w_hr, rows(dir.dh_out, 0).transpose(0, 2), matrix(values(unprojected)),
                        matrix(tangents(unprojected)), add);
    }
  }

  // Into each of `out` that is defined.
  static void sum_tangents(const at::Tensor& pairs, std::initializer_list<at::Tensor> out, bool add) {
    at::Tensor sum;
    for (at::Tensor each : out) {
      if (!each.defined()) continue;
      if (!sum.defined()) sum = tangents(pairs).sum(0);
      add ? each.add_(sum) : each.copy_(sum);
    }
  }

  at::Tensor gather_entering(const DirectionTangent<T>& dir, const Chunk& c) const {
    at::Tensor out = empty_in_small_pages({c.rows(), 2, layer_.width}, layer_.compute);
    T* to = out.template mutable_data_ptr<T>();
    for (int64_t k = c.k0; k < c.k1; ++k)
      kernels_.gather_entering(dir.b, {0, layer_.batch, 0, 1, 1, nullptr}, k, c.r0, to);
    return out;
  }

  // A copy of [.., B, ..] by place, and back.
  at::Tensor by_place(const at::Tensor& t, int64_t dim) const {
    return order_.defined() ? t.index_select(dim, order_) : t.clone(at::MemoryFormat::Contiguous);
  }
  at::Tensor by_row(const at::Tensor& t, int64_t dim) const {
    return order_.defined() ? at::empty_like(t).index_copy_(dim, order_, t) : t;
  }

  TangentResult results() const {
    const int64_t D = layer_.directions, B = layer_.batch, H = layer_.hidden, P = layer_.width;
    const auto given = [&](const at::Tensor& t) {
      return t.defined() ? t.to(layer_.dtype) : at::empty({0}, a_.inputs.x.options());
    };
    at::Tensor h_n = empty_in_small_pages({D, B, 2, P}, layer_.compute),
               c_n = empty_in_small_pages({layer_.extra(), D, B, H}, layer_.compute);
    std::vector<at::Tensor> dh, dc, dw;
    for (int64_t d = 0; d < D; ++d) {
      const auto& dir = directions_[d];
      final_h(dir.f, plan_, h_n[d].template mutable_data_ptr<T>());
      if (layer_.extra() > 0) c_n.select(1, d).copy_(by_row(tangents(dir.c), 1));
      if (needs_.h0) dh.push_back(by_row(tangents(dir.dh), 0));
      if (needs_.c0) dc.push_back(by_row(tangents(dir.dc), 1));
      for (const auto& g : dir.grads.all()) dw.push_back(given(g));
    }
    const auto tangents_of = [&](const at::Tensor& t) {  // with memory of their own
      if (!t.defined()) return t;
      const at::Tensor from = tangents(t);
      return empty_in_large_pages(from.sizes(), layer_.compute).copy_(from);
    };
    return {layer_.with_leading(tangents_of(y_).view({layer_.rows, D * P}), 0).to(layer_.dtype),
            given(tangents_of(h_n)),
            given(c_n),
            layer_.with_leading(tangents_of(a_.return_states ? c_all_ : c_all_.narrow(0, 0, 0)), 2),
            given(dx_.defined() ? dx_.view(a_.inputs.x.sizes()) : dx_),
            given(needs_.h0 ? at::stack(dh) : at::Tensor()),
            given(needs_.c0 ? at::stack(dc, 1) : at::Tensor()),
            given(tangents_of(dreset_h_)),
            given(tangents_of(dreset_c_)),
            dw};
  }

  const TangentArguments& a_;
  const Layer& layer_;
  const Needs& needs_;
  const Engine engine_;
  const bool backward_;
  const cpu::Kernels<T>& kernels_;
  const PlanStorage plan_;
  const Team team_;
  const bool known_;  // the values of y are, and are all that the cell needs
  const at::TensorOptions options_;
  States states_;  // pairs
  at::Tensor x_, x_tangent_, y_, known_y_, c_all_, order_;
  at::Tensor grad_y_, grad_c_all_, dx_, dreset_h_, dreset_c_;
  int64_t steps_ = 1;
  std::vector<DirectionTangent<T>> directions_;
};

}  // namespace

TangentResult sequence_tangent_cpu(const TangentArguments& a) {
  const Layer layer(a.inputs);
  const Needs needs(a.needs, 0, layer);
  TORCH_CHECK_NOT_IMPLEMENTED(cpu::kernels<float>(layer.cell.index)->tangent_forward, "seqcuda: cell '",
                              layer.cell.name, "' has no compiled tangents");
  TORCH_CHECK(layer.heads == 1, "seqcuda: sequence_tangent takes a whole weight_hh, got ", layer.heads,
              " blocks of it");
  check_directions(a, layer);
  check_grads(a.grads, layer, a.inputs.x);
  check_grads(a.grad_directions, layer, a.inputs.x);
  return layer.compute == at::kDouble ? LayerTangent<double>(a, layer, needs).run()
                                      : LayerTangent<float>(a, layer, needs).run();
}

}  // namespace seq::ops
