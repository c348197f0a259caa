// Memory of what is large and comes again in every step: results, gradients, panels, the gates of a chunk. What is
// given back stays mapped for the next call. The system maps fresh memory page by page and writes zeros to all of it
// first, which takes many times as long as to write it again.
#pragma once

#include <ATen/ATen.h>

namespace seq::ops {

// Large ones cost least. Where there is much, the system may take them when it needs them (MADV_FREE), which in small
// ones costs as much as to write them: of those less stays. But in a large page rows a power of two apart fall into few
// sets of a cache, so that what is written again and again and read from L2 is in small ones.
enum class Pages { kSmall, kLarge };

// On the CPU, past the dispatcher. Small tensors come from where all tensors do.
at::Tensor empty_in(Pages pages, at::IntArrayRef sizes, at::ScalarType type);

inline at::Tensor empty_in_large_pages(at::IntArrayRef sizes, at::ScalarType type) {
  return empty_in(Pages::kLarge, sizes, type);
}
inline at::Tensor empty_in_small_pages(at::IntArrayRef sizes, at::ScalarType type) {
  return empty_in(Pages::kSmall, sizes, type);
}

// t of another type; on the CPU in memory of the kind above, contiguous.
at::Tensor converted(const at::Tensor& t, at::ScalarType type, Pages pages = Pages::kLarge);

}  // namespace seq::ops
