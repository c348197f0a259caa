#include "ops/cuda/sequence.h"

#include <c10/core/DeviceGuard.h>

#include "ops/cuda/engines.h"
#include "ops/members.h"

namespace seq::ops {

namespace {

// A call of one layer, or of members that the engine walks one by one where they are too many for one launch, or
// normalise.
struct CudaCall {
  CudaCall(const Arguments& a, const std::string& asked)
      : members(members_of(a)),
        layer(members > 0 ? Member(members, 0).of(a) : a),
        guard(layer.device),
        engine(choose_cuda_engine(layer, asked, members)) {}

  bool one_by_one() const { return members > (layer.cell.norms > 0 ? 1 : engine.most_members); }

  // Of every member, call(member).
  template <class Call>
  auto of_each(const Call& call) const {
    std::vector<decltype(call(Member(1, 0)))> each;
    for (int64_t m = 0; m < members; ++m) each.push_back(call(Member(members, m)));
    return stacked(each);
  }

  const int64_t members;  // 0: the call is of one layer
  const Layer layer;
  const c10::DeviceGuard guard;
  const CudaEngine& engine;
};

}  // namespace

SequenceResult sequence_cuda(const Arguments& a, const std::string& save, const std::string& engine) {
  const CudaCall call(a, engine);
  if (call.one_by_one())
    return call.of_each([&](const Member& member) { return sequence_cuda(member.of(a), save, engine); });
  const Kept kept(save, call.layer);
  return call.engine.forward(a, call.layer, kept)->run();
}

SequenceGradients sequence_backward_cuda(const Arguments& a, const Saved& s, const std::string& engine,
                                         const std::vector<bool>& needs, int64_t weight_groups) {
  const CudaCall call(a, engine);
  if (call.one_by_one())
    return call.of_each([&](const Member& member) {
      return sequence_backward_cuda(member.of(a), member.of(s), engine, needs, weight_groups);
    });
  const Needs wanted(needs, weight_groups, call.layer);
  check_saved(call.members > 0 ? Member(call.members, 0).of(s) : s, call.layer, a.x);
  return call.engine.backward(a, call.layer, s, wanted)->run();
}

}  // namespace seq::ops
