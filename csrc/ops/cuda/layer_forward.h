// The forward of a layer on CUDA, in chunks of time. What all engines share; each walks a chunk in its own way.
#pragma once

#include "ops/cuda/common.h"
#include "ops/sequence.h"

namespace seq::ops {

struct DirectionForward {
  cuda::Forward f;
  at::Tensor h, gx, saved;            // [M, ..]; gx: of a chunk; saved: kept for the backward
  std::optional<StateWindow> window;  // where c_all is not kept, for the marks
};

class LayerForward {
 public:
  LayerForward(const Arguments& a, const Layer& layer, const Kept& kept, const ChunkSteps& asked);
  virtual ~LayerForward() = default;

  SequenceResult run();

  // The same in parts: first `begin`, then all walk steps in order, by chunks of chunk_steps() at most.
  int64_t chunk_steps() const { return chunk_steps_; }
  void begin(int64_t chunk_steps);
  void run_chunk(int64_t k0, int64_t k1);
  SequenceResult results() const;
  at::Tensor y() const { return c_.for_caller(layer_.with_leading(y_, 1)); }

 protected:
  // The steps of direction d from k0 to k1, whose input products are done.
  virtual void walk_direction(int64_t /*d*/, const Chunk&) {}
  // The same for all directions, after that.
  virtual void walk(int64_t /*k0*/, int64_t /*k1*/) {}

  const CudaLayer c_;
  const Layer& layer_;
  const Kept& kept_;
  at::Tensor y_, h_n_, c_n_, c_all_, saved_, marks_;
  std::vector<DirectionForward> directions_;

 private:
  const int64_t chunk_steps_;
};

}  // namespace seq::ops
