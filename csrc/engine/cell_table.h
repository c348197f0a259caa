// The counts of every cell, in the order of the list: what a caller sizes its buffers and products by.
#pragma once

#include <array>

#include "cells/list.h"
#include "engine/cell_traits.h"
#include "engine/problem.h"

namespace seq {

constexpr int kMaxPhases = 2;

struct CellCounts {
  const char* name;
  int index, gates, states, saved, phases;
  int phase_begin[kMaxPhases + 1];  // the gates of each phase
  int unit, options, norms;         // unit, and saved, with those of the norms
  bool same_grads, projects, recurrent, norms_state, from_output;
  // The gates' products are all that the cell is made of.
  constexpr bool plain() const { return recurrent && unit + options == 0; }
};

template <class Cell>
constexpr CellCounts counts_of() {
  using Traits = CellTraits<Cell>;
  static_assert(Traits::phases() <= kMaxPhases && Traits::options() <= kMaxOptions);
  CellCounts c{};
  c.name = Cell::kName;
  c.gates = Traits::kGates, c.states = Traits::kStates, c.phases = Traits::phases();
  c.saved = Traits::kSaved + (Traits::norms() > 0 ? Traits::kGates : 0);
  for (int p = 0; p <= Traits::phases(); ++p) c.phase_begin[p] = Traits::phase_begin(p);
  c.unit = Traits::unit() + Traits::norm_unit(), c.options = Traits::options(), c.norms = Traits::norms();
  c.same_grads = Traits::kSameGrads, c.projects = Traits::projects(), c.recurrent = Traits::recurrent();
  c.norms_state = Traits::norms_state(), c.from_output = Traits::from_output();
  return c;
}

#define SEQ_COUNTS(Cell) counts_of<Cell>(),
inline constexpr auto kCells = [] {
  std::array cells{SEQ_FOR_EACH_CELL(SEQ_COUNTS)};
  for (size_t i = 0; i < cells.size(); ++i) cells[i].index = static_cast<int>(i);
  return cells;
}();
#undef SEQ_COUNTS

}  // namespace seq
