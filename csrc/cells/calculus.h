// What cells are written with: the host/device marker and the derivatives of the activations in terms of their values.
#pragma once

#if defined(__CUDACC__)
#define SEQ_HD __host__ __device__ __forceinline__
#else
#define SEQ_HD inline __attribute__((always_inline))
#endif

namespace seq {

// s = sigmoid(x): ds/dx
template <class T>
SEQ_HD T d_sigmoid(const T& s) {
  return s - s * s;
}

// t = tanh(x): dt/dx
template <class T>
SEQ_HD T d_tanh(const T& t) {
  return T(1) - t * t;
}

}  // namespace seq
