// Which build of the kernels runs on this machine.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace seq::cpu {

// What this machine can run, best last: "baseline", "avx2", "avx512", and "avx512_bf16", which is the build of AVX512
// with products of pairs of bfloat16 (cpu/product.h).
const std::vector<std::string>& instruction_sets();

// The build in use; the best one unless another was set.
const std::string& instruction_set();

// False where this machine cannot run it, and nothing changes.
bool set_instruction_set(const std::string& name);

// Whether the one in use has products of pairs of bfloat16.
bool has_pairs();

// The kernels of a cell, by its place in cells/list.h, of the build in use.
template <class T>
const Kernels<T>* kernels(int cell);

}  // namespace seq::cpu
