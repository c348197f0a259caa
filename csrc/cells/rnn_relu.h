// cells/rnn_relu   h' = max(gx + gh, 0)          torch.nn.RNN(nonlinearity="relu")
// s = h   saved = nothing: h' > 0 says where the derivative is 1
#pragma once

#include "cells/calculus.h"

namespace seq {

struct RnnRelu {
  static constexpr const char* kName = "rnn_relu";
  static constexpr int kGates = 1, kStates = 1, kSaved = 0;
  static constexpr bool kSameGrads = true;

  template <class T>
  SEQ_HD static void forward(const T* gx, const T* gh, const T*, T* s_new, T*) {
    s_new[0] = relu(gx[0] + gh[0]);
  }

  template <class T>
  SEQ_HD static void backward(const T*, const T*, const T* s_new, T* ds, T* dgx, T* dgh) {
    dgx[0] = dgh[0] = where_positive(s_new[0], ds[0]);
    ds[0] = T(0);
  }
};

}  // namespace seq
