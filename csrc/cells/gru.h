// cells/gru, cells/gru_hard_sigmoid   r,z = gate(gx + gh)   n = tanh(gx + r gh)   h' = (1 - z) n + z h
// The reset gate multiplies the recurrent product; torch.nn.GRU, cuDNN
// gx, gh, dgx, dgh = r z n   s = h   saved = r z n and the recurrent part of n   p = gru_hard_sigmoid: slope of the
// gates
#pragma once

#include "cells/gate.h"

namespace seq {

template <class Gate>
struct GruWith {
  static constexpr const char* kName = Gate::kOptions > 0 ? "gru_hard_sigmoid" : "gru";
  static constexpr int kGates = 3, kStates = 1, kSaved = 4, kOptions = Gate::kOptions;
  static constexpr bool kSameGrads = false;

  template <class T>
  SEQ_HD static void forward(const T* gx, const T* gh, const T* s, const T* p, T* s_new, T* saved) {
    const T r = Gate::value(gx[0] + gh[0], p), z = Gate::value(gx[1] + gh[1], p);
    const T n = tanh_(gx[2] + r * gh[2]);
    s_new[0] = n + z * (s[0] - n);
    saved[0] = r, saved[1] = z, saved[2] = n, saved[3] = gh[2];
  }

  template <class T>
  SEQ_HD static void backward(const T* saved, const T* s, const T*, const T* p, T* ds, T* dgx, T* dgh) {
    const T r = saved[0], z = saved[1], n = saved[2], dh = ds[0];
    const T dn = (dh - dh * z) * d_tanh(n);
    dgx[0] = dgh[0] = dn * saved[3] * Gate::derivative(r, p);
    dgx[1] = dgh[1] = dh * (s[0] - n) * Gate::derivative(z, p);
    dgx[2] = dn;
    dgh[2] = dn * r;
    ds[0] = dh * z;
  }
};

using Gru = GruWith<Logistic>;

}  // namespace seq
