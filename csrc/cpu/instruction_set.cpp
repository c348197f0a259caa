#include "cpu/instruction_set.h"

#include <algorithm>
#include <atomic>

namespace seq::cpu {

const std::vector<std::string>& instruction_sets() {
  static const std::vector<std::string> sets = [] {
    std::vector<std::string> can{"baseline"};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      can.push_back("avx2");
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        can.push_back("avx512");
      if (can.back() == "avx512" && __builtin_cpu_supports("avx512bf16")) can.push_back("avx512_bf16");
    }
#endif
    return can;
  }();
  return sets;
}

namespace {
std::atomic<int>& used() {
  static std::atomic<int> index{static_cast<int>(instruction_sets().size()) - 1};
  return index;
}
}  // namespace

const std::string& instruction_set() { return instruction_sets()[used()]; }

bool set_instruction_set(const std::string& name) {
  const auto& sets = instruction_sets();
  const auto found = std::find(sets.begin(), sets.end(), name);
  if (found == sets.end()) return false;
  used() = static_cast<int>(found - sets.begin());
  return true;
}

bool has_pairs() { return used().load(std::memory_order_relaxed) == 3; }

template <class T>
const Kernels<T>* kernels(int cell) {
#if defined(__x86_64__)
  switch (used().load(std::memory_order_relaxed)) {
    case 1:
      return avx2::kernels<T>(cell);
    case 2:
    case 3:
      return avx512::kernels<T>(cell);
  }
#endif
  return baseline::kernels<T>(cell);
}

template const Kernels<float>* kernels<float>(int);
template const Kernels<double>* kernels<double>(int);

}  // namespace seq::cpu
