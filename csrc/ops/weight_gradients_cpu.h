// The gradients of the weights of a direction on the CPU: products of the gradients of its gates, over the dense rows
// of a chunk, or over those of each group of rows of the batch.
#pragma once

#include <numeric>

#include "ops/cpu_common.h"
#include "ops/engines.h"
#include "ops/gradients.h"

namespace seq::ops {

// The products over many rows, by the engine's own kernel or ATen, and where the gates of a phase lie in such a row.
template <class T>
struct Products {
  const cpu::Kernels<T>& kernels;
  const Layer& layer;
  const Engine engine;
  using Later = std::vector<PreparedProduct<T>>;

  // The first gate of a phase of a head, in a row of the gates of all heads; how many the phase has.
  int64_t gates_at(int64_t head, int phase = 0) const {
    return (head * layer.cell.gates + kernels.phase_begin[phase]) * layer.head_hidden();
  }
  int64_t gates_of(int phase) const {
    return (kernels.phase_begin[phase + 1] - kernels.phase_begin[phase]) * layer.head_hidden();
  }

  // out = a b, or out += a b; at once, or with the other products in `later`.
  void multiply(at::Tensor out, const at::Tensor& a, const at::Tensor& b, bool add, Later& later) const {
    if (engine == Engine::kPanel)
      put(PackedMatrix<T>::of(kernels, b).prepared(a, out, {}, add), later);
    else if (add)
      out.addmm_(a, b);
    else
      at::mm_out(out, a, b);
  }

  // A single thread has them while what they read is in its caches.
  void put(PreparedProduct<T> product, Later& later) const {
    later.push_back(std::move(product));
    if (at::get_num_threads() == 1 || at::in_parallel_region()) run(later);
  }
  void run(Later& later) const {
    if (!later.empty()) run_products(kernels, later);
    later.clear();
  }

  // out = a w^T (+ bias).
  void multiply_transposed(at::Tensor out, const at::Tensor& a, const at::Tensor& w, const at::Tensor& bias) const {
    if (engine == Engine::kPanel)
      PackedMatrix<T>::transposed(kernels, w).multiply(a, out, bias);
    else
      product_into(kernels, out, a, w, bias);
  }
};

// What the gradients of the weights of a direction are products of, dense rows of a chunk.
// dpx, dph: the gradients of the products with W_ih and W_hh, which are dgx and dgh but for a cell that normalises.
struct GateGradients {
  at::Tensor x, dgx, dgh, dpx, dph, unprojected, dh_out;
  std::vector<std::vector<at::Tensor>> operands;  // of W_hh, by head and phase
  std::vector<at::Tensor> d_unit;                 // by head
};

template <class T>
class WeightGradients {
 public:
  using Later = typename Products<T>::Later;

  WeightGradients(const Products<T>& products, const PlanStorage& plan, const Needs& needs)
      : products_(products), layer_(products.layer), plan_(plan), needs_(needs) {}

  // Those of a chunk, into g, or added to it, the products once `later` is run. Those of groups have one chunk, of all
  // steps.
  void take(const DirectionWeights& g, const GateGradients& f, bool add, Later& later) const {
    if (needs_.groups == 0)
      sum_rows(g, f, add, later);
    else
      sum_groups(g, f);
  }

  // After the last chunk; walked: there was one.
  void finish(const DirectionWeights& g, bool walked) const {
    if (!walked) {
      for (const auto& each : g.all())
        if (each.defined()) each.zero_();
    } else if (needs_.groups == 0 && one_sum(g)) {
      g.b_hh.copy_(g.b_ih);
    }
  }

 private:
  // Both biases have the same gradient: summed once.
  bool one_sum(const DirectionWeights& g) const {
    return layer_.cell.same_grads && g.b_ih.defined() && g.b_hh.defined();
  }

  void sum_rows(const DirectionWeights& g, const GateGradients& f, bool add, Later& later) const {
    const auto sum = [&](at::Tensor out, const at::Tensor& rows) {
      if (add)
        out.add_(rows.sum(0, false, out.scalar_type()));
      else
        at::sum_out(out, rows, 0, false, out.scalar_type());
    };
    if (g.w_ih.defined()) products_.multiply(g.w_ih, f.dpx.t(), f.x, add, later);
    if (g.b_ih.defined()) sum(g.b_ih, f.dgx);
    if (g.b_hh.defined() && !one_sum(g)) sum(g.b_hh, f.dgh);
    for (size_t head = 0; head < f.operands.size(); ++head)
      for (int p = 0; p < products_.kernels.phases; ++p) {
        const int64_t first = products_.gates_at(head, p), count = products_.gates_of(p);
        products_.multiply(g.w_hh.narrow(0, first, count), f.dph.narrow(1, first, count).t(), f.operands[head][p], add,
                           later);
      }
    if (g.w_hr.defined()) products_.multiply(g.w_hr, f.dh_out.t(), f.unprojected, add, later);
    for (size_t head = 0; head < f.d_unit.size(); ++head) {
      const int64_t numbers = f.d_unit[head].size(1);
      sum(g.w_unit.narrow(0, head * numbers, numbers), f.d_unit[head]);
    }
  }

  // One group after the other by each thread, by the kernel for few rows that lie apart.
  void sum_groups(const DirectionWeights& g, const GateGradients& f) const {
    const auto [rows, begin] = rows_of_groups();
    struct Product {
      cpu::Outer<T> of_all;
      int64_t of_group;  // numbers of each group in out
    };
    std::vector<Product> all;
    const auto add = [&](const at::Tensor& out, int64_t offset, const at::Tensor& a, const at::Tensor& b) {
      if (!out.defined() || out.numel() == 0) return;
      cpu::Outer<T> o;
      o.a = a.template const_data_ptr<T>(), o.lda = a.stride(0), o.M = a.size(1);
      if (b.defined()) o.b = b.template const_data_ptr<T>(), o.ldb = b.stride(0), o.N = b.size(1);
      o.rows = rows.template const_data_ptr<int64_t>();
      o.out = out.template mutable_data_ptr<T>() + offset;
      all.push_back({o, out.numel() / needs_.groups});
    };
    add(g.w_ih, 0, f.dpx, f.x);
    add(g.b_ih, 0, f.dgx, {});
    add(g.b_hh, 0, f.dgh, {});
    for (size_t head = 0; head < f.operands.size(); ++head)
      for (int p = 0; p < products_.kernels.phases; ++p) {
        const int64_t first = products_.gates_at(head, p), count = products_.gates_of(p);
        add(g.w_hh, first * layer_.head_width(), f.dph.narrow(1, first, count), f.operands[head][p]);
      }
    add(g.w_hr, 0, f.dh_out, f.unprojected);
    for (size_t head = 0; head < f.d_unit.size(); ++head)
      add(g.w_unit, head * f.d_unit[head].size(1), f.d_unit[head], {});
    constexpr int64_t kBytesOfCaches = 32 << 20, kNumbersOfLine = 64 / sizeof(T);
    int64_t bytes = 0;
    for (const Product& product : all)
      bytes += needs_.groups * product.of_all.M * std::max<int64_t>(product.of_all.N, 1) * sizeof(T);
    for (Product& product : all)
      product.of_all.past_caches = bytes > kBytesOfCaches && product.of_all.N % kNumbersOfLine == 0 &&
                                   product.of_group % kNumbersOfLine == 0 &&
                                   reinterpret_cast<uintptr_t>(product.of_all.out) % 64 == 0;
    at::parallel_for(0, needs_.groups, 1, [&, &begin = begin](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        for (const Product& product : all) {
          cpu::Outer<T> o = product.of_all;
          o.rows += begin[i], o.count = begin[i + 1] - begin[i];
          o.out += i * product.of_group;
          products_.kernels.outer(o);
        }
    });
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

  const Products<T>& products_;
  const Layer& layer_;
  const PlanStorage& plan_;
  const Needs& needs_;
};

}  // namespace seq::ops
