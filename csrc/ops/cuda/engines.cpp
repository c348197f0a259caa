#include "ops/cuda/engines.h"

namespace seq::ops {

Explanation choose_cuda_engine(const Layer&, const std::string& asked) {
  TORCH_CHECK_VALUE(asked == "auto" || asked == "stepwise",
                    "seqcuda: on CUDA the engine must be auto or stepwise, got '", asked, "'");
  return {{"engine", "stepwise"},
          {"why", asked == "auto" ? "the only engine for CUDA; no GPU has run it yet" : "asked for by name"},
          {"products", "by ATen, one per step"}};
}

namespace {
const AddDevice cuda_device("cuda", {{"stepwise"}, &choose_cuda_engine});
}

}  // namespace seq::ops
