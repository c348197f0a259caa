// cells/rnn_tanh   h' = tanh(gx + gh)          Elman 1990; torch.nn.RNN(nonlinearity="tanh")
// s = h   saved = nothing: the derivative is a function of h'
#pragma once

#include "cells/calculus.h"

namespace seq {

struct RnnTanh {
  static constexpr const char* kName = "rnn_tanh";
  static constexpr int kGates = 1, kStates = 1, kSaved = 0;
  static constexpr bool kSameGrads = true;

  template <class T>
  SEQ_HD static void forward(const T* gx, const T* gh, const T*, T* s_new, T*) {
    s_new[0] = tanh_(gx[0] + gh[0]);
  }

  template <class T>
  SEQ_HD static void backward(const T*, const T*, const T* s_new, T* ds, T* dgx, T* dgh) {
    dgx[0] = dgh[0] = ds[0] * d_tanh(s_new[0]);
    ds[0] = T(0);
  }
};

}  // namespace seq
