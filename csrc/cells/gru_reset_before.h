// cells/gru_reset_before, cells/gru_reset_before_hard_sigmoid
// r,z = gate(gx + gh)   n = tanh(gx + (r h) W_hn^T + b_hn)   h' = (1 - z) n + z h
// The reset gate multiplies the state before the product: Cho et al. 2014, arXiv:1406.1078, equations 5 to 8,
// with z in torch.nn's sense (it keeps the old state). Two phases, with the product of r h between them.
// gx, gh, dgx, dgh = r z n   s = h   saved = r z n   p = with hard_sigmoid: slope of the gates
#pragma once

#include "cells/gate.h"

namespace seq {

template <class Gate>
struct GruResetBeforeWith {
  static constexpr const char* kName = Gate::kOptions > 0 ? "gru_reset_before_hard_sigmoid" : "gru_reset_before";
  static constexpr int kGates = 3, kStates = 1, kSaved = 3, kOptions = Gate::kOptions;
  static constexpr bool kSameGrads = true;
  static constexpr int kPhases = 2;
  static constexpr int kPhaseBegin[kPhases + 1] = {0, 2, 3};  // the gates of each phase

  template <int Phase, class T>
  SEQ_HD static void forward(const T* gx, const T* gh, const T* s, const T* p, T* s_new, T* saved) {
    if constexpr (Phase == 0) {
      saved[0] = Gate::value(gx[0] + gh[0], p);
      saved[1] = Gate::value(gx[1] + gh[1], p);
    } else {
      saved[2] = tanh_(gx[2] + gh[2]);
      s_new[0] = saved[2] + saved[1] * (s[0] - saved[2]);
    }
  }

  // What W_hh multiplies in the phases after the first.
  template <int Phase, class T>
  SEQ_HD static T operand(const T* saved, const T* s) {
    return saved[0] * s[0];
  }

  // d_operand: the gradient of the next phase's operand; unused in the last phase.
  template <int Phase, class T>
  SEQ_HD static void backward(const T* saved, const T* s, const T*, const T* p, T* ds, const T& d_operand, T* dgx,
                              T* dgh) {
    const T r = saved[0], z = saved[1], n = saved[2];
    if constexpr (Phase == 1) {
      const T dh = ds[0];
      dgx[1] = dgh[1] = dh * (s[0] - n) * Gate::derivative(z, p);
      dgx[2] = dgh[2] = (dh - dh * z) * d_tanh(n);
      ds[0] = dh * z;
    } else {
      dgx[0] = dgh[0] = d_operand * s[0] * Gate::derivative(r, p);
      ds[0] = ds[0] + d_operand * r;
    }
  }
};

using GruResetBefore = GruResetBeforeWith<Logistic>;

}  // namespace seq
