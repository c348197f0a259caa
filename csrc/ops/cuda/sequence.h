// The op pair on CUDA, by the engine that engines.h chooses. It never waits for the device nor reads a tensor of it on
// the host, so that it can be captured into a CUDA graph. Shapes: seqcuda/walk.py.
#pragma once

#include "ops/sequence.h"

namespace seq::ops {

SequenceResult sequence_cuda(const Arguments& a, const std::string& save, const std::string& engine);

SequenceGradients sequence_backward_cuda(const Arguments& a, const Saved& s, const std::string& engine,
                                         const std::vector<bool>& needs, int64_t weight_groups);

}  // namespace seq::ops
