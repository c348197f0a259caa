#include "ops/cuda/sequence.h"

#include <c10/core/DeviceGuard.h>

#include "ops/cuda/engines.h"
#include "ops/members.h"

namespace seq::ops {

namespace {

// Of one layer.
Layer checked(const Arguments& a) {
  Layer layer(a);
  TORCH_CHECK(layer.heads == 1, "seqcuda: on CUDA weight_hh must be whole, got ", layer.heads, " blocks of it");
  return layer;
}

}  // namespace

SequenceResult sequence_cuda(const Arguments& a, const std::string& save, const std::string& engine) {
  if (const int64_t members = members_of(a)) {
    std::vector<SequenceResult> each;
    for (int64_t m = 0; m < members; ++m) each.push_back(sequence_cuda(Member(members, m).of(a), save, engine));
    return stacked(each);
  }
  const Layer layer = checked(a);
  const Kept kept(save, layer);
  const c10::DeviceGuard guard(layer.device);
  const CudaEngine& chosen = choose_cuda_engine(layer, engine);
  return chosen.forward(a, layer, kept)->run();
}

SequenceGradients sequence_backward_cuda(const Arguments& a, const Saved& s, const std::string& engine,
                                         const std::vector<bool>& needs, int64_t weight_groups) {
  if (const int64_t members = members_of(a)) {
    std::vector<SequenceGradients> each;
    for (int64_t m = 0; m < members; ++m) {
      const Member member(members, m);
      each.push_back(sequence_backward_cuda(member.of(a), member.of(s), engine, needs, weight_groups));
    }
    return stacked(each);
  }
  const Layer layer = checked(a);
  const Needs wanted(needs, weight_groups, layer);
  check_saved(s, layer, a.x);
  const c10::DeviceGuard guard(layer.device);
  const CudaEngine& chosen = choose_cuda_engine(layer, engine);
  return chosen.backward(a, layer, s, wanted);
}

}  // namespace seq::ops
