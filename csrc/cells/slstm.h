// cells/slstm   i = exp(gx + gh - m')   f = exp(a - m')   a = log sigmoid(gx + gh) + m   m' = max(a, gx_i + gh_i)
//               z = tanh(gx + gh)   o = sigmoid(gx + gh)   c' = f c + i z   n' = f n + i   h' = o c' / n'
// sLSTM with the sigmoid forget gate, stabilised by m: Beck et al. 2024, arXiv:2405.04517, equations 8 to 17. Where n
// is 0, as in a state of zeros, there is nothing to keep and m' = gx_i + gh_i, as in FlashRNN. gx, gh, dgx, dgh = i f z
// o   s = h c n m   saved = i f z o and sigmoid(-(gx_f + gh_f))
#pragma once

#include "cells/calculus.h"

namespace seq {

struct Slstm {
  static constexpr const char* kName = "slstm";
  static constexpr int kGates = 4, kStates = 4, kSaved = 5;
  static constexpr bool kSameGrads = true;

  template <class T>
  SEQ_HD static void forward(const T* gx, const T* gh, const T* s, T* s_new, T* saved) {
    const T in = gx[0] + gh[0], forget = gx[1] + gh[1], a = log_sigmoid(forget) + s[3];
    const T m = where_positive(s[2] * s[2], where_positive(a - in, a, in), in);
    const T above = a - m;  // 0 at most, but where n is 0
    const T i = exp_(in - m), f = exp_(above - relu(above));
    const T z = tanh_(gx[2] + gh[2]), o = sigmoid(gx[3] + gh[3]);
    s_new[1] = f * s[1] + i * z;
    s_new[2] = f * s[2] + i;
    s_new[3] = m;
    s_new[0] = o * (s_new[1] / s_new[2]);
    saved[0] = i, saved[1] = f, saved[2] = z, saved[3] = o, saved[4] = sigmoid(T(0) - forget);
  }

  // Where i < 1, m' was a and f is 1 whatever the gates are; elsewhere i is.
  template <class T>
  SEQ_HD static void backward(const T* saved, const T* s, const T* s_new, T* ds, T* dgx, T* dgh) {
    const T i = saved[0], f = saved[1], z = saved[2], o = saved[3], q = s_new[1] / s_new[2], kept = T(1) - i;
    const T dq = ds[0] * o / s_new[2], dc = ds[1] + dq, dn = ds[2] - dq * q;
    const T di = where_positive(kept, (dc * z + dn) * i), df = where_positive(kept, T(0), (dc * s[1] + dn * s[2]) * f);
    const T da = where_positive(kept, ds[3]) + df - di;
    dgx[0] = dgh[0] = ds[3] - da;
    dgx[1] = dgh[1] = da * saved[4];
    dgx[2] = dgh[2] = dc * i * d_tanh(z);
    dgx[3] = dgh[3] = ds[0] * q * d_sigmoid(o);
    ds[0] = T(0), ds[1] = dc * f, ds[2] = dn * f, ds[3] = da;
  }
};

}  // namespace seq
