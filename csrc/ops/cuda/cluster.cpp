#include "ops/cuda/cluster.h"

#include <utility>

#include "cuda/cluster.h"
#include "cuda/group.h"
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

// What engines "cluster" and "group" differ in.
struct OnChip {
  const cuda::ClusterKernels* (*kernels)(int cell, cuda::Math math);
  std::string (*refusal)(const cuda::ClusterLayer& layer, int capability);
  cuda::ClusterShape (*forward_shape)(const cuda::ClusterLayer& layer);
  cuda::ClusterShape (*backward_shape)(const cuda::ClusterLayer& layer);
};
constexpr OnChip kCluster{&cuda::cluster_kernels, &cuda::cluster_refusal, &cuda::forward_shape, &cuda::backward_shape};
constexpr OnChip kGroup{&cuda::group_kernels, &cuda::group_refusal, &cuda::group_forward_shape,
                        &cuda::group_backward_shape};

const cuda::ClusterKernels& kernels_of(const OnChip& engine, const Layer& layer) {
  return *engine.kernels(layer.cell.index, math_of(layer));
}

// A block of engine "group" that waits in vain gives up and says so, when the launch is long over.
void check_failure() {
  int* const failed = cuda::group_failure();
  TORCH_CHECK(failed != nullptr, "seqcuda: no memory of the host for engine group");
  TORCH_CHECK(std::exchange(*static_cast<volatile int*>(failed), 0) == 0,
              "seqcuda: engine group gave up, a block waited for another in vain; what it has computed since the last "
              "call is wrong");
}

// What the blocks of engine "group" exchange through, for one launch.
struct Exchange {
  Exchange(const cuda::ClusterShape& shape, const at::TensorOptions& options) {
    if (shape.counts == 0) return;
    check_failure();
    slots = at::empty({shape.slot_bytes}, options.dtype(at::kByte));
    counts = at::zeros({shape.counts}, options.dtype(at::kLong));
    memory = {slots.data_ptr(), reinterpret_cast<unsigned long long*>(counts.data_ptr<int64_t>()),
              cuda::group_failure()};
  }
  // After the launch: the emulation is done by then.
  void check() const {
    if (counts.defined()) check_failure();
  }

  at::Tensor slots, counts;
  cuda::GroupMemory memory;
};

// Where the rows of packed data lie goes to the kernels in a table.
int64_t most_steps(const Layer& layer) { return layer.packed ? cuda::kStepsPerTable : kAnySteps; }

// The rows of the batch, the longest first. Undefined: as they come.
at::Tensor order_of(const CudaLayer& c) {
  return c.lengths.defined() ? at::argsort(c.lengths, /*stable=*/true, /*dim=*/0, /*descending=*/true) : at::Tensor();
}

// Of each direction.
std::vector<at::Tensor> packed_weights(const CudaLayer& c, const cuda::ClusterKernels& kernels, bool backward) {
  std::vector<at::Tensor> all;
  for (const auto& w : c.weights) {
    all.push_back(at::empty({cuda::packed_bytes(cluster_layer(c.layer))}, c.x.options().dtype(at::kByte)));
    check_launch(kernels.pack(w.w_hh.data_ptr(), c.layer.hidden, backward, all.back().data_ptr(), c.stream));
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
  ClusterForward(const Arguments& a, const Layer& layer, const Kept& kept, const OnChip& engine)
      : LayerForward(a, layer, kept, most_steps(layer)),
        kernels_(kernels_of(engine, layer)),
        order_(order_of(c_)),
        weights_(packed_weights(c_, kernels_, false)),
        shape_(engine.forward_shape(cluster_layer(layer))) {
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
    const Exchange exchange(shape_, c_.x.options());
    check_launch(kernels_.forward(walks.data(), shape_, exchange.memory, c_.stream));
    exchange.check();
  }

  const cuda::ClusterKernels& kernels_;
  const at::Tensor order_;
  const std::vector<at::Tensor> weights_;
  const cuda::ClusterShape shape_;
};

class ClusterBackward : public LayerBackward {
 public:
  ClusterBackward(const Arguments& a, const Saved& s, const Layer& layer, const Needs& needs, const OnChip& engine)
      : LayerBackward(a, s, layer, needs, most_steps(layer)),
        kernels_(kernels_of(engine, layer)),
        order_(order_of(c_)),
        weights_(packed_weights(c_, kernels_, true)),
        shape_(engine.backward_shape(cluster_layer(layer))) {}

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
    const Exchange exchange(shape_, c_.x.options());
    check_launch(kernels_.backward(walks.data(), shape_, exchange.memory, c_.stream));
    exchange.check();
  }

  const cuda::ClusterKernels& kernels_;
  const at::Tensor order_;
  const std::vector<at::Tensor> weights_;
  const cuda::ClusterShape shape_;
};

std::string refusal(const Layer& layer, int capability, const OnChip& engine) {
  if (layer.dtype == at::kDouble) return "it has no float64";
  if (layer.projected()) return "it has no projection, weight_hr makes h " + std::to_string(layer.width) + " wide";
  if (layer.has_factors) return "it has no factors between the steps (decay, dropout, zoneout)";
  if (layer.detaches) return "it has no detach_every";
  return engine.refusal(cluster_layer(layer), capability);
}

}  // namespace

std::string cluster_refusal(const Layer& layer, int capability) { return refusal(layer, capability, kCluster); }
std::string group_refusal(const Layer& layer, int capability) { return refusal(layer, capability, kGroup); }

SequenceResult cluster_forward(const Arguments& a, const Layer& layer, const Kept& kept) {
  return ClusterForward(a, layer, kept, kCluster).run();
}
SequenceResult group_forward(const Arguments& a, const Layer& layer, const Kept& kept) {
  return ClusterForward(a, layer, kept, kGroup).run();
}

SequenceGradients cluster_backward(const Arguments& a, const Layer& layer, const Saved& s, const Needs& needs) {
  return ClusterBackward(a, s, layer, needs, kCluster).run();
}
SequenceGradients group_backward(const Arguments& a, const Layer& layer, const Saved& s, const Needs& needs) {
  return ClusterBackward(a, s, layer, needs, kGroup).run();
}

}  // namespace seq::ops
