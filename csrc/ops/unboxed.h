// The schemas of the op pair, and the functions of these signatures over a device's implementation. Argument by
// argument: seqcuda/walk.py.
#pragma once

#include <utility>

#include "ops/sequence.h"

namespace seq::ops {

inline constexpr char kSequenceSchema[] =
    "sequence(str cell, Tensor x, Tensor?[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? batch_sizes, "
    "Tensor? resets, Tensor? reset_h, Tensor? reset_c, bool[] reverse, str save, str engine, "
    "Tensor?[]? factors=None, int detach_every=0, float[] options=[]) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor "
    "c_all, Tensor saved)";
inline constexpr char kSequenceBackwardSchema[] =
    "sequence_backward(str cell, Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor? grad_c_all, Tensor x, "
    "Tensor?[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor? batch_sizes, Tensor? resets, "
    "Tensor? reset_h, Tensor? reset_c, Tensor y, Tensor c_all, Tensor saved, bool[] reverse, str engine, "
    "bool[] needs, int weight_groups=0, Tensor?[]? factors=None, int detach_every=0, float[] options=[]) -> (Tensor x, "
    "Tensor h0, Tensor c0, Tensor reset_h, Tensor reset_c, Tensor decay_h, Tensor decay_c, Tensor[] weights)";

inline Arguments arguments(std::string cell, at::Tensor x, const OptionalTensors& weights, OptionalTensor h0,
                           OptionalTensor c0, OptionalTensor lengths, OptionalTensor batch_sizes, OptionalTensor resets,
                           OptionalTensor reset_h, OptionalTensor reset_c, const c10::List<bool>& reverse,
                           const std::optional<OptionalTensors>& factors, int64_t detach_every,
                           const c10::List<double>& options) {
  Arguments a{std::move(cell),
              std::move(x),
              {},
              std::move(h0),
              std::move(c0),
              std::move(lengths),
              std::move(batch_sizes),
              std::move(resets),
              std::move(reset_h),
              std::move(reset_c),
              {}};
  a.detach_every = detach_every;
  if (factors.has_value()) {
    const OptionalTensors& f = *factors;
    TORCH_CHECK(f.size() == 5, "seqcuda: factors must be 5: decay_h, decay_c, drop, keep_h, keep_c; got ", f.size());
    a.factors = {f.get(0), f.get(1), f.get(2), f.get(3), f.get(4)};
  }
  for (size_t j = 0; j < weights.size(); ++j) a.weights.push_back(weights.get(j));
  for (size_t d = 0; d < reverse.size(); ++d) a.reverse.push_back(reverse.get(d));
  for (size_t j = 0; j < options.size(); ++j) a.options.push_back(options.get(j));
  return a;
}

template <SequenceResult (*kRun)(const Arguments&, const std::string& save, const std::string& engine)>
SequenceResult sequence(std::string cell, at::Tensor x, OptionalTensors weights, OptionalTensor h0, OptionalTensor c0,
                        OptionalTensor lengths, OptionalTensor batch_sizes, OptionalTensor resets,
                        OptionalTensor reset_h, OptionalTensor reset_c, c10::List<bool> reverse, std::string save,
                        std::string engine, std::optional<OptionalTensors> factors, int64_t detach_every,
                        c10::List<double> options) {
  return kRun(arguments(std::move(cell), std::move(x), weights, std::move(h0), std::move(c0), std::move(lengths),
                        std::move(batch_sizes), std::move(resets), std::move(reset_h), std::move(reset_c), reverse,
                        factors, detach_every, options),
              save, engine);
}

template <SequenceGradients (*kRun)(const Arguments&, const Saved&, const std::string& engine,
                                    const std::vector<bool>& needs, int64_t weight_groups)>
SequenceGradients sequence_backward(std::string cell, OptionalTensor grad_y, OptionalTensor grad_h_n,
                                    OptionalTensor grad_c_n, OptionalTensor grad_c_all, at::Tensor x,
                                    OptionalTensors weights, OptionalTensor h0, OptionalTensor c0,
                                    OptionalTensor lengths, OptionalTensor batch_sizes, OptionalTensor resets,
                                    OptionalTensor reset_h, OptionalTensor reset_c, at::Tensor y, at::Tensor c_all,
                                    at::Tensor saved, c10::List<bool> reverse, std::string engine,
                                    c10::List<bool> needs, int64_t weight_groups,
                                    std::optional<OptionalTensors> factors, int64_t detach_every,
                                    c10::List<double> options) {
  std::vector<bool> wanted;
  for (size_t j = 0; j < needs.size(); ++j) wanted.push_back(needs.get(j));
  const Saved kept{std::move(grad_y), std::move(grad_h_n), std::move(grad_c_n), std::move(grad_c_all),
                   std::move(y),      std::move(c_all),    std::move(saved)};
  return kRun(arguments(std::move(cell), std::move(x), weights, std::move(h0), std::move(c0), std::move(lengths),
                        std::move(batch_sizes), std::move(resets), std::move(reset_h), std::move(reset_c), reverse,
                        factors, detach_every, options),
              kept, engine, wanted, weight_groups);
}

}  // namespace seq::ops
