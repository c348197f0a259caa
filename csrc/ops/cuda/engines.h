// The CUDA engines by name, what each can run, and who is chosen.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "ops/cuda/layer_backward.h"
#include "ops/cuda/layer_forward.h"
#include "ops/devices.h"

namespace seq::ops {

// What all engines share: the shapes and the meaning of what the forward gives and keeps (ops/sequence.h).
struct CudaEngine {
  std::string_view name;
  // Why it cannot run a layer on the current GPU, of this compute capability (90 for 9.0); empty: it can.
  std::string (*refusal)(const Layer& layer, int capability);
  std::unique_ptr<LayerForward> (*forward)(const Arguments& a, const Layer& layer, const Kept& kept);
  std::unique_ptr<LayerBackward> (*backward)(const Arguments& a, const Layer& layer, const Saved& s,
                                             const Needs& needs);
  bool leaves_room;      // on the GPU for another layer's walk
  int64_t most_members;  // that it walks in one launch: `forward` and `backward` are given no more
};

// `asked` is "auto", which passes over engines for fewer members, or a name. Throws for an unknown one, and for an
// engine that cannot run this layer.
const CudaEngine& choose_cuda_engine(const Layer& layer, const std::string& asked, int64_t members = 1);

}  // namespace seq::ops
