// What the CPU forward and backward of a layer share: weights in the type of computation, panels, chunks of time.
#pragma once

#include <cstring>
#include <functional>

#include "cpu/instruction_set.h"
#include "ops/chunks.h"
#include "ops/engines.h"
#include "ops/layer.h"
#include "ops/packed_product.h"
#include "ops/page_pool.h"
#include "ops/segments.h"
#include "ops/team.h"

namespace seq::ops {

// Whether the products of a layer are of pairs of bfloat16: where h, which is rounded, is all that they take.
inline bool of_pairs(const Layer& layer, Engine engine) {
  return layer.dtype == at::kBFloat16 && engine == Engine::kPanel && cpu::has_pairs() && layer.cell.plain() &&
         layer.cell.phases == 1 && !layer.projected() && layer.heads == 1 && !layer.has_factors &&
         layer.hidden % 2 == 0;
}

// The rows by head. W_ih and W_hh as they are where the products are of pairs.
inline DirectionWeights direction_weights(const Arguments& a, const Layer& layer, int64_t d, bool pairs = false) {
  const auto* w = &a.weights[Layer::kWeights * d];
  const auto of_gates = [&](const OptionalTensor& t) { return by_head(computed(t, layer), layer); };
  const auto matrix = [&](const OptionalTensor& t) { return pairs ? t->contiguous() : of_gates(t); };
  return {matrix(w[0]), matrix(w[1]), of_gates(w[2]), of_gates(w[3]), computed(w[4], layer), of_gates(w[5])};
}

constexpr int64_t kChunkBytes = 512 << 10;  // of the gates of a chunk: they stay in L2
constexpr int64_t kChunkLeastRows = 256;    // a product over fewer rows is far from the machine's rate

// Steps of a chunk, of which all have about as many: a short last one would be far from that rate too.
inline int64_t even_chunk_steps(const Layer& layer) {
  const int64_t steps = steps_per_chunk(layer, kChunkBytes, kChunkLeastRows), most = steps + steps / 8;
  const int64_t chunks = std::max<int64_t>(1, (layer.steps + most - 1) / most);
  return std::max<int64_t>(1, (layer.steps + chunks - 1) / chunks);
}

// x as [data rows, I], of the type of computation but for products of pairs, the numbers of a row side by side.
inline at::Tensor flat_rows(const at::Tensor& t, const Layer& layer, bool pairs = false) {
  const at::ScalarType type = pairs ? layer.dtype : layer.compute;
  const at::Tensor rows = converted(t, type, Pages::kSmall).reshape({layer.rows, t.size(-1)});
  return rows.stride(1) == 1 ? rows : rows.contiguous();
}

constexpr int64_t kRowsPerTask = 64;

// The rows of a chunk, dense.
inline at::Tensor chunk_rows_of(const at::Tensor& flat, const PlanStorage& plan, const Chunk& c) {
  if (!plan.data_rows.defined()) return flat.narrow(0, c.r0, c.rows());
  at::Tensor out = empty_in_small_pages({c.rows(), flat.size(1)}, flat.scalar_type());
  const int64_t* row = plan.data_rows.const_data_ptr<int64_t>() + c.r0;
  const int64_t bytes = flat.size(1) * flat.element_size(), apart = flat.stride(0) * flat.element_size();
  const char* from = static_cast<const char*>(flat.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  at::parallel_for(0, c.rows(), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(to + i * bytes, from + row[i] * apart, bytes);
  });
  return out;
}

// The way back: the dense rows of a chunk to where they are in flat, or added to what is there.
template <class T>
void put_chunk_rows(const at::Tensor& dense, const PlanStorage& plan, const Chunk& c, bool add,
                    const at::Tensor& flat) {
  const int64_t* row = plan.data_rows.const_data_ptr<int64_t>() + c.r0;
  const int64_t width = flat.size(1);
  const T* from = dense.template const_data_ptr<T>();
  T* to = flat.template mutable_data_ptr<T>();
  at::parallel_for(0, c.rows(), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* part = from + i * width;
      T* out = to + row[i] * width;
      if (add)
        std::transform(part, part + width, out, out, std::plus<T>());
      else
        std::copy_n(part, width, out);
    }
  });
}

// t [.., T, B, width]: 0 where a row has ended.
template <class T>
void zero_dead_rows(const at::Tensor& t, const PlanStorage& plan) {
  const int64_t width = t.size(-1), rows_of_one = plan.plan.steps * plan.plan.batch * width;
  for (int64_t at = 0; at < t.numel(); at += rows_of_one) {
    T* rows = t.template mutable_data_ptr<T>() + at;
    at::parallel_for(0, plan.plan.steps, kRowsPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t step = begin; step < end; ++step)
        for (int64_t i = plan.alive[step]; i < plan.plan.batch; ++i)
          std::fill_n(rows + plan.plan.row(step, i) * width, width, T(0));
    });
  }
}

// Of one direction every row of x that a walk visits is written once, so that its gradient need not start from zero.
inline bool writes_dx_once(const Layer& layer) { return layer.directions == 1; }

// The gradient of x [data rows, I] before the first chunk.
template <class T>
at::Tensor starting_dx(const Layer& layer, const PlanStorage& plan) {
  at::Tensor dx = empty_in_large_pages({layer.rows, layer.input}, layer.compute);
  if (!writes_dx_once(layer))
    dx.zero_();
  else if (plan.data_rows.defined())
    zero_dead_rows<T>(dx, plan);
  return dx;
}

// out = a w^T (+ bias), all contiguous but for the leading dimensions of a and out, w used once. Few rows: the own
// kernel, which reads w as it lies; else ATen.
template <class T>
void product_into(const cpu::Kernels<T>& kernels, at::Tensor out, const at::Tensor& a, const at::Tensor& w,
                  const at::Tensor& bias) {
  if (a.size(0) <= few_rows::kFewToDot && a.is_contiguous()) {
    few_rows::dot(kernels, w.template const_data_ptr<T>(), w.size(0), w.size(1), a.template const_data_ptr<T>(),
                  a.size(0), data_or_null<T>(bias), out.template mutable_data_ptr<T>(), out.stride(0));
  } else if (bias.defined()) {
    at::addmm_out(out, bias, a, w.t());
  } else {
    at::mm_out(out, a, w.t());
  }
}

// Panels and the tensors that hold them.
template <class T>
struct PackedWeights {
  cpu::Panels<T> panels;
  std::vector<at::Tensor> storage;

  void keep(const T*& where, at::Tensor t) {
    where = t.template const_data_ptr<T>();
    storage.push_back(std::move(t));
  }
};

// w: of one head.
template <class T>
PackedWeights<T> pack_forward(const cpu::Kernels<T>& k, const Layer& layer, const DirectionWeights& w) {
  PackedWeights<T> out;
  for (int p = 0; p < k.phases && w.w_hh.defined(); ++p)
    out.keep(out.panels.phase[p],
             layer.cell.norms > 0 ? pack_gates_of(k, w.w_hh, layer.cell.gates * layer.hidden, 0, 1, k.backward_block)
                                  : pack_gates_of(k, w.w_hh, layer.head_hidden(), k.phase_begin[p],
                                                  k.phase_begin[p + 1], k.forward_block));
  if (layer.projected())
    out.keep(out.panels.projection, pack_gates_of(k, w.w_hr, layer.width, 0, 1, k.projection_block));
  return out;
}

template <class T>
PackedWeights<T> pack_backward(const cpu::Kernels<T>& k, const Layer& layer, const DirectionWeights& w) {
  PackedWeights<T> out;
  const auto columns_of = [&](const at::Tensor& m, int64_t first, int64_t last) {
    return pack_columns_of(k, m.narrow(0, first, last - first), k.backward_block);
  };
  for (int p = 0; p < k.phases && w.w_hh.defined(); ++p)
    out.keep(out.panels.phase[p],
             columns_of(w.w_hh, k.phase_begin[p] * layer.head_hidden(), k.phase_begin[p + 1] * layer.head_hidden()));
  if (layer.projected()) out.keep(out.panels.projection, columns_of(w.w_hr, 0, layer.width));
  return out;
}

// The tensors of a walk beside its data and weights, in the type of computation, states by walk.
struct States {
  States(const Arguments& a, const Layer& layer)
      : h0(by_walk(computed(a.h0, layer), layer)),
        c0(by_walk(computed(a.c0, layer), layer)),
        reset_h(by_walk(computed(a.reset_h, layer), layer)),
        reset_c(by_walk(computed(a.reset_c, layer), layer)),
        resets(a.resets.has_value() ? a.resets->contiguous() : at::Tensor()),
        factors(computed(a.factors, layer)) {}
  at::Tensor h0, c0, reset_h, reset_c, resets;
  Factors<at::Tensor> factors;
};

// What does not change over walk w, a head of a direction. weights: of the head.
template <class T>
void set_walk(Walk<T>& walk, const Arguments& a, const Layer& layer, const PlanStorage& plan, int64_t w,
              const DirectionWeights& weights, const States& states, const at::Tensor& y, const at::Tensor& c_all) {
  const int64_t d = w / layer.heads, H = layer.head_hidden(), P = layer.head_width(), unit = w % layer.heads * H;
  const auto state_of = [&](const at::Tensor& t, int64_t units) {
    return t.defined() ? t.const_data_ptr<T>() + w * layer.batch * units : nullptr;
  };
  walk.plan = &plan.plan;
  walk.reverse = a.reverse[d];
  walk.hidden = H, walk.width = P;
  walk.rounding = layer.rounding();
  walk.h0 = state_of(states.h0, P), walk.c0 = state_of(states.c0, H);
  walk.state_plane = layer.walks() * layer.batch * H;
  walk.resets = data_or_null<bool>(states.resets);
  walk.reset_h = state_of(states.reset_h, P), walk.reset_c = state_of(states.reset_c, H);
  walk.factors = states.factors.each([&](const at::Tensor& t) { return factor_of<const T>(t, d, unit); });
  walk.has_factors = layer.has_factors;
  walk.detach_every = a.detach_every;
  walk.saved_width = layer.saved_width;
  walk.gates_stride = layer.cell.gates * layer.hidden;
  walk.unit = data_or_null<T>(weights.w_unit);
  std::copy(a.options.begin(), a.options.end(), walk.options);
  walk.y = const_cast<T*>(y.const_data_ptr<T>()) + w * P;
  walk.y_stride = layer.walks() * P;
  if (c_all.defined() && c_all.numel() > 0) {
    walk.c_all = const_cast<T*>(c_all.const_data_ptr<T>()) + d * layer.rows * layer.hidden + unit;
    walk.c_all_plane = layer.directions * layer.rows * layer.hidden;
    walk.c_all_stride = layer.hidden;
  }
}

// The states of walk w for the steps that the window of its direction holds now.
template <class T>
void set_states(Walk<T>& walk, const Layer& layer, int64_t w, const StateWindow& window) {
  walk.c_all = static_cast<T*>(window.origin()) + w % layer.heads * layer.head_hidden();
  walk.c_all_plane = window.plane();
  walk.c_all_stride = layer.hidden;
}

// The state that enters each row's first step, in both halves of the double buffer.
template <class T>
void fill_entering(const Forward<T>& f, const PlanStorage& plan) {
  const int64_t B = plan.plan.batch, P = f.width;
  for (int64_t i = 0; i < B; ++i) {
    const int64_t batch = plan.plan.batch_row(i), length = plan.length[i];
    const int64_t first = f.reverse ? length - 1 : 0;
    const T* from = length > 0 && f.is_reset(first, i) ? f.reset_h : f.h0;
    const T* decay = length > 0 ? f.factors.decay_h.of(first, batch) : nullptr;
    const T* drop = length > 0 ? f.factors.drop.of(first, batch) : nullptr;
    for (int half = 0; half < 2; ++half) {
      for (int64_t u = 0; u < P; ++u) {
        const T h = (from ? from[batch * P + u] : T(0)) * (decay ? decay[u] : T(1));
        f.h[half][i * P + u] = h;
        if (f.dropped[half]) f.dropped[half][i * P + u] = drop ? h * drop[u] : h;
      }
    }
  }
}

// h [B, P] at the end of each row.
template <class T>
void final_h(const Walk<T>& walk, const PlanStorage& plan, T* h) {
  const int64_t P = walk.width;
  for (int64_t i = 0; i < plan.plan.batch; ++i) {
    const int64_t batch = plan.plan.batch_row(i), length = plan.length[i];
    const T* from = length > 0 ? walk.y + plan.plan.row(walk.reverse ? 0 : length - 1, i) * walk.y_stride
                    : walk.h0  ? walk.h0 + batch * P
                               : nullptr;
    if (from)
      std::copy_n(from, P, h + batch * P);
    else
      std::fill_n(h + batch * P, P, T(0));
  }
}

// call(share) for all places, by the threads of the pool where that pays.
template <class Call>
void for_places(int64_t places, int64_t work_per_place, const Call& call) {
  at::parallel_for(0, places, std::max<int64_t>(1, 16384 / std::max<int64_t>(work_per_place, 1)),
                   [&](int64_t begin, int64_t end) { call(cpu::Share{begin, end, 0, 1, 1, nullptr}); });
}

}  // namespace seq::ops
