// Dual numbers over lanes, a value and its derivative in one direction: the lane type by which a cell's forward and
// backward give their own derivatives.
#pragma once

namespace seq::SEQ_ISA {

template <class T>
struct Dual {
  using L = Lanes<T>;

  L v, d;

  Dual() = default;
  SEQ_INLINE Dual(L value, L derivative) : v(value), d(derivative) {}
  SEQ_INLINE explicit Dual(T x) : v(x), d(T(0)) {}

  // The derivatives lie `apart` numbers behind the values.
  SEQ_INLINE static Dual load(const T* p, int64_t apart, int64_t n) { return {L::load(p, n), L::load(p + apart, n)}; }
  SEQ_INLINE void store(T* p, int64_t apart, int64_t n) const {
    v.store(p, n);
    d.store(p + apart, n);
  }

  friend SEQ_INLINE Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
  friend SEQ_INLINE Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
  friend SEQ_INLINE Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.d * b.v + a.v * b.d}; }
  friend SEQ_INLINE Dual operator/(Dual a, Dual b) {
    const L q = a.v / b.v;
    return {q, (a.d - q * b.d) / b.v};
  }
};

template <class T>
SEQ_INLINE Dual<T> sigmoid(Dual<T> x) {
  const Lanes<T> s = sigmoid(x.v);
  return {s, x.d * d_sigmoid(s)};
}

template <class T>
SEQ_INLINE Dual<T> tanh_(Dual<T> x) {
  const Lanes<T> t = tanh_(x.v);
  return {t, x.d * d_tanh(t)};
}

template <class T>
SEQ_INLINE Dual<T> relu(Dual<T> x) {
  return {relu(x.v), where_positive(x.v, x.d)};
}

template <class T>
SEQ_INLINE Dual<T> where_positive(Dual<T> by, Dual<T> x) {
  return {where_positive(by.v, x.v), where_positive(by.v, x.d)};
}

template <class T>
SEQ_INLINE Dual<T> where_positive(Dual<T> by, Dual<T> x, Dual<T> y) {
  return {where_positive(by.v, x.v, y.v), where_positive(by.v, x.d, y.d)};
}

template <class T>
SEQ_INLINE Dual<T> exp_(Dual<T> x) {
  const Lanes<T> e = exp_(x.v);
  return {e, x.d * e};
}

template <class T>
SEQ_INLINE Dual<T> log_sigmoid(Dual<T> x) {
  return {log_sigmoid(x.v), x.d * sigmoid(Lanes<T>(T(0)) - x.v)};
}

}  // namespace seq::SEQ_ISA
