// cells/lstm   i,f,o = sigmoid(gx + gh)   g = tanh(gx + gh)   c' = f c + i g   h' = o tanh(c')
// Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; torch.nn.LSTM
// gx, gh, dgx, dgh = i f g o   s = h c   saved = i f g o
#pragma once

#include "cells/calculus.h"

namespace seq {

struct Lstm {
  static constexpr const char* kName = "lstm";
  static constexpr int kGates = 4, kStates = 2, kSaved = 4;
  static constexpr bool kSameGrads = true, kProjects = true;

  // h' from what is saved: for the gradient of a projection of h'.
  template <class T>
  SEQ_HD static T output(const T* saved, const T* s_new) {
    return saved[3] * tanh_(s_new[1]);
  }

  template <class T>
  SEQ_HD static void forward(const T* gx, const T* gh, const T* s, T* s_new, T* saved) {
    const T i = sigmoid(gx[0] + gh[0]), f = sigmoid(gx[1] + gh[1]);
    const T g = tanh_(gx[2] + gh[2]), o = sigmoid(gx[3] + gh[3]);
    s_new[1] = f * s[1] + i * g;
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o;
    s_new[0] = output(saved, s_new);
  }

  template <class T>
  SEQ_HD static void backward(const T* saved, const T* s, const T* s_new, T* ds, T* dgx, T* dgh) {
    const T i = saved[0], f = saved[1], g = saved[2], o = saved[3], tc = tanh_(s_new[1]);
    const T dc = ds[1] + ds[0] * o * d_tanh(tc);
    dgx[0] = dgh[0] = dc * g * d_sigmoid(i);
    dgx[1] = dgh[1] = dc * s[1] * d_sigmoid(f);
    dgx[2] = dgh[2] = dc * i * d_tanh(g);
    dgx[3] = dgh[3] = ds[0] * tc * d_sigmoid(o);
    ds[0] = T(0);
    ds[1] = dc * f;
  }
};

}  // namespace seq
