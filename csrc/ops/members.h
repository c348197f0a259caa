// Several layers of one kind in one call of the op pair: every tensor but batch_sizes has one dimension more than
// elsewhere, the first, of so many members, and so has every result. A tensor that they share is expanded.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "ops/sequence.h"

namespace seq::ops {

// How many, as weight_ih says; 0: the call is of one layer.
inline int64_t members_of(const Arguments& a) {
  const bool several = !a.weights.empty() && a.weights[0].has_value() && a.weights[0]->dim() == 3;
  if (!several) return 0;
  TORCH_CHECK(a.weights[0]->size(0) > 0, "seqcuda: there must be a member, got weight_ih of shape ",
              a.weights[0]->sizes());
  return a.weights[0]->size(0);
}

// What belongs to one of them.
class Member {
 public:
  Member(int64_t members, int64_t member) : members_(members), member_(member) {}

  at::Tensor of(const at::Tensor& t, const char* name) const {
    TORCH_CHECK(t.dim() > 0 && t.size(0) == members_, "seqcuda: ", name, " of ", members_,
                " members must have them as its first dimension, got shape ", t.sizes());
    return t.select(0, member_);
  }
  OptionalTensor of(const OptionalTensor& t, const char* name) const {
    return t.has_value() && t->defined() ? OptionalTensor(of(*t, name)) : t;
  }
  Arguments of(const Arguments& a) const {
    Arguments own = a;
    own.x = of(a.x, "x");
    for (auto& w : own.weights) w = of(w, "a weight");
    own.h0 = of(a.h0, "h0"), own.c0 = of(a.c0, "c0"), own.lengths = of(a.lengths, "lengths");
    own.resets = of(a.resets, "resets"), own.reset_h = of(a.reset_h, "reset_h"), own.reset_c = of(a.reset_c, "reset_c");
    own.factors = a.factors.each([&](const OptionalTensor& t) { return of(t, "a factor"); });
    return own;
  }
  Saved of(const Saved& s) const {
    return {
        of(s.grad_y, "grad_y"), of(s.grad_h_n, "grad_h_n"), of(s.grad_c_n, "grad_c_n"), of(s.grad_c_all, "grad_c_all"),
        of(s.y, "y"),           of(s.c_all, "c_all"),       of(s.saved, "saved")};
  }

 private:
  int64_t members_, member_;
};

// The call of one layer as one of a single member, and its results back; what is not wanted stays empty.
inline at::Tensor with_member(const at::Tensor& t) { return t.unsqueeze(0); }
inline OptionalTensor with_member(const OptionalTensor& t) {
  return t.has_value() && t->defined() ? OptionalTensor(t->unsqueeze(0)) : t;
}
inline Arguments with_member(const Arguments& a) {
  Arguments one = a;
  one.x = with_member(a.x);
  for (auto& w : one.weights) w = with_member(w);
  one.h0 = with_member(a.h0), one.c0 = with_member(a.c0), one.lengths = with_member(a.lengths);
  one.resets = with_member(a.resets), one.reset_h = with_member(a.reset_h), one.reset_c = with_member(a.reset_c);
  one.factors = a.factors.each([](const OptionalTensor& t) { return with_member(t); });
  return one;
}
inline Saved with_member(const Saved& s) {
  return {with_member(s.grad_y), with_member(s.grad_h_n), with_member(s.grad_c_n), with_member(s.grad_c_all),
          with_member(s.y),      with_member(s.c_all),    with_member(s.saved)};
}
inline at::Tensor of_one_member(const at::Tensor& t) { return t.dim() > 1 || t.numel() > 0 ? t.select(0, 0) : t; }
inline std::vector<at::Tensor> of_one_member(std::vector<at::Tensor> list) {
  for (at::Tensor& t : list) t = of_one_member(t);
  return list;
}
template <class... Parts>
std::tuple<Parts...> of_one_member(const std::tuple<Parts...>& all) {
  return std::apply([](const Parts&... parts) { return std::tuple<Parts...>(of_one_member(parts)...); }, all);
}

// call(m) for every member: side by side, one to a thread of the pool, as far as they are enough for all threads; what
// is left one after the other, with all threads, of which a member alone can use `threads_of_one`.
template <class Call>
void for_members(int64_t members, int64_t threads_of_one, const Call& call) {
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  const int64_t left = members % threads, together = left >= threads_of_one ? members : members - left;
  at::parallel_for(0, together, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below;  // a thread has its own keys
    for (int64_t m = begin; m < end; ++m) call(m);
  });
  for (int64_t m = together; m < members; ++m) call(m);
}

// What every member gave, as one; what is not wanted stays empty.
inline at::Tensor stacked(const std::vector<at::Tensor>& parts) {
  const bool wanted = parts[0].dim() > 1 || parts[0].numel() > 0;
  return wanted ? at::stack(parts) : parts[0];
}
inline std::vector<at::Tensor> stacked(const std::vector<std::vector<at::Tensor>>& lists) {
  std::vector<at::Tensor> result;
  for (size_t j = 0; j < lists[0].size(); ++j) {
    std::vector<at::Tensor> parts;
    for (const auto& list : lists) parts.push_back(list[j]);
    result.push_back(stacked(parts));
  }
  return result;
}
template <class... Parts>
std::tuple<Parts...> stacked(const std::vector<std::tuple<Parts...>>& each) {
  const auto column = [&]<size_t i>(std::integral_constant<size_t, i>) {
    std::vector<std::tuple_element_t<i, std::tuple<Parts...>>> parts;
    for (const auto& one : each) parts.push_back(std::get<i>(one));
    return stacked(parts);
  };
  return [&]<size_t... i>(std::index_sequence<i...>) {
    return std::tuple<Parts...>(column(std::integral_constant<size_t, i>())...);
  }(std::index_sequence_for<Parts...>());
}

}  // namespace seq::ops
