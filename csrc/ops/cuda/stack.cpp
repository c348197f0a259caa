#include "ops/stack.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DeviceGuard.h>

#include <deque>

#include "ops/cuda/engines.h"
#include "ops/cuda/streams.h"

namespace seq::ops {

namespace {

// So many chunks that most of the time all layers walk, each of so many steps that they pay for the waiting of streams.
constexpr int64_t kChunks = 8, kLeastSteps = 16;

// The arguments of layer l, from those of all layers.
Arguments arguments_of(const Arguments& all, int64_t l, const at::Tensor& x) {
  const auto of_layer = [&](const OptionalTensor& t, int64_t dim) {
    return t.has_value() ? OptionalTensor(t->narrow(dim, l, 1)) : t;
  };
  Arguments a = all;
  a.x = x;
  const auto first = all.weights.begin() + Layer::kWeights * l;
  a.weights.assign(first, first + Layer::kWeights);
  a.h0 = of_layer(all.h0, 0), a.reset_h = of_layer(all.reset_h, 0);
  a.c0 = of_layer(all.c0, 1), a.reset_c = of_layer(all.reset_c, 1);
  return a;
}

struct StackedLayer {
  StackedLayer(const Arguments& a, const std::string& save, const std::string& engine)
      : layer(a), kept(save, layer), walk(choose_cuda_engine(layer, engine).forward(a, layer, kept)) {}

  const Layer layer;
  const Kept kept;
  const std::unique_ptr<LayerForward> walk;
};

// All layers at the same time, each on a stream of its own: a layer walks a chunk when the one below has walked it.
void walk_together(const std::deque<StackedLayer>& layers) {
  const Layer& first = layers.front().layer;
  const int64_t T = first.steps, L = static_cast<int64_t>(layers.size());
  int64_t steps = std::max(kLeastSteps, (T + kChunks - 1) / kChunks);
  for (const StackedLayer& l : layers) steps = std::min(steps, l.walk->chunk_steps());
  for (const StackedLayer& l : layers) l.walk->begin(steps);
  Streams streams(first.device, L);
  const int64_t chunks = (T + steps - 1) / steps;
  for (int64_t wave = 0; wave < chunks + L - 1; ++wave) {
    // From above: what the layer below has been given so far ends with the chunk that this one waits for.
    for (int64_t l = std::min(wave, L - 1); l >= 0 && wave - l < chunks; --l) {
      const int64_t k0 = (wave - l) * steps;
      if (l > 0) streams.wait(l, l - 1);
      const Streams::Current current(streams, l);
      layers[l].walk->run_chunk(k0, std::min(k0 + steps, T));
    }
  }
  streams.join();
}

}  // namespace

StackResult stack_cuda(const Arguments& a, const std::vector<std::string>& saves, const std::string& engine) {
  const int64_t L = static_cast<int64_t>(saves.size());
  TORCH_CHECK_VALUE(L > 0 && a.reverse.size() == 1 && a.weights.size() == saves.size() * Layer::kWeights,
                    "seqcuda: a stack is of one direction and has ", Layer::kWeights, " weights for each of ", L,
                    " layers, got ", a.reverse.size(), " directions and ", a.weights.size(), " weights");
  const at::AutoDispatchBelowADInplaceOrView below;  // what is a view here is nobody's view
  const c10::DeviceGuard guard(a.x.device());
  StackResult out;
  const auto add = [&](const SequenceResult& r) {
    std::get<0>(out).push_back(std::get<0>(r)), std::get<1>(out).push_back(std::get<1>(r));
    std::get<2>(out).push_back(std::get<2>(r)), std::get<3>(out).push_back(std::get<3>(r));
    std::get<4>(out).push_back(std::get<4>(r));
  };
  const Layer first(arguments_of(a, 0, a.x));
  if (L > 1 && first.batch > 0 && first.steps >= 2 * kLeastSteps && choose_cuda_engine(first, engine).leaves_room) {
    std::deque<StackedLayer> layers;
    for (int64_t l = 0; l < L; ++l)
      layers.emplace_back(arguments_of(a, l, l > 0 ? layers.back().walk->y() : a.x), saves[l], engine);
    walk_together(layers);
    for (const StackedLayer& l : layers) add(l.walk->results());
  } else {
    for (int64_t l = 0; l < L; ++l)
      add(StackedLayer(arguments_of(a, l, l > 0 ? std::get<0>(out).back() : a.x), saves[l], engine).walk->run());
  }
  return out;
}

}  // namespace seq::ops
