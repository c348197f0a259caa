#include "ops/cuda/cluster.h"

#include "cuda/cluster.h"
#include "ops/cuda/layer_backward.h"
#include "ops/cuda/layer_forward.h"

namespace seq::ops {

namespace {

cuda::Math math_of(const Layer& layer) {
  switch (layer.dtype) {
    case at::kBFloat16:
      return cuda::Math::kBfloat16;
    case at::kHalf:
      return cuda::Math::kFloat16;
    default:
      return tf32_allowed() ? cuda::Math::kTf32 : cuda::Math::kFloat32;
  }
}

cuda::ClusterLayer cluster_layer(const Layer& layer) {
  return {layer.batch, layer.hidden, static_cast<int>(layer.directions), layer.cell.index, math_of(layer)};
}

const cuda::ClusterKernels& kernels_of(const Layer& layer) {
  return *cuda::cluster_kernels(layer.cell.index, math_of(layer));
}

// Where the rows of packed data lie goes to the kernels in a table.
int64_t most_steps(const Layer& layer) { return layer.packed ? cuda::kStepsPerTable : layer.steps; }

// The rows of the batch, the longest first. Undefined: as they come.
at::Tensor order_of(const CudaLayer& c) {
  return c.lengths.defined() ? at::argsort(c.lengths, /*stable=*/true, /*dim=*/0, /*descending=*/true) : at::Tensor();
}

// Of each direction.
std::vector<at::Tensor> packed_weights(const CudaLayer& c, bool backward) {
  std::vector<at::Tensor> all;
  for (const auto& w : c.weights) {
    all.push_back(at::empty({cuda::packed_bytes(cluster_layer(c.layer))}, c.x.options().dtype(at::kByte)));
    check_launch(
        kernels_of(c.layer).pack(w.w_hh.data_ptr(), c.layer.hidden, backward, all.back().data_ptr(), c.stream));
  }
  return all;
}

void set_steps(cuda::ClusterWalk& walk, const CudaLayer& c, const at::Tensor& order, int64_t d, const Chunk& chunk) {
  cuda::ClusterSteps& s = walk.steps;
  s.t0 = chunk.t0, s.count = static_cast<int>(chunk.t1 - chunk.t0), s.batch = c.layer.batch;
  s.begins = chunk.k0 == 0;
  s.reverse = c.reverse[d], s.packed = c.layer.packed;
  s.order = data_or_null<int64_t>(order);
  if (s.packed) {
    const cuda::StepTable table = cuda::make_step_table(c.plan.plan, chunk.t0, chunk.t1, s.reverse);
    s.base = table.start[0];
    for (int i = 0; i < table.count + 3; ++i) s.start[i] = static_cast<int32_t>(table.start[i] - s.base);
  }
  walk.gates_first = chunk.r0;
}

class ClusterForward : public LayerForward {
 public:
  ClusterForward(const Arguments& a, const Layer& layer, const Kept& kept)
      : LayerForward(a, layer, kept, most_steps(layer)),
        order_(order_of(c_)),
        weights_(packed_weights(c_, false)),
        shape_(cuda::forward_shape(cluster_layer(layer))) {
    // Nobody walks the steps after the end of a row.
    if (c_.lengths.defined())
      for (at::Tensor* t : {&y_, &c_all_, &saved_}) t->zero_();
  }

 private:
  void walk(int64_t k0, int64_t k1) override {
    std::vector<cuda::ClusterForward> walks(layer_.directions);
    for (int64_t d = 0; d < layer_.directions; ++d) {
      set_steps(walks[d], c_, order_, d, c_.chunk(k0, k1, d));
      walks[d].walk = directions_[d].f;
      walks[d].weights = weights_[d].data_ptr();
      walks[d].gx = directions_[d].gx.data_ptr();
      walks[d].saved = row_pointer(directions_[d].saved, 0);
    }
    check_launch(kernels_of(layer_).forward(walks.data(), static_cast<int>(walks.size()), shape_, c_.stream));
  }

  const at::Tensor order_;
  const std::vector<at::Tensor> weights_;
  const cuda::ClusterShape shape_;
};

class ClusterBackward : public LayerBackward {
 public:
  ClusterBackward(const Arguments& a, const Saved& s, const Layer& layer, const Needs& needs)
      : LayerBackward(a, s, layer, needs, most_steps(layer)),
        order_(order_of(c_)),
        weights_(packed_weights(c_, true)),
        shape_(cuda::backward_shape(cluster_layer(layer))) {}

 private:
  void walk(int64_t k0, int64_t k1) override {
    std::vector<cuda::ClusterBackward> walks(layer_.directions);
    for (int64_t d = 0; d < layer_.directions; ++d) {
      auto& dir = directions_[d];
      const Chunk chunk = c_.chunk(k0, k1, d);
      set_steps(walks[d], c_, order_, d, chunk);
      walks[d].walk = dir.b;
      walks[d].weights = weights_[d].data_ptr();
      walks[d].saved = row_pointer(dir.saved, 0);
      walks[d].saved_first = saved_first(chunk);
      walks[d].dgx = dir.dgx.data_ptr(), walks[d].dgh = dir.dgh.data_ptr();
      if (c_.lengths.defined()) {
        dir.dgx.zero_();
        if (!layer_.cell.same_grads) dir.dgh.zero_();
      }
    }
    check_launch(kernels_of(layer_).backward(walks.data(), static_cast<int>(walks.size()), shape_, c_.stream));
  }

  const at::Tensor order_;
  const std::vector<at::Tensor> weights_;
  const cuda::ClusterShape shape_;
};

}  // namespace

std::string cluster_refusal(const Layer& layer, int capability) {
  if (layer.dtype == at::kDouble) return "it has no float64";
  if (layer.projected()) return "it has no projection, weight_hr makes h " + std::to_string(layer.width) + " wide";
  if (layer.has_factors) return "it has no factors between the steps (decay, dropout, zoneout)";
  if (layer.detaches) return "it has no detach_every";
  return cuda::cluster_refusal(cluster_layer(layer), capability);
}

SequenceResult cluster_forward(const Arguments& a, const Layer& layer, const Kept& kept) {
  return ClusterForward(a, layer, kept).run();
}

SequenceGradients cluster_backward(const Arguments& a, const Layer& layer, const Saved& s, const Needs& needs) {
  return ClusterBackward(a, s, layer, needs).run();
}

}  // namespace seq::ops
