// Every hand-written backward against the derivative of its forward, by dual numbers, over the list of cells.
// Prints the largest relative difference per cell; exits with 1 where one is above a few ulp, or where a cell that
// says its gradients for gx and gh are the same has different ones.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <random>
#include <vector>

struct Dual {
  double v = 0, d = 0;
  Dual() = default;
  explicit Dual(double value, double derivative = 0) : v(value), d(derivative) {}
};
inline Dual operator+(Dual a, Dual b) { return Dual(a.v + b.v, a.d + b.d); }
inline Dual operator-(Dual a, Dual b) { return Dual(a.v - b.v, a.d - b.d); }
inline Dual operator*(Dual a, Dual b) { return Dual(a.v * b.v, a.d * b.v + a.v * b.d); }
inline Dual sigmoid(Dual x) {
  const double s = 1 / (1 + std::exp(-x.v));
  return Dual(s, x.d * s * (1 - s));
}
inline Dual tanh_(Dual x) {
  const double t = std::tanh(x.v);
  return Dual(t, x.d * (1 - t * t));
}
inline Dual relu(Dual x) { return x.v > 0 ? x : Dual(0); }
inline Dual where_positive(Dual by, Dual x, Dual y = Dual(0)) { return by.v > 0 ? x : y; }
inline Dual operator/(Dual a, Dual b) { return Dual(a.v / b.v, (a.d - a.v / b.v * b.d) / b.v); }
inline Dual exp_(Dual x) { return Dual(std::exp(x.v), x.d * std::exp(x.v)); }
inline Dual log_sigmoid(Dual x) {
  return Dual(std::min(x.v, 0.0) - std::log1p(std::exp(-std::abs(x.v))), x.d / (1 + std::exp(x.v)));
}

#include "cells/list.h"
#include "engine/cell_traits.h"

namespace {

template <class Cell>
struct Check {
  using Traits = seq::CellTraits<Cell>;
  static constexpr int G = Traits::kGates, S = Traits::kStates, P = Traits::phases();
  static constexpr int U = Traits::unit(), kParameters = Traits::parameters();
  static constexpr int kSaved = Traits::kSaved > 0 ? Traits::kSaved : 1;

  // The inputs of one lane of one step, the weights of its outputs, and what forward leaves.
  struct Step {
    Dual gx[G], gh[G], s[S], p[kParameters + 1], s_new[S], saved[kSaved];
  };
  double ds[S], d_operand[P];  // of the new states, and of what each later phase's product reads

  template <int Phase>
  static Dual operand(const Step& step) {
    if constexpr (Phase == 0 || P == 1)
      return Dual(0);
    else
      return Cell::template operand<Phase>(step.saved, step.s);
  }

  template <int Phase = 0>
  static void forward(Step& step, Dual* operands) {
    if constexpr (Phase < P) {
      operands[Phase] = operand<Phase>(step);
      Traits::template forward<Phase>(step.gx, step.gh, step.s, step.p, step.s_new, step.saved);
      forward<Phase + 1>(step, operands);
    }
  }

  template <int Phase = P - 1>
  void backward(const Step& step, Dual* d, Dual* dgx, Dual* dgh) const {
    const Dual next(Phase + 1 < P ? d_operand[Phase + 1] : 0);
    Traits::template backward<Phase>(step.saved, step.s, step.s_new, step.p, d, next, dgx, dgh);
    if constexpr (Phase > 0) backward<Phase - 1>(step, d, dgx, dgh);
  }

  // dL/d(input) by dual numbers, L = sum of ds * s_new and d_operand * operand.
  double derivative(Step step, const std::function<Dual&(Step&)>& input) const {
    input(step).d = 1;
    Dual operands[P];
    forward(step, operands);
    double sum = 0;
    for (int k = 0; k < S; ++k) sum += ds[k] * step.s_new[k].d;
    for (int p = 1; p < P; ++p) sum += d_operand[p] * operands[p].d;
    return sum;
  }

  static bool run(std::mt19937& random) {
    std::normal_distribution<double> normal(0, 1.5);
    double worst = 0;
    bool same = true;
    for (int trial = 0; trial < 500; ++trial) {
      Check check;
      Step step{};
      for (auto* values : {step.gx, step.gh})
        for (int g = 0; g < G; ++g) values[g] = Dual(normal(random));
      for (auto& s : step.s) s = Dual(normal(random));
      for (int j = 0; j < U; ++j) step.p[j] = Dual(normal(random));
      for (int j = U; j < kParameters; ++j) step.p[j] = Dual(std::max(0.0, normal(random)));  // 0: off
      for (auto& d : check.ds) d = normal(random);
      for (auto& d : check.d_operand) d = normal(random);

      Step done = step;
      Dual operands[P], d[S], dgx[G], dgh[G];
      forward(done, operands);
      for (int k = 0; k < S; ++k) d[k] = Dual(check.ds[k]);
      check.backward(done, d, dgx, dgh);

      const auto compare_numbers = [&](double ours, double exact) {
        worst = std::max(worst, std::abs(ours - exact) / std::max(1.0, std::abs(exact)));
      };
      const auto compare = [&](double ours, const std::function<Dual&(Step&)>& input) {
        compare_numbers(ours, check.derivative(step, input));
      };
      for (int g = 0; g < G; ++g) {
        compare(dgx[g].v, [g](Step& x) -> Dual& { return x.gx[g]; });
        if (Traits::recurrent()) compare(dgh[g].v, [g](Step& x) -> Dual& { return x.gh[g]; });
        same = same && dgx[g].v == dgh[g].v;
      }
      for (int k = 0; k < S; ++k) compare(d[k].v, [k](Step& x) -> Dual& { return x.s[k]; });
      if constexpr (U > 0) {
        Dual d_unit[U];
        Cell::unit_gradient(done.s, done.s_new, dgx, d_unit);
        for (int j = 0; j < U; ++j) compare(d_unit[j].v, [j](Step& x) -> Dual& { return x.p[j]; });
      }
      if constexpr (Traits::norms_state()) {
        const double o = normal(random), normed = normal(random), dh = normal(random);
        Dual d_o, d_normed;
        Cell::output_backward(Dual(o), Dual(normed), Dual(dh), d_o, d_normed);
        compare_numbers(d_o.v, dh * Cell::output(Dual(o, 1), Dual(normed)).d);
        compare_numbers(d_normed.v, dh * Cell::output(Dual(o), Dual(normed, 1)).d);
      }
    }
    const bool good = worst <= 16 * std::numeric_limits<double>::epsilon() && (same || !Traits::kSameGrads);
    std::printf("%s %.3g%s\n", Cell::kName, worst, good ? "" : " WRONG");
    return good;
  }
};

}  // namespace

int main() {
  std::mt19937 random(7);
  bool good = true;
#define SEQ_CHECK(Cell) good = Check<Cell>::run(random) && good;
  SEQ_FOR_EACH_CELL(SEQ_CHECK)
  return good ? 0 : 1;
}
