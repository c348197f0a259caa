// How the threads of torch's pool share the walk of a layer.
#pragma once

#include <ATen/Parallel.h>

#include <memory>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "ops/layer.h"

namespace seq::ops {

// Walks, the heads of each direction, go side by side; within one, threads split the rows of the batch and never meet,
// or split the units and meet once per phase.
struct Team {
  enum class Split { kNone, kRows, kUnits };
  Split split = Split::kNone;
  int64_t directions = 1, heads = 1, members = 1;  // members of each walk

  int64_t walks() const { return directions * heads; }
  int64_t threads() const { return walks() * members; }
  std::string describe() const;

  // walk(number, share) on every thread.
  template <class Walk>
  void run(const PlanStorage& plan, const Walk& walk) const {
    const std::vector<int64_t> cuts = row_cuts(plan);
    std::vector<std::unique_ptr<cpu::Barrier>> barriers;
    for (int64_t w = 0; w < walks(); ++w) barriers.push_back(std::make_unique<cpu::Barrier>(members));
    // A thread may be given several members at once, of one walk or of several; it acts for all of them.
    const auto act = [&](int64_t begin, int64_t end) {
      for (int64_t w = begin / members; w * members < end; ++w) {
        const int64_t first = std::max<int64_t>(begin - w * members, 0);
        const int64_t last = std::min<int64_t>(end - w * members, members);
        cpu::Share share;
        if (split == Split::kUnits)
          share = {0, plan.plan.batch, first, last, members, barriers[w].get()};
        else
          share = {cuts[first], cuts[last], 0, 1, 1, nullptr};
        walk(w, share);
      }
    };
    at::parallel_for(0, threads(), 1, act);
  }

 private:
  // Places at which the batch is cut so that every member has about the same number of rows alive over time.
  std::vector<int64_t> row_cuts(const PlanStorage& plan) const;
};

// The rule, from the sizes, the rows alive summed over the steps, and the threads at hand.
Team make_team(const Layer& layer, int64_t alive);

// In the child of a fork. OpenMP's threads stayed with the parent, but the runtime waits for them: where a layer had
// put them to work, torch is told that there is one thread.
void after_fork_in_child();

}  // namespace seq::ops
