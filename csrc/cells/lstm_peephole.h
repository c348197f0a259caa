// cells/lstm_peephole   i,f = gate(gx + gh + p c)   g = tanh(gx + gh)   c' = limited(f c + i g)
//                       o = gate(gx + gh + p_o c')  h' = o tanh(c')
// Gers and Schmidhuber 2000, Recurrent nets that time and count; with the limit of c' as TensorFlow 1's LSTMCell
// gx, gh, dgx, dgh = i f g o   s = h c   saved = i f g o   p = p_i p_f p_o, limit of c', slope of the gates
#pragma once

#include "cells/gate.h"

namespace seq {

struct LstmPeephole {
  static constexpr const char* kName = "lstm_peephole";
  static constexpr int kGates = 4, kStates = 2, kSaved = 4, kUnit = 3, kOptions = 2;
  static constexpr bool kSameGrads = true, kProjects = true;

  template <class T>
  SEQ_HD static T output(const T* saved, const T* s_new) {
    return saved[3] * tanh_(s_new[1]);
  }

  template <class T>
  SEQ_HD static T limited(const T& c, const T& limit) {
    const T below = where_positive(c - limit, limit, c);
    return where_positive(limit, where_positive(T(0) - limit - below, T(0) - limit, below), c);
  }

  template <class T>
  SEQ_HD static void forward(const T* gx, const T* gh, const T* s, const T* p, T* s_new, T* saved) {
    const T i = Chosen::value(gx[0] + gh[0] + p[0] * s[1], p + 4);
    const T f = Chosen::value(gx[1] + gh[1] + p[1] * s[1], p + 4);
    const T g = tanh_(gx[2] + gh[2]);
    s_new[1] = limited(f * s[1] + i * g, p[3]);
    const T o = Chosen::value(gx[3] + gh[3] + p[2] * s_new[1], p + 4);
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o;
    s_new[0] = output(saved, s_new);
  }

  template <class T>
  SEQ_HD static void backward(const T* saved, const T* s, const T* s_new, const T* p, T* ds, T* dgx, T* dgh) {
    const T i = saved[0], f = saved[1], g = saved[2], o = saved[3], c = s_new[1], tc = tanh_(c);
    dgx[3] = dgh[3] = ds[0] * tc * Chosen::derivative(o, p + 4);
    T dc = ds[1] + ds[0] * o * d_tanh(tc) + dgx[3] * p[2];
    dc = where_positive(p[3], where_positive((p[3] - c) * (p[3] + c), dc), dc);
    dgx[0] = dgh[0] = dc * g * Chosen::derivative(i, p + 4);
    dgx[1] = dgh[1] = dc * s[1] * Chosen::derivative(f, p + 4);
    dgx[2] = dgh[2] = dc * i * d_tanh(g);
    ds[0] = T(0);
    ds[1] = dc * f + dgx[0] * p[0] + dgx[1] * p[1];
  }

  template <class T>
  SEQ_HD static void unit_gradient(const T* s, const T* s_new, const T* dgx, T* d) {
    d[0] = dgx[0] * s[1], d[1] = dgx[1] * s[1], d[2] = dgx[3] * s_new[1];
  }
};

}  // namespace seq
