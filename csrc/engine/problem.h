// What a walk over time is, for every engine: sizes, layouts, pointers. The one legend of layouts.
//
//   T steps   B rows of the batch   H units   P width of h (H, or the size of the projection)   G gates   S states
//
//   place i     a row of the batch in the order of decreasing length; the rows alive at a step are places 0 .. alive[t]
//   data row    where (t, place) lies in what the user sees: y, saved, c_all, resets   (Plan::row)
//   dense row   start[t] + i: rows that are alive only, in order of time: gx, dgx, dgh, gathered states
//
//   gx, dgx, dgh   [dense rows, gates_stride], the first [G, H] of each     y   [data rows, y_stride], the first P
//   saved          [rows, saved_width]       c_all    [S-1][data rows, c_all_stride], the first H
//   h0, reset_h    [B, P]                    c0, reset_c, c_n   [S-1][B, H], planes state_plane apart
//   w_hh [G*H, P]   b_hh [G*H]   w_hr [P, H]   unit [U*H]: the cell's U unit weights (cell_traits.h)
//
// The heads of a direction are walks of their own side by side, each with its own H: their parts of a row lie one after
// the other, in gx, dgx and dgh as [heads, G, H], and the strides are those of the rows of all.
//
// A row of saved is kSaved, H; where there is a `keep`, what the cell gave for the states before it, kStates, H; and of
// a cell that normalises (cell_traits.h), which has one head, the product h W_hh^T, G, H.
//
// T is the type of computation: float or double. Half types are stored by the caller; `rounding` says to which of them
// h is rounded once per step.
#pragma once

#include <cstdint>

#include "cells/calculus.h"

namespace seq {

constexpr int kMaxOptions = 2;

enum class Rounding { kNone, kBfloat16, kFloat16 };

// Which rows walk at which step; shared by both directions of a layer.
struct Plan {
  int64_t steps = 0, batch = 0;
  const int64_t* alive = nullptr;  // [T]
  const int64_t* start = nullptr;  // [T + 1]
  const int64_t* order = nullptr;  // [B] place -> row of the batch; null: the same, and data rows are dense rows

  __attribute__((always_inline)) int64_t batch_row(int64_t place) const { return order ? order[place] : place; }
  __attribute__((always_inline)) int64_t row(int64_t t, int64_t place) const {
    return order ? t * batch + order[place] : start[t] + place;
  }
};

// What happens to the state s = h, c on its way through step t, besides the cell; none where a value is null:
//   s' = decay (is reset ? the reset state : s of the step before)   enters the step
//   drop h'                                                          stands for h' in the products with W_hh
//   s = keep s' + (1 - keep) new                                     leaves it; new is what the cell gives for s'
template <class Value>
struct Factors {
  Value decay_h{}, decay_c{}, drop{}, keep_h{}, keep_c{};

  template <class Call>
  auto each(const Call& call) const -> Factors<decltype(call(decay_h))> {
    return {call(decay_h), call(decay_c), call(drop), call(keep_h), call(keep_c)};
  }
};

// [T][B][units], for c one for each state, planes apart. Units lie side by side; the other strides may be 0.
template <class T>
struct Factor {
  T* data = nullptr;
  int64_t step = 0, row = 0, plane = 0;

  SEQ_HD explicit operator bool() const { return data != nullptr; }
  SEQ_HD int64_t at(int64_t t, int64_t batch_row, int64_t state = 0) const {
    return t * step + batch_row * row + state * plane;
  }
  SEQ_HD T* of(int64_t t, int64_t batch_row, int64_t state = 0) const {
    return data ? data + at(t, batch_row, state) : nullptr;
  }
};

// What the forward and the backward of one direction have in common.
template <class T>
struct Walk {
  const Plan* plan = nullptr;
  bool reverse = false;
  int64_t hidden = 0, width = 0;
  Rounding rounding = Rounding::kNone;

  const T *h0 = nullptr, *c0 = nullptr;  // null: zeros
  int64_t state_plane = 0;
  const bool* resets = nullptr;                    // [data rows]
  const T *reset_h = nullptr, *reset_c = nullptr;  // null: zeros
  Factors<Factor<const T>> factors;
  bool has_factors = false;
  int64_t detach_every = 0;  // the gradient of the state ends between steps j * detach_every - 1 and j * detach_every

  T* y = nullptr;
  int64_t y_stride = 0;
  T* c_all = nullptr;  // null: not kept
  int64_t c_all_plane = 0, c_all_stride = 0;
  int64_t gates_stride = 0;

  const T* unit = nullptr;  // null: zeros
  double options[kMaxOptions] = {};

  T* saved = nullptr;  // null: not kept
  int64_t saved_width = 0;
  int64_t saved_first = -1;  // -1: by data row; else by dense row, this one first

  __attribute__((always_inline)) int64_t step(int64_t k) const { return reverse ? plan->steps - 1 - k : k; }
  __attribute__((always_inline)) int64_t saved_row(int64_t t, int64_t place) const {
    return saved_first < 0 ? plan->row(t, place) : plan->start[t] + place - saved_first;
  }
  // Whether the row enters step t of walk step k from its initial state.
  __attribute__((always_inline)) bool enters(int64_t k, int64_t place) const {
    return k == 0 || place >= plan->alive[step(k - 1)];
  }
  __attribute__((always_inline)) bool is_reset(int64_t t, int64_t place) const {
    return resets && resets[plan->row(t, place)];
  }
  __attribute__((always_inline)) bool has_keep() const { return has_factors && (factors.keep_h || factors.keep_c); }
  // Whether anything happens to a state, or to its gradient, between two steps.
  __attribute__((always_inline)) bool between() const { return resets || has_factors || detach_every > 0; }
  // Whether the gradient of the state that enters step t from the one before in the walk ends there.
  __attribute__((always_inline)) bool detaches(int64_t t) const {
    return detach_every > 0 && (reverse ? t + 1 : t) % detach_every == 0;
  }
};

template <class T>
struct Forward : Walk<T> {
  const T* gx = nullptr;
  int64_t gx_first = 0;  // the dense row of gx[0]
  const T* b_hh = nullptr;
  T* h[2] = {};        // [B, P] by place: the state that enters walk step k, in h[k % 2]
  T* dropped[2] = {};  // the same times `drop`, where there is one
  // h once more, as the bfloat16 that it is, where the products are of pairs of them; rows halves_stride apart, which
  // is even and leaves room for a vector past the last unit.
  uint16_t* halves[2] = {};
  int64_t halves_stride = 0;
  T* c = nullptr;         // [S-1][B, H] by place
  T* operand = nullptr;   // [B, H] by place: what the next phase's product reads, and h before its projection
  T* product = nullptr;   // [B, G, H] by place: of a cell that normalises, h W_hh^T and then its norm
  bool restores = false;  // what computes the gates again gives c_all as well, step by step
  // Of a walk on dual numbers (cpu/tangent.h): the values of y, where they are known, rows known_stride apart.
  const T* known = nullptr;
  int64_t known_stride = 0;
};

template <class T>
struct Backward : Walk<T> {
  const T* dy = nullptr;  // [data rows, dy_stride] or null
  int64_t dy_stride = 0;
  const T* dc_all = nullptr;  // like c_all, or null
  T *dgx = nullptr, *dgh = nullptr;
  bool halves = false;     // dgx and dgh are of bfloat16, of pairs of which the products are
  T* d_product = nullptr;  // [dense rows, G, H]: of a cell that normalises, of h W_hh^T
  T* d_unit = nullptr;     // [dense rows, U, H]: what its rows add to the gradient of unit, or null
  T* dc_normed = nullptr;  // [B, H] by place: what its norm of c' gives to the gradient of c'
  int64_t first = 0;       // the dense row of dgx[0], dgh[0], dh_out[0], d_product[0], d_unit[0]
  T* dh = nullptr;         // [B, P] by place: the gradient of the state between steps
  T* dc = nullptr;         // [S-1][B, H] by place
  T* dh_out = nullptr;     // [dense rows, P]: the whole gradient of an h that the cell does not make
  T *dreset_h = nullptr, *dreset_c = nullptr;  // [B, P], [S-1][B, H] by row of the batch, or null
  Factor<T> ddecay_h, ddecay_c;
};

}  // namespace seq
