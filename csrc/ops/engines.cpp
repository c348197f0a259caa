#include "ops/engines.h"

#include "cpu/instruction_set.h"
#include "ops/devices.h"
#include "ops/team.h"
#include "ops/tuned.h"

namespace seq::ops {

namespace {

Explanation explain(const Layer& layer, const std::string& asked) {
  const Choice choice = choose_engine(layer, asked);
  const bool panel = choice.engine == Engine::kPanel;
  return {panel ? "panel" : "stepwise",
          choice.why,
          {{"instruction_set", cpu::instruction_set()},
           {"threads", panel ? make_team(layer, layer.rows).describe() : "as ATen's products choose"}},
          {}};
}

const AddDevice cpu_device("cpu", {{"panel", "stepwise"}, &explain});

}  // namespace

Choice choose_engine(const Layer& layer, const std::string& asked) {
  if (asked == "panel") return {Engine::kPanel, "asked for by name"};
  if (asked == "stepwise") return {Engine::kStepwise, "asked for by name"};
  TORCH_CHECK_VALUE(asked == "auto", "seqcuda: engine must be auto, panel or stepwise, got '", asked, "'");
  if (const auto engine = tuned(layer)) return {choose_engine(layer, *engine).engine, kTuned};
  // Packing the weights costs about as much as four products with one row.
  constexpr int64_t kRowsThatPayForPacking = 4;
  if (layer.rows < kRowsThatPayForPacking || layer.steps < 2)
    return {Engine::kStepwise, "too few rows and steps to pay for packing the weights"};
  return {Engine::kPanel, "enough steps to pay for packing the weights"};
}

}  // namespace seq::ops
