#include "cuda/cluster.inl.cuh"

template const seq::cuda::ClusterKernels* seq::cuda::cluster_kernels_for<seq::cuda::Math::kFloat32>(int);
