// Memory for results of many MB that live as long as the caller likes. Not for what is written again and again and read
// from L2: there rows a power of two apart in one large page fall into few sets of the cache.
#pragma once

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <sys/mman.h>

namespace seq::ops {

// Fresh memory costs several times as much to map, page by page, as to write; in large pages about as much. A hint:
// where the system has none, nothing changes.
inline at::Tensor in_large_pages(at::Tensor t) {
  if (!t.is_cpu()) return t;
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t at = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
  const uintptr_t first = (at + kPage - 1) / kPage * kPage, last = (at + t.nbytes()) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  return t;
}

inline at::Tensor empty_in_large_pages(at::IntArrayRef sizes, const at::TensorOptions& options) {
  return in_large_pages(at::empty(sizes, options));
}
// On the CPU, past the dispatcher.
inline at::Tensor empty_in_large_pages(at::IntArrayRef sizes, at::ScalarType type) {
  return in_large_pages(at::detail::empty_cpu(sizes, type));
}

}  // namespace seq::ops
