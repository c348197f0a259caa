// A row of the table of choices, choice_table.h: where an engine other than stepwise is chosen.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace seq::ops {

// From the first to the last, both among them.
struct Range {
  int64_t first, last;
  constexpr bool holds(int64_t n) const { return first <= n && n <= last; }
};

struct CudaChoice {
  int capability;                // 90 for 9.0
  std::string_view dtype, cell;  // dtype: as torch names it, or tf32
  Range hidden, batch, steps;
  std::string_view engine;
};

}  // namespace seq::ops
