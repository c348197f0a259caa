// What lies where in the shared memory of a block, for the kernels of engine "cluster" and for whoever launches them.
#pragma once

#include "cells/calculus.h"
#include "cuda/cluster.h"

namespace seq::cuda {

constexpr int kGroupUnits = 16, kTileRows = 8, kWarpLanes = 32;
constexpr int kMaxWarps = 12, kMaxSlices = 4;
// Fragments of weights that a warp holds in registers; as many as fit without spills.
constexpr int kResident = 24, kResidentOfTwoDepths = 22, kResidentBackward = 20;

constexpr int kFragmentBytes = 512;  // 16 rows of a product and 32 bytes of its depth, 16 bytes of each lane
constexpr int kOperandBytes = 256;   // as deep, 8 columns
constexpr int kLanesBytes = 512;     // four floats of each lane: 16 units and 8 rows of the batch

// Within a launch steps count from 0, in time and in the order of the walk alike.
//
// One of the 8 rows of a tile: its row of the batch, which takes part in the steps before `end` in time. Negative:
// there is none.
struct TileRow {
  int row, end;
};
// The walk steps of a launch in which some row of a tile takes part.
struct TileRange {
  int begin, end;
};

// What of a cell and of the products the layout depends on. depths: how many fragments 16 units of depth are.
struct ClusterCell {
  int gates, states, saved, depths;
};

class Places {
 public:
  SEQ_HD int take(int bytes) {
    const int at = used_;
    used_ += (bytes + 15) / 16 * 16;
    return at;
  }
  SEQ_HD int used() const { return used_; }

 private:
  int used_ = 0;
};

SEQ_HD constexpr int divided_up(int a, int b) { return (a + b - 1) / b; }

// Offsets in bytes; `overflow`: the fragments of a warp that are not in registers.
struct ForwardLayout {
  int overflow, weights, h, partial, gx, state, bias, barriers, rows, ranges, bytes;

  // The groups of depth of a warp whose fragments are in registers.
  SEQ_HD static constexpr int resident_groups(const ClusterCell& c) {
    return (c.depths == 1 ? kResident : kResidentOfTwoDepths) / (c.gates * c.depths);
  }

  SEQ_HD ForwardLayout(const ClusterShape& s, const ClusterCell& c) {
    const int groups = divided_up(s.groups, s.slices) - resident_groups(c);
    Places places;
    overflow = groups > 0 ? groups * c.gates * c.depths : 0;
    weights = places.take(s.warps * overflow * kFragmentBytes);
    h = places.take(s.held * s.groups * c.depths * kOperandBytes);
    partial = places.take(2 * s.owned * (s.slices - 1) * c.gates * kLanesBytes);
    gx = places.take(s.owned * c.gates * kLanesBytes);
    state = places.take(s.tiles * s.owned * c.states * kLanesBytes);
    bias = places.take(s.owned * 2 * c.gates * kGroupUnits * 4);
    barriers = places.take(s.held * s.blocks * 8);
    rows = places.take(s.tiles * kTileRows * static_cast<int>(sizeof(TileRow)));
    ranges = places.take(s.tiles * static_cast<int>(sizeof(TileRange)));
    bytes = places.used();
  }
};

struct BackwardLayout {
  int overflow, weights, partial, operand, saved, state, barriers, rows, ranges, bytes;

  SEQ_HD BackwardLayout(const ClusterShape& s, const ClusterCell& c) {
    const int fragments = divided_up(s.groups, s.warps) * c.gates * s.owned * c.depths;
    Places places;
    overflow = fragments > kResidentBackward ? fragments - kResidentBackward : 0;
    weights = places.take(s.warps * overflow * kFragmentBytes);
    partial = places.take(s.held * s.blocks * s.owned * kLanesBytes);
    operand = places.take(2 * c.gates * s.owned * c.depths * kOperandBytes);
    saved = places.take(s.owned * c.saved * kLanesBytes);
    state = places.take(s.tiles * s.owned * c.states * kLanesBytes);
    barriers = places.take(s.held * 8);
    rows = places.take(s.tiles * kTileRows * static_cast<int>(sizeof(TileRow)));
    ranges = places.take(s.tiles * static_cast<int>(sizeof(TileRange)));
    bytes = places.used();
  }
};

}  // namespace seq::cuda
