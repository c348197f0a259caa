#include "cuda/stepwise.h"

namespace seq::cuda {

const Kernels& stepwise_kernels(int cell, Type type) {
  switch (type) {
    case Type::kFloat:
      return stepwise_kernels_for<Type::kFloat>(cell);
    case Type::kDouble:
      return stepwise_kernels_for<Type::kDouble>(cell);
    case Type::kBfloat16:
      return stepwise_kernels_for<Type::kBfloat16>(cell);
    case Type::kFloat16:
      return stepwise_kernels_for<Type::kFloat16>(cell);
  }
  __builtin_unreachable();
}

}  // namespace seq::cuda
