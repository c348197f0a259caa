#include "ops/engines.h"

namespace seq::ops {

std::vector<std::string> engine_names() { return {"panel", "stepwise"}; }

std::string engine_name(Engine engine) { return engine == Engine::kPanel ? "panel" : "stepwise"; }

Choice choose_engine(const Layer& layer, const std::string& asked) {
  if (asked == "panel") return {Engine::kPanel, "asked for by name"};
  if (asked == "stepwise") return {Engine::kStepwise, "asked for by name"};
  TORCH_CHECK_VALUE(asked == "auto", "seqcuda: engine must be auto, panel or stepwise, got '", asked, "'");
  // Packing the weights costs about as much as four products with one row.
  constexpr int64_t kRowsThatPayForPacking = 4;
  if (layer.rows < kRowsThatPayForPacking || layer.steps < 2)
    return {Engine::kStepwise, "too few rows and steps to pay for packing the weights"};
  return {Engine::kPanel, "enough steps to pay for packing the weights"};
}

}  // namespace seq::ops
