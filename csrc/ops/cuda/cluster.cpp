#include "ops/cuda/cluster.h"

#include "cuda/cluster.h"
#include "cuda/group.h"

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

// A block of engine "group" that waits in vain gives up and says so, when the launch is long over. Kernels may write at
// any time: what they have not written is left alone.
void check_failure() {
  volatile int* const failed = cuda::group_failure();
  TORCH_CHECK(failed != nullptr, "seqcuda: no memory of the host for engine group");
  if (*failed == 0) return;
  *failed = 0;
  TORCH_CHECK(false,
              "seqcuda: engine group gave up, a block waited for another in vain; what it has computed since the last "
              "call is wrong, and NaN where it was not received");
}

// What the blocks of engine "group" exchange through, for all launches of a walk. Each has counts of its own, zeros
// when it begins; whether a block gave up holds for the whole walk, so that it is waited for once.
class Exchange {
 public:
  Exchange(const cuda::ClusterShape& shape, const at::TensorOptions& options) : counts_each_(shape.counts) {
    if (counts_each_ == 0) return;
    check_failure();
    slots_ = at::empty({shape.slot_bytes}, options.dtype(at::kByte));
    counts_ = at::zeros({kLaunches * counts_each_ + 1}, options.dtype(at::kLong));
  }

  cuda::GroupMemory of_next_launch() {
    if (counts_each_ == 0) return {};
    if (launch_ == kLaunches) {
      counts_.narrow(0, 0, kLaunches * counts_each_).zero_();
      launch_ = 0;
    }
    auto* const first = reinterpret_cast<unsigned long long*>(counts_.data_ptr<int64_t>());
    return {slots_.data_ptr(), first + launch_++ * counts_each_, first + kLaunches * counts_each_,
            cuda::group_failure()};
  }

 private:
  static constexpr int64_t kLaunches = 8;  // whose counts are zeroed at once

  const int64_t counts_each_;
  int64_t launch_ = 0;
  at::Tensor slots_, counts_;  // of counts_ the last: whether a block gave up
};

void* pointer_to(const at::Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; }

// So many that the loading of the weights is a small part of a launch; where the rows of packed data lie goes to the
// kernels in a table.
ChunkSteps asked_steps(const Layer& layer) { return {64, layer.packed ? cuda::kStepsPerTable : kAnySteps}; }

// What the forward and the backward share.
class OnChipWalk {
 public:
  OnChipWalk(const CudaLayer& c, const OnChip& engine, bool backward)
      : kernels(*engine.kernels(c.layer.cell.index, math_of(c.layer))),
        shape((backward ? engine.backward_shape : engine.forward_shape)(cluster_layer(c.layer))),
        c_(c) {
    if (c.lengths.defined()) order_ = at::argsort(of_first(c.lengths), /*stable=*/true, /*dim=*/0, /*descending=*/true);
    for (const auto& w : c.weights) {
      weights_.push_back(at::empty({cuda::packed_bytes(cluster_layer(c.layer))}, c.x.options().dtype(at::kByte)));
      check_launch(kernels.pack(w.w_hh.data_ptr(), c.layer.hidden, backward, weights_.back().data_ptr(), c.stream()));
    }
  }

  void set(cuda::ClusterWalk& walk, int64_t d, const Chunk& chunk) const {
    cuda::ClusterSteps& s = walk.steps;
    s.t0 = chunk.t0, s.count = static_cast<int>(chunk.t1 - chunk.t0), s.batch = c_.layer.batch;
    s.begins = chunk.k0 == 0;
    s.reverse = c_.reverse[d], s.packed = c_.layer.packed;
    s.order = data_or_null<int64_t>(order_);
    if (s.packed) {
      const cuda::StepTable table = cuda::make_step_table(c_.plan.plan, chunk.t0, chunk.t1, s.reverse);
      s.base = table.start[0];
      for (int i = 0; i < table.count + 3; ++i) s.start[i] = static_cast<int32_t>(table.start[i] - s.base);
    }
    walk.weights = weights_[d].data_ptr();
    walk.gates_first = chunk.r0;
  }

  const cuda::ClusterKernels& kernels;
  const cuda::ClusterShape shape;

 private:
  const CudaLayer& c_;
  at::Tensor order_;                 // the rows of the batch, the longest first; undefined: as they come
  std::vector<at::Tensor> weights_;  // packed, of each direction
};

class ClusterForward : public LayerForward {
 public:
  ClusterForward(const Arguments& a, const Layer& layer, const Kept& kept, const OnChip& engine)
      : LayerForward(a, layer, kept, asked_steps(layer)),
        on_chip_(c_, engine, /*backward=*/false),
        exchange_(on_chip_.shape, c_.x.options()) {}

 private:
  void walk(int64_t k0, int64_t k1) override {
    std::vector<cuda::ClusterForward> walks(layer_.directions);
    for (int64_t d = 0; d < layer_.directions; ++d) {
      on_chip_.set(walks[d], d, c_.chunk(k0, k1, d));
      walks[d].walk = directions_[d].f;
      walks[d].gx = directions_[d].gx.data_ptr();
      walks[d].saved = pointer_to(directions_[d].saved);
    }
    check_launch(on_chip_.kernels.forward(walks.data(), on_chip_.shape, exchange_.of_next_launch(), c_.stream()));
  }

  const OnChipWalk on_chip_;
  Exchange exchange_;
};

class ClusterBackward : public LayerBackward {
 public:
  ClusterBackward(const Arguments& a, const Saved& s, const Layer& layer, const Needs& needs, const OnChip& engine)
      : LayerBackward(a, s, layer, needs, asked_steps(layer)),
        on_chip_(c_, engine, /*backward=*/true),
        exchange_(on_chip_.shape, c_.x.options()) {}

 private:
  void walk(int64_t k0, int64_t k1) override {
    std::vector<cuda::ClusterBackward> walks(layer_.directions);
    for (int64_t d = 0; d < layer_.directions; ++d) {
      const auto& dir = directions_[d];
      const Chunk chunk = c_.chunk(k0, k1, d);
      on_chip_.set(walks[d], d, chunk);
      walks[d].walk = dir.b;
      walks[d].saved = pointer_to(dir.saved);
      walks[d].saved_first = saved_first(chunk);
      walks[d].dgx = dir.dgx.data_ptr(), walks[d].dgh = dir.dgh.data_ptr();
    }
    check_launch(on_chip_.kernels.backward(walks.data(), on_chip_.shape, exchange_.of_next_launch(), c_.stream()));
  }

  const OnChipWalk on_chip_;
  Exchange exchange_;
};

std::string refusal(const Layer& layer, int capability, const OnChip& engine) {
  if (layer.dtype == at::kDouble) return "it has no float64";
  if (layer.projected()) return "it has no projection, weight_hr makes h " + std::to_string(layer.width) + " wide";
  if (layer.heads > 1) return "it has no heads, weight_hh is of " + std::to_string(layer.heads) + " blocks";
  if (layer.has_factors) return "it has no factors between the steps (decay, dropout, zoneout)";
  if (layer.detaches) return "it has no detach_every";
  return engine.refusal(cluster_layer(layer), capability);
}

}  // namespace

std::string cluster_refusal(const Layer& layer, int capability) { return refusal(layer, capability, kCluster); }
std::string group_refusal(const Layer& layer, int capability) { return refusal(layer, capability, kGroup); }

std::unique_ptr<LayerForward> cluster_forward(const Arguments& a, const Layer& layer, const Kept& kept) {
  return std::make_unique<ClusterForward>(a, layer, kept, kCluster);
}
std::unique_ptr<LayerForward> group_forward(const Arguments& a, const Layer& layer, const Kept& kept) {
  return std::make_unique<ClusterForward>(a, layer, kept, kGroup);
}

std::unique_ptr<LayerBackward> cluster_backward(const Arguments& a, const Layer& layer, const Saved& s,
                                                const Needs& needs) {
  return std::make_unique<ClusterBackward>(a, s, layer, needs, kCluster);
}
std::unique_ptr<LayerBackward> group_backward(const Arguments& a, const Layer& layer, const Saved& s,
                                              const Needs& needs) {
  return std::make_unique<ClusterBackward>(a, s, layer, needs, kGroup);
}

}  // namespace seq::ops
