// Engine "stepwise" on a GPU: the caller does the products, one kernel does each phase of a step, one thread for each
// row and unit. Nothing here reads a tensor on the host or waits for the device.
//
// Legend: engine/problem.h, with these differences. Lengths lie on the device, so that rows are not sorted: a place is
// a row of the batch, a dense row is a data row, and a row past its length is skipped by its threads. Pointers are to
// device memory; S is the type of the data, T the type of computation (float for the half types).
//
// Several layers of one kind, the members of a call, are walked by the same launch. Pointers are to what the first has;
// `apart` says how many bytes after that the next one's lies. With heads, the gates of a row lie by head,
// [heads, G, H/heads], and so does what is saved; all else lies as without. A cell that normalises (cell_traits.h) is
// walked for one member at a time, and has one head.
#pragma once

#include <algorithm>

#include "engine/cell_table.h"
#include "engine/problem.h"

namespace seq::cuda {

using Stream = void*;       // cudaStream_t
using Error = const char*;  // null: none

enum class Type { kFloat, kDouble, kBfloat16, kFloat16 };  // S

// The rows of step t: row b < alive of the batch is data row first + b. Without rows: there is no such step.
struct Step {
  int64_t t = -1, first = 0, alive = 0;
};

// As many as a grid has blocks in its third dimension.
constexpr int64_t kMostMembers = 65535;

// One direction of a layer.
struct Walk {
  int64_t members = 1;
  int64_t hidden = 0, width = 0, head_hidden = 0;
  const int64_t* lengths = nullptr;              // [B] or null: row b takes part in the steps t < lengths[b]
  const bool* resets = nullptr;                  // [data rows] or null
  const void *b_ih = nullptr, *b_hh = nullptr;   // S [G*H] or null
  const void *h0 = nullptr, *reset_h = nullptr;  // S [B, P]; null: zeros
  const void *c0 = nullptr, *reset_c = nullptr;  // S [S-1][B, H], planes state_plane apart; null: zeros
  int64_t state_plane = 0;
  Factors<Factor<const void>> factors;  // T
  bool has_factors = false, reverse = false;
  int64_t detach_every = 0;
  void* y = nullptr;  // S
  int64_t y_stride = 0;
  void* c_all = nullptr;  // T, or null: not kept
  int64_t c_all_plane = 0;
  int64_t saved_width = 0;
  const void* unit = nullptr;  // S [U*H]; null: zeros
  double options[kMaxOptions] = {};
  struct {
    int64_t lengths, resets, b_ih, b_hh, h0, reset_h, c0, reset_c, y, c_all, unit;
    Factors<int64_t> factors;
  } apart{};
};

struct Forward : Walk {
  void* h = nullptr;        // S [B, P]: the state that enters the next step, in the end the final state
  void* dropped = nullptr;  // S [B, P]: the same times `drop`, where there is one
  void* c = nullptr;        // T [S-1][B, H], planes state_plane apart: the same
  void* operand = nullptr;  // S [B, H]: what the next phase's product reads, and h before its projection
  // T [B, G, H]: of a cell that normalises, the norm of h W_hh^T, then h; may be the step's gh.
  void* product = nullptr;
  struct {
    int64_t h, dropped, c, operand;
  } states_apart{};
};

struct ForwardStep {
  Step now, next;            // next in the order of the walk
  const void* gx = nullptr;  // T [rows of now, G, H], without bias
  const void* gh = nullptr;  // T [rows of now, gates of the phase, H], without bias; for `project` h, [rows of now, P]
  void* saved = nullptr;     // T [rows of now, saved_width]; null: not kept
  struct {
    int64_t gx, gh, saved;
  } apart{};
};

struct Backward : Walk {
  const void* dy = nullptr;  // S [data rows, dy_stride] or null
  int64_t dy_stride = 0;
  const void* dc_all = nullptr;                   // T, like c_all, or null
  void* dh = nullptr;                             // T [B, P]: the gradient of the state between steps
  void* dc = nullptr;                             // T [S-1][B, H], planes state_plane apart
  void *dreset_h = nullptr, *dreset_c = nullptr;  // T, like dh and dc, or null
  Factor<void> ddecay_h, ddecay_c;                // T
  // T [B, H]: of a cell with a norm of c', the gradient of o, and what the norm gives to that of c'.
  void *d_output = nullptr, *dc_normed = nullptr;
  struct {
    int64_t dy, dc_all, dh, dc, dreset_h, dreset_c, ddecay_h, ddecay_c;
  } grads_apart{};
};

struct BackwardStep {
  Step now, before, after;              // before and after in the order of the forward walk
  const void* saved = nullptr;          // T [rows of now, saved_width]
  const void* d_operand = nullptr;      // T [rows of now, H]: the gradient of the next phase's operand or, in the last
                                        // phase, of an h before its projection
  const void* product = nullptr;        // T [rows of after, P]: what the gates of `after` give to dh; null: nothing
  void *dgx = nullptr, *dgh = nullptr;  // S [rows of now, G, H]
  void* dh_out = nullptr;               // S [rows of now, P]: the whole gradient of a projected h
  // Of a cell that normalises: of h W_hh^T, S [rows of now, G, H]; what rows add to the gradient of unit, T [rows of
  // now, U, H], or null.
  void *d_product = nullptr, *d_unit = nullptr;
  struct {
    int64_t saved, d_operand, product, dgx, dgh, dh_out;
  } apart{};
};

constexpr int kStepsPerTable = 256;  // a table travels as an argument of its kernel: nothing is copied from the host

// Where the steps t0 .. t0 + count lie: start[1 + i] is the first data row of step t0 + i. One step more at each end.
struct StepTable {
  int64_t t0, start[kStepsPerTable + 3];
  int count;
  bool reverse;
};

inline StepTable make_step_table(const Plan& plan, int64_t t0, int64_t t1, bool reverse) {
  StepTable table;
  table.t0 = t0, table.count = static_cast<int>(t1 - t0), table.reverse = reverse;
  for (int i = 0; i < table.count + 3; ++i) table.start[i] = plan.start[std::clamp<int64_t>(t0 - 1 + i, 0, plan.steps)];
  return table;
}

// What the backward needs of many steps again. Rows are those of the table, out's first is the table's first.
struct Rows {
  const void *gx = nullptr, *gh = nullptr;  // T [rows, G, H], [rows, gates of the phase, H]
  void* saved = nullptr;                    // T [rows, saved_width]
  void* out = nullptr;                      // S [rows, width of what is asked for]
  const void* dgx = nullptr;                // S [rows, G, H]
  bool restores = false;                    // recompute gives c_all as well; the rows of one step
  struct {
    int64_t gx, gh, saved, out, dgx;
  } apart{};
};

// Rows of a product [G, H] of a cell that normalises (cell_traits.h), or of its gradient. Rows past their length are
// normalised as well, and may hold anything, but zeros are kept of them.
struct NormRows {
  int64_t rows = 0, hidden = 0;
  const void* gain = nullptr;     // S [G, H]
  const void* product = nullptr;  // T, rows product_stride apart
  int64_t product_stride = 0;
  void* out = nullptr;   // forward: T, gain * norm(product), may be product; backward: S, the gradient of product
  void* kept = nullptr;  // forward: T, where product is copied to, rows kept_stride apart, or null
  int64_t kept_stride = 0;
  const int64_t* lengths = nullptr;  // as in Walk, for rows of step t
  int64_t t = 0;
  const void* d = nullptr;  // backward: S, the gradient of what the forward gives
  void* d_gain = nullptr;   // backward: T, what each row adds to that of the gain, rows d_gain_stride apart, or null
  int64_t d_gain_stride = 0;
};

// One cell for one type of data. Phases by number; the backward's last phase comes first.
struct Kernels {
  // The state before the walk, into h and c.
  Error (*begin)(const Forward&, int64_t batch, const Step& first, Stream);
  Error (*forward[kMaxPhases])(const Forward&, const ForwardStep&, Stream);
  Error (*project)(const Forward&, const ForwardStep&, Stream);

  // For a projected h, before the phases: its whole gradient goes to dh_out.
  Error (*backward_project)(const Backward&, const BackwardStep&, Stream);
  Error (*backward[kMaxPhases])(const Backward&, const BackwardStep&, Stream);
  // The gradient of the state before the walk, into dh and dc; `after` is the first step.
  Error (*finish)(const Backward&, int64_t batch, const BackwardStep&, Stream);

  Error (*recompute[kMaxPhases])(const Walk&, const StepTable&, const Rows&, Stream);  // out: the next phase's operand
  Error (*entering)(const Walk&, const StepTable&, const Rows&, Stream);               // out: the h that entered
  Error (*operand[kMaxPhases])(const Walk&, const StepTable&, const Rows&, Stream);    // out: what the product read
  Error (*unprojected)(const Walk&, const StepTable&, const Rows&, Stream);            // out: h before its projection
  // out, T [rows, U, H]: what each row adds to the gradients of the unit weights.
  Error (*unit_gradient)(const Walk&, const StepTable&, const Rows&, Stream);

  // For cells that normalise.
  Error (*normalize)(const NormRows&, Stream);
  Error (*normalize_backward)(const NormRows&, Stream);
};

// By the place of the cell in cells/list.h.
const Kernels& stepwise_kernels(int cell, Type type);

// The same for one type, each compiled in its own stepwise_<type>.cu.
template <Type kType>
const Kernels& stepwise_kernels_for(int cell);

}  // namespace seq::cuda
