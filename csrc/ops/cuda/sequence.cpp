#include "ops/cuda/sequence.h"

#include <c10/core/DeviceGuard.h>

#include "ops/cuda/engines.h"

namespace seq::ops {

SequenceResult sequence_cuda(const Arguments& a, const std::string& save, const std::string& engine) {
  const Layer layer(a);
  const Kept kept(save, layer);
  const c10::DeviceGuard guard(layer.device);
  const CudaEngine& chosen = choose_cuda_engine(layer, engine);
  return chosen.forward(a, layer, kept)->run();
}

SequenceGradients sequence_backward_cuda(const Arguments& a, const Saved& s, const std::string& engine,
                                         const std::vector<bool>& needs, int64_t weight_groups) {
  const Layer layer(a);
  const Needs wanted(needs, weight_groups, layer);
  check_saved(s, layer, a.x);
  const c10::DeviceGuard guard(layer.device);
  const CudaEngine& chosen = choose_cuda_engine(layer, engine);
  return chosen.backward(a, layer, s, wanted);
}

}  // namespace seq::ops
