#include "ops/cuda/engines.h"

#include <c10/core/DeviceGuard.h>

#include <algorithm>

#include "cuda/architectures.h"
#include "ops/cuda/choice_table.h"
#include "ops/cuda/cluster.h"
#include "ops/cuda/device.h"
#include "ops/cuda/stepwise.h"
#include "ops/tuned.h"

namespace seq::ops {

namespace {

using cuda::version;

// The first runs whatever there is.
const CudaEngine kEngines[] = {
    {"stepwise", [](const Layer&, int) { return std::string(); }, &stepwise_forward, &stepwise_backward, true,
     cuda::kMostMembers},
    {"cluster", &cluster_refusal, &cluster_forward, &cluster_backward, true, 1},
    {"group", &group_refusal, &group_forward, &group_backward, false, 1},
};

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const CudaEngine& engine : kEngines) all.emplace_back(engine.name);
  return all;
}

std::string text(const Range& range) { return c10::str(range.first, " to ", range.last); }

const CudaEngine* engine_named(std::string_view name) {
  const auto found = std::find_if(std::begin(kEngines), std::end(kEngines),
                                  [&](const CudaEngine& engine) { return engine.name == name; });
  return found == std::end(kEngines) ? nullptr : found;
}

void check_gpu(const Layer& layer, int capability) {
  TORCH_CHECK(cuda::compiled_for() > 0, "seqcuda: ", layer.device, " has compute capability ", version(capability),
              ", for which the extension was not compiled; build it with TORCH_CUDA_ARCH_LIST=", version(capability),
              " (7.5 or newer)");
}

std::string_view dtype_name(const Layer& layer) {
  switch (layer.dtype) {
    case at::kDouble:
      return "float64";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    default:
      return tf32_allowed() ? "tf32" : "float32";
  }
}

struct Choice {
  const CudaEngine* engine;
  std::string why;
};

Choice choose(const Layer& layer, const std::string& asked, int capability, int64_t members) {
  if (const CudaEngine* engine = engine_named(asked)) {
    const std::string refusal = engine->refusal(layer, capability);
    TORCH_CHECK(refusal.empty(), "seqcuda: engine ", asked, " cannot run this layer: ", refusal);
    return {engine, "asked for by name"};
  }
  TORCH_CHECK_VALUE(asked == "auto", "seqcuda: on CUDA the engine must be auto, ", c10::Join(" or ", names()),
                    ", got '", asked, "'");
  // Named by somebody else than the caller: for what it cannot run, passed over.
  const auto runs = [&](const CudaEngine* engine) {
    return engine && members <= engine->most_members && engine->refusal(layer, capability).empty();
  };
  if (const auto name = tuned(layer))
    if (const CudaEngine* engine = engine_named(*name); runs(engine)) return {engine, kTuned};
  for (const CudaChoice& row : kCudaChoices) {
    if (row.capability != capability || row.dtype != dtype_name(layer) || row.cell != layer.cell.name ||
        !row.hidden.holds(layer.hidden) || !row.batch.holds(layer.batch) || !row.steps.holds(layer.steps))
      continue;
    const CudaEngine* engine = engine_named(row.engine);
    if (runs(engine))
      return {engine,
              c10::str("the fastest that was measured on compute capability ", version(capability), " for ", row.cell,
                       " in ", row.dtype, ", H ", text(row.hidden), ", B ", text(row.batch), ", T ", text(row.steps))};
  }
  return {kEngines, "no measurement in benchmarks/results shows another to be right and faster here"};
}

bool seen_on_gpu(const CudaEngine& engine) {
  return std::find(kSeenOnGpu.begin(), kSeenOnGpu.end(), engine.name) != kSeenOnGpu.end();
}

Explanation explain(const Layer& layer, const std::string& asked) {
  const c10::DeviceGuard guard(layer.device);
  const int capability = compute_capability(layer.device);
  check_gpu(layer, capability);
  const Choice choice = choose(layer, asked, capability, 1);
  Explanation found{std::string(choice.engine->name), choice.why, {{"compute_capability", version(capability)}}, {}};
  if (!seen_on_gpu(*choice.engine)) found.details.emplace_back("tested", "in the emulation, no GPU has run it yet");
  for (const CudaEngine& engine : kEngines)
    if (std::string why = engine.refusal(layer, capability); !why.empty())
      found.refusals.emplace_back(engine.name, std::move(why));
  return found;
}

const AddDevice cuda_device("cuda", {names(), &explain});

}  // namespace

const CudaEngine& choose_cuda_engine(const Layer& layer, const std::string& asked, int64_t members) {
  const int capability = compute_capability(layer.device);
  check_gpu(layer, capability);
  return *choose(layer, asked, capability, members).engine;
}

}  // namespace seq::ops
