// For which GPUs the kernels are compiled.
#pragma once

#include <string>

namespace seq::cuda {

// Of a compute capability, as users know it: 8.0 for 80.
inline std::string version(int capability) {
  return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

// For which compute capability those kernels were compiled that the current GPU runs: they may be older than it is. 0:
// it can run none. INT_MAX: the driver does not say; a launch will tell why.
int compiled_for();

}  // namespace seq::cuda
