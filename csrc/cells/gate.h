// The function of the gates that open and close: the logistic one, which the compiler knows, or one that an option
// chooses, the last of a cell's parameters: where slope > 0 the straight line max(0, min(1, slope x + 1/2)), else the
// logistic one again.
#pragma once

#include "cells/calculus.h"

namespace seq {

struct Logistic {
  static constexpr int kOptions = 0;
  template <class T>
  SEQ_HD static T value(const T& x, const T*) {
    return sigmoid(x);
  }
  // s = value(x): ds/dx
  template <class T>
  SEQ_HD static T derivative(const T& s, const T*) {
    return d_sigmoid(s);
  }
};

struct Chosen {
  static constexpr int kOptions = 1;
  template <class T>
  SEQ_HD static T value(const T& x, const T* slope) {
    const T line = relu(*slope * x + T(0.5));
    return where_positive(*slope, where_positive(line - T(1), T(1), line), sigmoid(x));
  }
  template <class T>
  SEQ_HD static T derivative(const T& s, const T* slope) {
    return where_positive(*slope, where_positive(d_sigmoid(s), *slope), d_sigmoid(s));
  }
};

}  // namespace seq
