#include "ops/team.h"

#include <atomic>
#include <numeric>

namespace seq::ops {

std::vector<int64_t> Team::row_cuts(const PlanStorage& plan) const {
  std::vector<int64_t> cuts(members + 1, plan.plan.batch);
  cuts[0] = 0;
  int64_t work = 0, member = 1;
  for (int64_t i = 0; i < plan.plan.batch && member < members; ++i) {
    work += plan.length[i];
    if (work * members >= plan.dense() * member) cuts[member++] = i + 1;
  }
  return cuts;
}

std::string Team::describe() const {
  std::string text = directions == 2 ? "both directions at once" : "";
  if (heads > 1) text += (text.empty() ? "" : ", ") + std::to_string(heads) + " heads at once";
  if (members > 1) {
    if (!text.empty()) text += ", ";
    text += std::to_string(members) + " threads split the " + (split == Split::kRows ? "rows" : "units");
  }
  return text.empty() ? "one thread" : text;
}

namespace {
constexpr int64_t kRowsPerThread = 8;             // from here on each thread can afford to read all of W_hh
constexpr int64_t kOwnCacheBytes = 384 * 1024;    // W_hh up to here stays in each thread's own L2
constexpr int64_t kStepFlopsPerMember = 100'000;  // below, a barrier costs more than it saves
constexpr double kThin = 0.8;                     // of all steps and rows alive: rows end one after the other

std::atomic<bool> threads_at_work{false};  // some layer could use more than one, here or in its matrix products
}  // namespace

Team make_team(const Layer& layer, int64_t alive) {
  Team team;
  team.directions = layer.directions, team.heads = layer.heads;
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (threads > 1) threads_at_work.store(true, std::memory_order_relaxed);
  const int64_t even = threads / std::gcd(threads, layer.walks());  // members of a walk that give all threads as much
  if (even == 1) return team;
  const int64_t weights = layer.cell.gates * layer.head_hidden() * layer.head_width();
  const int64_t bytes = weights * static_cast<int64_t>(at::elementSize(layer.compute));
  const int64_t rows_per_member = bytes <= kOwnCacheBytes ? 1 : kRowsPerThread;
  const int64_t by_rows = std::min(even, layer.batch / rows_per_member);
  // A step of one or two rows takes as long as one of more, so a thread's few rows should not thin out on their own.
  const bool together = alive < kThin * layer.steps * layer.batch && layer.batch < even * kRowsPerThread;
  if (by_rows == even && !together) {
    team.split = Team::Split::kRows;
    team.members = even;
    return team;
  }
  const int64_t by_units = std::min(threads / layer.walks(), 2 * layer.batch * weights / kStepFlopsPerMember);
#if AT_PARALLEL_OPENMP
  // A norm is over all units of a row.
  if (layer.cell.norms == 0 && by_units > std::max<int64_t>(together ? 1 : by_rows, 1)) {
    team.split = Team::Split::kUnits;
    team.members = by_units;
    return team;
  }
#endif
  if (by_rows > 1) {
    team.split = Team::Split::kRows;
    team.members = by_rows;
  }
  return team;
}

void after_fork_in_child() {
  if (threads_at_work) at::set_num_threads(1);
}

}  // namespace seq::ops
