// For which GPUs the kernels are compiled.
#pragma once

namespace seq::cuda {

// For which compute capability (80 for 8.0) those kernels were compiled that the current GPU runs: they may be older
// than it is. 0: it can run none. INT_MAX: the driver does not say; a launch will tell why.
int compiled_for();

}  // namespace seq::cuda
