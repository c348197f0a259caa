#include "ops/gradients.h"

#include "ops/page_pool.h"

namespace seq::ops {

Needs::Needs(const std::vector<bool>& needs, int64_t weight_groups, const Layer& layer)
    : all(needs), groups(weight_groups) {
  const size_t expected = kBesideWeights + Layer::kWeights * layer.directions;
  TORCH_CHECK(all.size() == expected, "seqcuda: needs must have ", expected, " entries, got ", all.size());
  TORCH_CHECK(groups >= 0 && (groups == 0 || (layer.batch % groups == 0 && !layer.packed)),
              "seqcuda: weight_groups must divide the ", layer.batch, " rows of padded data, got ", groups,
              layer.packed ? " for packed data" : "");
  x = all[0], h0 = all[1], c0 = all[2], reset_h = all[6], reset_c = all[7], decay_h = all[8], decay_c = all[9];
}

DirectionWeights empty_gradients(const DirectionWeights& w, const Needs& needs, int64_t d, const Layer& layer) {
  const auto like = [&](int j, const at::Tensor& t) {
    if (!needs.weight(d, j) || !t.defined()) return at::Tensor();
    std::vector<int64_t> shape = t.sizes().vec();
    if (needs.groups > 0) shape.insert(shape.begin(), needs.groups);
    return t.is_cpu() ? empty_in_large_pages(shape, layer.compute) : at::empty(shape, t.options().dtype(layer.compute));
  };
  return {like(0, w.w_ih), like(1, w.w_hh), like(2, w.b_ih), like(3, w.b_hh), like(4, w.w_hr), like(5, w.w_unit)};
}

void check_saved(const Saved& s, const Layer& layer, const at::Tensor& x) {
  const int64_t D = layer.directions, B = layer.batch, H = layer.hidden;
  const auto check = [&](const at::Tensor& t, const char* name, at::ScalarType dtype,
                         const std::vector<int64_t>& shape) {
    TORCH_CHECK(t.sizes() == at::IntArrayRef(shape), "seqcuda: ", name, " must have shape ", shape, ", got ",
                t.sizes());
    TORCH_CHECK(t.scalar_type() == dtype && t.device() == x.device(), "seqcuda: ", name, " must be ", dtype, " on ",
                x.device(), ", got ", t.scalar_type(), " on ", t.device());
  };
  const auto with_rows = [&](std::vector<int64_t> before, int64_t last) {
    before.insert(before.end(), layer.leading.begin(), layer.leading.end());
    before.push_back(last);
    return before;
  };
  check(s.y, "y", layer.dtype, with_rows({}, D * layer.width));
  const bool marked = s.marked(layer);
  check(s.c_all, "c_all", layer.compute, with_rows({marked ? 0 : layer.extra(), D}, H));
  if (marked) {
    TORCH_CHECK(s.saved.dim() == 4, "seqcuda: saved must have 4 dimensions where c_all is empty, got ", s.saved.dim());
    check(s.saved, "saved", layer.compute, {D, s.saved.size(1), B, layer.extra() * H});
  } else if (s.saved.numel() > 0) {
    check(s.saved, "saved", layer.compute, with_rows({D}, layer.saved_width));
  }
  if (s.grad_y.has_value()) check(*s.grad_y, "grad_y", layer.dtype, s.y.sizes().vec());
  if (s.grad_h_n.has_value()) check(*s.grad_h_n, "grad_h_n", layer.dtype, {D, B, layer.width});
  if (s.grad_c_n.has_value()) check(*s.grad_c_n, "grad_c_n", layer.dtype, {layer.extra(), D, B, H});
  if (s.grad_c_all.has_value()) check(*s.grad_c_all, "grad_c_all", layer.compute, s.c_all.sizes().vec());
}

}  // namespace seq::ops
