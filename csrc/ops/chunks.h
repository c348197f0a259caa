// Chunks of time: a chunk's input product is one product, and its gates exist only while it is walked.
#pragma once

#include <algorithm>

#include "ops/layer.h"

namespace seq::ops {

// Walk steps [k0, k1) and, for one direction, the steps [t0, t1) and dense rows [r0, r1) that they are.
struct Chunk {
  int64_t k0, k1, t0, t1, r0, r1;
  int64_t rows() const { return r1 - r0; }
  bool operator==(const Chunk&) const = default;
};

inline Chunk chunk_of(const PlanStorage& plan, int64_t k0, int64_t k1, bool reverse) {
  const int64_t T = plan.plan.steps, t0 = reverse ? T - k1 : k0, t1 = reverse ? T - k0 : k1;
  return {k0, k1, t0, t1, plan.start[t0], plan.start[t1]};
}

// Steps per chunk: so that the gates of a chunk take about `bytes`, and its products have `least_rows` rows.
inline int64_t steps_per_chunk(const Layer& layer, int64_t bytes, int64_t least_rows) {
  const int64_t row = layer.cell.gates * layer.hidden * static_cast<int64_t>(at::elementSize(layer.compute));
  const int64_t rows = std::max(bytes / std::max<int64_t>(row, 1), least_rows);
  return std::max<int64_t>(1, rows / std::max<int64_t>(layer.batch, 1));
}

}  // namespace seq::ops
