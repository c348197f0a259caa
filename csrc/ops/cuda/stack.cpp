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

void check_stack(const Arguments& a, int64_t layers) {
  TORCH_CHECK_VALUE(
      layers > 0 && a.reverse.size() == 1 && static_cast<int64_t>(a.weights.size()) == layers * Layer::kWeights,
      "seqcuda: a stack is of one direction and has ", Layer::kWeights, " weights for each of ", layers,
      " layers, got ", a.reverse.size(), " directions and ", a.weights.size(), " weights");
}

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

// Whether so many layers like this one are walked at the same time.
bool together(int64_t layers, const Layer& layer, const std::string& engine) {
  return layers > 1 && layer.batch > 0 && layer.steps >= 2 * kLeastSteps &&
         choose_cuda_engine(layer, engine).leaves_room;
}

// Makes the walks of all layers begin, in chunks of the steps that are given back.
template <class Layers>
int64_t begin_together(const Layers& layers) {
  int64_t steps = std::max(kLeastSteps, (layers.front().layer.steps + kChunks - 1) / kChunks);
  for (const auto& l : layers) steps = std::min(steps, l.walk->chunk_steps());
  for (const auto& l : layers) l.walk->begin(steps);
  return steps;
}

// call(i, j) walks chunk j of layer i, each layer on a stream of its own: when the layer before has walked that chunk.
template <class Call>
void in_waves(const at::Device& device, int64_t layers, int64_t chunks, const Call& call) {
  Streams streams(device, layers);
  for (int64_t wave = 0; wave < chunks + layers - 1; ++wave) {
    // The last first: what the layer before has been given so far ends with the chunk that this one waits for.
    for (int64_t i = std::min(wave, layers - 1); i >= 0 && wave - i < chunks; --i) {
      if (i > 0) streams.wait(i, i - 1);
      const Streams::Current current(streams, i);
      call(i, wave - i);
    }
  }
  streams.join();
}

struct StackedForward {
  StackedForward(const Arguments& a, const std::string& save, const std::string& engine)
      : layer(a), kept(save, layer), walk(choose_cuda_engine(layer, engine).forward(a, layer, kept)) {}

  const Layer layer;
  const Kept kept;
  const std::unique_ptr<LayerForward> walk;
};

void walk_together(const std::deque<StackedForward>& layers) {
  const Layer& first = layers.front().layer;
  const int64_t steps = begin_together(layers), chunks = (first.steps + steps - 1) / steps;
  in_waves(first.device, static_cast<int64_t>(layers.size()), chunks,
           [&](int64_t i, int64_t j) { layers[i].walk->run_chunk(j * steps, std::min((j + 1) * steps, first.steps)); });
}

struct StackedBackward {
  // above: the layer whose x is the y of this one; null: there is none.
  StackedBackward(const Arguments& a, const Saved& s, const std::vector<bool>& needs, const std::string& engine,
                  const StackedBackward* above)
      : layer(a), wanted(needs, 0, layer), walk(walk_of(a, s, engine, above)) {}

  const Layer layer;
  const Needs wanted;
  const std::unique_ptr<LayerBackward> walk;

 private:
  std::unique_ptr<LayerBackward> walk_of(const Arguments& a, Saved s, const std::string& engine,
                                         const StackedBackward* above) const {
    check_saved(s, layer, a.x);
    if (above) {
      if (s.grad_y.has_value()) above->walk->add_dx_to(*s.grad_y);
      s.grad_y = above->walk->dx();
    }
    return choose_cuda_engine(layer, engine).backward(a, layer, s, wanted);
  }
};

void walk_together(const std::deque<StackedBackward>& layers) {
  begin_together(layers);
  const auto& first = layers.front();
  std::vector<int64_t> ends{first.layer.steps};  // of the chunks, then 0
  while (ends.back() > 0) ends.push_back(first.walk->chunk_begin(ends.back()));
  in_waves(first.layer.device, static_cast<int64_t>(layers.size()), static_cast<int64_t>(ends.size()) - 1,
           [&](int64_t i, int64_t j) { layers[i].walk->run_chunk(ends[j + 1], ends[j]); });
}

// What a stack is asked for, layer by layer.
class StackNeeds {
 public:
  StackNeeds(const std::vector<bool>& needs, int64_t layers) : all_(needs), lowest_(0) {
    const size_t expected = kBesideWeights + Layer::kWeights * layers;
    TORCH_CHECK(all_.size() == expected, "seqcuda: needs must have ", expected, " entries, got ", all_.size());
    const auto weights = all_.begin() + kBesideWeights;
    if (std::find(all_.begin(), weights, true) == weights)
      lowest_ = (std::find(weights, all_.end(), true) - weights) / Layer::kWeights;
  }

  // The lowest layer whose walk is needed; as many as there are: none is.
  int64_t lowest() const { return lowest_; }
  // Of layer l, in the order of Inputs.tensors() of seqcuda/walk.py.
  std::vector<bool> of(int64_t l) const {
    std::vector<bool> own(all_.begin(), all_.begin() + kBesideWeights);
    if (l > 0) own[0] = l > lowest_;
    const auto weights = all_.begin() + kBesideWeights + Layer::kWeights * l;
    own.insert(own.end(), weights, weights + Layer::kWeights);
    return own;
  }

 private:
  const std::vector<bool>& all_;
  int64_t lowest_;
};

// Whether the chunks of all layers from the lowest on end with the same steps: they kept the states of all steps, or
// marks of the same.
bool kept_alike(const std::vector<Saved>& of_layers, int64_t lowest) {
  const Saved& last = of_layers.back();
  return std::all_of(of_layers.begin() + lowest, of_layers.end(), [&](const Saved& s) {
    return s.c_all.size(0) == last.c_all.size(0) && s.saved.size(1) == last.saved.size(1);
  });
}

}  // namespace

StackResult stack_cuda(const Arguments& a, const std::vector<std::string>& saves, const std::string& engine) {
  const int64_t L = static_cast<int64_t>(saves.size());
  check_stack(a, L);
  const at::AutoDispatchBelowADInplaceOrView below;  // what is a view here is nobody's view
  const c10::DeviceGuard guard(a.x.device());
  StackResult out;
  const auto add = [&](const SequenceResult& r) {
    std::get<0>(out).push_back(std::get<0>(r)), std::get<1>(out).push_back(std::get<1>(r));
    std::get<2>(out).push_back(std::get<2>(r)), std::get<3>(out).push_back(std::get<3>(r));
    std::get<4>(out).push_back(std::get<4>(r));
  };
  if (together(L, Layer(arguments_of(a, 0, a.x)), engine)) {
    std::deque<StackedForward> layers;
    for (int64_t l = 0; l < L; ++l)
      layers.emplace_back(arguments_of(a, l, l > 0 ? layers.back().walk->y() : a.x), saves[l], engine);
    walk_together(layers);
    for (const StackedForward& l : layers) add(l.walk->results());
  } else {
    for (int64_t l = 0; l < L; ++l)
      add(StackedForward(arguments_of(a, l, l > 0 ? std::get<0>(out).back() : a.x), saves[l], engine).walk->run());
  }
  return out;
}

StackGradients stack_backward_cuda(const Arguments& a, const std::vector<Saved>& of_layers, const std::string& engine,
                                   const std::vector<bool>& needs) {
  const int64_t L = static_cast<int64_t>(of_layers.size());
  check_stack(a, L);
  const at::AutoDispatchBelowADInplaceOrView below;
  const c10::DeviceGuard guard(a.x.device());
  const StackNeeds wanted(needs, L);
  const int64_t lowest = wanted.lowest();
  const auto arguments = [&](int64_t l) { return arguments_of(a, l, l > 0 ? of_layers[l - 1].y : a.x); };
  const bool at_once = together(L - lowest, Layer(arguments(L - 1)), engine) && kept_alike(of_layers, lowest);
  std::deque<StackedBackward> layers;  // from above: those whose gradients are not yet known
  std::vector<SequenceGradients> known(L);
  int64_t next = L - 1;  // the layer of layers.front()
  const auto take = [&](const SequenceGradients& gradients) {
    known[next--] = gradients;
    layers.pop_front();
  };
  for (int64_t l = L - 1; l >= lowest; --l) {
    layers.emplace_back(arguments(l), of_layers[l], wanted.of(l), engine, layers.empty() ? nullptr : &layers.back());
    if (!at_once && layers.size() > 1) take(layers.front().walk->run());
  }
  if (at_once) walk_together(layers);
  while (!layers.empty()) take(at_once ? layers.front().walk->results() : layers.front().walk->run());

  const at::Tensor nothing = at::empty({0}, a.x.options());
  const auto joined = [&]<size_t i>(std::integral_constant<size_t, i>, bool need, int64_t dim) {
    if (!need) return nothing;
    Tensors parts;
    for (const SequenceGradients& gradients : known) parts.push_back(std::get<i>(gradients));
    return at::cat(parts, dim);
  };
  Tensors weights(Layer::kWeights * lowest, nothing);
  for (int64_t l = lowest; l < L; ++l)
    weights.insert(weights.end(), std::get<7>(known[l]).begin(), std::get<7>(known[l]).end());
  using std::integral_constant;
  return {needs[0] ? std::get<0>(known[0]) : nothing,          joined(integral_constant<size_t, 1>(), needs[1], 0),
          joined(integral_constant<size_t, 2>(), needs[2], 1), joined(integral_constant<size_t, 3>(), needs[6], 0),
          joined(integral_constant<size_t, 4>(), needs[7], 1), weights};
}

}  // namespace seq::ops
