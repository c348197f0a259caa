// Which tensors the kernels may read without the dispatcher.
#pragma once

#include <ATen/ATen.h>

#include <initializer_list>

namespace seq::ops {

// Memory on the CPU and nothing more: no subclass with its own operations, no member of a vmap, no pending conjugation.
// So is what is undefined.
inline bool is_plain(const at::Tensor& t) {
  constexpr c10::DispatchKeySet plain{c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                      c10::DispatchKey::AutocastCPU, c10::DispatchKey::ADInplaceOrView};
  return !t.defined() || (t.key_set().raw_repr() & ~plain.raw_repr()) == 0;
}

template <class Tensors>
bool all_plain(const Tensors& tensors) {
  for (const at::Tensor& t : tensors)
    if (!is_plain(t)) return false;
  return true;
}

}  // namespace seq::ops
