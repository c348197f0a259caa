// The kernels of cells that normalise (cell_traits.h): a block for each row, whose threads add up its numbers in a
// fixed order.
#pragma once

#include <cstring>

#include "cuda/device.cuh"
#include "cuda/stepwise_common.cuh"

namespace seq::cuda {

namespace {

constexpr int kNormWarps = 4, kNormThreads = 32 * kNormWarps;

template <class T>
__device__ T shuffled(T value, int mask) {
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof value);
  for (uint32_t& word : words) word = shuffle_xor(word, mask);
  memcpy(&value, words, sizeof value);
  return value;
}

// The sum over the threads of the block, given to all of them.
template <class T>
__device__ T block_sum(T value) {
  T* const parts = reinterpret_cast<T*>(shared_memory());
  for (int mask = 16; mask > 0; mask /= 2) value += shuffled(value, mask);
  __syncthreads();  // the parts of the sum before have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < kNormWarps; ++i) sum += parts[i];
  return sum;
}

// call(u) for the thread's share of n units.
template <class Call>
__device__ void each_unit(int64_t n, const Call& call) {
  for (int64_t u = threadIdx.x; u < n; u += kNormThreads) call(u);
}

// (x - mean) / deviation of n numbers.
template <class T>
struct RowNorm {
  const T* x;
  int64_t n;
  T mean, inverse;

  __device__ RowNorm(const T* x, int64_t n) : x(x), n(n) {
    T sum = 0, squares = 0;
    each_unit(n, [&](int64_t u) { sum += x[u]; });
    mean = block_sum(sum) / static_cast<T>(n);
    each_unit(n, [&](int64_t u) { squares += (x[u] - mean) * (x[u] - mean); });
    inverse = T(1) / std::sqrt(block_sum(squares) / static_cast<T>(n) + static_cast<T>(kNormEpsilon));
  }

  __device__ T value(int64_t u) const { return (x[u] - mean) * inverse; }

  // store(u, gradient of x[u]) from d(u), that of value(u).
  template <class Gradient, class Store>
  __device__ void backward(const Gradient& d, const Store& store) const {
    T sum = 0, along = 0;
    each_unit(n, [&](int64_t u) { sum += d(u), along += d(u) * value(u); });
    sum = block_sum(sum) / static_cast<T>(n), along = block_sum(along) / static_cast<T>(n);
    each_unit(n, [&](int64_t u) { store(u, (d(u) - sum - value(u) * along) * inverse); });
  }
};

template <class Cell, class S>
__global__ void __launch_bounds__(kNormThreads) normalize(NormRows r) {
  using Traits = CellTraits<Cell>;
  using T = Compute<S>;
  const int64_t row = blockIdx.x, H = r.hidden;
  const T* const product = static_cast<const T*>(r.product) + row * r.product_stride;
  T* const out = static_cast<T*>(r.out) + row * Traits::kGates * H;
  T* const kept = r.kept ? static_cast<T*>(r.kept) + row * r.kept_stride : nullptr;
  const bool past = r.lengths && r.t >= r.lengths[row];
  for (int j = 0; j < Traits::norms(); ++j) {
    const int64_t at = Traits::norm_begin(j) * H;
    const RowNorm<T> norm(product + at, Traits::norm_begin(j + 1) * H - at);
    each_unit(norm.n, [&](int64_t u) {
      const T value = norm.value(u);
      if (kept) kept[at + u] = past ? T(0) : product[at + u];
      out[at + u] = load<S>(r.gain, at + u).v * value;
    });
  }
}

template <class Cell, class S>
__global__ void __launch_bounds__(kNormThreads) normalize_backward(NormRows r) {
  using Traits = CellTraits<Cell>;
  using T = Compute<S>;
  const int64_t row = blockIdx.x, H = r.hidden, first = row * Traits::kGates * H;
  const T* const product = static_cast<const T*>(r.product) + row * r.product_stride;
  T* const d_gain = r.d_gain ? static_cast<T*>(r.d_gain) + row * r.d_gain_stride : nullptr;
  for (int j = 0; j < Traits::norms(); ++j) {
    const int64_t at = Traits::norm_begin(j) * H;
    const RowNorm<T> norm(product + at, Traits::norm_begin(j + 1) * H - at);
    const auto d = [&](int64_t u) { return load<S>(r.d, first + at + u).v; };
    if (d_gain) each_unit(norm.n, [&](int64_t u) { d_gain[at + u] = d(u) * norm.value(u); });
    norm.backward([&](int64_t u) { return rounded_product(load<S>(r.gain, at + u).v, d(u)); },
                  [&](int64_t u, T value) { store<S>(r.out, first + at + u, Lane<T>(value)); });
  }
}

// Of one row of a cell that makes h' by `output`: o, and the norm of c' with its gain and bias.
template <class Cell, class S>
struct RowOutput {
  using T = Compute<S>;
  static constexpr int kSaved = CellTraits<Cell>::kSaved, kGain = 2 * CellTraits<Cell>::kGates;
  const Walk& w;
  const T* o;
  RowNorm<T> norm;

  __device__ RowOutput(const Walk& w, const void* saved, int64_t b)
      : w(w),
        o(static_cast<const T*>(saved) + b * w.saved_width + (kSaved - 2) * w.hidden),
        norm(o + w.hidden, w.hidden) {}
  __device__ T gain(int64_t u) const { return load<S>(w.unit, kGain * w.hidden + u).v; }
  __device__ Lane<T> normed(int64_t u) const {
    return Lane<T>(gain(u) * norm.value(u)) + load<S>(w.unit, (kGain + 1) * w.hidden + u);
  }
};

// h of the rows of a step, to f.product [B, H].
template <class Cell, class S>
__global__ void __launch_bounds__(kNormThreads) output(Forward f, ForwardStep s) {
  using T = Compute<S>;
  const int64_t b = blockIdx.x;
  if (!takes_part(f, s.now, b)) return;
  const RowOutput<Cell, S> of(f, s.saved, b);
  each_unit(f.hidden,
            [&](int64_t u) { store<T>(f.product, b * f.hidden + u, Cell::output(Lane<T>(of.o[u]), of.normed(u))); });
}

template <class Cell, class S>
__device__ Lane<Compute<S>> take_h(const Backward& w, const BackwardStep& s, int64_t b, int64_t u);
template <class T>
__device__ Lane<T> take_part(const Factor<const void>& keep, int64_t t, int64_t b, int64_t u, Lane<T>& gradient, int e);

// The gradients of o and of c' from that of h. It also acts for the rows that have their first step after this one.
// One block at once is said, since for several the compiler would spill.
template <class Cell, class S>
__global__ void __launch_bounds__(kNormThreads, 1) output_backward(Backward w, BackwardStep s) {
  using T = Compute<S>;
  using L = Lane<T>;
  constexpr int kUnit = CellTraits<Cell>::norm_unit();
  const int64_t b = blockIdx.x, H = w.hidden;
  T* const d_gain = s.d_unit && b < s.now.alive ? static_cast<T*>(s.d_unit) + (b * kUnit + kUnit - 2) * H : nullptr;
  if (!takes_part(w, s.now, b)) {
    each_unit(H, [&](int64_t u) {
      store<T>(w.dh, b * H + u, take_h<Cell, S>(w, s, b, u));
      if (d_gain) d_gain[u] = d_gain[H + u] = 0;
    });
    return;
  }
  const RowOutput<Cell, S> of(w, s.saved, b);
  T* const dc = static_cast<T*>(w.dc_normed) + b * H;
  each_unit(H, [&](int64_t u) {
    L dh = take_h<Cell, S>(w, s, b, u) + load_or_zero<S>(w.dy, (s.now.first + b) * w.dy_stride + u), d_o, d_normed;
    store<T>(w.dh, b * H + u, take_part<T>(w.factors.keep_h, s.now.t, b, u, dh, 0));
    Cell::output_backward(L(of.o[u]), of.normed(u), dh, d_o, d_normed);
    store<T>(w.d_output, b * H + u, d_o);
    dc[u] = d_normed.v;
    if (d_gain) d_gain[u] = d_normed.v * of.norm.value(u), d_gain[H + u] = d_normed.v;
  });
  of.norm.backward([&](int64_t u) { return rounded_product(of.gain(u), dc[u]); },
                   [&](int64_t u, T value) { dc[u] = value; });
}

template <class... Parameters>
Error launch_norm(int64_t rows, Stream stream, void (*kernel)(Parameters...),
                  const std::type_identity_t<Parameters>&... arguments) {
  if (rows == 0) return nullptr;
  return launch_sharing(dim3(static_cast<unsigned>(rows)), dim3(kNormThreads), kNormWarps * sizeof(double), stream,
                        kernel, arguments...);
}

template <class Cell, class S>
Error launch_normalize(const NormRows& rows, Stream stream) {
  return launch_norm(rows.rows, stream, &normalize<Cell, S>, rows);
}
template <class Cell, class S>
Error launch_normalize_backward(const NormRows& rows, Stream stream) {
  return launch_norm(rows.rows, stream, &normalize_backward<Cell, S>, rows);
}

template <class Cell, class S, int kPhase>
Error launch_forward(const Forward& f, const ForwardStep& s, Stream stream);
template <class Cell, class S>
Error launch_project(const Forward& f, const ForwardStep& s, Stream stream);
template <class Cell, class S, int kPhase>
Error launch_backward(const Backward& w, const BackwardStep& s, Stream stream);

// The rows of step `now` of h W_hh^T, and where the walk keeps them.
template <class Cell, class S>
NormRows norm_rows(const Walk& w, const Step& now, void* saved) {
  using W = Stepwise<Cell, S>;
  const int64_t GH = W::kGates * w.hidden;
  NormRows rows;
  rows.rows = now.alive, rows.hidden = w.hidden;
  rows.lengths = w.lengths, rows.t = now.t;
  rows.gain = static_cast<const S*>(w.unit) + GH;
  rows.kept = saved ? static_cast<typename W::T*>(saved) + w.saved_width - GH : nullptr;
  rows.kept_stride = w.saved_width, rows.product_stride = GH;
  return rows;
}

template <class Cell, class S>
Error launch_normed_forward(const Forward& f, const ForwardStep& given, Stream stream) {
  ForwardStep s = given;
  NormRows rows = norm_rows<Cell, S>(f, s.now, s.saved);
  rows.product = s.gh, rows.out = f.product;
  s.gh = f.product;
  if (const Error error = launch_normalize<Cell, S>(rows, stream)) return error;
  if (const Error error = launch_forward<Cell, S, 0>(f, s, stream)) return error;
  if constexpr (CellTraits<Cell>::norms_state()) {
    if (const Error error = launch_norm(s.now.alive, stream, &output<Cell, S>, f, s)) return error;
    return launch_project<Cell, S>(f, s, stream);
  }
  return nullptr;
}

template <class Cell, class S>
Error launch_normed_backward(const Backward& w, const BackwardStep& given, Stream stream) {
  using W = Stepwise<Cell, S>;
  BackwardStep s = given;
  if constexpr (CellTraits<Cell>::norms_state()) {
    s.d_operand = w.d_output;
    const int64_t rows = rows_of(s.now, s.after);
    if (const Error error = launch_norm(rows, stream, &output_backward<Cell, S>, w, s)) return error;
  }
  if (const Error error = launch_backward<Cell, S, 0>(w, s, stream)) return error;
  NormRows rows = norm_rows<Cell, S>(w, s.now, const_cast<void*>(s.saved));
  rows.product = rows.kept, rows.product_stride = rows.kept_stride;
  rows.d = s.dgh, rows.out = s.d_product;
  if (s.d_unit) rows.d_gain = static_cast<typename W::T*>(s.d_unit) + W::kGates * w.hidden;
  rows.d_gain_stride = CellTraits<Cell>::norm_unit() * w.hidden;
  return launch_normalize_backward<Cell, S>(rows, stream);
}

}  // namespace

}  // namespace seq::cuda
