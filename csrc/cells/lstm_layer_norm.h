// cells/lstm_layer_norm   i,f,o = sigmoid(gx + gh)   g = tanh(gx + gh)   c' = f c + i g   h' = o tanh(norm(c'))
// gx = norm(x W_ih^T) + b_ih and gh = norm(h W_hh^T) + b_hh: Ba et al. 2016, arXiv:1607.06450, equations 20 to 22
// gx, gh, dgx, dgh = i f g o   s = h c   s_new = o c'   saved = i f g o c'
#pragma once

#include "cells/calculus.h"

namespace seq {

struct LstmLayerNorm {
  static constexpr const char* kName = "lstm_layer_norm";
  static constexpr int kGates = 4, kStates = 2, kSaved = 5, kNorms = 1;
  static constexpr bool kSameGrads = true, kNormsState = true;
  SEQ_HD static constexpr int norm_begin(int i) { return 4 * i; }

  template <class T>
  SEQ_HD static void forward(const T* gx, const T* gh, const T* s, T* s_new, T* saved) {
    const T i = sigmoid(gx[0] + gh[0]), f = sigmoid(gx[1] + gh[1]);
    const T g = tanh_(gx[2] + gh[2]), o = sigmoid(gx[3] + gh[3]);
    s_new[0] = o, s_new[1] = f * s[1] + i * g;
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = s_new[1];
  }

  template <class T>
  SEQ_HD static void backward(const T* saved, const T* s, const T*, T* ds, T* dgx, T* dgh) {
    const T i = saved[0], f = saved[1], g = saved[2], o = saved[3], dc = ds[1];
    dgx[0] = dgh[0] = dc * g * d_sigmoid(i);
    dgx[1] = dgh[1] = dc * s[1] * d_sigmoid(f);
    dgx[2] = dgh[2] = dc * i * d_tanh(g);
    dgx[3] = dgh[3] = ds[0] * d_sigmoid(o);
    ds[0] = T(0);
    ds[1] = dc * f;
  }

  // h' of o and the normalised c', and the gradients of those.
  template <class T>
  SEQ_HD static T output(const T& o, const T& normed) {
    return o * tanh_(normed);
  }
  template <class T>
  SEQ_HD static void output_backward(const T& o, const T& normed, const T& dh, T& d_o, T& d_normed) {
    const T t = tanh_(normed);
    d_o = dh * t;
    d_normed = dh * o * d_tanh(t);
  }
};

}  // namespace seq
