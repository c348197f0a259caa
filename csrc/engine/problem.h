// What a walk over time is, for every engine: sizes, layouts, pointers. The one legend of layouts.
//
//   T steps   B rows of the batch   H units   P width of h (H, or the size of the projection)   G gates   S states
//
//   place i     a row of the batch in the order of decreasing length; the rows alive at a step are places 0 .. alive[t]
//   data row    where (t, place) lies in what the user sees: y, saved, c_all, resets   (Plan::row)
//   dense row   start[t] + i: rows that are alive only, in order of time: gx, dgx, dgh, gathered states
//
//   gx, dgx, dgh   [dense rows, G, H]        y        [data rows, y_stride], the first P of each
//   saved          [rows, kSaved, H]         c_all    [S-1][data rows, H]
//   h0, reset_h    [B, P]                    c0, reset_c, c_n   [S-1][B, H], planes state_plane apart
//   w_hh [G*H, P]   b_hh [G*H]   w_hr [P, H]
//
// T is the type of computation: float or double. Half types are stored by the caller; `rounding` says to which of them
// h is rounded once per step.
#pragma once

#include <cstdint>

namespace seq {

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

  T* y = nullptr;
  int64_t y_stride = 0;
  T* c_all = nullptr;  // null: not kept
  int64_t c_all_plane = 0;

  T* saved = nullptr;        // null: not kept
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
};

template <class T>
struct Forward : Walk<T> {
  const T* gx = nullptr;
  int64_t gx_first = 0;  // the dense row of gx[0]
  const T* b_hh = nullptr;
  T* h[2] = {};          // [B, P] by place: the state that enters walk step k, in h[k % 2]
  T* c = nullptr;        // [S-1][B, H] by place
  T* operand = nullptr;  // [B, H] by place: what the next phase's product reads, and h before its projection
};

template <class T>
struct Backward : Walk<T> {
  const T* dy = nullptr;  // [data rows, dy_stride] or null
  int64_t dy_stride = 0;
  const T* dc_all = nullptr;  // like c_all, or null
  T *dgx = nullptr, *dgh = nullptr;
  int64_t first = 0;                           // the dense row of dgx[0], dgh[0], dh_out[0]
  T* dh = nullptr;                             // [B, P] by place: the gradient of the state between steps
  T* dc = nullptr;                             // [S-1][B, H] by place
  T* dh_out = nullptr;                         // [dense rows, P]: the whole gradient of a projected h
  T *dreset_h = nullptr, *dreset_c = nullptr;  // [B, P], [S-1][B, H] by row of the batch, or null
};

}  // namespace seq
