#include "cuda/group.inl.cuh"

template const seq::cuda::ClusterKernels* seq::cuda::group_kernels_for<seq::cuda::Math::kFloat16>(int);
