// The backward of a layer on CUDA, in chunks of time from the last to the first. A chunk: what lean training did not
// keep is computed again by one product, the gates' gradients are walked, which each engine does in its own way, and dW
// and dx follow by one product each. Where the states beside h were kept between segments only, those of a segment are
// restored before its chunks.
#pragma once

#include "ops/cuda/common.h"
#include "ops/gradients.h"

namespace seq::ops {

struct DirectionBackward {
  DirectionWeights grads;  // in the type of computation
  cuda::Backward b;
  at::Tensor dgx, dgh, dh_out;  // [M, rows, ..] of a chunk, in the type of the data
  at::Tensor saved;             // kept by the forward, or of a chunk
  at::Tensor entering;          // of a chunk, the h that entered each step, where it is needed
  Chunk with_gates{};           // the chunk whose gates were computed again last
  std::optional<StateWindow> window;
  // The gradient of h W_hh^T of a chunk, in the type of the data: dgh but for a cell that normalises. That has d_unit,
  // T [M, rows, U*H], where it is wanted, and the product x W_ih^T.
  at::Tensor dph, d_unit, input_product;
};

class LayerBackward {
 public:
  LayerBackward(const Arguments& a, const Saved& s, const Layer& layer, const Needs& needs, const ChunkSteps& asked);
  virtual ~LayerBackward() = default;

  SequenceGradients run();

  // The same in parts: first `begin`, then chunks of chunk_steps() at most, the last of the walk first: the one before
  // step k1 begins with step chunk_begin(k1).
  int64_t chunk_steps() const { return chunk_steps_; }
  void begin(int64_t chunk_steps);
  int64_t chunk_begin(int64_t k1) const;
  void run_chunk(int64_t k0, int64_t k1);
  SequenceGradients results();

  // The gradient of x, where it is wanted, of one direction; the rows of a chunk are written with it.
  at::Tensor dx() const { return c_.for_caller(layer_.with_leading(dx_, 1)); }
  // It is added to this one. Before `begin`.
  void add_dx_to(const at::Tensor& grad_x);

 protected:
  // From the states' gradients, dh and dc, after the steps from k0 to k1 to those before, and the gates' gradients of
  // the steps.
  virtual void walk(int64_t k0, int64_t k1) = 0;
  // After all chunks.
  virtual void finish() {}

  // The data row of saved[0] of a chunk.
  int64_t saved_first(const Chunk& chunk) const { return lean_ ? chunk.r0 : 0; }

  CudaLayer c_;
  const Layer& layer_;
  std::vector<DirectionBackward> directions_;

 private:
  void set_up(int64_t d, int64_t rows);
  // The states beside h of the walk steps [s0, s1), from those that were kept before s0.
  void restore(int64_t s0, int64_t s1);

  // call(table, rows of the table within the chunk) for the steps of a chunk in the order of the walk, table by table.
  template <class Call>
  void for_tables(int64_t d, const Chunk& chunk, const Call& call, int64_t most = cuda::kStepsPerTable) const;
  using Gather = cuda::Error (*)(const cuda::Walk&, const cuda::StepTable&, const cuda::Rows&, cuda::Stream);
  at::Tensor gather(Gather kernel, int64_t width, int64_t d, const Chunk& chunk) const;
  // What each row adds to the gradients of the unit weights.
  at::Tensor unit_gradient(int64_t d, const Chunk& chunk) const;
  // x W_ih^T of a chunk, and its gradient from dgx, of a cell that normalises.
  at::Tensor multiply_input(int64_t d, const Chunk& chunk) const;
  at::Tensor input_gradient(int64_t d, const at::Tensor& dgx) const;
  // The gates that lean training did not keep; restores: the states beside h as well.
  void recompute(int64_t d, const Chunk& chunk, bool restores = false);
  // Whether that of b_hh is that of b_ih, and need not be summed.
  bool one_bias_gradient(const DirectionWeights& g) const {
    return layer_.cell.same_grads && g.b_ih.defined() && g.b_hh.defined();
  }
  // dx and dW of a chunk that has been walked; `first`: the first that was.
  void multiply(int64_t d, const Chunk& chunk, bool first);
  // out = a b for what is written first, out += a b for the others.
  void accumulate(bool first, const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) const;
  void accumulate_sum(bool first, const at::Tensor& out, const at::Tensor& rows) const;

  const Needs& needs_;
  const at::TensorOptions data_;
  at::Tensor y_, c_all_, saved_, grad_y_, grad_c_all_, dh_, dc_, dreset_h_, dreset_c_, ddecay_h_, ddecay_c_, dx_;
  bool lean_ = false, marked_ = false;
  bool adds_dx_;  // to what is in dx_ at first
  const int64_t chunk_steps_;
  int64_t steps_ = 1, segments_ = 1;  // of a chunk; of the segments that are restored at once
};

}  // namespace seq::ops
