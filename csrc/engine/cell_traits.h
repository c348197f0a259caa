// One view of every cell for the engines: a cell with one phase and a cell with several look alike here, with
// parameters and without.
//
// Parameters p reach a cell that has them after its states: first its unit weights, kUnit vectors of H that multiply
// states unit by unit, then its kOptions numbers, each of which is off where it is 0.
//
// A cell with kNorms gets normalised products: of x W_ih^T and of h W_hh^T, row by row, the gates
// [norm_begin(i), norm_begin(i + 1)) are normalised together to mean 0 and variance 1 and multiplied by a gain, before
// the biases are added. With kNormsState h' is made by `output`, of the last two saved values, o and c', the latter
// normalised likewise. The gains of x and of h [G] and, with kNormsState, the gain and the bias of c' are unit weights
// of the layer that the cell itself does not see.
#pragma once

#include "cells/calculus.h"

namespace seq {

constexpr double kNormEpsilon = 1e-5;  // added to a variance

template <class Cell>
struct CellTraits {
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates, kSaved = Cell::kSaved;
  static constexpr int kExtra = kStates - 1;  // the states beside h
  static constexpr bool kSameGrads = Cell::kSameGrads;

  SEQ_HD static constexpr int phases() {
    if constexpr (requires { Cell::kPhases; }) return Cell::kPhases;
    return 1;
  }
  SEQ_HD static constexpr int phase_begin(int p) {
    if constexpr (requires { Cell::kPhases; }) return Cell::kPhaseBegin[p];
    return p * kGates;
  }
  SEQ_HD static constexpr int phase_gates(int p) { return phase_begin(p + 1) - phase_begin(p); }
  SEQ_HD static constexpr bool projects() {
    if constexpr (requires { Cell::kProjects; }) return Cell::kProjects;
    return false;
  }

  // h' and what entered the step are all that the backward reads.
  SEQ_HD static constexpr bool from_output() { return kSaved == 0 && kStates == 1 && phases() == 1 && !projects(); }

  SEQ_HD static constexpr int unit() {
    if constexpr (requires { Cell::kUnit; }) return Cell::kUnit;
    return 0;
  }
  SEQ_HD static constexpr int options() {
    if constexpr (requires { Cell::kOptions; }) return Cell::kOptions;
    return 0;
  }
  SEQ_HD static constexpr int parameters() { return unit() + options(); }

  SEQ_HD static constexpr int norms() {
    if constexpr (requires { Cell::kNorms; }) return Cell::kNorms;
    return 0;
  }
  SEQ_HD static constexpr int norm_begin(int i) {
    if constexpr (requires { Cell::kNorms; }) return Cell::norm_begin(i);
    return i;
  }
  SEQ_HD static constexpr bool norms_state() {
    if constexpr (requires { Cell::kNormsState; }) return Cell::kNormsState;
    return false;
  }
  SEQ_HD static constexpr int norm_unit() { return norms() == 0 ? 0 : 2 * kGates + 2 * norms_state(); }

  // Whether h reaches the gates through a matrix; a cell where it does not has no gh.
  SEQ_HD static constexpr bool recurrent() {
    if constexpr (requires { Cell::kRecurrent; }) return Cell::kRecurrent;
    return true;
  }
  // The gates' products are all that the cell is made of.
  SEQ_HD static constexpr bool plain() { return recurrent() && parameters() + norms() == 0; }

  template <int Phase, class T>
  SEQ_HD static void forward(const T* gx, const T* gh, const T* s, const T* p, T* s_new, T* saved) {
    if constexpr (requires { Cell::forward(gx, gh, s, p, s_new, saved); })
      Cell::forward(gx, gh, s, p, s_new, saved);
    else if constexpr (phases() == 1)
      Cell::forward(gx, gh, s, s_new, saved);
    else
      Cell::template forward<Phase>(gx, gh, s, p, s_new, saved);
  }

  template <int Phase, class T>
  SEQ_HD static void backward(const T* saved, const T* s, const T* s_new, const T* p, T* ds, const T& d_operand, T* dgx,
                              T* dgh) {
    if constexpr (requires { Cell::backward(saved, s, s_new, p, ds, dgx, dgh); })
      Cell::backward(saved, s, s_new, p, ds, dgx, dgh);
    else if constexpr (phases() == 1)
      Cell::backward(saved, s, s_new, ds, dgx, dgh);
    else
      Cell::template backward<Phase>(saved, s, s_new, p, ds, d_operand, dgx, dgh);
  }
};

}  // namespace seq
