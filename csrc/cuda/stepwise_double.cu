#include "cuda/stepwise.inl.cuh"

template const seq::cuda::Kernels& seq::cuda::stepwise_kernels_for<seq::cuda::Type::kDouble>(int);
