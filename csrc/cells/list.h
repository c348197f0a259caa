// The list of cells: a new cell is its header and one line here (and its Python twin in seqcuda/cells).
#pragma once

#include "cells/gru.h"
#include "cells/gru_reset_before.h"
#include "cells/lstm.h"
#include "cells/rnn_relu.h"
#include "cells/rnn_tanh.h"

#define SEQ_FOR_EACH_CELL(X) \
  X(::seq::RnnTanh)          \
  X(::seq::RnnRelu)          \
  X(::seq::Lstm)             \
  X(::seq::Gru)              \
  X(::seq::GruResetBefore)
