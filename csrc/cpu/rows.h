// What the forward and the backward walk share.
#pragma once

namespace seq::SEQ_ISA {

// How many of the share's places are alive at step t; they are the first.
SEQ_INLINE int64_t rows_alive(const Plan& plan, const Share& share, int64_t t) {
  const int64_t end = plan.alive[t] < share.row_end ? plan.alive[t] : share.row_end;
  return end > share.row_begin ? end - share.row_begin : 0;
}

template <class T>
SEQ_INLINE Lanes<T> state_or_zero(const T* states, int64_t offset, int64_t n) {
  return states ? Lanes<T>::load(states + offset, n) : Lanes<T>(T(0));
}

// x times what lies at `factor`, if anything does.
template <class T>
SEQ_INLINE Lanes<T> times(const T* factor, int64_t u, int64_t n, Lanes<T> x) {
  return factor ? Lanes<T>::load(factor + u, n) * x : x;
}

// keep entered + (1 - keep) fresh, where there is a keep.
template <class T>
SEQ_INLINE Lanes<T> mixed(const T* keep, int64_t u, int64_t n, Lanes<T> entered, Lanes<T> fresh) {
  if (!keep) return fresh;
  const Lanes<T> k = Lanes<T>::load(keep + u, n);
  return k * entered + (Lanes<T>(T(1)) - k) * fresh;
}

// The parameters of a cell for n units from u on.
template <class Traits, class T>
SEQ_INLINE void load_parameters(const Walk<T>& w, int64_t u, int64_t n, Lanes<T>* p) {
  for (int j = 0; j < Traits::unit(); ++j) p[j] = state_or_zero(w.unit, j * w.hidden + u, n);
  for (int j = 0; j < Traits::options(); ++j) p[Traits::unit() + j] = Lanes<T>(T(w.options[j]));
}

}  // namespace seq::SEQ_ISA
