// cells/gru_layer_norm   the equations of cells/gru, of normalised products:
// gx = norm(x W_ih^T) + b_ih and gh = norm(h W_hh^T) + b_hh, r and z together and n on its own: Ba et al. 2016,
// arXiv:1607.06450, equations 23 to 25
#pragma once

#include "cells/gru.h"

namespace seq {

struct GruLayerNorm : Gru {
  static constexpr const char* kName = "gru_layer_norm";
  static constexpr int kNorms = 2;
  SEQ_HD static constexpr int norm_begin(int i) { return i < 2 ? 2 * i : 3; }
};

}  // namespace seq
