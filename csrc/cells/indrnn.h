// cells/indrnn_relu, cells/indrnn_tanh   h' = activation(gx + u h), u one number for each unit
// Li et al. 2018, arXiv:1803.04831, equation 2
// gx, dgx = h   s = h   saved = nothing: the derivative is a function of h'   p = u
#pragma once

#include "cells/calculus.h"

namespace seq {

template <bool kRelu>
struct IndRnn {
  static constexpr const char* kName = kRelu ? "indrnn_relu" : "indrnn_tanh";
  static constexpr int kGates = 1, kStates = 1, kSaved = 0, kUnit = 1;
  static constexpr bool kSameGrads = true, kRecurrent = false;

  template <class T>
  SEQ_HD static void forward(const T* gx, const T*, const T* s, const T* p, T* s_new, T*) {
    const T x = gx[0] + p[0] * s[0];
    if constexpr (kRelu)
      s_new[0] = relu(x);
    else
      s_new[0] = tanh_(x);
  }

  template <class T>
  SEQ_HD static void backward(const T*, const T*, const T* s_new, const T* p, T* ds, T* dgx, T* dgh) {
    if constexpr (kRelu)
      dgx[0] = where_positive(s_new[0], ds[0]);
    else
      dgx[0] = ds[0] * d_tanh(s_new[0]);
    dgh[0] = dgx[0];
    ds[0] = dgx[0] * p[0];
  }

  template <class T>
  SEQ_HD static void unit_gradient(const T* s, const T*, const T* dgx, T* d) {
    d[0] = dgx[0] * s[0];
  }
};

}  // namespace seq
