// The list of cells: a new cell is its header and one line here (and its Python twin in seqcuda/cells).
#pragma once

#include "cells/gru.h"
#include "cells/gru_layer_norm.h"
#include "cells/gru_reset_before.h"
#include "cells/indrnn.h"
#include "cells/lstm.h"
#include "cells/lstm_layer_norm.h"
#include "cells/lstm_peephole.h"
#include "cells/rnn_relu.h"
#include "cells/rnn_tanh.h"
#include "cells/slstm.h"

#define SEQ_FOR_EACH_CELL(X)                  \
  X(::seq::RnnTanh)                           \
  X(::seq::RnnRelu)                           \
  X(::seq::Lstm)                              \
  X(::seq::Gru)                               \
  X(::seq::GruResetBefore)                    \
  X(::seq::LstmPeephole)                      \
  X(::seq::IndRnn<true>)                      \
  X(::seq::IndRnn<false>)                     \
  X(::seq::Slstm)                             \
  X(::seq::GruWith<::seq::Chosen>)            \
  X(::seq::GruResetBeforeWith<::seq::Chosen>) \
  X(::seq::LstmLayerNorm)                     \
  X(::seq::GruLayerNorm)
