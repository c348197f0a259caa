// The CPU engines by name, and the rule that chooses one.
#pragma once

#include <string>

#include "ops/layer.h"

namespace seq::ops {

// panel: the weights packed once per call, own product microkernel with the cell fused to it, one parallel region per
//   chunk. The bits of a row depend on that row alone: not on the batch, its order, padding, chunks or threads.
//   A single step of few rows has the same bits and reads the weights as they lie.
// stepwise: an ATen product per step and phase, then the fused cell.
enum class Engine { kPanel, kStepwise };

struct Choice {
  Engine engine;
  std::string why;
};

// `asked` is "auto" or a name; throws for an unknown one.
Choice choose_engine(const Layer& layer, const std::string& asked);

}  // namespace seq::ops
