#include "ops/engines.h"

#include <algorithm>
#include <iterator>

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

// Packing the weights costs about as much as a few products with one row, and more where they come from memory: how
// many rows, all steps together, do not pay for it, by the bytes of a direction's weights. Measured in float32, in
// inference and in training.
struct Unpacked {
  int64_t from_bytes, rows;
};
constexpr Unpacked kUnpacked[] = {{6 << 20, 64}, {3 << 19, 24}, {1 << 19, 8}, {0, 3}};

int64_t rows_without_packing(const Layer& layer) {
  const int64_t size = static_cast<int64_t>(at::elementSize(layer.compute));
  const int64_t bytes = layer.cell.gates * layer.hidden * (layer.input + layer.head_width()) * size;
  if (layer.dtype != layer.compute) return std::end(kUnpacked)[-1].rows;  // they are copied in any case
  return std::find_if(std::begin(kUnpacked), std::end(kUnpacked),
                      [&](const Unpacked& u) { return bytes >= u.from_bytes; })
      ->rows;
}

}  // namespace

Choice choose_engine(const Layer& layer, const std::string& asked) {
  if (asked == "panel") return {Engine::kPanel, "asked for by name"};
  if (asked == "stepwise") return {Engine::kStepwise, "asked for by name"};
  TORCH_CHECK_VALUE(asked == "auto", "seqcuda: engine must be auto, panel or stepwise, got '", asked, "'");
  if (const auto engine = tuned(layer)) return {choose_engine(layer, *engine).engine, kTuned};
  if (layer.rows <= rows_without_packing(layer) || layer.steps < 2)
    return {Engine::kStepwise, "too few rows and steps to pay for packing the weights"};
  return {Engine::kPanel, "enough steps to pay for packing the weights"};
}

}  // namespace seq::ops
